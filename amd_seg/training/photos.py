"""The teacher of stills: what stands out in a photo, found without learning."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.training.background import resize, resize_frames, scaled_size
from amd_seg.training.contrast import boundary_contrast
from amd_seg.training.movers import MoverTargets

SURE_BACKGROUND = 0.15
"""Contrast below which a pixel cannot be the object."""


@dataclass(frozen=True, kw_only=True)
class PhotoConfig:
    """How the targets of stills are found."""

    patches: tuple[int, ...] = (100, 220, 400)
    """Superpixels a photo is cut into, about; the maps of several cuts are averaged."""
    work_height: int = 200
    """Short edge, in pixels, at which the contrast is computed; photos are never enlarged."""
    mask_height: int | None = None
    """Short edge, in pixels, of the masks returned; None is the photo's own."""
    grabcut_rounds: int = 2
    """Rounds of the colour model that redraws the mask."""
    grabcut_agreement: float = 0.3
    """IoU of redrawn mask and contrast from which the redrawn one is taken, 0..1."""
    grabcut_weight: float = 0.75
    """Share of the redrawn mask in the target where it is taken; the rest is the contrast's."""


def photo_targets(photo: NDArray[np.uint8], config: PhotoConfig | None = None) -> MoverTargets:
    """Find what stands out in a photo: by contrast with its border, redrawn by colour.

    The confidence is the IoU of the two, the one before and the one after the colour model.

    Args:
        photo: (height, width, 3), RGB uint8.
        config: how to look.

    Returns:
        One target, of frame 0.
    """
    config = config or PhotoConfig()
    small = resize_frames(photo[None], config.work_height)[0]
    maps = [boundary_contrast(small, count) for count in config.patches]
    contrast: NDArray[np.float32] = np.stack(maps).mean(axis=0)
    mask = contrast > 0.5
    redrawn = redraw_by_colour(small, mask, contrast < SURE_BACKGROUND, config.grabcut_rounds)
    agreement = iou(redrawn, mask)
    if agreement > config.grabcut_agreement:
        weight = np.float32(config.grabcut_weight)
        contrast = weight * redrawn.astype(np.float32) + (1 - weight) * contrast
    target = resize(contrast, scaled_size(photo.shape[:2], config.mask_height))
    return MoverTargets(
        indices=np.zeros(1, dtype=np.int64),
        masks=np.rint(target[None] * 255).astype(np.uint8),
        confidence=np.array([agreement], dtype=np.float32),
    )
