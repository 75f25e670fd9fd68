"""What stands out in a still: contrast against what is connected to the photo's border.

A classical method without any learned part: backgrounds reach the border of a photo widely,
objects seldom do.

Source: Zhu et al., Saliency Optimization from Robust Background Detection, CVPR 2014; the
numbers of its equations are given below.
"""

import numpy as np
from numpy.typing import NDArray

from amd_seg.superpixels import Superpixels, superpixels

BORDER = 2
"""Pixels at the edge of the photo by which a patch counts as touching it."""
REACH = 7.0
"""Lab distance within which patches count as one surface (sigma of eq. 3)."""
NEIGHBOURHOOD = 0.25
"""Share of the photo within which contrast counts (sigma of eq. 8)."""
SMOOTHNESS = 10.0
"""Lab distance over which neighbours shall agree (sigma of eq. 9)."""
LEAST_SMOOTHNESS = 0.1
"""What neighbours shall agree by whatever their colours (mu of eq. 9)."""
BACKGROUND_WEIGHT = 5.0
"""Weight of the background's term beside the object's in eq. 9."""


def boundary_contrast(frame: NDArray[np.uint8], patches: int) -> NDArray[np.float32]:
    """Give the saliency of a photo by robust background detection.

    Args:
        frame: (height, width, 3), RGB uint8; some 200 pixels of short edge suffice.
        patches: superpixels the photo is cut into, about.

    Returns:
        (height, width), float32, 0..1; the least salient patch is 0, the most salient 1.
    """
    parts = superpixels(frame, patches)
    colour_distance = np.linalg.norm(parts.colours[:, None] - parts.colours, axis=-1)
    labels, border = parts.labels, np.zeros(len(parts.colours), np.bool_)
    for edge in (labels[:BORDER], labels[-BORDER:], labels[:, :BORDER], labels[:, -BORDER:]):
        border[edge] = True
    background = _background_probability(parts, colour_distance, border)
    contrast = _background_weighted_contrast(parts, colour_distance, background)
    saliency = _optimise(parts, colour_distance, background, contrast, border)
    return saliency[parts.labels].astype(np.float32)


def _background_probability(
    parts: Superpixels, colour_distance: NDArray[np.float64], border: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Give each patch's probability of being background, (patch,), 0..1 (eqs. 2 to 6)."""
    linked = parts.touching | np.logical_and.outer(border, border)
    # Differences within one surface must not add up along a path.
    flat = np.where(parts.touching, colour_distance, np.inf).min(axis=1)
    noise = float(flat[np.isfinite(flat)].mean()) if np.isfinite(flat).any() else 0.0
    lengths = np.where(linked, np.maximum(colour_distance - noise, 0), np.inf)
    np.fill_diagonal(lengths, 0)
    surface = np.exp(-(_shortest_paths(lengths) ** 2) / (2 * REACH**2))
    connectivity = surface[:, border].sum(axis=1) / np.sqrt(surface.sum(axis=1))
    probability: NDArray[np.float64] = 1 - np.exp(-(connectivity**2) / 2)
    return probability


def _shortest_paths(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length of the shortest path between all patches, (patch, patch), by Floyd and Warshall."""
    for via in range(len(lengths)):
        lengths = np.minimum(lengths, lengths[:, via : via + 1] + lengths[via])
    return lengths


def _background_weighted_contrast(
    parts: Superpixels,
    colour_distance: NDArray[np.float64],
    background: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Give each patch's contrast to the background around it, (patch,), 0..1 (eqs. 7 and 8)."""
    distance = ((parts.places[:, None] - parts.places) ** 2).sum(axis=-1)
    nearness = np.exp(-distance / (2 * NEIGHBOURHOOD**2))
    return _spread((colour_distance * nearness) @ background)


def _optimise(
    parts: Superpixels,
    colour_distance: NDArray[np.float64],
    background: NDArray[np.float64],
    contrast: NDArray[np.float64],
    border: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Reconcile background, contrast and smoothness, (patch,), 0..1: eq. 9, solved exactly."""
    once = parts.touching.astype(np.uint8)
    near = parts.touching | (once @ once > 0) | np.logical_and.outer(border, border)
    np.fill_diagonal(near, val=False)
    similar = np.exp(-(colour_distance**2) / (2 * SMOOTHNESS**2)) + LEAST_SMOOTHNESS
    weights = np.where(near, similar, 0)
    foreground = np.where(contrast < _otsu(contrast), 0, contrast)
    pull = np.diag(weights.sum(axis=1) + BACKGROUND_WEIGHT * background + foreground)
    return _spread(np.linalg.solve(pull - weights, foreground))


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring values to 0..1; all 0 where they are all the same."""
    spread: NDArray[np.float64] = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return spread


def _otsu(values: NDArray[np.float64]) -> float:
    """Give the threshold between two classes of values in 0..1."""
    import cv2

    levels = np.rint(values * 255).astype(np.uint8).reshape(-1, 1)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return float(level) / 255
