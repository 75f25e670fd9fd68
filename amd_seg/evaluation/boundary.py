"""How well the outlines of two masks agree, and the distances that this needs."""

import math

import numpy as np
from numpy.typing import NDArray

from amd_seg.evaluation.metrics import Mask, f_beta, without_void

TOLERANCE = 0.008
"""Distance, as a share of the image's diagonal, at which an outline still counts as met."""


def boundary_f(
    mask: Mask, truth: Mask, void: Mask | None = None, *, tolerance: float = TOLERANCE
) -> float:
    """Return the boundary measure F of DAVIS, 0..1.

    Precision is the share of the prediction's outline that lies within the tolerance of the ground
    truth's; recall the converse; F their harmonic mean.

    Args:
        mask: (height, width), bool: the prediction.
        truth: (height, width), bool.
        void: (height, width), bool: pixels that count as background in both; None for none.
        tolerance: share of the diagonal, rounded up to whole pixels.

    Returns:
        1 where neither mask has an outline, 0 where only one has.

    Source: Perazzi et al., CVPR 2016, and its toolkit; the outline lies between pixels there.
    """
    mask, truth = without_void(mask, truth, void)
    reach = math.ceil(tolerance * math.hypot(*mask.shape))
    outline, true_outline = boundary(mask), boundary(truth)
    count, true_count = int(outline.sum()), int(true_outline.sum())
    if not count or not true_count:
        return float(count == true_count)
    precision = int((outline & dilate(true_outline, reach)).sum()) / count
    recall = int((true_outline & dilate(outline, reach)).sum()) / true_count
    return float(f_beta(precision, recall, 1.0))


def boundary(mask: Mask) -> Mask:
    """Return the pixels that differ from their right, lower or lower right neighbour.

    Args:
        mask: (height, width), bool.

    Returns:
        (height, width), bool; the last row looks right only, the last column down only.
    """
    outline = np.zeros_like(mask)
    right, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    outline[:, :-1] |= right
    outline[:-1] |= down
    outline[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return outline


def dilate(mask: Mask, radius: int) -> Mask:
    """Return the pixels within `radius` (Euclidean, in pixels) of a pixel of the mask."""
    grown = np.zeros_like(mask)
    distance = _distance_in_column(mask)
    for shift in range(-radius, radius + 1):
        near = distance <= math.isqrt(radius * radius - shift * shift)
        if shift > 0:
            grown[:, shift:] |= near[:, :-shift]
        elif shift < 0:
            grown[:, :shift] |= near[:, -shift:]
        else:
            grown |= near
    return grown


def _distance_in_column(mask: Mask) -> NDArray[np.int32]:
    """Return each pixel's distance to the nearest one of the mask in its column, or a large one."""
    height = len(mask)
    rows = np.arange(height, dtype=np.int32)[:, None]
    far = np.int32(4 * height + 1_000_000)
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, far)[::-1], axis=0)[::-1]
    return np.minimum(rows - above, below - rows)
