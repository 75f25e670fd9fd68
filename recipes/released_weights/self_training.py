"""Masks for the next round: what the network and the first teacher both say."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

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


def write_joined_masks(
    weights: str | os.PathLike[str],
    teacher: Path,
    folder: Path,
    *,
    short_edge: int,
    redraw: bool = False,
    precision: str = "float32",
) -> None:
    """Write the masks that network and teacher agree on.

    Args:
        weights: of the network, as `load_weights` takes them.
        teacher: folder of images with the first teacher's masks.
        folder: another one, for the joined masks.
        short_edge: of the images that the network sees, in pixels.
        redraw: redraw masks by a colour model of their image where it agrees.
        precision: "float32" or "bfloat16".
    """
    pretrained = load_weights(weights)
    channel, model = pretrained.config.object_channel, pretrained.model.eval()
    made_of = f"{pretrained.config.sha256}, {redraw}, {short_edge}"
    clips = load_masked_images(teacher, short_edge=short_edge)
    jobs = {
        clip.name: (partial(_join, model, channel, clip, redraw, precision), made_of)
        for clip in clips
    }
    write_mask_folder(jobs, folder)


def _join(
    model: AMD, channel: int, clip: MaskedClip, redraw: bool, precision: str
) -> Iterator[FoundMask]:
    """Yield the joined masks; their confidence is the mean of the teacher's and the agreement."""
    for label, frame, mask, trust in zip(
        clip.labels, clip.frames, clip.masks, clip.confidence.tolist(), strict=True
    ):
        regions = flip_averaged_regions(model, torch.stack([frame]), precision=precision)
        seen = regions[0, channel].numpy()
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
