"""A real model small enough for a test: 1/8 masks, two motion levels."""

from pathlib import Path
from typing import Any

import torch

from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, SemanticConfig, WeightsConfig
from amd_seg.weights import save_weights

TINY = AMDConfig(
    backbone="resnet18",
    stage_widths=(8, 8, 8, 8),
    head_channels=4,
    head_dilation=1,
    pyramid_channels=(4, 4, 4),
    reduced_channels=4,
    estimator_channels=(8, 8, 8, 4, 4),
    max_displacement=2,
    motion_size=(32, 48),
)
SEMANTIC = SemanticConfig(
    backbone="resnet18", stage_widths=(8, 8, 8, 8), head_channels=8, head_dilation=1, dropout=0.0
)


def settings(text: str) -> list[str]:
    """The words that give "key=value key=value ..." to a command."""
    return [word for setting in text.split() for word in ("--set", setting)]


TINY_SETTINGS = settings(
    "stage_widths=8,8,8,8 head_channels=4 head_dilation=1 pyramid_channels=4,4,4 "
    "motion_size=32x48 short_edge=32 warmup_steps=0 log_every=1"
)
"""A model about as small, and what goes with it, for `train`."""


def tiny_weights(folder: Path, seed: int = 0, **card: Any) -> Path:
    """Save weights of the tiny model, the same ones each time, and return their folder."""
    torch.manual_seed(seed)
    own = {"model": TINY, "object_channel": 1, "input_size": 48, "threshold": 0.25}
    config = WeightsConfig(**own | card)
    return save_weights(folder, AMD(config.model), config)
