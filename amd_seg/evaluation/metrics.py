"""The metrics of salient objects, of video object segmentation and of classes, on plain arrays.

A saliency map is (height, width), float in 0..1, taken as it is: it is never stretched. A mask
and a ground truth are (height, width), bool. Nothing here reads a file or knows a data set.
Degenerate ground truths (empty, full) follow the reference implementations.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import InputError

Mask = NDArray[np.bool_]
Saliency = NDArray[np.floating[Any]]
Curve = NDArray[np.float64]

_EPSILON = float(np.spacing(1))


# Precision, recall and what they are made of.


def mean_absolute_error(saliency: Saliency, truth: Mask) -> float:
    """Return the mean over pixels of |saliency - truth|, 0..1; 0 is best."""
    return float(np.abs(saliency - truth).mean(dtype=np.float64))


def precision_recall(saliency: Saliency, truth: Mask) -> tuple[Curve, Curve]:
    """Return precision and recall at every threshold k / 255, (256,) each; 0 where undefined."""
    hits, predicted = counts_at_levels(saliency, truth)
    return hits / np.maximum(predicted, 1), hits / max(int(np.count_nonzero(truth)), 1)


def counts_at_levels(
    saliency: Saliency, truth: Mask
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many pixels are hits, and how many predicted: S >= k / 255 for k = 0..255."""
    # A value k / 255 comes back as k exactly, in float32 and in float64.
    levels = np.floor(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    on_object = np.bincount(levels[truth], minlength=256)
    everywhere = np.bincount(levels.ravel(), minlength=256)
    return np.cumsum(on_object[::-1])[::-1], np.cumsum(everywhere[::-1])[::-1]


def f_beta(precision: Any, recall: Any, beta_squared: float = 0.3) -> Any:
    """Return (1 + b) P R / (b P + R), b being beta squared; 0 where precision and recall are 0.

    Numbers or arrays. Below 1, `beta_squared` weighs precision more: 0.3 is the field's value.
    """
    weighted = beta_squared * np.asarray(precision, np.float64) + recall
    product = (1 + beta_squared) * np.asarray(precision) * recall
    return np.divide(product, weighted, out=np.zeros_like(weighted), where=weighted > 0)


def adaptive_counts(saliency: Saliency, truth: Mask) -> tuple[int, int]:
    """Return how many pixels are hits, and predicted, at twice the mean of a map, at most 1.

    Source: Achanta et al., Frequency-tuned salient region detection, CVPR 2009.
    """
    predicted = saliency >= min(2 * float(saliency.mean(dtype=np.float64)), 1.0)
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted))


def adaptive_f(saliency: Saliency, truth: Mask) -> float:
    """Return F-beta at twice the mean saliency."""
    hits, predicted = adaptive_counts(saliency, truth)
    return float(f_beta(hits / max(predicted, 1), hits / max(int(np.count_nonzero(truth)), 1)))


def pixel_accuracy(mask: Mask, truth: Mask) -> float:
    """Return the share of the pixels whose label is right, object and background alike."""
    return float(np.mean(mask == truth))


# Structure: S-measure, E-measure, weighted F.


def s_measure(saliency: Saliency, truth: Mask) -> float:
    """Return the structure measure, 0..1: half object-aware, half region-aware similarity.

    Source: Fan et al., Structure-measure: a new way to evaluate foreground maps, ICCV 2017.
    """
    share = float(truth.mean())
    if share in (0.0, 1.0):
        mean = float(saliency.mean(dtype=np.float64))
        return mean if share else 1 - mean
    of_object = share * _evenness(saliency[truth]) + (1 - share) * _evenness(1 - saliency[~truth])
    # The four parts about the object's centre, weighed by their areas.
    row, column = (int(place) + 1 for place in np.argwhere(truth).mean(axis=0).round())
    of_regions = 0.0
    for rows in (slice(None, row), slice(row, None)):
        for columns in (slice(None, column), slice(column, None)):
            part = truth[rows, columns]
            if part.size:
                of_regions += part.size * _similarity(saliency[rows, columns], part) / truth.size
    return max(0.0, 0.5 * of_object + 0.5 * of_regions)


def _evenness(values: Saliency) -> float:
    """Return how near to an even 1 the values of one part are, 0..1."""
    mean = float(values.mean(dtype=np.float64))
    deviation = float(values.std(ddof=1, dtype=np.float64)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPSILON)


def _similarity(saliency: Saliency, truth: Mask) -> float:
    """Return the SSIM of two patches, each taken as one window."""
    x, y = saliency.mean(dtype=np.float64), truth.mean(dtype=np.float64)
    off_x, off_y = saliency - x, truth - y
    degrees = saliency.size - 1 + _EPSILON
    covariance = (off_x * off_y).sum() / degrees
    variances = ((off_x**2).sum() + (off_y**2).sum()) / degrees
    product, bound = 4 * x * y * covariance, (x**2 + y**2) * variances
    return float(product / (bound + _EPSILON)) if product else float(bound == 0)


def e_measure_curve(saliency: Saliency, truth: Mask) -> Curve:
    """Return the enhanced-alignment measure at every threshold k / 255: (256,).

    Source: Fan et al., Enhanced-alignment measure for binary foreground map evaluation,
        IJCAI 2018.
    """
    return _alignment(*counts_at_levels(saliency, truth), truth)


def adaptive_e_measure(saliency: Saliency, truth: Mask) -> float:
    """Return the enhanced-alignment measure at twice the mean saliency."""
    hits, predicted = np.array(adaptive_counts(saliency, truth))[:, None]
    return float(_alignment(hits, predicted, truth)[0])


def _alignment(hits: NDArray[Any], predicted: NDArray[Any], truth: Mask) -> Curve:
    """Return the E-measure of masks, given by their counts of pixels."""
    size, positives = truth.size, int(np.count_nonzero(truth))
    if positives in (0, size):
        agreeing = predicted if positives else size - predicted
        return np.asarray(agreeing / (size - 1 + _EPSILON), np.float64)
    mean, true_mean = predicted / size, positives / size
    total = np.zeros(len(hits))
    for value, true_value, count in (
        (1, 1, hits),
        (1, 0, predicted - hits),
        (0, 1, positives - hits),
        (0, 0, size - predicted - positives + hits),
    ):
        off, true_off = value - mean, true_value - true_mean
        aligned = 2 * off * true_off / (off**2 + true_off**2 + _EPSILON)
        total += count * (aligned + 1) ** 2 / 4
    return total / (size - 1 + _EPSILON)


def weighted_f(saliency: Saliency, truth: Mask, beta_squared: float = 1.0) -> float:
    """Return weighted F, 0..1: errors far from the object count double, those inside are spread.

    Source: Margolin et al., How to evaluate foreground maps?, CVPR 2014.
    """
    if not truth.any():
        return 0.0
    error, distance = np.abs(saliency.astype(np.float64) - truth), distance_to(truth)
    outwards = _with_edges_outwards(error, truth, distance)
    spread = cv2.GaussianBlur(outwards, (7, 7), 5.0, borderType=cv2.BORDER_CONSTANT)
    error = np.where(truth, np.minimum(error, spread), error)
    # An error's extra weight is half of its whole 5 pixels from the object.
    error *= np.where(truth, 1.0, 2 - 0.5 ** (distance / 5))
    missed, invented = float(error[truth].sum()), float(error[~truth].sum())
    size = int(np.count_nonzero(truth))
    hits = size - missed
    return float(f_beta(hits / (hits + invented + _EPSILON), 1 - missed / size, beta_squared))


def _with_edges_outwards(values: Curve, mask: Mask, distance: Curve) -> Curve:
    """Return the values; within 5 pixels outside the mask, those of the mask's nearest pixel.

    The window of 7x7, around a pixel of the mask, reaches no further. Of equally near pixels
    the one furthest left counts, of these the upper one: scipy's distance transform has it so.
    """
    reach = 5
    shifts = range(-reach, reach + 1)
    disk = [(x, y) for x in shifts for y in shifts if 0 < x * x + y * y <= reach * reach]
    disk.sort(key=lambda shift: shift[0] ** 2 + shift[1] ** 2)
    waiting = np.argwhere((distance > 0) & (distance <= reach))
    padded, result = np.pad(mask, reach), values.copy()
    for x, y in disk:
        is_found = padded[waiting[:, 0] + y + reach, waiting[:, 1] + x + reach]
        rows, columns = waiting[is_found].T
        result[rows, columns] = values[rows + y, columns + x]
        waiting = waiting[~is_found]
    return result


def distance_to(mask: Mask) -> Curve:
    """Return each pixel's Euclidean distance to the nearest one of the mask, 0 in the mask."""
    free = np.logical_not(mask).astype(np.uint8)
    if free.all():
        return np.full(mask.shape, np.inf)
    distance = cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squares of distances are whole numbers: rounded, they are free of the error of float32.
    return np.asarray(np.sqrt(np.rint(np.square(distance, dtype=np.float64))))


# Masks of video: J and F of DAVIS.


def intersection_over_union(mask: Mask, truth: Mask, void: Mask | None = None) -> float:
    """Return the Jaccard index J of two masks, 0..1; pixels in `void` do not count.

    1 where both are empty, so also where all pixels are void, as the DAVIS toolkit has it.
    """
    if void is not None:
        mask, truth = mask & ~void, truth & ~void
    union = int(np.count_nonzero(mask | truth))
    return int(np.count_nonzero(mask & truth)) / union if union else 1.0


def boundary_f(
    mask: Mask, truth: Mask, void: Mask | None = None, *, tolerance: float = 0.008
) -> float:
    """Return the boundary measure F of DAVIS, 0..1: the F of two outlines that may be near by.

    1 where neither mask has an outline, 0 where only one has. The tolerance is a share of the
    image's diagonal, rounded up to whole pixels. Pixels in `void` are background in both.

    Source: Perazzi et al., CVPR 2016, and its toolkit; the outline lies between pixels there.
    """
    if void is not None:
        mask, truth = mask & ~void, truth & ~void
    reach = math.ceil(tolerance * math.hypot(*mask.shape))
    outline, true_outline = boundary(mask), boundary(truth)
    count, true_count = int(outline.sum()), int(true_outline.sum())
    if not count or not true_count:
        return float(count == true_count)
    precision = int((distance_to(true_outline)[outline] <= reach).sum()) / count
    recall = int((distance_to(outline)[true_outline] <= reach).sum()) / true_count
    return float(f_beta(precision, recall, 1.0))


def boundary(mask: Mask) -> Mask:
    """Return the pixels that differ from their right, lower or lower right neighbour.

    The last row looks right only, the last column down only.
    """
    outline = np.zeros_like(mask)
    right, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    outline[:, :-1] |= right
    outline[:-1] |= down
    outline[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return outline


def sequence_statistics(values: Sequence[float] | Curve) -> tuple[float, float, float]:
    """Return mean, recall and decay of J or F over the frames of a sequence; NaN for no frames.

    Recall is the share of the frames above 0.5, decay the mean of the first quarter minus that of
    the last. The DAVIS 2016 toolkit leaves out the first and the last frame before this, that of
    2017 does not.

    Source: F. Perazzi et al., A benchmark dataset and evaluation methodology for video object
        segmentation, CVPR 2016; the four bins share their end frames, as its toolkit has it.
    """
    frames = np.asarray(values, np.float64)
    if not len(frames):
        return np.nan, np.nan, np.nan
    edges = np.round(np.linspace(1, len(frames), 5) + 1e-10).astype(int) - 1
    first, last = frames[edges[0] : edges[1] + 1], frames[edges[3] : edges[4] + 1]
    return float(frames.mean()), float(np.mean(frames > 0.5)), float(first.mean() - last.mean())


# Classes: a confusion matrix is (class, class): how many pixels of the row's class were called
# the column's.


def confusion_matrix(
    labels: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int, *, void: int
) -> NDArray[np.int64]:
    """Count the pixels of each pair of classes, but those that are void in the ground truth.

    Source: PASCAL VOC 2012 development kit, VOCevalseg.m.
    """
    counts = truth != void
    pairs = truth[counts].astype(np.int64) * classes + labels[counts]
    if labels[counts].max(initial=0) >= classes:
        raise InputError(
            f"The label {labels[counts].max()} is predicted, but there are {classes} classes, "
            f"0 to {classes - 1}. Predict one of them for every pixel."
        )
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(confusion: NDArray[Any]) -> Curve:
    """Return right / (in the truth + predicted - right) of each class, (class,); NaN for 0 / 0."""
    right = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / (confusion.sum(axis=1) + confusion.sum(axis=0) - right))


def class_accuracy(confusion: NDArray[Any]) -> Curve:
    """Return the share of each class's pixels that are right, (class,); NaN where it has none."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(confusion) / confusion.sum(axis=1))


def mean_over_classes(values: Curve) -> float:
    """Return the mean of the classes that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def label_accuracy(confusion: NDArray[Any]) -> float:
    """Return the share of all pixels that are right; NaN where none counts."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")
