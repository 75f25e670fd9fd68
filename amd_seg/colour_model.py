"""Masks redrawn by a colour model of their picture: GrabCut (Rother et al., SIGGRAPH 2004)."""

import numpy as np
from numpy.typing import NDArray

SURE_BACKGROUND = 0.15  # probability of the object below which a pixel is background
AGREEMENT = 0.6  # IoU of redrawn and given mask from which the redrawn one is taken
REDRAWN_WEIGHT = 0.75  # share of the redrawn mask where it is taken

LEAST_PIXELS = 32  # of each side: its model has five components and cannot start from fewer


def grabcut(
    frame: NDArray[np.uint8], labels: NDArray[np.uint8], rounds: int = 1
) -> NDArray[np.bool_] | None:
    """Return the mask of rounds of colour model and cut; None where a side is all but empty.

    Args:
        labels: (height, width), OpenCV's GC_BGD, GC_FGD, GC_PR_BGD or GC_PR_FGD; changed.
    """
    import cv2

    objects = cv2.GC_FGD, cv2.GC_PR_FGD
    count = int(np.isin(labels, objects).sum())
    if min(count, labels.size - count) < LEAST_PIXELS:
        return None
    cv2.setRNGSeed(0)  # its clusters start at random: the same frame shall give the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, objects)


def redrawn_where_agreed(
    frame: NDArray[np.uint8],
    probability: NDArray[np.float32],
    background: NDArray[np.bool_] | None = None,
    agreement: float = AGREEMENT,
) -> NDArray[np.float32]:
    """Mix a map (height, width) with what the colour model makes of its mask, if the two agree.

    The map itself comes back where they do not, or where one side is all but empty. The mask
    becomes nothing on `background`.
    """
    import cv2

    mask = probability > 0.5
    if background is None:
        background = probability < SURE_BACKGROUND
    labels = np.where(background, cv2.GC_BGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[mask] = cv2.GC_PR_FGD
    redrawn = grabcut(frame, labels)
    if redrawn is None or iou(redrawn, mask) < agreement:
        return probability
    weight = np.float32(REDRAWN_WEIGHT)
    return weight * redrawn.astype(np.float32) + (1 - weight) * probability


def iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Give intersection over union of two masks; 1 where both are empty."""
    union = int((mask | other).sum())
    return int((mask & other).sum()) / union if union else 1.0
