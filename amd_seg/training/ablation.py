"""The ablation over c, the number of regions: one run each, one table (paper, section 4.5)."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from amd_seg.errors import ConfigError, TrainingDivergedError
from amd_seg.model.config import AMDConfig
from amd_seg.training.checkpoints import list_checkpoints
from amd_seg.training.folder import RunFolder
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run import train

logger = logging.getLogger(__name__)

LAST_LINES = 10
"""Lines of the log over which the table's numbers are means."""
HEADER = ("c", "loss", "entropy", "largest area", "best J", "channel", "ended")


@dataclasses.dataclass(frozen=True)
class AblationRow:
    """How one run ended; None where there is no such number."""

    regions: int
    loss: float | None
    entropy: float | None
    largest_area: float | None
    best_j: float | None
    """Of the region that is most the object, where the run is scored: chosen with labels."""
    object_channel: int | None
    """Chosen without labels."""
    ended: str
    """"done", or why the run stopped."""


def ablate_regions(
    counts: Sequence[int],
    roots: Sequence[str],
    out: Path,
    *,
    model: AMDConfig,
    config: TrainingConfig,
    resume: bool = False,
    **options: Any,
) -> list[AblationRow]:
    """Train one model for each number of regions, alike in all else.

    A run that diverges or collapses is a row of the table: below four regions the paper finds
    training unstable.

    Args:
        counts: numbers of regions.
        roots: see `train`.
        out: each run's folder is `out/regions-<c>`.
        model: the architecture but for its regions.
        config: how to train; its objective teaches all regions.
        resume: runs that are done are not run again, others go on.
        options: the other arguments of `train`.

    Raises:
        ConfigError: the objective does not teach regions, a number is given twice, or no model has
            it; no run was started.
    """
    if config.objective in ("mover", "dense"):
        raise ConfigError(
            f"The objective {config.objective} is the same for any number of regions. "
            "Give --objective photometric with --ablate-regions."
        )
    if len(set(counts)) < len(counts):
        raise ConfigError(f"A number of regions is given twice: {', '.join(map(str, counts))}.")
    models = {count: dataclasses.replace(model, regions=count) for count in counts}
    rows = []
    for count, settings in models.items():
        folder = RunFolder(out / f"regions-{count}")
        ended = "done"
        if not (resume and folder.weights.is_dir()):
            goes_on = resume and bool(list_checkpoints(folder.checkpoints))
            try:
                train(roots, folder.path, model=settings, config=config, resume=goes_on, **options)
            except TrainingDivergedError as error:
                logger.warning("The run with %d regions is lost: %s", count, error)
                ended = str(error).partition("(")[0].rstrip(" :.")
        rows.append(_row(count, folder, ended))
    return rows


def as_table(rows: Sequence[AblationRow]) -> str:
    """The rows as a Markdown table."""
    lines = [" | ".join(HEADER), " | ".join("---" for _ in HEADER)]
    lines += [" | ".join(_cell(value) for value in dataclasses.astuple(row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _row(count: int, folder: RunFolder, ended: str) -> AblationRow:
    lines = folder.read_lines()
    scores = [max(line["J"]) for line in lines if "J" in line]
    channel = None
    if folder.weights.is_dir():
        channel = json.loads((folder.weights / "config.json").read_text())["object_channel"]
    return AblationRow(
        regions=count,
        loss=_mean(lines, "loss"),
        entropy=_mean(lines, "entropy"),
        largest_area=_mean(lines, "largest_area"),
        best_j=max(scores, default=None),
        object_channel=channel,
        ended=ended,
    )


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines[-LAST_LINES:] if name in line]
    return mean(values) if values else None


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
