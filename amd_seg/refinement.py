"""Crisp edges: from the network's coarse map to one that follows the photo."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.errors import InputError
from amd_seg.guided_filter import guided_coefficients
from amd_seg.resampling import resize_pixels
from amd_seg.upsampling import upsample, upsampled_strips

Map = NDArray[np.float32]
Pixels = NDArray[np.uint8]

REFINEMENTS = ("none", "guided", "grabcut")
"""Ways from the coarse map to the photo's size: plain enlarging, the guided filter, GrabCut."""

DEFAULT_REFINEMENT = "guided"

CELL = 4
"""Pixels for each of the map's cells, which were 8 in the network's input, where the guided filter
is fitted; its windows reach as far."""

EPSILON = 1e-4
"""Variance of colours in 0..1 below which the guided filter takes a window for flat."""

GRABCUT_EDGES = (240, 960)
"""Longest short and long edge, in pixels, at which GrabCut redraws the mask."""

SURE_BACKGROUND = 0.05
"""Saliency below which GrabCut may not find the object."""

AGREEMENT = 0.2
"""IoU of GrabCut's mask with the network's below which it has found something else."""

GRABCUT_SHARE = 0.75
"""Share of GrabCut's mask in its saliency; the rest is the network's: what it doubted stays so."""

FEATHER = 2
"""Reach, in pixels of GrabCut's mask, of the guided filter that brings it to the photo's size."""


def refine_map(pixels: Pixels, cells: Map, how: str) -> Map:
    """Bring the network's map of the object to the size of its photo.

    What "guided" and "grabcut" compute on top of the result has a size of its own, so that a
    large photo needs no more memory.

    Args:
        pixels: (height, width, 3), RGB.
        cells: (h, w), float32, 0..1.
        how: one of `REFINEMENTS`. "grabcut" gives what "none" does where its mask and the
            network's have an IoU under `AGREEMENT`, or one of its two sides is all but empty.

    Returns:
        (height, width), float32, 0..1.

    Raises:
        ConfigError: GrabCut is asked for, and OpenCV is not installed.
        InputError: `how` is unknown.
    """
    if how == "guided":
        return _guided(pixels, cells)
    redrawn = _redrawn(pixels, cells) if how == "grabcut" else None
    if redrawn is not None:
        return _along_edges(pixels, redrawn, FEATHER)
    if how in REFINEMENTS:
        enlarged: Map = upsample(cells[np.newaxis], pixels.shape[:2])[0]
        return enlarged
    raise InputError(f"refine={how!r} cannot be used: give one of {', '.join(REFINEMENTS)}.")


def _guided(pixels: Pixels, cells: Map) -> Map:
    height, width = pixels.shape[:2]
    size = min(CELL * cells.shape[0], height), min(CELL * cells.shape[1], width)
    return _along_edges(pixels, upsample(cells[np.newaxis], size)[0], CELL)


def _redrawn(pixels: Pixels, cells: Map) -> Map | None:
    """Give the map that GrabCut makes of another, at its own size; None where it does not count.

    Source: Rother et al., GrabCut, SIGGRAPH 2004.
    """
    height, width = pixels.shape[:2]
    short, long = GRABCUT_EDGES
    factor = min(1.0, short / min(height, width), long / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    frame = resize_pixels(pixels, size).permute(1, 2, 0).contiguous().numpy()
    saliency = upsample(cells[np.newaxis], size)[0]
    mask = saliency > 0.5
    redrawn = redraw_by_colour(frame, mask, saliency < SURE_BACKGROUND, rounds=1)
    # The mask itself comes back where one side was too small for a colour model.
    if redrawn is mask or iou(redrawn, mask) < AGREEMENT:
        return None
    mixed: Map = saliency + np.float32(GRABCUT_SHARE) * (redrawn - saliency)
    return mixed


def _along_edges(pixels: Pixels, small: Map, reach: int) -> Map:
    """Bring a map to the photo's size by the guided filter, fitted at the map's own size.

    The linear functions of the colour that it finds vary slowly and hold at any size.

    Source: He and Sun, Fast Guided Filter, arXiv 1505.00996.
    """
    height, width = small.shape
    guide = resize_pixels(pixels, (height, width)).float() / 255
    coefficients = guided_coefficients(guide, torch.from_numpy(small), reach, EPSILON)
    return _applied(coefficients, pixels)


def _applied(coefficients: Tensor, pixels: Pixels) -> Map:
    """Give the map that coefficients (4, h, w) for colours in 0..1 make of a photo's pixels."""
    coefficients[:3] /= 255
    refined = np.empty(pixels.shape[:2], np.float32)
    for start, strip in upsampled_strips(coefficients.numpy(), refined.shape):
        rows = slice(start, start + strip.shape[1])
        values = strip[3]
        for slope, plane in zip(strip, np.moveaxis(pixels[rows], 2, 0), strict=False):
            slope *= plane.astype(np.float32)
            values += slope
        np.clip(values, 0.0, 1.0, out=refined[rows])
    return refined
