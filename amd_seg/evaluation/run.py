"""Score the maps of an origin on a data set: one way for a network, a method or a folder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from amd_seg.evaluation.datasets import Dataset, Sample
from amd_seg.evaluation.origins import MapSource, Origin
from amd_seg.evaluation.scoring import (
    Curves,
    Row,
    Scoring,
    saliency_scores,
    score,
    video_scores,
)
from amd_seg.evaluation.semantic import score_labels, semantic_scores
from amd_seg.workers import worker_pool

Scorer = Callable[[Sample, MapSource], Row]

# Samples that wait for each worker process: enough to keep it busy, little memory.
_AHEAD = 4


@dataclass(frozen=True)
class Evaluation:
    """What a method scores on a data set."""

    dataset: Dataset
    method: str
    """Who made the maps: weights, a method or a folder."""
    scoring: Scoring
    scores: dict[str, float]
    """Key of `report.DEFINITIONS` -> value over the whole set."""
    sequences: dict[str, dict[str, float]]
    """The same for each sequence of a video set."""
    rows: list[Row] = field(repr=False)
    """Value by value for each sample; without curves."""
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same for each class of a semantic set."""


def evaluate(
    dataset: Dataset,
    origin: Origin,
    *,
    method: str,
    scoring: Scoring | None = None,
    workers: int = 1,
    on_row: Callable[[Row], None] | None = None,
) -> Evaluation:
    """Score one map for each sample.

    Args:
        dataset: what to score on.
        origin: where the maps come from, see `origins`.
        method: what to call the origin.
        scoring: None for the defaults.
        workers: processes that read and compare; with 1 it is done in this one.
        on_row: called with each sample's values as they come, in the order of the samples.

    Raises:
        InputError: maps are missing, or differ in size from their ground truth.
        MediaError: a file cannot be read.
    """
    scoring = scoring or Scoring()
    sums: Curves = {}
    rows = []
    pairs = zip(dataset.samples, origin(dataset), strict=True)
    for row in _rows(pairs, _scorer(dataset, scoring), workers):
        for key, curve in row.curves.items():
            sums[key] = sums.get(key, 0.0) + curve
        # Curves are added up at once: kept, they would be most of the memory.
        rows.append(replace(row, curves={}))
        if on_row is not None:
            on_row(row)
    if dataset.benchmark.kind == "video":
        scores, sequences = video_scores(rows)
        return Evaluation(dataset, method, scoring, scores, sequences, rows)
    if dataset.benchmark.truth is not None:
        scores, by_class = semantic_scores(sums, dataset.benchmark.truth.classes)
        return Evaluation(dataset, method, scoring, scores, {}, rows, by_class)
    means = {key: total / len(rows) for key, total in sums.items()}
    return Evaluation(dataset, method, scoring, saliency_scores(rows, means), {}, rows)


def _scorer(dataset: Dataset, scoring: Scoring) -> Scorer:
    """Return what scores one sample; it can be sent to another process."""
    benchmark = dataset.benchmark
    if benchmark.truth is not None:
        return partial(score_labels, truth=benchmark.truth, resize_masks=scoring.resize_masks)
    return partial(score, kind=benchmark.kind, scoring=scoring)


def _rows(pairs: Iterable[tuple[Sample, MapSource]], scorer: Scorer, workers: int) -> Iterator[Row]:
    """Yield the row of each pair, in order."""
    if workers == 1:
        for sample, source in pairs:
            yield scorer(sample, source)
        return
    waiting: deque[Future[Row]] = deque()
    with worker_pool(workers, job="score") as pool:
        for sample, source in pairs:
            waiting.append(pool.submit(scorer, sample, source))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
