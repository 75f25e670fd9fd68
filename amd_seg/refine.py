"""From the network's coarse map of the object to one of the photo's size, with the photo's edges.

`refine_map` is the entry; below it stand the ways, each with what it needs, then the resizing.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from amd_seg.choices import REFINEMENTS
from amd_seg.colour_model import redrawn_where_agreed
from amd_seg.device import own_numerics
from amd_seg.errors import InputError
from amd_seg.superpixels import manifold_ranking

Map = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Point = tuple[float, float]  # in a photo as it is shown: pixels from its upper left, x first

# guided
CELL = 4  # pixels for each of the map's cells where the filter is fitted; its windows' reach
FINEST = 72  # short edge, in pixels, of the largest map that it is fitted at
EPSILON = 1e-4  # variance of colours in 0..1 below which a window counts as flat
FEATHER = 2  # reach, in pixels of a redrawn map, of the filter that brings it to the photo's size

# ranking
RANKED_EDGES = (120, 480)  # longest short and long edge, in pixels, of the picture that is ranked
PATCHES = 250  # that it is cut into, about
RANKING_RANGE = (0.1, 0.9)  # of what the ranking says: it is often wrong
SUREST = 0.01  # distance from 0 and 1 within which the network counts as no surer than that

# grabcut
GRABCUT_EDGES = (240, 960)  # longest short and long edge, in pixels, of the picture that it sees
SURE_BACKGROUND = 0.05  # saliency below which it may not find the object
AGREEMENT = 0.2  # IoU with the network's mask below which it has found something else

_STRIP_ROWS = 16  # Rows that are resized at a time: a strip of a wide photo fits a CPU's cache.


def refine_map(pixels: Pixels, cells: Map, how: str) -> Map:
    """Bring the network's map of the object (h, w), 0..1, to the size of its photo.

    Every way but "none" works at a size of its own, so that a large photo needs no more memory.
    "grabcut" gives what "ranking" does where its mask and that one's have an IoU under `AGREEMENT`,
    or one of its two sides is all but empty.
    """
    if how not in REFINEMENTS:
        raise InputError(f"refine={how!r} cannot be used: give one of {', '.join(REFINEMENTS)}.")
    with own_numerics():
        if how == "none":
            plain: Map = upsample(cells[np.newaxis], pixels.shape[:2])[0]
            return plain
        if how in ("ranking", "grabcut"):
            cells = joined_with_ranking(pixels, cells)
        if how == "grabcut":
            guide = resize_pixels(pixels, size_within(GRABCUT_EDGES, pixels))
            small: Map = upsample(cells[np.newaxis], guide.shape[1:])[0]
            colours = guide.permute(1, 2, 0).contiguous().numpy()
            cut = redrawn_where_agreed(colours, small, small < SURE_BACKGROUND, AGREEMENT)
            if cut is not small:
                return along_edges(pixels, guide.float() / 255, torch.from_numpy(cut), FEATHER)
        guide, values = _at_fit(pixels, cells)
        return along_edges(pixels, guide, values, CELL)


# "ranking", which "grabcut" begins with


def joined_with_ranking(pixels: Pixels, cells: Map) -> Map:
    """Multiply the odds of a map (h, w), 0..1, by those that manifold ranking gives its photo.

    The network knows what objects look like, the ranking what does not reach the photo's border.
    """
    if cells.max() <= 0.5:
        return cells  # The ranking finds something in every sky.
    small = resize_pixels(pixels, size_within(RANKED_EDGES, pixels))
    photo, seen = small.permute(1, 2, 0).numpy(), torch.from_numpy(cells)[None, None]
    seen = interpolate(seen, photo.shape[:2], mode="bilinear", antialias=True)
    ranking = torch.from_numpy(manifold_ranking(photo, seen[0, 0].numpy(), PATCHES))
    ranking = interpolate(ranking[None, None], cells.shape, mode="area")[0, 0]
    odds = torch.logit(torch.from_numpy(cells), eps=SUREST)
    joined: Map = torch.sigmoid(odds + torch.logit(ranking.clamp(*RANKING_RANGE))).numpy()
    return joined


# "guided", which the other ways end with


def _at_fit(pixels: Pixels, cells: Map) -> tuple[Tensor, Tensor]:
    """Give the photo (3, h, w), 0..1, and the map (h, w), as large as the filter is fitted."""
    factor = min(float(CELL), FINEST / min(cells.shape))
    height, width = (
        min(max(1, round(factor * count)), edge)
        for count, edge in zip(cells.shape, pixels.shape[:2], strict=True)
    )
    guide = resize_pixels(pixels, (height, width)).float() / 255
    if factor < 1:
        whole = torch.from_numpy(cells)[None, None]
        return guide, interpolate(whole, (height, width), mode="area")[0, 0]
    return guide, torch.from_numpy(upsample(cells[np.newaxis], (height, width))[0])


def along_edges(pixels: Pixels, guide: Tensor, small: Tensor, reach: int) -> Map:
    """Bring a map (h, w) to the photo's size by the guided filter, fitted at the map's own size.

    The linear functions of the guide's colours that it finds vary slowly and hold at any size.

    Source: He and Sun, Fast Guided Filter, arXiv 1505.00996.
    """
    coefficients = guided_coefficients(guide, small, reach, EPSILON)
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


def guided_coefficients(guide: Tensor, values: Tensor, radius: int, epsilon: float) -> Tensor:
    """Give, for each pixel, the linear function of the colour that its surroundings agree on.

    In every window a linear function of the colour is fitted to the values; a pixel takes the
    mean of the functions of all windows that hold it: a slope for each colour, then an offset,
    (4, height, width).

    Args:
        guide: (3, height, width), float, 0..1: the picture whose edges count.
        values: (height, width), float: the map to redraw.
        radius: windows are squares of 2 * radius + 1 pixels, cut off at the border.
        epsilon: variance of the colour below which a window's values are only averaged.

    Source: He, Sun, Tang, Guided Image Filtering, PAMI 2013, eqs. 14 and 15: eqs. 5, 6 and 8 for
    a guide of colours.
    """
    mean_guide = box_filter(guide, radius)  # (3, height, width)
    mean_values = box_filter(values[None], radius)  # (1, height, width)
    red, green, blue = box_filter(guide * values, radius) - mean_guide * mean_values
    # The symmetric 3x3 matrix of the colours' variances at each pixel, row by row.
    pairs = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
    products = torch.stack([guide[i] * guide[j] for i, j in pairs])
    mean_products = torch.stack([mean_guide[i] * mean_guide[j] for i, j in pairs])
    rr, rg, rb, gg, gb, bb = box_filter(products, radius) - mean_products
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    # By Cramer's rule; the adjugate of a symmetric matrix is symmetric.
    a_rr, a_rg, a_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    a_gg, a_gb, a_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    rows = ((a_rr, a_rg, a_rb), (a_rg, a_gg, a_gb), (a_rb, a_gb, a_bb))
    determinant = rr * a_rr + rg * a_rg + rb * a_rb
    slope = torch.stack([r * red + g * green + b * blue for r, g, b in rows]).div_(determinant)
    offset = mean_values - (slope * mean_guide).sum(dim=0, keepdim=True)
    return box_filter(torch.cat((slope, offset)), radius)


def box_filter(values: Tensor, radius: int) -> Tensor:
    """Give the mean of values (channel, height, width) over each pixel's square window."""
    import cv2

    planes = (np.ones(values.shape[1:], np.float32), *values.numpy())
    window, how = (2 * radius + 1,) * 2, {"normalize": False, "borderType": cv2.BORDER_CONSTANT}
    counts, *sums = (cv2.boxFilter(plane, -1, window, **how) for plane in planes)
    return torch.from_numpy(np.stack(sums) / counts)


# Other sizes


def size_within(edges: tuple[int, int], pixels: Pixels) -> tuple[int, int]:
    """Return the height and width of a photo, reduced to a longest short and long edge."""
    height, width = pixels.shape[:2]
    factor = min(1.0, edges[0] / min(height, width), edges[1] / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_pixels(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """Resize pixels (height, width, 3) bilinearly to (3, h, w), antialiased where reduced."""
    # torch warns of memory that numpy may not write to.
    writeable = pixels if pixels.flags.writeable else pixels.copy()
    whole = torch.from_numpy(writeable).permute(2, 0, 1)[None]
    return interpolate(whole, size, mode="bilinear", align_corners=False, antialias=True)[0]


def upsample(maps: Map, size: tuple[int, ...]) -> Map:
    """Resize maps (map, h, w), 0..1, bilinearly with aligned corners, as released: sums stay 1."""
    resized = np.empty((maps.shape[0], *size), np.float32)
    for start, strip in upsampled_strips(maps, size):
        # Rounding may leave 0..1.
        np.clip(strip, 0.0, 1.0, out=resized[:, start : start + strip.shape[1]])
    return resized


def upsampled_strips(maps: Map, size: tuple[int, ...]) -> Iterator[tuple[int, Map]]:
    """Resize maps (map, h, w) as `upsample` does; yield each strip's first row, and the strip."""
    height, width = size
    left, right, share = _neighbours(maps.shape[2], width)
    # (h, map, width): numpy copies rows of the first axis whole, those of another value by value.
    wide = np.moveaxis(_blend(maps[:, :, left], maps[:, :, right], share), 0, 1).copy()
    top, bottom, share = _neighbours(maps.shape[1], height)
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        strip = _blend(wide[top[rows]], wide[bottom[rows]], share[rows, None, None])
        yield start, np.moveaxis(strip, 1, 0)


def _neighbours(cells: int, pixels: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Map]:
    """Return, for each pixel, the cells before and after it, and the share of the second."""
    positions = np.linspace(0.0, cells - 1.0, pixels)
    before = np.minimum(positions.astype(np.intp), max(cells - 2, 0))
    after = np.minimum(before + 1, cells - 1)
    return before, after, (positions - before).astype(np.float32)


def _blend(first: Map, second: Map, share: Map) -> Map:
    """Return first + share * (second - first); both arrays are used up."""
    second -= first
    second *= share
    first += second
    return first
