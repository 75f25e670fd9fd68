"""Lessons of a clip's frames with a target for the object channel: what moves in them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.training.channel import ChannelChoice
from amd_seg.training.clip_targets import MotionEvidence, agreed_targets, find_motion
from amd_seg.training.consent import flip_averaged_regions
from amd_seg.training.lessons import (
    CHECKS,
    HELD_OUT_EVERY,
    Lessons,
    as_configured,
    plan,
)
from amd_seg.training.objectives import MoverObjective
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.stretches import ClipFrames
from amd_seg.training.targets import TargetBatch, TargetClip, TargetSampler


def target_lessons(
    model: AMD,
    weights: WeightsConfig,
    clip: ClipFrames,
    config: AdaptationConfig,
    training: TrainingConfig,
    *,
    channel: int | None,
) -> Lessons:
    """Find targets on at most `config.targets` frames of a clip.

    Raises:
        DeviceError: a step does not fit the memory.
    """
    taught = weights.object_channel if channel is None else channel
    device = model.mean.device

    def objective(student: AMD) -> nn.Module:
        return as_configured(MoverObjective(student, training, taught), config)

    def empty(count: int) -> TargetBatch:
        frames = torch.empty(count, 3, *training.crop)
        return TargetBatch(frames, frames[:, :1].clone(), ())

    memory = plan(model, config, training, objective, empty)
    motion = find_motion(clip.stretches, most=config.targets, frame_rate=clip.frame_rate)
    pixels = torch.from_numpy(motion.frames).permute(0, 3, 1, 2).contiguous()

    def regions_by(seeing: AMD, size: int) -> NDArray[np.float32]:
        regions = flip_averaged_regions(seeing, pixels, size=size, precision=config.precision)
        return regions.numpy()

    saliency = regions_by(model, weights.input_size)[:, taught]
    targets = agreed_targets(motion, saliency, clip.source)
    learned, held_out = split(targets)
    training = replace(training, accumulate=memory.accumulate)
    aside = replace(training, seed=config.seed + 1)
    checks = TargetSampler([held_out or learned], aside, device)

    def choose(kept: AMD, input_size: int) -> ChannelChoice:
        return ChannelChoice(taught, moving_share(regions_by(kept, input_size), motion))

    return Lessons(
        training=training,
        objective=objective,
        batches=TargetSampler([learned], training, device),
        checks=[next(checks) for _ in range(CHECKS)],
        count=len(learned.indices),
        held_out=0 if held_out is None else len(held_out.indices),
        memory=memory,
        choose=choose,
        evidence=float(motion.confidence.mean()),
    )


def moving_share(regions: NDArray[np.float32], motion: MotionEvidence) -> tuple[float, ...]:
    """Give how likely the pixels of each region move on their own, weighed by confidence.

    Args:
        regions: (frame, region, height, width), of the frames of `motion`.
        motion: what moves in them.
    """
    maps = motion.maps[:, None]
    trust = motion.confidence[:, None, None, None]
    moving = (regions * maps * trust).sum(axis=(0, 2, 3))
    total = (regions * trust).sum(axis=(0, 2, 3))
    return tuple((moving / np.maximum(total, 1e-9)).tolist())


def split(targets: TargetClip) -> tuple[TargetClip, TargetClip | None]:
    """Return the targets to learn from and those that are held out; None where they are few."""
    rows = torch.arange(len(targets.indices))
    is_held = rows % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
    if not is_held.any():
        return targets, None
    return _part(targets, rows[~is_held]), _part(targets, rows[is_held])


def _part(targets: TargetClip, rows: Tensor) -> TargetClip:
    chosen: Sequence[int] = rows.tolist()
    return TargetClip(
        targets.name,
        tuple(targets.indices[row] for row in chosen),
        targets.frames[rows],
        targets.targets[rows],
        targets.confidence[rows],
    )
