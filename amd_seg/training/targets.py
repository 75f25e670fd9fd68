"""Frames with a target for the object channel, held in memory and drawn in random crops."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amd_seg.errors import MediaError
from amd_seg.training.augment import cut, jitter_colours, random_box
from amd_seg.training.clips import Clip
from amd_seg.training.movers import read_mover_targets
from amd_seg.training.presets import TrainingConfig

logger = logging.getLogger(__name__)

CLIP_POWER = 0.3
"""A clip of n targets is drawn with weight n^0.3: long clips must not crowd out short ones."""
CONFIDENCE_POWER = 2.0
"""A target is drawn with weight confidence^2: where the pairs of frames disagree it is noise."""


@dataclass(frozen=True)
class TargetClip:
    """The frames of one clip that have a target."""

    name: str
    indices: tuple[int, ...]
    """Where the frames stand in the clip, counted from 0."""
    frames: Tensor
    """(target, 3, height, width), uint8, RGB."""
    targets: Tensor
    """(target, 1, height, width), uint8: probability of the object in 0..255."""
    confidence: Tensor
    """(target,), float, 0..1: how much to trust each target."""

    @property
    def weight(self) -> float:
        """How often the clip is drawn, relative to others."""
        trust = float(self.confidence.pow(CONFIDENCE_POWER).mean())
        return float(trust * len(self.indices) ** CLIP_POWER)


def load_target_clips(
    clips: Sequence[Clip], folder: Path, *, short_edge: int, threads: int | None = None
) -> list[TargetClip]:
    """Read the targets of clips and decode the frames they belong to.

    Args:
        clips: where the frames come from; those without a file in the folder are left out.
        folder: where `write_mover_targets` wrote, one file a clip.
        short_edge: of the frames, in pixels.
        threads: clips decoded at a time; None takes one a core.

    Raises:
        MediaError: a file cannot be read.
    """
    found = [(clip, folder / f"{target_name(clip)}.npz") for clip in clips]
    present = [(clip, path) for clip, path in found if path.is_file()]
    if len(present) < len(clips):
        logger.info("%d of %d clips have targets in %s.", len(present), len(clips), folder)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        loaded = pool.map(lambda pair: _load(pair[0], pair[1], short_edge), present)
        return [clip for clip in loaded if clip is not None]


def target_name(clip: Clip) -> str:
    """Name of a clip's target file, without its ending."""
    return Path(clip.name).with_suffix("").as_posix().replace("/", "_")


def _load(clip: Clip, path: Path, short_edge: int) -> TargetClip | None:
    found = read_mover_targets(path)
    if not len(found.indices):
        return None
    wanted = set(found.indices.tolist())
    frames = [frame for frame in clip.open(short_edge=short_edge) if frame.index in wanted]
    kept = {frame.index for frame in frames}
    rows = [row for row, index in enumerate(found.indices.tolist()) if index in kept]
    pixels = torch.from_numpy(np.stack([frame.pixels for frame in frames])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(found.masks[rows]).unsqueeze(1)
    if masks.shape[-2:] != pixels.shape[-2:]:
        masks = F.interpolate(masks.float(), pixels.shape[-2:], mode="bilinear").byte()
    indices = tuple(int(found.indices[row]) for row in rows)
    confidence = torch.from_numpy(found.confidence[rows])
    return TargetClip(clip.name, indices, pixels.contiguous(), masks, confidence)


@dataclass(frozen=True)
class TargetBatch:
    """Crops of frames and what their object channel should say."""

    frames: Tensor
    """(batch, 3, height, width), float, RGB in 0..255."""
    targets: Tensor
    """(batch, 1, height, width), float, 0..255."""
    names: tuple[str, ...]


class TargetSampler(Iterator[TargetBatch]):
    """An endless, seeded stream of batches; its state is one generator's.

    Args:
        clips: frames of clips, and what moves in them.
        config: the settings.
        device: where the batches go.
        photos: stills, and what stands out in them: `config.photo_share` of what is drawn.

    Raises:
        MediaError: no clip has a target.
    """

    def __init__(
        self,
        clips: Sequence[TargetClip],
        config: TrainingConfig,
        device: torch.device,
        photos: Sequence[TargetClip] = (),
    ) -> None:
        if not clips:
            raise MediaError("No clip has a target to learn from. Give clips in which things move.")
        self.clips = [*clips, *photos]
        self.config = config
        self.device = device
        share = config.photo_share if photos else 0.0
        self.weights = torch.cat((_shares(clips).mul(1 - share), _shares(photos).mul(share)))
        self.generator = torch.Generator().manual_seed(config.seed)

    def __next__(self) -> TargetBatch:
        count = self.config.batch_size // self.config.accumulate
        chosen = torch.multinomial(self.weights, count, True, generator=self.generator)
        drawn = [self._draw(self.clips[index]) for index in chosen.tolist()]
        frames, targets, names = zip(*drawn, strict=True)
        images = torch.stack(frames)
        if self.config.colour:
            images = jitter_colours(images, self.generator)
        return TargetBatch(images, torch.stack(targets), names)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.generator.set_state(state["generator"])

    def _draw(self, clip: TargetClip) -> tuple[Tensor, Tensor, str]:
        trust = clip.confidence.pow(CONFIDENCE_POWER)
        item = int(torch.multinomial(trust, 1, generator=self.generator))
        frame, target = clip.frames[item], clip.targets[item]
        height, width = frame.shape[-2:]
        box = random_box((height, width), self.config.crop, self.config.scale, self.generator)
        frame = cut(frame.to(self.device), box, self.config.crop)
        target = cut(target.to(self.device), box, self.config.crop)
        return frame, target, f"{clip.name}:{clip.indices[item]}"


def _shares(clips: Sequence[TargetClip]) -> Tensor:
    """How often each clip is drawn, (clip,), float, sums to 1; empty for none."""
    weights = torch.tensor([clip.weight for clip in clips])
    return weights / weights.sum()
