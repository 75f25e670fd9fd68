"""Score maps of any origin on a data set: one result for a network, a method or a folder."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import AmdSegError, InputError
from amd_seg.evaluation import metrics
from amd_seg.evaluation.boundary import boundary_f
from amd_seg.evaluation.datasets import Dataset, Sample, some
from amd_seg.evaluation.maps import (
    Bytes,
    centre_prior,
    read_prediction,
    read_truth,
    resize_map,
    to_bytes,
)
from amd_seg.media.files import IMAGE_SUFFIXES
from amd_seg.segmentation import OUTPUTS, otsu_threshold

Curves = dict[str, NDArray[np.float64]]

# A map as it is given: the map itself, a file of it, or the name of a method that makes it.
MapSource = Bytes | Path | str

METHODS = ("centre-prior",)
"""Ways to a map that need no weights: the floor of a table."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How maps are compared with the ground truth."""

    threshold: float | str = 0.5
    """Saliency above which a pixel is in the mask of a video's frame; a number or "otsu"."""
    resize_masks: bool = False
    """Resize a map of another size than its ground truth, instead of raising."""


@dataclass(frozen=True)
class Row:
    """The values of one picture or frame."""

    sample: Sample
    values: dict[str, float]
    curves: Curves = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """What a method scores on a data set."""

    dataset: Dataset
    method: str
    """Who made the maps: weights, a method or a folder."""
    scores: dict[str, float]
    """Key of `report.DEFINITIONS` -> value over the whole set."""
    sequences: dict[str, dict[str, float]]
    """The same for each sequence of a video set."""
    rows: list[Row] = field(repr=False)
    """Value by value for each sample; without curves."""


def evaluate(
    dataset: Dataset,
    maps: Iterable[MapSource],
    *,
    method: str,
    scoring: Scoring | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Evaluation:
    """Score one map for each sample.

    Args:
        dataset: what to score on.
        maps: in the order of its samples: (height, width) uint8, a file, or one of `METHODS`.
        method: what to call their origin.
        scoring: None for the defaults.
        on_row: called with each sample's values as they come.

    Raises:
        InputError: a map and its ground truth differ in size, or a file's values mean nothing.
        MediaError: a file cannot be read.
    """
    scoring = scoring or Scoring()
    sums: Curves = {}
    rows = []
    for sample, source in zip(dataset.samples, maps, strict=True):
        row = score(sample, source, dataset.benchmark.kind, scoring)
        for key, curve in row.curves.items():
            sums[key] = sums.get(key, 0.0) + curve
        # Curves are added up at once: kept, they would be most of the memory.
        rows.append(Row(sample, row.values))
        if on_row is not None:
            on_row(row)
    if dataset.benchmark.kind == "video":
        scores, sequences = _video_scores(rows)
        return Evaluation(dataset, method, scores, sequences, rows)
    curves = {key: total / len(rows) for key, total in sums.items()}
    return Evaluation(dataset, method, _saliency_scores(rows, curves), {}, rows)


def score(sample: Sample, source: MapSource, kind: str, scoring: Scoring) -> Row:
    """Return the values of one sample."""
    truth, void = _truth_of(sample)
    values = _map_of(source, truth.shape)
    if values.shape != truth.shape:
        values = _resized(values, truth.shape, sample, source, scoring)
    saliency = values / 255.0
    if kind == "video":
        rule = scoring.threshold
        mask = saliency > (_otsu(saliency) if rule == "otsu" else float(rule))
        j = metrics.intersection_over_union(mask, truth, void)
        return Row(sample, {"j": j, "f": boundary_f(mask, truth, void)})
    return _saliency_row(sample, saliency, truth)


def network_maps(
    dataset: Dataset,
    *,
    weights: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    **call: Any,
) -> Iterator[Bytes]:
    """Yield what a network finds in each picture, at the picture's size.

    Args:
        dataset: its samples have pictures.
        weights: as `Segmenter.from_pretrained` takes them, like `revision`, `device`, `precision`.
        call: `size`, `batch_size` and the like, as a `Segmenter` call takes them.

    Raises:
        InputError: pictures are missing.
        WeightsError: the weights cannot be had.
        MediaError: a picture cannot be read.
    """
    without = [sample.name for sample in dataset.samples if sample.image is None]
    if without:
        raise InputError(
            f"{dataset.folder} holds no pictures for {some(without)}, so there is nothing to "
            "segment. Add them, or score masks with --predictions."
        )
    from amd_seg.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained(
        weights, revision=revision, device=device, precision=precision
    )
    images = [sample.image for sample in dataset.samples if sample.image is not None]
    with closing(segmenter.stream(images, **call)) as results:
        for result in results:
            if isinstance(result, AmdSegError):
                raise result
            yield to_bytes(result.saliency)


def predicted_maps(dataset: Dataset, folder: Path) -> tuple[list[Path], list[str]]:
    """Return the file of each sample's prediction, and the names of files that belong to none.

    A sample's file is its name with any image's ending; `photo.saliency.png` and
    `photo.mask.png`, as `amd-seg image` writes them, count as `photo`.

    Raises:
        InputError: names every sample without a file, and files that share a name.
    """
    if not folder.is_dir():
        raise InputError(f"Cannot read predictions from {folder}: no such folder. Check the name.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = _prediction_name(path.relative_to(folder))
        if name in files:
            raise InputError(f"{files[name]} and {path} are for one picture. Keep one of them.")
        files[name] = path
    missing = [sample.name for sample in dataset.samples if sample.name not in files]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(dataset.samples)} predictions are missing in {folder}: "
            f"{some(missing)}. Add them as NAME.png; --limit and --every score a part."
        )
    known = {sample.name for sample in dataset.samples}
    extra = [name for name in files if name not in known]
    return [files[sample.name] for sample in dataset.samples], extra


def _truth_of(sample: Sample) -> tuple[metrics.Mask, metrics.Mask | None]:
    """Read a sample's ground truth, its files joined."""
    truth, void = read_truth(sample.masks[0])
    for path in sample.masks[1:]:
        other, more = read_truth(path)
        if other.shape != truth.shape:
            raise InputError(
                f"{sample.masks[0]} is {_size(truth.shape)}, {path} is {_size(other.shape)}: the "
                "masks of one frame must have one size."
            )
        truth = truth | other
        void = more if void is None else void if more is None else void | more
    return truth, void


def _map_of(source: MapSource, shape: tuple[int, ...]) -> Bytes:
    if isinstance(source, Path):
        return read_prediction(source)
    if isinstance(source, str):
        return to_bytes(centre_prior(*shape))
    return source


def _resized(
    values: Bytes, shape: tuple[int, ...], sample: Sample, source: MapSource, scoring: Scoring
) -> Bytes:
    if not scoring.resize_masks:
        origin = source if isinstance(source, Path) else sample.image
        raise InputError(
            f"{origin} is {_size(values.shape)}, but its ground truth {sample.masks[0]} is "
            f"{_size(shape)}. Give --resize-masks to resize predictions to the ground truth."
        )
    return resize_map(values, (shape[0], shape[1]))


def _saliency_row(sample: Sample, saliency: metrics.Saliency, truth: metrics.Mask) -> Row:
    precision, recall = metrics.precision_recall(saliency, truth)
    values = {
        "mae": metrics.mean_absolute_error(saliency, truth),
        "f_adaptive": metrics.adaptive_f(saliency, truth),
    }
    for name, level in (("half", 0.5), ("otsu", _otsu(saliency))):
        mask = saliency > level
        values[f"iou_{name}"] = metrics.intersection_over_union(mask, truth)
        values[f"accuracy_{name}"] = metrics.pixel_accuracy(mask, truth)
    curves = {"precision": precision, "recall": recall, "f": metrics.f_beta(precision, recall)}
    return Row(sample, values, curves)


def _saliency_scores(rows: list[Row], curves: Curves) -> dict[str, float]:
    over_set = metrics.f_beta(curves["precision"], curves["recall"])
    means = {key: float(np.mean([row.values[key] for row in rows])) for key in rows[0].values}
    return {
        "f_max": float(over_set.max()),
        "f_mean": float(over_set.mean()),
        "f_max_per_image": float(curves["f"].max()),
        "f_mean_per_image": float(curves["f"].mean()),
        **means,
    }


def _video_scores(rows: list[Row]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
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


def _otsu(saliency: metrics.Saliency) -> float:
    return otsu_threshold(saliency.astype(np.float32))


def _prediction_name(path: Path) -> str:
    stem, own = path.stem, Path(path.stem).suffix.removeprefix(".")
    if own in OUTPUTS:
        stem = Path(stem).stem
    return (path.parent / stem).as_posix()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
