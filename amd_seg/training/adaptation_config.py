"""Settings of the adaptation to one clip and their presets; standard library only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from amd_seg.errors import ConfigError
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run_config import Precision

REFERENCE_RATE = 24.0
"""Frames a second for which `max_gap` is given."""

MOTION_SIZE = 240
"""Short edge, in pixels, at which motion is looked for (objective motion-masks)."""

AdaptationObjective = Literal["motion-masks", "photometric"]


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """How a model is adapted to a clip; what each default was chosen by is in notes/experiments.md.

    Raises:
        ConfigError: a value is outside what adaptation allows.
    """

    steps: int = 100
    """Optimiser steps, as published."""
    objective: AdaptationObjective = "motion-masks"
    """motion-masks: the object channel learns what moves against the background, joined with what
    the model sees; the best masks. photometric: eq. 7, as published."""
    learning_rate: float = 2e-3
    """Of the first step; it falls to a hundredth of that."""
    batch_size: int = 4
    """Pairs of frames, or frames with a mask, per step."""
    size: int = 192
    """Short edge, in pixels, of what the network sees while it learns, at least: where the input
    size of the weights is larger, it is that."""
    scale: tuple[float, float] = (0.6, 1.0)
    """Range of the crop's side, as a share of the frame; crops are enlarged to --size."""
    max_gap: int = 4
    """Largest distance, in frames at 24 a second, between the two of a pair."""
    blend: float = 1.0
    """How much of what was learned counts: the result is the mean of the weights before and after,
    weighed so. 1 is what was learned alone."""
    frozen_statistics: bool = True
    """Keep BatchNorm's statistics as released: a clip is too little to estimate them from."""
    frames: int = 240
    """Frames of the clip that are held in memory at most, spread over all of it."""
    targets: int = 32
    """Frames that motion targets are found for at most (objective motion-masks)."""
    guard: bool = True
    """Keep the released weights where adaptation did not lower the loss on held-out frames, or
    where next to nothing moves on its own."""
    precision: Precision = "float32"
    """Of autocast. bfloat16 is two to three times as fast on GPUs and on CPUs with AVX-512 BF16,
    and many times slower on others."""
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        faults = [f"{name}={getattr(self, name)!r} ({rule})" for name, rule in self._faults()]
        if faults:
            raise ConfigError(f"Adaptation cannot start with {', '.join(faults)}.")

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Names of the fields that are wrong, each with what it must be."""
        limits = {"steps": 1, "batch_size": 1, "max_gap": 1, "frames": 32, "targets": 2}
        yield from ((n, f"{low} or more") for n, low in limits.items() if getattr(self, n) < low)
        for name, kind in (("objective", AdaptationObjective), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                yield name, f"one of {get_args(kind)}"
        if self.size < 0:
            yield "size", "0 or more"
        if self.learning_rate <= 0:
            yield "learning_rate", "above 0"
        if not 0 < self.blend <= 1:
            yield "blend", "above 0, up to 1"
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            yield "scale", "0 < low <= high <= 1"

    def learning_size(self, input_size: int) -> int:
        """The short edge, in pixels, of crops for weights of an input size."""
        return max(self.size, input_size)

    def frame_size(self, input_size: int) -> int:
        """The short edge, in pixels, of the frames in memory: crops and motion are made of them."""
        least = MOTION_SIZE if self.objective == "motion-masks" else 0
        return max(self.learning_size(input_size), least)

    def adapted_size(self, input_size: int) -> int:
        """The short edge at which things look as large as they did in the crops."""
        return round(2 * self.learning_size(input_size) / sum(self.scale) / 8) * 8

    def gap_at(self, frame_rate: float | None) -> int:
        """The largest distance, in frames of a clip of this rate, between two that are compared."""
        return max(1, round(self.max_gap * (frame_rate or REFERENCE_RATE) / REFERENCE_RATE))

    def training(self, crop: tuple[int, int]) -> TrainingConfig:
        """The same as settings of the training loop, for crops of this height and width."""
        return TrainingConfig(
            steps=self.steps,
            objective=self.objective,
            optimizer="adamw" if self.objective == "motion-masks" else "adam",
            learning_rate=self.learning_rate,
            final_learning_rate=self.learning_rate / 100,
            weight_decay=0.01 if self.objective == "motion-masks" else 1e-6,
            warmup_steps=min(5, self.steps // 10),
            gradient_clip=1.0,
            batch_size=self.batch_size,
            crop=crop,
            scale=self.scale,
            precision=self.precision,
            seed=self.seed,
        )


def motion_masks() -> AdaptationConfig:
    """What moves against the background, agreed on over the clip and with the model."""
    return AdaptationConfig()


def published() -> AdaptationConfig:
    """Section 4.3: eq. 7 on pairs of the clip, both pathways; what it leaves open is ours.

    So is the mean with the weights before, which it knows nothing of: `blend` 1 is as published.
    """
    return AdaptationConfig(
        objective="photometric",
        learning_rate=1e-4,
        size=0,
        scale=(0.96, 1.0),
        max_gap=1,
        blend=0.5,
    )


ADAPTATIONS = {"motion-masks": motion_masks, "photometric": published}
