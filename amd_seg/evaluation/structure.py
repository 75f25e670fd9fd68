"""The salient-object metrics that look at structure: S-measure, E-measure, weighted F.

Arrays are as in `metrics`: saliency (height, width), float in 0..1; truth (height, width), bool.
Degenerate ground truths (empty, full) follow the reference implementations.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_seg.evaluation.distance import distance_to, nearest_within
from amd_seg.evaluation.metrics import (
    Curve,
    Mask,
    Saliency,
    adaptive_threshold,
    counts_at_levels,
    f_beta,
)

_EPSILON = float(np.spacing(1))

WINDOW_RADIUS, WINDOW_SIGMA = 3, 5.0
"""Gaussian window over which weighted F spreads errors inside the object, in pixels."""

HALF_IMPORTANCE = 5.0
"""Distance from the object, in pixels, at which an error's extra weight is half of its whole."""

# A pixel of the window around one in the object is no further than this from the object.
_WINDOW_REACH = 5

# From here on the extra weight is whole to the last bit of a float64.
_FAR_OFF = 300


def s_measure(saliency: Saliency, truth: Mask) -> float:
    """Return the structure measure, 0..1: half object-aware, half region-aware similarity.

    Source: Fan et al., Structure-measure: a new way to evaluate foreground maps, ICCV 2017.
    """
    share = float(truth.mean())
    if share in (0.0, 1.0):
        mean = float(saliency.mean(dtype=np.float64))
        return mean if share else 1 - mean
    of_object = share * _evenness(saliency[truth]) + (1 - share) * _evenness(1 - saliency[~truth])
    return max(0.0, 0.5 * of_object + 0.5 * _similarity_of_quarters(saliency, truth))


def e_measure_curve(saliency: Saliency, truth: Mask) -> Curve:
    """Return the enhanced-alignment measure at every threshold k / 255: (256,), float64.

    Source: Fan et al., Enhanced-alignment measure for binary foreground map evaluation,
        IJCAI 2018.
    """
    hits, predicted = counts_at_levels(saliency, truth)
    return _alignment(hits, predicted, truth)


def adaptive_e_measure(saliency: Saliency, truth: Mask) -> float:
    """Return the enhanced-alignment measure at twice the mean saliency."""
    mask = saliency >= adaptive_threshold(saliency)
    hits, predicted = np.count_nonzero(mask & truth), np.count_nonzero(mask)
    return float(_alignment(np.array([hits]), np.array([predicted]), truth)[0])


def weighted_f(saliency: Saliency, truth: Mask, beta_squared: float = 1.0) -> float:
    """Return weighted F, 0..1: errors far from the object count double, those inside are spread.

    Returns:
        0 for an empty ground truth.

    Source: Margolin et al., How to evaluate foreground maps?, CVPR 2014.
    """
    if not truth.any():
        return 0.0
    error = np.abs(saliency.astype(np.float64) - truth)
    # Behind the object's edge the window shall see the error of the edge, not the background's.
    rows, columns = nearest_within(truth, _WINDOW_REACH)
    spread = _blur(error[rows, columns])
    error = np.where(truth, np.minimum(error, spread), error)
    error *= np.where(truth, 1.0, 2 - 0.5 ** (distance_to(truth, _FAR_OFF) / HALF_IMPORTANCE))
    missed, invented = float(error[truth].sum()), float(error[~truth].sum())
    size = int(np.count_nonzero(truth))
    hits = size - missed
    return float(f_beta(hits / (hits + invented + _EPSILON), 1 - missed / size, beta_squared))


def _evenness(values: Saliency) -> float:
    """Return how near to an even 1 the values of one part are, 0..1."""
    mean = float(values.mean(dtype=np.float64))
    deviation = float(values.std(ddof=1, dtype=np.float64)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPSILON)


def _similarity_of_quarters(saliency: Saliency, truth: Mask) -> float:
    """Return the mean similarity of the four parts about the object's centre, by their areas."""
    row, column = (int(place) + 1 for place in np.argwhere(truth).mean(axis=0).round())
    total = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            part = truth[rows, columns]
            if part.size:
                total += part.size * _similarity(saliency[rows, columns], part)
    return total / truth.size


def _similarity(saliency: Saliency, truth: Mask) -> float:
    """Return the SSIM of two patches, each taken as one window."""
    x, y = saliency.mean(dtype=np.float64), truth.mean(dtype=np.float64)
    off_x, off_y = saliency - x, truth - y
    degrees = saliency.size - 1 + _EPSILON
    covariance = (off_x * off_y).sum() / degrees
    variances = ((off_x**2).sum() + (off_y**2).sum()) / degrees
    product, bound = 4 * x * y * covariance, (x**2 + y**2) * variances
    if product == 0:
        return float(bound == 0)
    return float(product / (bound + _EPSILON))


def _alignment(hits: NDArray[Any], predicted: NDArray[Any], truth: Mask) -> Curve:
    """Return the E-measure of masks that are told by their counts of pixels."""
    size, positives = truth.size, int(np.count_nonzero(truth))
    if positives in (0, size):
        agreeing = predicted if positives else size - predicted
        return np.asarray(agreeing / (size - 1 + _EPSILON), np.float64)
    mean, true_mean = predicted / size, positives / size
    quarters = (
        (1, 1, hits),
        (1, 0, predicted - hits),
        (0, 1, positives - hits),
        (0, 0, size - predicted - positives + hits),
    )
    total = np.zeros(len(hits))
    for value, true_value, count in quarters:
        off, true_off = value - mean, true_value - true_mean
        aligned = 2 * off * true_off / (off**2 + true_off**2 + _EPSILON)
        total += count * (aligned + 1) ** 2 / 4
    return total / (size - 1 + _EPSILON)


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values under a Gaussian window whose weights sum to 1; outside counts as 0."""
    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # Down the columns, then, turned over, along the rows.
        padded = np.pad(values, ((WINDOW_RADIUS, WINDOW_RADIUS), (0, 0)))
        rows = len(values)
        values = np.asarray(
            sum(weight * padded[place : place + rows] for place, weight in enumerate(weights))
        ).T
    return values
