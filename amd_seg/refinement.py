"""Crisp edges: from the network's coarse map to one that follows the photo."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.choices import REFINEMENTS
from amd_seg.colour_densities import redraw_by_densities
from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.errors import InputError
from amd_seg.guided_filter import guided_coefficients
from amd_seg.resampling import resize_pixels
from amd_seg.upsampling import upsample, upsampled_strips

Map = NDArray[np.float32]
Pixels = NDArray[np.uint8]

CELL = 4
"""Pixels for each of the map's cells, which were 8 in the network's input, where the guided filter
is fitted; its windows reach as far."""

COLOUR_CELL = 2
"""Pixels for each of the map's cells, likewise, where the densities of colours redraw it."""

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
"""Reach, in pixels of a redrawn map, of the guided filter that brings it to the photo's size."""


def refine_map(pixels: Pixels, cells: Map, how: str) -> Map:
    """Bring the network's map of the object to the size of its photo.

    What all but "none" compute on top of the result has a size of its own, so that a large photo
    needs no more memory.

    Args:
        pixels: (height, width, 3), RGB.
        cells: (h, w), float32, 0..1.
        how: one of `choices.REFINEMENTS`. "grabcut" gives what "none" does where its mask and the
            network's have an IoU under `AGREEMENT`, or one of its two sides is all but empty.

    Returns:
        (height, width), float32, 0..1.

    Raises:
        InputError: `how` is unknown.
    """
    if how == "guided":
        guide, enlarged = _at(CELL, pixels, cells)
        return _along_edges(pixels, guide, enlarged, CELL)
    if how == "colour":
        guide, enlarged = _at(COLOUR_CELL, pixels, cells)
        return _along_edges(pixels, guide, redraw_by_densities(guide, enlarged), FEATHER)
    redrawn = _redrawn(pixels, cells) if how == "grabcut" else None
    if redrawn is not None:
        return _along_edges(pixels, *redrawn, FEATHER)
    if how in REFINEMENTS:
        plain: Map = upsample(cells[np.newaxis], pixels.shape[:2])[0]
        return plain
    raise InputError(f"refine={how!r} cannot be used: give one of {', '.join(REFINEMENTS)}.")


def _at(cell: int, pixels: Pixels, cells: Map) -> tuple[Tensor, Tensor]:
    """Give the photo (3, h, w), 0..1, and the map (h, w) with so many pixels a cell and edge."""
    height, width = pixels.shape[:2]
    size = min(cell * cells.shape[0], height), min(cell * cells.shape[1], width)
    enlarged = torch.from_numpy(upsample(cells[np.newaxis], size)[0])
    return resize_pixels(pixels, size).float() / 255, enlarged


def _redrawn(pixels: Pixels, cells: Map) -> tuple[Tensor, Tensor] | None:
    """Give a small photo (3, h, w), 0..1, and the map (h, w) that GrabCut makes there of another.

    None where it does not count.

    Source: Rother et al., GrabCut, SIGGRAPH 2004.
    """
    height, width = pixels.shape[:2]
    short, long = GRABCUT_EDGES
    factor = min(1.0, short / min(height, width), long / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    frame = resize_pixels(pixels, size)
    saliency = upsample(cells[np.newaxis], size)[0]
    mask, background = saliency > 0.5, saliency < SURE_BACKGROUND
    colours = frame.permute(1, 2, 0).contiguous().numpy()
    redrawn = redraw_by_colour(colours, mask, background, rounds=1)
    # The mask itself comes back where one side was too small for a colour model.
    if redrawn is mask or iou(redrawn, mask) < AGREEMENT:
        return None
    mixed = saliency + np.float32(GRABCUT_SHARE) * (redrawn - saliency)
    return frame.float() / 255, torch.from_numpy(mixed)


def _along_edges(pixels: Pixels, guide: Tensor, small: Tensor, reach: int) -> Map:
    """Bring a map (h, w) to the photo's size by the guided filter, fitted at the map's own size.

    The linear functions of the guide's colours that it finds vary slowly and hold at any size.

    Source: He and Sun, Fast Guided Filter, arXiv 1505.00996.
    """
    return _applied(guided_coefficients(guide, small, reach, EPSILON), pixels)


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
