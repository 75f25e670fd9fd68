"""Masks of what stands out in photos, found without learning.

Contrast against what is connected to the photo's border (contrast.py), redrawn by a colour model
where the two agree.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from contrast import boundary_contrast
from numpy.typing import NDArray

from amd_seg.colour_model import grabcut, iou
from amd_seg.errors import InputError
from amd_seg.media.files import find_images
from amd_seg.media.images import read_image
from amd_seg.training.masked_images import Finder, FoundMask, write_mask_folder
from amd_seg.training.motion_masks import shrink

PATCHES = (100, 220, 400)
"""Superpixels a photo is cut into, about; the maps of several cuts are averaged."""
WORK_HEIGHT = 200
"""Short edge, in pixels, at which the contrast is computed."""
SURE_BACKGROUND = 0.15
"""Contrast below which a pixel cannot be the object."""
AGREEMENT = 0.3
"""IoU of redrawn mask and contrast from which the redrawn one is taken."""
REDRAWN_WEIGHT = 0.75


def write_photo_masks(photos: str | os.PathLike[str], folder: Path, *, short_edge: int) -> None:
    """Write a folder of photos, shrunk to a short edge in pixels, and their masks.

    Raises:
        InputError: the folder holds no photo, or two of one name.
        MediaError: more than one in a hundred cannot be read; the others are done.
    """
    jobs: dict[str, tuple[Finder, str]] = {}
    for path in find_images([os.fspath(photos)], recursive=True):
        # All lie beside each other: images of one folder would be drawn as one clip.
        name = "_".join(path.relative_to(photos).with_suffix("").parts)
        if name in jobs:
            raise InputError(f"Two photos are called {name}, such as {path}. Rename one.")
        made_of = f"{path.stat().st_size} bytes, {PATCHES}, {short_edge}"
        jobs[name] = partial(_find, path, short_edge), made_of
    write_mask_folder(jobs, folder, workers=os.cpu_count() or 1)


def _find(path: Path, short_edge: int) -> Iterator[FoundMask]:
    photo = read_image(path).pixels
    mask, confidence = photo_mask(shrink(photo, WORK_HEIGHT))
    shown = shrink(photo, short_edge)
    yield "", shown, resized(mask, shown.shape[:2]), confidence


def photo_mask(
    photo: NDArray[np.uint8], patches: tuple[int, ...] = PATCHES
) -> tuple[NDArray[np.float32], float]:
    """Find what stands out in a photo (height, width, 3), RGB.

    Returns:
        Its probability, (height, width), 0..1; and the IoU of the mask before and after the
        colour model: how far to trust it.
    """
    contrast = np.mean([boundary_contrast(photo, count) for count in patches], axis=0)
    contrast = contrast.astype(np.float32)
    mask = contrast > 0.5
    labels = np.where(contrast < SURE_BACKGROUND, cv2.GC_BGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[mask] = cv2.GC_PR_FGD
    redrawn = grabcut(photo, labels, rounds=2)
    redrawn = mask if redrawn is None else redrawn  # where one of its sides is all but empty
    agreement = iou(redrawn, mask)
    if agreement > AGREEMENT:
        weight = np.float32(REDRAWN_WEIGHT)
        contrast = weight * redrawn.astype(np.float32) + (1 - weight) * contrast
    return contrast, agreement


def resized(probability: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Give a probability (height, width) at another size, in 0..255."""
    import cv2

    whole = cv2.resize(probability, size[::-1], interpolation=cv2.INTER_AREA)
    return np.rint(np.clip(whole, 0, 1) * 255).astype(np.uint8)
