"""The colours of an object alone: what its soft edge shows, less the background behind it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.media.pixels import BLOCK_PIXELS, Pixels, row_blocks

WORK_EDGE = 256
"""Short edge, in pixels, at which the colours on both sides of an edge are estimated: they change
slowly, so that this serves photos of any size."""

REACHES = (32, 8)
"""Reach of the two blurs, in pixels of that size: far for where an edge is broad, then near."""

SHARPNESS = 4
"""Power of alpha by which a pixel counts. The source has 1, which serves the narrow edges of a
matte; on an edge of a tenth of the picture it leaves a third of the halo, and 4 leaves a tenth."""

# Keeps a window without any of the object, or of the background, from dividing by 0.
_LEAST = 1e-8

_Values = NDArray[np.float32]


def foreground_blocks(pixels: Pixels, alpha: Pixels) -> Iterator[tuple[slice, Pixels]]:
    """Give the colours of the object alone, which leave no halo on another background.

    A pixel of a soft edge shows alpha of the object and 1 - alpha of the background. Both are
    estimated by averages of the neighbourhood, weighted by alpha and by its complement; the
    object's is corrected by what the two leave unexplained. An opaque pixel keeps its colour.

    Args:
        pixels: (height, width, 3), RGB.
        alpha: (height, width), 0..255.

    Yields:
        Some rows, and their colours (row, width, 3), RGB: what a large photo costs stays small.

    Source: Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021: blur fusion, twice.
    """
    height, width = alpha.shape
    factor = max(1, min(height, width) // WORK_EDGE)
    object_, background = _estimate_both(_reduced(pixels, factor), _reduced(alpha, factor))
    for rows in row_blocks(height, width):
        colours = pixels[rows].copy()
        is_soft = (alpha[rows] > 0) & (alpha[rows] < 255)
        if is_soft.any():
            near = _enlarged(object_, rows, width, factor)[is_soft]
            behind = _enlarged(background, rows, width, factor)[is_soft]
            seen, share = colours[is_soft].astype(np.float32), _shares(alpha[rows][is_soft])
            colours[is_soft] = np.rint(_fused(seen, share, near, behind))
        yield rows, colours


def _estimate_both(pixels: Pixels, alpha: Pixels) -> tuple[Image.Image, Image.Image]:
    """Return the smooth colours of the object and of the background around each pixel."""
    seen = pixels.astype(np.float32)
    share = _shares(alpha)
    object_ = background = seen
    for reach in REACHES:
        near = _weighted_mean(object_, share, reach)
        background = _weighted_mean(background, 1 - share, reach)
        object_ = _fused(seen, share, near, background)
    return _picture(near), _picture(background)


def _fused(
    seen: _Values, share: _Values, near: _Values | Pixels, behind: _Values | Pixels
) -> _Values:
    """Correct the object's smooth colour `near` by what it and `behind` do not explain."""
    fused: _Values = near + share * (seen - share * near - (1 - share) * behind)
    return np.clip(fused, 0, 255, out=fused)


def _shares(alpha: Pixels) -> _Values:
    return alpha[..., np.newaxis].astype(np.float32) / np.float32(255)


def _weighted_mean(values: _Values, weights: _Values, reach: int) -> _Values:
    sharp = weights**SHARPNESS
    return _window_sum(values * sharp, reach) / (_window_sum(sharp, reach) + _LEAST)


def _window_sum(values: _Values, reach: int) -> _Values:
    """Return the sums over squares of 2 * reach + 1 pixels, cut off at the border."""
    # Rows first; then, turned over, columns; the second turn puts the values upright again.
    for _ in range(2):
        length = len(values)
        sums = np.concatenate((np.zeros_like(values[:1], np.float64), values.cumsum(0, np.float64)))
        places = np.arange(length)
        last, first = np.minimum(places + reach + 1, length), np.maximum(places - reach, 0)
        values = (sums[last] - sums[first]).astype(np.float32).swapaxes(0, 1)
    return values


def _reduced(values: Pixels, factor: int) -> Pixels:
    """Average squares of factor x factor pixels; those at the border may be cut off."""
    step = factor * max(1, BLOCK_PIXELS // (factor * values.shape[1]))
    blocks = (values[top : top + step] for top in range(0, len(values), step))
    return np.concatenate([np.asarray(Image.fromarray(block).reduce(factor)) for block in blocks])


def _picture(values: _Values) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _enlarged(picture: Image.Image, rows: slice, width: int, factor: int) -> Pixels:
    """Return some rows of a reduced picture at the full size."""
    box = (0, rows.start / factor, width / factor, rows.stop / factor)
    size = (width, rows.stop - rows.start)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box))
