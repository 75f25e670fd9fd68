"""One map against its ground truth, and many results as one."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import InputError
from amd_seg.evaluation import metrics, structure
from amd_seg.evaluation.boundary import boundary_f
from amd_seg.evaluation.layouts import Sample
from amd_seg.evaluation.maps import Bytes, Packed, read_truth, resize_map
from amd_seg.segmentation import otsu_threshold

Curves = dict[str, NDArray[np.float64]]

# Gives the map of a sample, (height, width), for the shape of its ground truth.
Source = Callable[[Sample, tuple[int, ...]], Bytes]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How maps are compared with the ground truth."""

    threshold: float | str = 0.5
    """Saliency above which a pixel is in the mask of a video's frame; a number or "otsu"."""
    resize_masks: bool = False
    """Resize a map of another size than its ground truth, instead of raising."""
    stretch: bool = False
    """Stretch each map to fill 0..1 first, as PySODMetrics does by default."""


@dataclass(frozen=True)
class Row:
    """The values of one picture or frame."""

    sample: Sample
    values: dict[str, float]
    scored: Packed
    """The mask or labels at the shape of the ground truth, as a sheet shows them."""
    curves: Curves = field(default_factory=dict, repr=False)


def score(sample: Sample, source: Source, kind: str, scoring: Scoring) -> Row:
    """Return the values of one sample.

    Args:
        sample: its ground truth is read.
        source: gives the map for the sample and the shape of its ground truth.
        kind: "saliency" or "video".
        scoring: how the two are compared.

    Raises:
        InputError: a map and its ground truth differ in size, or a file's values mean nothing.
        MediaError: a file cannot be read.
    """
    truth, void = truth_of(sample)
    saliency = saliency_of(sample, source, truth.shape, scoring)
    if kind == "video":
        mask = binarised(saliency, scoring)
        j = metrics.intersection_over_union(mask, truth, void)
        return Row(sample, {"j": j, "f": boundary_f(mask, truth, void)}, Packed.of(mask))
    values, curves = _saliency_values(saliency, truth)
    # The sheet's order is by the IoU at 0.5.
    return Row(sample, values, Packed.of(saliency > 0.5), curves)


def saliency_of(
    sample: Sample, source: Source, shape: tuple[int, ...], scoring: Scoring
) -> NDArray[np.float64]:
    """Return the map that is scored, (height, width), 0..1, at the shape of the ground truth.

    Raises:
        InputError: the map has another size, and `scoring` does not resize.
        MediaError: a file cannot be read.
    """
    values = source(sample, shape)
    if values.shape != shape:
        if not scoring.resize_masks:
            raise wrong_size(sample, source, values.shape, shape)
        values = resize_map(values, (shape[0], shape[1]))
    saliency: NDArray[np.float64] = values / 255.0
    return _stretched(saliency) if scoring.stretch else saliency


def binarised(saliency: metrics.Saliency, scoring: Scoring) -> metrics.Mask:
    """Return the mask of a video's frame, for its saliency in 0..1."""
    rule = scoring.threshold
    mask: metrics.Mask = saliency > (_otsu(saliency) if rule == "otsu" else float(rule))
    return mask


def truth_of(sample: Sample) -> tuple[metrics.Mask, metrics.Mask | None]:
    """Read a sample's ground truth, its files joined, and its void pixels, None for none."""
    truth, void = read_truth(sample.masks[0], sample.rule)
    for path in sample.masks[1:]:
        other, more = read_truth(path, sample.rule)
        if other.shape != truth.shape:
            raise InputError(
                f"{sample.masks[0]} is {_size(truth.shape)}, {path} is {_size(other.shape)}: the "
                "masks of one frame must have one size. Copy them again."
            )
        truth = truth | other
        if more is not None:
            void = more if void is None else void | more
    return truth, None if void is None else void & ~truth


def saliency_scores(rows: list[Row], curves: Curves) -> dict[str, float]:
    """Return the scores of a set of pictures.

    Args:
        rows: of each picture.
        curves: the means over pictures of "precision", "recall", "f", "e": (256,) each.
    """
    over_set = metrics.f_beta(curves["precision"], curves["recall"])
    means = {key: float(np.mean([row.values[key] for row in rows])) for key in rows[0].values}
    return {
        "f_max": float(over_set.max()),
        "f_mean": float(over_set.mean()),
        "f_max_per_image": float(curves["f"].max()),
        "f_mean_per_image": float(curves["f"].mean()),
        "e_max": float(curves["e"].max()),
        "e_mean": float(curves["e"].mean()),
        **means,
    }


def video_scores(rows: list[Row]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the scores of a set of videos, and those of each sequence."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.sample.sequence or ""].append(row)
    sequences = {name: _sequence_scores(group) for name, group in groups.items()}
    keys = next(iter(sequences.values()))
    scores = {key: float(np.mean([s[key] for s in sequences.values()])) for key in keys}
    for key in ("j", "f"):
        scores[f"{key}_frames"] = float(np.mean([row.values[key] for row in rows]))
    return scores, sequences


def _sequence_scores(rows: list[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for key in ("j", "f"):
        inner = [row.values[key] for row in rows if not row.sample.is_end]
        statistics = metrics.sequence_statistics(inner)
        scores |= {f"{key}_{part}": value for part, value in statistics._asdict().items()}
        scores[f"{key}_all"] = float(np.mean([row.values[key] for row in rows]))
    return scores


def _saliency_values(
    saliency: metrics.Saliency, truth: metrics.Mask
) -> tuple[dict[str, float], Curves]:
    precision, recall = metrics.precision_recall(saliency, truth)
    values = {
        "f_adaptive": metrics.adaptive_f(saliency, truth),
        "f_weighted": structure.weighted_f(saliency, truth),
        "s_measure": structure.s_measure(saliency, truth),
        "e_adaptive": structure.adaptive_e_measure(saliency, truth),
        "mae": metrics.mean_absolute_error(saliency, truth),
    }
    for name, level in (("half", 0.5), ("otsu", _otsu(saliency))):
        mask = saliency > level
        values[f"iou_{name}"] = metrics.intersection_over_union(mask, truth)
        values[f"accuracy_{name}"] = metrics.pixel_accuracy(mask, truth)
    values["boundary_f"] = boundary_f(saliency > 0.5, truth)
    curves = {
        "precision": precision,
        "recall": recall,
        "f": metrics.f_beta(precision, recall),
        "e": structure.e_measure_curve(saliency, truth),
    }
    return values, curves


def _otsu(saliency: metrics.Saliency) -> float:
    return otsu_threshold(saliency.astype(np.float32))


def _stretched(saliency: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(saliency.min()), float(saliency.max())
    return saliency if low == high else (saliency - low) / (high - low)


def wrong_size(
    sample: Sample, source: Source, found: tuple[int, ...], wanted: tuple[int, ...]
) -> InputError:
    """Return the error for a map of another shape than its ground truth."""
    origin = getattr(source, "path", sample.image)
    return InputError(
        f"{origin} is {_size(found)}, but its ground truth {sample.masks[0]} is {_size(wanted)}. "
        "Give --resize-masks to resize predictions to the ground truth."
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
