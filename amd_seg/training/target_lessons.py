"""Lessons of a clip's frames with a target for the object channel: what moves in them."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from amd_seg.device import resolve_precision
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.training.channel import ChannelChoice
from amd_seg.training.clip_targets import MotionEvidence, agreed_targets, find_motion
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

FRAMES_A_PASS = 8


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
        ConfigError: OpenCV is not installed.
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
    seen = region_maps(model, motion.frames, weights.input_size, config.precision)
    targets = agreed_targets(motion, list(seen[:, taught]), clip.source)
    learned, held_out = split(targets)
    training = replace(training, accumulate=memory.accumulate)
    aside = replace(training, seed=config.seed + 1)
    checks = TargetSampler([held_out or learned], aside, device)

    def choose(kept: AMD) -> ChannelChoice:
        regions = region_maps(kept, motion.frames, config.input_size, config.precision)
        return ChannelChoice(taught, moving_share(regions, motion))

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


@torch.no_grad()
def region_maps(
    model: AMD, frames: NDArray[np.uint8], size: int, precision: str
) -> NDArray[np.float32]:
    """Give the regions of frames as a model in use sees them, mirrored copies averaged in.

    Args:
        model: its mode is kept.
        frames: (frame, height, width, 3), RGB uint8.
        size: short edge, in pixels, that the network sees.
        precision: of autocast.

    Returns:
        (frame, region, height, width), float32, sums to 1 over region.
    """
    device, height, width = model.mean.device, *frames.shape[1:3]
    dtype = resolve_precision(precision, device)
    factor = size / min(height, width)
    seen = (round(height * factor), round(width * factor))
    was_training = model.training
    model.eval()
    maps = []
    for part in np.array_split(frames, ceil(len(frames) / FRAMES_A_PASS)):
        images = torch.from_numpy(part).permute(0, 3, 1, 2).to(device).float()
        images = F.interpolate(images, seen, mode="bilinear", antialias=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            masks = (model.segment(images) + model.segment(images.flip(-1)).flip(-1)) / 2
        large = F.interpolate(masks.float(), (height, width), mode="bilinear", align_corners=True)
        maps.append(large.cpu())
    model.train(was_training)
    found: NDArray[np.float32] = torch.cat(maps).numpy()
    return found


def moving_share(regions: NDArray[np.float32], motion: MotionEvidence) -> tuple[float, ...]:
    """Give how likely the pixels of each region move on their own, weighed by confidence.

    Args:
        regions: (frame, region, height, width), of the frames of `motion`.
        motion: what moves in them.
    """
    maps = np.stack(motion.maps)[:, None]
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
