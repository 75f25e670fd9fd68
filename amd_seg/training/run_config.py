"""Settings that every run has, whatever it learns; standard library only."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from amd_seg.errors import ConfigError

Optimizer = Literal["adam", "adamw", "sgd"]
Precision = Literal["float32", "bfloat16"]
SEEDS = 2**32
"""Their number: every generator that a run draws from takes these, and a process adds its own."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run takes its steps, and what it writes on the way.

    Raises:
        ConfigError: a value is outside what training allows.
    """

    steps: int
    """Optimiser steps of the whole run."""
    minutes: float = 0.0
    """Wall-clock budget; above 0 the schedule follows the clock and the run ends by it."""
    batch_size: int = 16
    """Items (pairs, or photos) per optimiser step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step and process."""
    optimizer: Optimizer
    """adam adds weight decay to the gradient (as released), adamw decouples it; sgd has momentum
    and adds weight decay too."""
    momentum: float = 0.9
    """Of sgd: share of the last step that each step keeps."""
    learning_rate: float
    """Of the first step after the warm-up."""
    final_learning_rate: float
    """Where the polynomial schedule ends."""
    poly_power: float = 0.9
    """Power of that schedule; 1 is linear."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: float
    """Share of each weight, per step and learning rate, that decays."""
    gradient_clip: float = 0.0
    """Largest L2 norm of the gradient; 0 clips nothing."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are released; 0 keeps no average."""
    precision: Precision = "float32"
    """Of autocast; the objective accumulates in float32 in any case."""
    channels_last: bool = True
    """Memory layout of the convolutions: faster on GPUs and, by a tenth, on CPUs with AVX-512;
    slower on other CPUs."""
    seed: int = 0
    log_every: int = 20
    """Steps between two lines of log.jsonl."""
    sheet_every: int = 2000
    """Steps between two picture sheets in OUT/sheets and OUT/report.html; 0 draws none."""
    checkpoint_every: int = 2000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        faults = [f"{name}={getattr(self, name)!r} ({rule})" for name, rule in self._faults()]
        if faults:
            raise ConfigError(f"Training cannot start with {', '.join(faults)}.")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read settings from a run's record.

        Raises:
            ConfigError: they cannot be used.
            TypeError: they are those of another kind of run.
        """
        return cls(**record)

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Names of the fields that are wrong, each with what it must be."""
        yield from self._not_finite()
        yield from self._below(1, "steps", "batch_size", "accumulate", "log_every", "keep")
        yield from self._below(1, "checkpoint_every")
        yield from self._below(0, "minutes", "warmup_steps", "weight_decay", "gradient_clip")
        yield from self._below(0, "sheet_every")
        yield from self._unknown(optimizer=get_args(Optimizer), precision=get_args(Precision))
        for name in ("learning_rate", "poly_power"):
            if getattr(self, name) <= 0:
                yield name, "above 0"
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            yield "final_learning_rate", f"0 to learning_rate={self.learning_rate!r}"
        if not 0 <= self.momentum < 1:
            yield "momentum", "0 to below 1"
        if not 0 <= self.ema_decay <= 1:
            yield "ema_decay", "0 to 1"
        if not 0 <= self.seed < SEEDS:
            yield "seed", f"0 to {SEEDS - 1}"
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            yield "batch_size", f"a multiple of accumulate={self.accumulate}"

    def _not_finite(self) -> Iterator[tuple[str, str]]:
        for name, value in vars(self).items():
            parts = value if isinstance(value, tuple) else (value,)
            if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
                yield name, "a finite number"

    def _below(self, least: int, *names: str) -> Iterator[tuple[str, str]]:
        yield from ((name, f"{least} or more") for name in names if getattr(self, name) < least)

    def _unknown(self, **choices: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        for name, known in choices.items():
            if getattr(self, name) not in known:
                yield name, f"one of {known}"
