"""What a model learns from one clip, whatever the objective."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from amd_seg.errors import InputError
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.training.channel import ChannelChoice
from amd_seg.training.memory import MakeBatch, MemoryPlan, plan_memory
from amd_seg.training.presets import TrainingConfig

CHECKS = 4
"""Batches whose loss is compared before and after."""
HELD_OUT_EVERY = 5
"""Each n-th frame, or pair's first frame, is held out."""


@dataclass(frozen=True)
class Lessons:
    """All that the steps and their checks need."""

    training: TrainingConfig
    objective: Callable[[AMD], nn.Module]
    """Model and loss, for the loop."""
    batches: Iterator[Any]
    checks: Sequence[Any]
    """Batches whose loss is compared before and after the steps."""
    count: int
    """Pairs, or frames with a target, that are learned from."""
    held_out: int
    """Those that `checks` are drawn from; 0 where the clip is too short to hold any out."""
    memory: MemoryPlan
    choose: Callable[[AMD], ChannelChoice]
    """Chooses the object channel of the model that is kept."""
    evidence: float | None = None
    """How clear the motion is, 0..1, where the objective knows."""


class InUse(nn.Module):
    """An objective whose BatchNorm and dropout stay as in use while the rest is trained."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    @property
    def model(self) -> nn.Module:
        """The model that the steps change."""
        model = self.objective.model
        assert isinstance(model, nn.Module)
        return model

    def forward(self, batch: Any, progress: float = 0.0, step: int = 0) -> dict[str, Tensor]:
        """Score a batch."""
        parts: dict[str, Tensor] = self.objective(batch, progress, step)
        return parts

    def train(self, mode: bool = True) -> "InUse":
        """Set the mode of all other parts."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout2d):
                module.eval()
        return self


def as_configured(objective: nn.Module, config: AdaptationConfig) -> nn.Module:
    """Freeze the statistics of an objective's model, where the settings say so."""
    return InUse(objective) if config.frozen_statistics else objective


def plan(
    model: AMD,
    config: AdaptationConfig,
    training: TrainingConfig,
    make_objective: Callable[[AMD], nn.Module],
    make_batch: MakeBatch,
) -> MemoryPlan:
    """Find a way to take the steps that fits the memory of the model's device."""
    return plan_memory(
        model.config,
        training,
        make_objective,
        make_batch,
        device=model.mean.device,
        limit_gib=config.memory or None,
    )


def check_channel(channel: int | None, weights: WeightsConfig) -> None:
    """Refuse a region that the weights do not have.

    Raises:
        InputError: there is no such region.
    """
    regions = weights.model.regions
    if channel is not None and not 0 <= channel < regions:
        raise InputError(
            f"channel is {channel}, but {weights.name or 'the model'} has {regions} regions. "
            f"Give 0 to {regions - 1}."
        )
