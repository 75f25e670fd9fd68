"""What a run writes for those who look on: the log, curves for TensorBoard, picture sheets."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from amd_seg.media.files import make_folder
from amd_seg.media.images import save_image
from amd_seg.training.batches import Batches
from amd_seg.training.folder import RunFolder
from amd_seg.training.loop import StepReport
from amd_seg.training.run_config import RunConfig
from amd_seg.training.run_page import write_run_page
from amd_seg.training.sheets import draw_sheet
from amd_seg.weights import Network

logger = logging.getLogger(__name__)


class Board:
    """TensorBoard's curves in a run folder, where TensorBoard is installed.

    Curves that cannot be written end with a warning, and the run goes on: its log tells the same.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.debug("TensorBoard is not installed: log.jsonl has the same numbers.")
        else:
            with self._or_none():
                self._writer = SummaryWriter(str(folder))

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line of the log, one curve a number."""
        if self._writer is not None:
            with self._or_none():
                for name, value in line.items():
                    if isinstance(value, int | float) and name != "step":
                        self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            with self._or_none():
                self._writer.close()

    @contextmanager
    def _or_none(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            logger.warning(
                "No more curves in %s: %s. log.jsonl has the same numbers.",
                *(self._folder, error.strerror or error),
            )


@dataclass
class Watch:
    """What is due after which step."""

    folder: RunFolder
    config: RunConfig
    board: Board
    first_batch: Any
    """What the sheets show, the same through the run; None where there are no sheets."""
    object_channel: int = 0
    """The region that they show as the object, where targets are learned."""

    @classmethod
    def start(
        cls,
        folder: RunFolder,
        config: RunConfig,
        batches: Batches,
        *,
        object_channel: int = 0,
    ) -> Self:
        """Open curves, and look at the stream's first batch without moving it."""
        batch = None
        if config.sheet_every:
            position = batches.state_dict()
            batch = next(batches)
            batches.load_state_dict(position)
        return cls(folder, config, Board(folder.board), batch, object_channel)

    def after_step(self, model: Network, report: StepReport) -> None:
        """Write the line of the log, the sheet and the page that are due.

        Raises:
            MediaError: the disk is full.
        """
        if report.step % self.config.log_every == 0:
            line = _line(report)
            self.folder.write_line(line)
            self.board.write(line)
        if self.first_batch is not None and report.step % self.config.sheet_every == 0:
            make_folder(self.folder.sheets)
            path = self.folder.sheets / f"step-{report.step:09d}.png"
            save_image(draw_sheet(model, self.first_batch, self.object_channel), path)
            # With each sheet, not at the end: a run is looked at while it goes on, or was killed.
            write_run_page(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # However a run ends, its last numbers are those that tell why.
        self.board.close()


def _line(report: StepReport) -> dict[str, Any]:
    return {
        "step": report.step,
        **{name: round(value, 6) for name, value in report.parts.items()},
        "learning_rate": report.learning_rate,
        "gradient_norm": round(report.gradient_norm, 6),
        "seconds": round(report.seconds, 2),
    }
