"""Score the maps of an origin on a data set: one way for a network, a method or a folder."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.classes import VOID, Classes
from amd_seg.errors import InputError
from amd_seg.evaluation import metrics
from amd_seg.evaluation.datasets import Dataset, Sample
from amd_seg.evaluation.predictions import Bytes, Map, Mask, read_prediction, truth_of
from amd_seg.media.labels import read_labels
from amd_seg.media.render import otsu_threshold
from amd_seg.prefetch import map_ahead
from amd_seg.workers import worker_pool

Curves = dict[str, NDArray[np.float64]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Row:
    """The values of one picture or frame."""

    sample: Sample
    values: Scores
    scored: bytes = field(repr=False)  # mask or labels, a PNG of the ground truth's shape
    # What is added up over the set: curves over thresholds, or a confusion matrix.
    curves: Curves = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """What a method scores on a data set."""

    dataset: Dataset
    method: str  # who made the maps: weights, a method or a folder
    scoring: dict[str, Any]  # `threshold` and `resize_masks`, as `evaluate` takes them
    rows: list[Row] = field(repr=False)  # one for each sample, without curves
    scores: Scores  # key of `report.DEFINITIONS` -> value over the whole set
    groups: dict[str, Scores]  # the same for each sequence of videos, or each class


def evaluate(
    dataset: Dataset,
    maps: Iterable[Map],
    *,
    method: str,
    threshold: float | str = 0.5,
    resize_masks: bool = False,
    workers: int = 1,
    on_row: Callable[[Row], object] = lambda row: None,
) -> Evaluation:
    """Score one map for each sample, in their order; see `predictions`.

    `method` names the origin of the maps. The threshold is the saliency above which a pixel is in
    the mask of a video's frame, or "otsu". `resize_masks` resizes a map of another size than its
    ground truth, instead of raising. With 1 worker all is done in this process.
    """
    kind, classes = dataset.benchmark.kind, dataset.benchmark.classes
    scorer: Callable[..., Row] = _score_picture
    if classes is not None:
        scorer = partial(_score_labels, classes=classes, by_colour=dataset.by_colour)
    elif kind == "video":
        scorer = partial(_score_frame, threshold=threshold)
    scorer = partial(scorer, resize=resize_masks)
    sums: Curves = {}
    rows = []
    for row in _rows(zip(dataset.samples, maps, strict=True), scorer, workers):
        for key, curve in row.curves.items():
            sums[key] = sums.get(key, 0.0) + curve
        # Curves are added up at once: kept, they would be most of the memory.
        rows.append(replace(row, curves={}))
        on_row(row)
    groups: dict[str, Scores] = {}
    if kind == "video":
        scores, groups = _video_scores(rows)
    elif classes is not None:
        scores, groups = _semantic_scores(sums["confusion"], classes)
    else:
        scores = _saliency_scores(rows, sums)
    scoring = {"threshold": threshold, "resize_masks": resize_masks}
    return Evaluation(dataset, method, scoring, rows, scores, groups)


def _rows(
    pairs: Iterable[tuple[Sample, Map]], scorer: Callable[[Sample, Map], Row], workers: int
) -> Iterator[Row]:
    """Yield the row of each pair, in order."""
    if workers == 1:
        yield from starmap(scorer, pairs)
        return
    with worker_pool(workers, job="score") as pool:
        # Four for each process keep it busy, with little memory.
        ahead: dict[str, Any] = {"ahead": 4 * workers, "threads": workers}
        yield from map_ahead(lambda pair: pool.submit(scorer, *pair).result(), pairs, **ahead)


# One sample.


def _score_frame(sample: Sample, source: Map, *, threshold: float | str, resize: bool) -> Row:
    truth, void = truth_of(sample)
    saliency = _map_of(sample, source, truth.shape, resize) / 255.0
    mask = saliency > _level(threshold, saliency)
    j = metrics.intersection_over_union(mask, truth, void)
    return Row(sample, {"j": j, "f": metrics.boundary_f(mask, truth, void)}, _packed(mask))


def _score_picture(sample: Sample, source: Map, *, resize: bool) -> Row:
    truth, _ = truth_of(sample)
    saliency = _map_of(sample, source, truth.shape, resize) / 255.0
    precision, recall = metrics.precision_recall(saliency, truth)
    values = {
        "f_adaptive": metrics.adaptive_f(saliency, truth),
        "f_weighted": metrics.weighted_f(saliency, truth),
        "s_measure": metrics.s_measure(saliency, truth),
        "e_adaptive": metrics.adaptive_e_measure(saliency, truth),
        "mae": metrics.mean_absolute_error(saliency, truth),
    }
    for name, rule in (("half", 0.5), ("otsu", "otsu")):
        mask = saliency > _level(rule, saliency)
        values[f"iou_{name}"] = metrics.intersection_over_union(mask, truth)
        values[f"accuracy_{name}"] = metrics.pixel_accuracy(mask, truth)
    values["boundary_f"] = metrics.boundary_f(saliency > 0.5, truth)
    curves = {
        "precision": precision,
        "recall": recall,
        "f": metrics.f_beta(precision, recall),
        "e": metrics.e_measure_curve(saliency, truth),
    }
    return Row(sample, values, _packed(saliency > 0.5), curves)


def _score_labels(
    sample: Sample, source: Map, *, classes: Classes, by_colour: bool, resize: bool
) -> Row:
    truth = read_labels(sample.masks[0], classes, by_colour=by_colour)
    labels = _map_of(sample, source, truth.shape, resize, classes)
    try:
        counts = metrics.confusion_matrix(labels, truth, len(classes), void=VOID)
    except InputError as cause:
        raise InputError(f"{_name_of(sample, source)}: {cause}") from cause
    values = {
        "iou": metrics.mean_over_classes(metrics.class_iou(counts)),
        "accuracy": metrics.label_accuracy(counts),
    }
    return Row(sample, values, _packed(labels), {"confusion": counts.astype(np.float64)})


def _map_of(
    sample: Sample,
    source: Map,
    shape: tuple[int, ...],
    resize: bool,
    classes: Classes | None = None,
) -> Bytes:
    """Return the map that is scored, at the shape of the ground truth."""
    values = source
    if isinstance(values, Path):
        values = read_prediction(values) if classes is None else read_labels(values, classes)
    (height, width), (own_height, own_width) = shape, values.shape
    if shape == values.shape:
        return values
    if not resize:
        raise InputError(
            f"{_name_of(sample, source)} is {own_width}x{own_height}, but its ground truth "
            f"{sample.masks[0]} is {width}x{height}. Give --resize-masks to resize predictions."
        )
    way = Image.Resampling.BILINEAR if classes is None else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(values).resize((width, height), way))


def _name_of(sample: Sample, source: Map) -> object:
    return source if isinstance(source, Path) else sample.image or sample.name


def _level(rule: float | str, saliency: metrics.Saliency) -> float:
    return otsu_threshold(saliency.astype(np.float32)) if rule == "otsu" else float(rule)


def _packed(values: Mask | Bytes) -> bytes:
    """Return a mask or labels as a PNG: those of a whole data set are kept for a sheet."""
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return file.getvalue()


# Many results as one.


def _saliency_scores(rows: list[Row], sums: Curves) -> Scores:
    """Return the scores of a set of pictures; `sums` are their curves added up."""
    curves = {key: total / len(rows) for key, total in sums.items()}
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


def _video_scores(rows: list[Row]) -> tuple[Scores, dict[str, Scores]]:
    """Return the scores of a set of videos, and those of each sequence."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.sample.sequence or ""].append(row)
    sequences: dict[str, Scores] = {name: {} for name in groups}
    for name, scores in sequences.items():
        for key in ("j", "f"):
            inner = [row.values[key] for row in groups[name] if not row.sample.is_end]
            names = (f"{key}_mean", f"{key}_recall", f"{key}_decay")
            scores |= zip(names, metrics.sequence_statistics(inner), strict=True)
            scores[f"{key}_all"] = float(np.mean([row.values[key] for row in groups[name]]))
    means = {k: float(np.mean([found[k] for found in sequences.values()])) for k in scores}
    for key in ("j", "f"):
        means[f"{key}_frames"] = float(np.mean([row.values[key] for row in rows]))
    return means, sequences


def _semantic_scores(
    confusion: NDArray[np.float64], classes: Classes
) -> tuple[Scores, dict[str, Scores]]:
    """Return the scores of a set of pictures, and those of each class."""
    iou, accuracy = metrics.class_iou(confusion), metrics.class_accuracy(confusion)
    scores = {
        "miou": metrics.mean_over_classes(iou),
        "class_accuracy": metrics.mean_over_classes(accuracy),
        "pixel_accuracy": metrics.label_accuracy(confusion),
    }
    pairs = zip(iou.tolist(), accuracy.tolist(), strict=True)
    by_class = [{"iou": one, "class_accuracy": other} for one, other in pairs]
    return scores, dict(zip(classes.names, by_class, strict=True))
