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
from amd_seg.training.clip_masks import combine_odds, flip_averaged_regions
from amd_seg.training.masked_images import (
    FoundMask,
    MaskedClip,
    load_masked_images,
    write_mask_folder,
)
from amd_seg.weights import load_weights

LEAST_DOUBT = 0.01
"""Distance from 0 and 1 within which the network counts as no surer than that."""


def write_joined_masks(
    weights: str | os.PathLike[str],
    teacher: Path,
    folder: Path,
    *,
    short_edge: int,
    sizes: tuple[int, ...] | None = None,
    redraw: bool = False,
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
        precision: "float32" or "bfloat16".
    """
    pretrained = load_weights(weights)
    channel, model = pretrained.config.object_channel, pretrained.model.eval()
    made_of = f"{pretrained.config.sha256}, {redraw}, {short_edge}, {sizes}"
    clips = load_masked_images(teacher, short_edge=short_edge)
    jobs = {
        clip.name: (partial(_join, model, channel, clip, sizes, redraw, precision), made_of)
        for clip in clips
    }
    write_mask_folder(jobs, folder)


def _join(
    model: AMD,
    channel: int,
    clip: MaskedClip,
    sizes: tuple[int, ...] | None,
    redraw: bool,
    precision: str,
) -> Iterator[FoundMask]:
    """Yield the joined masks; their confidence is the mean of the teacher's and the agreement."""
    for label, frame, mask, trust in zip(
        clip.labels, clip.frames, clip.masks, clip.confidence.tolist(), strict=True
    ):
        seen = _saliency(model, frame, channel, sizes, precision)
        taught = mask[0].numpy().astype(np.float32) / np.float32(255)
        union = float(np.maximum(seen, taught).sum())
        agreement = float(np.minimum(seen, taught).sum()) / union if union else 1.0
        joined = combine_odds(seen, taught)
        pixels = frame.permute(1, 2, 0).contiguous().numpy()
        if redraw:
            joined = redrawn_where_agreed(pixels, joined)
        name = label.removeprefix(clip.name).lstrip("/")
        whole = np.rint(joined * 255).astype(np.uint8)
        yield FoundMask(name, pixels, whole, (trust + agreement) / 2)


def _saliency(
    model: AMD, frame: Tensor, channel: int, sizes: tuple[int, ...] | None, precision: str
) -> NDArray[np.float32]:
    """Give what the network sees in a frame (3, height, width): (height, width), 0..1."""
    odds = [
        torch.logit(
            flip_averaged_regions(model, frame[None], size=size, precision=precision)[0, channel],
            eps=LEAST_DOUBT,
        )
        for size in (sizes or (None,))
    ]
    return torch.stack(odds).mean(0).sigmoid().numpy()
