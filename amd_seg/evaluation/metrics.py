"""The metrics of salient objects and of video object segmentation, on plain arrays.

A saliency map is (height, width), float in 0..1, taken as it is: it is never stretched. A mask
and a ground truth are (height, width), bool. Nothing here reads a file or knows a data set.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import InputError

Mask = NDArray[np.bool_]
Saliency = NDArray[np.floating[Any]]
Curve = NDArray[np.float64]

BETA_SQUARED = 0.3
"""Weight of recall against precision in F: the value of the salient-object field."""

LEVELS = 256
"""Thresholds of a curve: k / 255 for k = 0..255, a pixel is predicted where S >= k / 255."""


class SequenceStatistics(NamedTuple):
    """What the DAVIS benchmark tells of the values of a sequence's frames."""

    mean: float
    """Over frames."""
    recall: float
    """Share of the frames above 0.5."""
    decay: float
    """Mean of the first quarter minus mean of the last: what is lost along the sequence."""


def mean_absolute_error(saliency: Saliency, truth: Mask) -> float:
    """Return the mean over pixels of |saliency - truth|, 0..1; 0 is best."""
    _require_same_size(saliency, truth)
    return float(np.abs(saliency - truth).mean(dtype=np.float64))


def precision_recall(saliency: Saliency, truth: Mask) -> tuple[Curve, Curve]:
    """Return precision and recall at every threshold k / 255.

    Args:
        saliency: (height, width), float in 0..1.
        truth: (height, width), bool.

    Returns:
        Two arrays (256,), float64, 0..1. Precision is 0 where nothing is predicted, recall 0
        where the ground truth is empty.
    """
    hits, predicted = counts_at_levels(saliency, truth)
    return hits / np.maximum(predicted, 1), hits / max(int(np.count_nonzero(truth)), 1)


def counts_at_levels(
    saliency: Saliency, truth: Mask
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, at every threshold k / 255, how many pixels are hits and how many are predicted."""
    _require_same_size(saliency, truth)
    # A value k / 255 comes back as k exactly, in float32 and in float64.
    levels = np.floor(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    on_object = np.bincount(levels[truth], minlength=LEVELS)
    everywhere = np.bincount(levels.ravel(), minlength=LEVELS)
    return np.cumsum(on_object[::-1])[::-1], np.cumsum(everywhere[::-1])[::-1]


def f_beta(precision: Any, recall: Any, beta_squared: float = BETA_SQUARED) -> Any:
    """Return (1 + b) P R / (b P + R), b being beta squared; 0 where precision and recall are 0.

    Args:
        precision: a number or an array, 0..1.
        recall: likewise, of the same shape.
        beta_squared: below 1, precision counts more than recall.
    """
    weighted = beta_squared * np.asarray(precision, np.float64) + recall
    product = (1 + beta_squared) * np.asarray(precision) * recall
    return np.divide(product, weighted, out=np.zeros_like(weighted), where=weighted > 0)


def adaptive_threshold(saliency: Saliency) -> float:
    """Return twice the mean of a saliency map, at most 1.

    Source: Achanta et al., Frequency-tuned salient region detection, CVPR 2009.
    """
    return min(2 * float(saliency.mean(dtype=np.float64)), 1.0)


def adaptive_f(saliency: Saliency, truth: Mask) -> float:
    """Return F-beta of the pixels at or above the adaptive threshold of this map."""
    _require_same_size(saliency, truth)
    predicted = saliency >= adaptive_threshold(saliency)
    hits = int(np.count_nonzero(predicted & truth))
    precision = hits / max(int(np.count_nonzero(predicted)), 1)
    return float(f_beta(precision, hits / max(int(np.count_nonzero(truth)), 1)))


def intersection_over_union(mask: Mask, truth: Mask, void: Mask | None = None) -> float:
    """Return the Jaccard index J of two masks, 0..1.

    Args:
        mask: (height, width), bool: the prediction.
        truth: (height, width), bool.
        void: (height, width), bool: pixels that do not count; None counts all.

    Returns:
        1 where both are empty, so also where all pixels are void, as the DAVIS toolkit has it.
    """
    mask, truth = without_void(mask, truth, void)
    union = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / union if union else 1.0


def pixel_accuracy(mask: Mask, truth: Mask) -> float:
    """Return the share of the pixels whose label is right, object and background alike."""
    _require_same_size(mask, truth)
    return float(np.mean(mask == truth))


def sequence_statistics(values: Sequence[float] | Curve) -> SequenceStatistics:
    """Return mean, recall and decay over the frames of one sequence.

    Args:
        values: J or F of its frames, in order. The DAVIS 2016 toolkit leaves out the first and
            the last frame before this, that of 2017 does not.

    Returns:
        Three NaN for no frames.

    Source: F. Perazzi et al., A benchmark dataset and evaluation methodology for video object
        segmentation, CVPR 2016; the four bins share their end frames, as its toolkit has it.
    """
    frames = np.asarray(values, np.float64)
    if not len(frames):
        return SequenceStatistics(np.nan, np.nan, np.nan)
    edges = np.round(np.linspace(1, len(frames), 5) + 1e-10).astype(int) - 1
    first, last = frames[edges[0] : edges[1] + 1], frames[edges[3] : edges[4] + 1]
    return SequenceStatistics(
        float(frames.mean()), float(np.mean(frames > 0.5)), float(first.mean() - last.mean())
    )


def without_void(mask: Mask, truth: Mask, void: Mask | None) -> tuple[Mask, Mask]:
    """Return both masks with nothing left in the void pixels."""
    _require_same_size(mask, truth)
    if void is None:
        return mask, truth
    _require_same_size(void, truth)
    return mask & ~void, truth & ~void


def _require_same_size(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape or first.ndim != 2:
        raise InputError(
            f"Cannot compare a map of shape {first.shape} with one of shape {second.shape}. "
            "Give both as (height, width), of one size."
        )
