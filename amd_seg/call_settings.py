"""What one call of a segmenter was asked for, checked."""

from dataclasses import dataclass

from amd_seg.choices import REFINEMENTS
from amd_seg.errors import InputError

SIZES = (16, 8192)
"""Smallest and largest short edge, in pixels, that the network may be asked to see."""


@dataclass(frozen=True, kw_only=True)
class CallSettings:
    """The settings of a `Segmenter` call, which documents them.

    Raises:
        InputError: a setting cannot be used.
    """

    size: int
    threshold: float | str
    refine: str
    min_confidence: float
    batch_size: int
    max_pixels: int

    def __post_init__(self) -> None:
        least, most = SIZES
        seen = f"the short edge that the network sees must be {least} to {most} pixels"
        self._require("size", least <= self.size <= most, seen)
        self._require("batch_size", self.batch_size >= 1, "it must be 1 or more")
        is_level = isinstance(self.threshold, int | float) and 0 < self.threshold < 1
        levels = "give a number between 0 and 1, or otsu"
        self._require("threshold", is_level or self.threshold == "otsu", levels)
        ways = f"give one of {', '.join(REFINEMENTS)}"
        self._require("refine", self.refine in REFINEMENTS, ways)
        self._require("min_confidence", 0 <= self.min_confidence <= 1, "it must be 0 to 1")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InputError(f"{name}={getattr(self, name)!r} cannot be used: {allowed}.")
