import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amd_seg.errors import InputError
from amd_seg.evaluation import metrics
from amd_seg.evaluation.metrics import boundary_f, class_iou, confusion_matrix
from tests.saliency_golden import GOLDEN as FILE
from tests.saliency_golden import cases, drawn, subset

GOLDEN = json.loads(FILE.read_text())

# Sums of some thousand float64 in another order.
TOLERANCE = 1e-12

pairs = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.tuples(arrays(np.bool_, size), arrays(np.bool_, size))
)


def scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The means over some maps and truths, under the names of the golden file."""
    values: dict[str, list[object]] = {key: [] for key in GOLDEN["perfect"]}
    for level, truth in pairs:
        saliency = level / 255
        precision, recall = metrics.precision_recall(saliency, truth)
        values["mae"].append(metrics.mean_absolute_error(saliency, truth))
        values["s_measure"].append(metrics.s_measure(saliency, truth))
        values["f_weighted"].append(metrics.weighted_f(saliency, truth))
        values["f_adaptive"].append(metrics.adaptive_f(saliency, truth))
        values["e_adaptive"].append(metrics.adaptive_e_measure(saliency, truth))
        values["f_curve"].append(metrics.f_beta(precision, recall)[::15])
        values["precision"].append(precision[::15])
        values["recall"].append(recall[::15])
        values["e_curve"].append(metrics.e_measure_curve(saliency, truth)[::15])
    return {key: np.mean(found, axis=0) for key, found in values.items()}


GROUPS = {name: [(values, truth)] for name, values, truth in cases()}
GROUPS["drawn"] = [(values, truth) for _, values, truth in drawn()]


@pytest.mark.parametrize("name", [*GROUPS, "ecssd subset"])
def test_saliency_metrics_equal_pysodmetrics(name: str, request: pytest.FixtureRequest) -> None:
    pairs = GROUPS.get(name) or [pair for _, *pair in subset(request.getfixturevalue("shared"))]
    for key, value in scores(pairs).items():
        assert value == pytest.approx(GOLDEN[name][key], abs=TOLERANCE), key


def slow_outline(mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from their right, lower or lower right neighbour."""
    found = [
        (row, column)
        for row, column in np.ndindex(mask.shape)
        if (mask[row : row + 2, column : column + 2] != mask[row, column]).any()
    ]
    return np.array(found).reshape(-1, 2)


def slow_f(mask: np.ndarray, truth: np.ndarray, radius: int) -> float:
    mine, true = slow_outline(mask), slow_outline(truth)
    if not len(mine) or not len(true):
        return float(len(mine) == len(true))
    is_near = ((mine[:, None] - true[None]) ** 2).sum(axis=-1) <= radius**2
    precision, recall = is_near.any(axis=1).mean(), is_near.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=50)
@given(pairs, st.integers(0, 3))
def test_j_and_f_are_what_davis_says(pair: tuple[np.ndarray, np.ndarray], radius: int) -> None:
    mine, true = (set(zip(*np.nonzero(mask), strict=True)) for mask in pair)
    j = len(mine & true) / len(mine | true) if mine | true else 1.0
    assert metrics.intersection_over_union(*pair) == j
    tolerance = radius / math.hypot(*pair[0].shape) * (1 - 1e-9)
    assert boundary_f(*pair, tolerance=tolerance) == pytest.approx(slow_f(*pair, radius))


def test_empty_full_void_and_nearby_masks() -> None:
    empty, full = np.zeros((6, 9), bool), np.ones((6, 9), bool)
    # Neither has an outline: a mask that covers everything has no edge to be met.
    assert boundary_f(empty, empty) == boundary_f(full, empty) == 1
    mask, truth, void = np.zeros((3, 6, 9), bool)
    truth[:, :4] = mask[:, 2:] = void[:, 4:] = True
    assert metrics.intersection_over_union(mask, truth, void) == 0.5
    assert metrics.intersection_over_union(mask, truth, full) == 1
    assert boundary_f(mask, truth, full) == 1
    # The tolerance is eight pixels at 480p.
    truth = np.zeros((480, 854), bool)
    truth[100:300, 200:400] = True
    assert [boundary_f(np.roll(truth, k, 1), truth) == 1 for k in (8, 9)] == [True, False]


def test_statistics_of_a_sequence() -> None:
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    mean, recall, decay = metrics.sequence_statistics(values)
    assert (mean, recall) == (pytest.approx(0.5), pytest.approx(4 / 9))
    # Bins of frames 1-3, 3-5, 5-7, 7-9: neighbours share a frame.
    assert decay == pytest.approx(0.8 - 0.2)
    assert metrics.sequence_statistics([0.7]) == (0.7, 1, 0)
    assert all(map(math.isnan, metrics.sequence_statistics([])))


CLASSES, VOID = 4, 255
label_maps = st.tuples(
    arrays(np.uint8, (5, 6), elements=st.integers(0, CLASSES - 1)),
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, VOID])),
)


@settings(max_examples=50)
@given(pairs=st.lists(label_maps, min_size=1, max_size=3))
def test_class_scores_are_as_defined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    total = sum(confusion_matrix(*pair, CLASSES, void=VOID) for pair in pairs)
    judged = [pair for maps in pairs for pair in zip(*(m.flat for m in maps), strict=True)]
    judged = [(mine, theirs) for mine, theirs in judged if theirs != VOID]
    right = [mine == theirs for mine, theirs in judged]
    assert not judged or metrics.label_accuracy(total) == pytest.approx(np.mean(right))
    for label in range(CLASSES):
        both = sum(pair == (label, label) for pair in judged)
        either = sum(label in pair for pair in judged)
        own = sum(theirs == label for _, theirs in judged)
        iou = both / either if either else math.nan
        accuracy = both / own if own else math.nan
        assert class_iou(total)[label] == pytest.approx(iou, rel=1e-12, nan_ok=True)
        assert metrics.class_accuracy(total)[label] == pytest.approx(accuracy, nan_ok=True)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    labels, truth = np.array([[0, 0, 1, 1], [0, 1, 1, VOID]], np.uint8)[:, None]
    iou = class_iou(confusion_matrix(labels, truth, 3, void=VOID))
    np.testing.assert_allclose(iou, [1 / 2, 1 / 2, np.nan])
    assert metrics.mean_over_classes(iou) == 1 / 2
    # What is predicted where the ground truth is void does not count either.
    nothing = confusion_matrix(labels + 8, np.full_like(truth, VOID), 3, void=VOID)
    assert math.isnan(metrics.mean_over_classes(class_iou(nothing)))
    assert math.isnan(metrics.label_accuracy(nothing))
    with pytest.raises(InputError, match=r"label 9 is predicted, .* 0 to 2"):
        confusion_matrix(labels + 8, truth, 3, void=VOID)
