"""Masks redrawn by a colour model of their picture."""

import numpy as np
from numpy.typing import NDArray

SURE_BACKGROUND = 0.15
"""Probability of the object below which the colour model takes a pixel for background."""
AGREEMENT = 0.6
"""IoU of redrawn and given mask from which the redrawn one is taken."""
REDRAWN_WEIGHT = 0.75
"""Share of the redrawn mask where it is taken."""


def redraw_by_colour(
    frame: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    background: NDArray[np.bool_],
    rounds: int,
) -> NDArray[np.bool_]:
    """Redraw a mask along the colours of its frame, by GrabCut.

    Args:
        frame: (height, width, 3), RGB uint8.
        mask: (height, width), bool, where the object is likely.
        background: (height, width), bool, where it cannot be.
        rounds: rounds of colour model and cut.

    Returns:
        (height, width), bool; the mask itself where one of the two sides is all but empty.

    Source: Rother et al., GrabCut, SIGGRAPH 2004.
    """
    import cv2

    labels = np.where(background, cv2.GC_BGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[mask] = cv2.GC_PR_FGD
    # The colour model has five components a side and cannot start from fewer pixels.
    if min(mask.sum(), (~mask).sum()) < 32:
        return mask
    cv2.setRNGSeed(0)  # its clusters start at random: the same frame shall give the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    redrawn: NDArray[np.bool_] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return redrawn


def redrawn_where_agreed(
    frame: NDArray[np.uint8], probability: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mix a map with what the colour model makes of its mask, if the two agree.

    Args:
        frame: (height, width, 3), RGB uint8.
        probability: (height, width), 0..1, of the object.

    Returns:
        The same shape; the map itself where they do not agree, or one side is all but empty.
    """
    mask = probability > 0.5
    redrawn = redraw_by_colour(frame, mask, probability < SURE_BACKGROUND, rounds=1)
    if redrawn is mask or iou(redrawn, mask) < AGREEMENT:
        return probability
    weight = np.float32(REDRAWN_WEIGHT)
    return weight * redrawn.astype(np.float32) + (1 - weight) * probability


def iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Give intersection over union of two masks; 1 where both are empty."""
    union = int((mask | other).sum())
    return int((mask & other).sum()) / union if union else 1.0
