"""Coarse maps at the size of a photo, with memory for the result only."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Rows that are resized at a time: a strip of a wide photo still fits a CPU's cache.
_STRIP_ROWS = 16


def upsample(maps: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize maps bilinearly with aligned corners, as the published evaluation does.

    Args:
        maps: (map, h, w), float32, 0..1.
        size: height and width, in pixels, of the result.

    Returns:
        (map, height, width), float32, 0..1; a sum of 1 over the maps stays 1.

    Source: the released code resizes probabilities with align_corners=True.
    """
    resized = np.empty((maps.shape[0], *size), np.float32)
    for start, strip in upsampled_strips(maps, size):
        # Rounding may leave 0..1.
        np.clip(strip, 0.0, 1.0, out=resized[:, start : start + strip.shape[1]])
    return resized


def upsampled_strips(
    maps: NDArray[np.float32], size: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Resize maps (map, h, w) of any range as `upsample` does, strip by strip.

    Yields:
        A strip's first row, and the maps (map, rows, width) there.
    """
    height, width = size
    left, right, share = _neighbours(maps.shape[2], width)
    wide = _blend(maps[:, :, left], maps[:, :, right], share)  # (map, h, width)
    top, bottom, share = _neighbours(maps.shape[1], height)
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        yield start, _blend(wide[:, top[rows]], wide[:, bottom[rows]], share[rows, None])


def _neighbours(
    cells: int, pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each pixel, the cells before and after it and the second one's share."""
    positions = np.linspace(0.0, cells - 1.0, pixels)
    before = np.minimum(positions.astype(np.intp), max(cells - 2, 0))
    after = np.minimum(before + 1, cells - 1)
    return before, after, (positions - before).astype(np.float32)


def _blend(
    first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return first + share * (second - first); both arrays are used up."""
    second -= first
    second *= share
    first += second
    return first
