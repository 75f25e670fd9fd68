"""Frames with a target for the object channel, held in memory and drawn in random crops."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amd_seg.errors import MediaError
from amd_seg.media.video import CLIP_IMAGE_SUFFIXES
from amd_seg.training.clips import VIDEO_SUFFIXES, Clip, estimated_frames
from amd_seg.training.crops import jitter_colours, random_box, resize_parts
from amd_seg.training.movers import (
    REFERENCE_RATE,
    MoverConfig,
    count_mover_targets,
    read_mover_targets,
    read_target_identity,
)
from amd_seg.training.presets import TrainingConfig

logger = logging.getLogger(__name__)

CLIP_POWER = 0.3
"""A clip of n targets is drawn with weight n^0.3: long clips must not crowd out short ones."""
AT_ONCE = 64
"""Targets that are resized together: as floats they take four times their room."""
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
    identity: str | None = None
    """Of the clip, see `Clip.identity`; None where the frames are of no file."""

    @property
    def weight(self) -> float:
        """How often the clip is drawn, relative to others."""
        trust = float(self.confidence.pow(CONFIDENCE_POWER).mean())
        return float(trust * len(self.indices) ** CLIP_POWER)

    def to(self, device: torch.device) -> Self:
        """Return the clip with its pictures on a device; what chance needs stays on the CPU."""
        return replace(self, frames=self.frames.to(device), targets=self.targets.to(device))


def target_bytes(
    clips: Sequence[Clip],
    folder: Path,
    *,
    short_edge: int,
    finding: MoverConfig | None = None,
    threads: int | None = None,
) -> float:
    """Return the memory that `load_target_clips` takes, from what files tell: none is decoded.

    Args:
        clips, folder, short_edge, threads: as there.
        finding: how targets will be looked for in clips without a file, of which each frame that
            is looked at then counts; None where these clips are left out.
    """

    def needed(clip: Clip) -> float:
        path = folder / f"{target_name(clip)}.npz"
        is_found = path.is_file()
        if not is_found and finding is None:
            return 0
        try:
            count = count_mover_targets(path) if is_found else 0
            reader = clip.open(short_edge=short_edge)
        except MediaError:
            return 0  # What is wrong is said when it is read.
        if not is_found and finding is not None:
            rate = float(reader.frame_rate or REFERENCE_RATE)
            count = math.ceil(estimated_frames(reader) / finding.at_rate(rate).every)
        return count * reader.height * reader.width * 4  # three colours and the target

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return sum(pool.map(needed, clips))


def load_target_clips(
    clips: Sequence[Clip],
    folder: Path,
    *,
    short_edge: int,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> list[TargetClip]:
    """Read the targets of clips and decode the frames they belong to.

    Args:
        clips: where the frames come from; those without a file in the folder are left out.
        folder: where `write_mover_targets` wrote, one file a clip.
        short_edge: of the frames, in pixels.
        device: where the frames and targets are kept.
        threads: clips decoded at a time; None takes one a core.

    Raises:
        MediaError: a file cannot be read.
    """
    device = torch.device(device)
    found = [(clip, folder / f"{target_name(clip)}.npz") for clip in clips]
    present = [(clip, path) for clip, path in found if path.is_file()]
    if len(present) < len(clips):
        logger.info("%d of %d clips have targets in %s.", len(present), len(clips), folder)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        loaded = pool.map(lambda pair: _load(pair[0], pair[1], short_edge), present)
        return [clip.to(device) for clip in loaded if clip is not None]


def target_name(clip: "Clip | TargetClip") -> str:
    """Name of a clip's target file, without its ending."""
    name = Path(clip.name)
    # The name of a folder of frames may hold dots that end nothing.
    if name.suffix.lower() in VIDEO_SUFFIXES | CLIP_IMAGE_SUFFIXES:
        name = name.with_suffix("")
    return name.as_posix().replace("/", "_")


def _load(clip: Clip, path: Path, short_edge: int) -> TargetClip | None:
    identity, known = clip.identity(), read_target_identity(path)
    if known not in (None, identity):
        raise MediaError(
            f"{path} holds the targets of {known}, not of {identity}. Give the clips that the "
            "targets were found in, or find them anew in another folder."
        )
    found = read_mover_targets(path)
    if not len(found.indices):
        return None
    pixels, rows = _frames_of(clip, found.indices.tolist(), short_edge)
    if not rows:
        raise MediaError(
            f"{path} holds targets of frames that {clip.name} does not have. Find them anew."
        )
    masks = torch.from_numpy(found.masks[rows]).unsqueeze(1)
    if masks.shape[-2:] != pixels.shape[-2:]:
        masks = torch.cat([_resized(some, pixels) for some in torch.split(masks, AT_ONCE)])
    indices = tuple(int(found.indices[row]) for row in rows)
    confidence = torch.from_numpy(found.confidence[rows])
    return TargetClip(clip.name, indices, pixels, masks, confidence, identity)


def _frames_of(clip: Clip, numbers: Sequence[int], short_edge: int) -> tuple[Tensor, list[int]]:
    """Decode frames of a clip, (frame, 3, height, width); with them, the place of each in numbers.

    They are put where they stay, one by one: a long clip has no room for a second copy.
    """
    places = {number: place for place, number in enumerate(numbers)}
    pixels, rows = np.empty((0, 3, 0, 0), np.uint8), list[int]()
    for frame in clip.open(short_edge=short_edge):
        if frame.index in places:
            if not rows:
                pixels = np.empty((len(places), 3, *frame.pixels.shape[:2]), np.uint8)
            pixels[len(rows)] = frame.pixels.transpose(2, 0, 1)
            rows.append(places[frame.index])
    return torch.from_numpy(pixels[: len(rows)]), rows


def _resized(masks: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(masks.float(), like.shape[-2:], mode="bilinear").byte()


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
        device: where the frames are kept, and cropped.
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
        self.clips = [clip.to(device) for clip in (*clips, *photos)]
        self.config = config
        share = config.photo_share if photos else 0.0
        self.weights = torch.cat((_shares(clips).mul(1 - share), _shares(photos).mul(share)))
        self.generator = torch.Generator().manual_seed(config.seed)

    def __next__(self) -> TargetBatch:
        count = self.config.batch_size // self.config.accumulate
        chosen = torch.multinomial(self.weights, count, True, generator=self.generator)
        drawn = [self._draw(self.clips[index]) for index in chosen.tolist()]
        frames, targets, mirrored, names = zip(*drawn, strict=True)
        images, maps = (
            resize_parts(parts, self.config.crop, mirrored)[:, 0].float()
            for parts in (frames, targets)
        )
        if self.config.colour:
            images = jitter_colours(images, self.generator)
        return TargetBatch(images, maps, names)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.generator.set_state(state["generator"])

    def begin_at(self, step: int) -> None:
        """Draw, from here on, what depends on the seed and this step: no process drew it before."""
        seed = np.random.SeedSequence((self.config.seed, step)).generate_state(1, np.uint64)
        self.generator.manual_seed(int(seed[0]))

    def _draw(self, clip: TargetClip) -> tuple[Tensor, Tensor, bool, str]:
        """Draw a part of a frame and of its target, (1, channel, h, w) each, and its mirroring."""
        trust = clip.confidence.pow(CONFIDENCE_POWER)
        item = int(torch.multinomial(trust, 1, generator=self.generator))
        size = (clip.frames.shape[-2], clip.frames.shape[-1])
        config = self.config
        box = random_box(size, config.crop, config.scale, self.generator, flip=config.flip)
        frame, target = (box.part_of(maps[item : item + 1]) for maps in (clip.frames, clip.targets))
        return frame, target, box.is_mirrored, f"{clip.name}:{clip.indices[item]}"


def _shares(clips: Sequence[TargetClip]) -> Tensor:
    """How often each clip is drawn, (clip,), float, sums to 1; empty for none."""
    weights = torch.tensor([clip.weight for clip in clips])
    return weights / weights.sum()
