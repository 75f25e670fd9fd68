"""Masks for the next round: what the network and the first teacher both say."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.colour_model import redrawn_where_agreed
from amd_seg.model.amd import AMD
from amd_seg.training.clip_masks import (
    LEAST_TRUST,
    MotionEvidence,
    combine_odds,
    diffuse,
    flip_averaged_regions,
    trust_in_network,
)
from amd_seg.training.masked_images import (
    FoundMask,
    MaskedClip,
    load_masked_images,
    write_mask_folder,
)
from amd_seg.weights import load_weights

Map = NDArray[np.float32]

LEAST_DOUBT = 0.01
"""Distance from 0 and 1 within which a map counts as no surer than that."""
OWN_SHARE, DIFFUSED_SHARE = 0.6, 0.9
"""Of the log-odds of a frame's own mask, and of those that the clip's frames agree on."""


def write_joined_masks(
    weights: str | os.PathLike[str],
    teacher: Path,
    folder: Path,
    *,
    short_edge: int,
    sizes: tuple[int, ...] | None = None,
    redraw: bool = False,
    diffused: bool = False,
    precision: str = "float32",
) -> None:
    """Write the masks that network and teacher agree on.

    Args:
        weights: of the network, as `load_weights` takes them.
        teacher: folder of images with the first teacher's masks.
        folder: another one, for the joined masks.
        short_edge: of the images and masks, in pixels.
        sizes: short edges at which the network sees them, whose log-odds are averaged; None shows
            them as they are.
        redraw: redraw masks by a colour model of their image where it agrees.
        diffused: pass masks on between the frames of a clip, as adaptation does.
        precision: "float32" or "bfloat16".
    """
    pretrained = load_weights(weights)
    channel, model = pretrained.config.object_channel, pretrained.model.eval()
    made_of = (
        f"{pretrained.config.sha256}, {redraw}, {short_edge}, {sizes}, {diffused and 'diffused'}"
    )

    def join(folder: str, clip: MaskedClip) -> Iterator[FoundMask]:
        """Yield masks; their confidence is the mean of the teacher's and the agreement."""
        seen = [_saliency(model, image.frame, channel, sizes, precision) for image in clip]
        taught = [image.mask[0].numpy().astype(np.float32) / np.float32(255) for image in clip]
        frames = [image.frame.permute(1, 2, 0).contiguous().numpy() for image in clip]
        joined = [combine_odds(s, t) for s, t in zip(seen, taught, strict=True)]
        if diffused and len(frames) > 1:
            trust = np.array([image.confidence for image in clip], np.float32)
            features = torch.cat([model.local_features(image.frame[None]) for image in clip])
            joined = _diffused(frames, seen, taught, joined, trust, features)
        for row, (image, pixels) in enumerate(zip(clip, frames, strict=True)):
            union = float(np.maximum(seen[row], taught[row]).sum())
            shared = float(np.minimum(seen[row], taught[row]).sum())
            confidence = (image.confidence + (shared / union if union else 1.0)) / 2
            mask = redrawn_where_agreed(pixels, joined[row]) if redraw else joined[row]
            name = image.name.removeprefix(folder).lstrip("/")
            yield name, pixels, np.rint(mask * 255).astype(np.uint8), confidence

    clips = load_masked_images(teacher, short_edge=short_edge).items()
    write_mask_folder({name: (partial(join, name, clip), made_of) for name, clip in clips}, folder)


def _diffused(
    frames: list[NDArray[np.uint8]],
    seen: list[Map],
    taught: list[Map],
    joined: list[Map],
    confidence: NDArray[np.float32],
    features: Tensor,
) -> list[Map]:
    """Mix each frame's own mask with what the clip's frames agree on."""
    numbers = tuple(range(len(frames)))
    motion = MotionEvidence(numbers, np.stack(frames), np.stack(taught), confidence)
    trust = trust_in_network(motion, np.stack(seen))
    own = [combine_odds(s, t, (trust, 1.0)) for s, t in zip(seen, taught, strict=True)]
    shared = diffuse(motion.frames, own, LEAST_TRUST + confidence, features)
    pairs = zip(joined, shared, strict=True)
    return [_sigmoid(OWN_SHARE * _odds(a) + DIFFUSED_SHARE * _odds(b)) for a, b in pairs]


def _saliency(
    model: AMD, frame: Tensor, channel: int, sizes: tuple[int, ...] | None, precision: str
) -> Map:
    """Give what the network sees in a frame (3, height, width): (height, width), 0..1."""
    regions = (
        flip_averaged_regions(model, frame[None], size=size, precision=precision)[0, channel]
        for size in (sizes or (None,))
    )
    return _sigmoid(np.mean([_odds(region.numpy()) for region in regions], axis=0))


def _odds(probability: Map) -> Map:
    bounded = np.clip(probability, LEAST_DOUBT, 1 - LEAST_DOUBT)
    return np.log(bounded / (1 - bounded))


def _sigmoid(odds: Map) -> Map:
    return (1 / (1 + np.exp(-odds))).astype(np.float32)
