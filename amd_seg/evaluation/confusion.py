"""The confusion matrix of label maps, and what is read off it: IoU and accuracy of each class.

A confusion matrix is (class, class): how many pixels of the row's class were called the column's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import InputError

Matrix = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


def confusion_matrix(
    labels: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int, *, void: int
) -> NDArray[np.int64]:
    """Count the pixels of each pair of classes, but those that are void in the ground truth.

    Args:
        labels: (height, width), 0 to classes - 1: the prediction.
        truth: likewise, or void.
        classes: how many.
        void: the label of pixels that do not count.

    Raises:
        InputError: the maps differ in size, or a prediction is no class.

    Source: PASCAL VOC 2012 development kit, VOCevalseg.m.
    """
    if labels.shape != truth.shape:
        raise InputError(
            f"Cannot compare labels of shape {labels.shape} with those of shape {truth.shape}. "
            "Give both at one size."
        )
    counts = truth != void
    pairs = truth[counts].astype(np.int64) * classes + labels[counts]
    if labels[counts].max(initial=0) >= classes:
        raise InputError(
            f"The label {labels[counts].max()} is predicted, but there are {classes} classes, "
            f"0 to {classes - 1}. Predict one of them for every pixel."
        )
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: Matrix) -> NDArray[np.float64]:
    """Return the IoU of each class: right / (in the truth + predicted - right).

    Returns:
        (class,), 0..1; NaN for a class that is neither in the truth nor predicted.
    """
    right = np.diag(confusion).astype(np.float64)
    return _ratio(right, confusion.sum(axis=1) + confusion.sum(axis=0) - right)


def class_accuracy(confusion: Matrix) -> NDArray[np.float64]:
    """Return the share of each class's pixels that are right, (class,); NaN where it has none."""
    return _ratio(np.diag(confusion).astype(np.float64), confusion.sum(axis=1))


def mean_over_classes(values: NDArray[np.float64]) -> float:
    """Return the mean of the classes that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def pixel_accuracy(confusion: Matrix) -> float:
    """Return the share of all pixels that are right; NaN where none counts."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def _ratio(part: NDArray[np.float64], whole: Matrix) -> NDArray[np.float64]:
    ratio = np.full(len(part), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
