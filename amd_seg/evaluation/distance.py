"""Exact Euclidean distances to a mask, in pixels, by rows and columns."""

import math

import numpy as np
from numpy.typing import NDArray

from amd_seg.evaluation.metrics import Mask

# Further than any image is long; twice it fits an int32, its square an int64.
_FAR = 1 << 29


def dilate(mask: Mask, radius: int) -> Mask:
    """Return the pixels within `radius` (Euclidean, in pixels) of a pixel of the mask."""
    grown = np.zeros_like(mask)
    away = np.abs(_row_of_nearest(mask) - _rows(mask))
    for shift in range(-radius, radius + 1):
        near = away <= math.isqrt(radius * radius - shift * shift)
        here, there = _moved(shift)
        grown[:, here] |= near[:, there]
    return grown


def distance_to(mask: Mask, reach: int) -> NDArray[np.float64]:
    """Return each pixel's distance to the nearest one of the mask, as far as `reach`.

    Args:
        mask: (height, width), bool.
        reach: distance, in pixels, up to which the answer is exact; beyond it is `reach` or more.

    Returns:
        (height, width), float64, in pixels; 0 in the mask.
    """
    away = np.minimum(np.abs(_row_of_nearest(mask) - _rows(mask)), reach + 1)
    least = np.square(away)
    # One column further at a time, (s + 1)^2 = s^2 + (2s + 1): after s steps each pixel holds the
    # least of x^2 + (distance in the column x away)^2 for x up to s.
    for step in range(1, min(reach, mask.shape[1])):
        if step * step >= int(least.max()):
            break
        further = least + np.int32(2 * step - 1)
        np.minimum(least[:, 1:], further[:, :-1], out=least[:, 1:])
        np.minimum(least[:, :-1], further[:, 1:], out=least[:, :-1])
    distance: NDArray[np.float64] = np.sqrt(least, dtype=np.float64)
    return distance


def nearest_within(mask: Mask, reach: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the row and the column of the mask's pixel that is nearest to each pixel.

    Args:
        mask: (height, width), bool, not empty.
        reach: how far away, in pixels, the answer must be right; further off it is any pixel.

    Returns:
        Two arrays (height, width). Of equally near pixels the one furthest left is taken, of
        these the upper one: the choice of `scipy.ndimage.distance_transform_edt`.
    """
    height, width = mask.shape
    row_in_column = _row_of_nearest(mask)
    squared = np.square(row_in_column.astype(np.int64) - _rows(mask))
    least = np.full(mask.shape, 8 * _FAR**2, np.int64)
    rows, columns = np.zeros(mask.shape, np.intp), np.zeros(mask.shape, np.intp)
    most = min(reach, width - 1)
    # Moved furthest to the right first: of equally near pixels, the one on the left comes first.
    for shift in range(most, -most - 1, -1):
        there, here = _moved(shift)
        candidate = squared[:, here] + shift * shift
        is_nearer = candidate < least[:, there]
        least[:, there][is_nearer] = candidate[is_nearer]
        rows[:, there][is_nearer] = row_in_column[:, here][is_nearer]
        columns[:, there][is_nearer] = np.broadcast_to(np.arange(width)[here], is_nearer.shape)[
            is_nearer
        ]
    return np.clip(rows, 0, height - 1), columns


def _moved(shift: int) -> tuple[slice, slice]:
    """Return the columns that `shift` moves onto, and those that it moves."""
    if shift >= 0:
        return slice(shift, None), slice(None, -shift or None)
    return slice(None, shift), slice(-shift, None)


def _rows(mask: Mask) -> NDArray[np.int32]:
    return np.arange(len(mask), dtype=np.int32)[:, None]


def _row_of_nearest(mask: Mask) -> NDArray[np.int32]:
    """Return the row of the mask's nearest pixel in each column, the upper of two; or a far one."""
    rows = _rows(mask)
    above = np.maximum.accumulate(np.where(mask, rows, np.int32(-_FAR)), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, np.int32(_FAR))[::-1], axis=0)[::-1]
    return np.where(rows - above <= below - rows, above, below)
