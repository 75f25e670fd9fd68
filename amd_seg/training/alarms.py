"""What tells a run that learns from one that is lost."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from amd_seg.errors import TrainingDivergedError

PATIENCE = 200
"""Steps in a row that a collapse must last: a run passes through bad batches and bad starts."""


@dataclass(frozen=True)
class Collapse:
    """A state from which a run does not come back."""

    part: str
    """The monitor that shows it."""
    low: float
    high: float
    """The healthy range; on its ends and beyond the run counts as collapsed."""
    what: str
    advice: str


COLLAPSES = (
    Collapse(
        "largest_area",
        -1.0,
        0.995,
        "all pixels are in one region",
        "Start again with --entropy-weight 0.1 or more --regions",
    ),
    Collapse(
        "visible",
        0.05,
        2.0,
        "the flow leaves the frame, so that nothing is visible",
        "Start again with a lower --learning-rate, --gradient-clip 1 or --warmup-steps",
    ),
    Collapse(
        "entropy",
        1e-3,
        2.0,
        "the masks are saturated, so that no gradient reaches them",
        "Start again with --entropy-weight 0.1 or a lower --learning-rate",
    ),
    Collapse(
        "area",
        5e-4,
        0.995,
        "the object is everything or nothing",
        "Look at the targets, or start again with a lower --learning-rate",
    ),
)
"""Far outside what a run that learns should show: reasoned, not measured on runs that were lost."""


class Alarms:
    """Counts the steps in a row at which a run looks collapsed."""

    def __init__(self, patience: int = PATIENCE) -> None:
        self.patience = patience
        self._counts: Counter[str] = Counter()

    def check(self, step: int, parts: Mapping[str, float]) -> None:
        """Look at one step's monitors.

        Raises:
            TrainingDivergedError: one has been out of its range for `patience` steps.
        """
        for collapse in COLLAPSES:
            value = parts.get(collapse.part)
            if value is None or collapse.low < value < collapse.high:
                self._counts[collapse.part] = 0
                continue
            self._counts[collapse.part] += 1
            if self._counts[collapse.part] >= self.patience:
                raise TrainingDivergedError(
                    f"Training collapsed: {collapse.what} ({collapse.part} {value:.4g} at step "
                    f"{step}, for {self.patience} steps). {collapse.advice}; "
                    "--no-alarms goes on all the same."
                )
