"""What a run writes for those who look on: the log, curves for TensorBoard, picture sheets."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from amd_seg.media.images import save_image
from amd_seg.model.amd import AMD
from amd_seg.training.batches import Batches
from amd_seg.training.folder import RunFolder
from amd_seg.training.loop import StepReport
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.sheets import draw_sheet

logger = logging.getLogger(__name__)


class Board:
    """TensorBoard's curves in a run folder, where TensorBoard is installed."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.debug("TensorBoard is not installed: log.jsonl has the same numbers.")
        else:
            self._writer = SummaryWriter(str(folder))

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line of the log, one curve a number."""
        if self._writer is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class Watch:
    """What is due after which step."""

    folder: RunFolder
    config: TrainingConfig
    board: Board
    first_batch: Any
    """The pairs of the sheets, the same through the run; None where there are no sheets."""

    @classmethod
    def start(cls, folder: RunFolder, config: TrainingConfig, batches: Batches) -> Self:
        """Open the curves, and look at the stream's first pairs without moving it."""
        batch = None
        if config.sheet_every:
            position = batches.state_dict()
            batch = next(batches)
            batches.load_state_dict(position)
        return cls(folder, config, Board(folder.board), batch)

    def after_step(self, model: AMD, report: StepReport) -> None:
        """Write the line of the log and the sheet that are due.

        Raises:
            MediaError: the disk is full.
        """
        if report.step % self.config.log_every == 0:
            line = _line(report)
            self.folder.write_line(line)
            self.board.write(line)
        if self.first_batch is not None and report.step % self.config.sheet_every == 0:
            self.folder.sheets.mkdir(exist_ok=True)
            path = self.folder.sheets / f"step-{report.step:09d}.png"
            save_image(draw_sheet(model, self.first_batch), path)

    def close(self) -> None:
        """Write what is still in memory."""
        self.board.close()


def _line(report: StepReport) -> dict[str, Any]:
    return {
        "step": report.step,
        **{name: round(value, 6) for name, value in report.parts.items()},
        "learning_rate": report.learning_rate,
        "gradient_norm": round(report.gradient_norm, 6),
        "seconds": round(report.seconds, 2),
    }
