"""mIoU by the confusion matrix, held to what its definition says pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amd_seg.errors import InputError
from amd_seg.evaluation.confusion import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    mean_over_classes,
    pixel_accuracy,
)

CLASSES, VOID = 4, 255


def oracle_iou(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The definition in words: pixels that both call k over pixels that either calls k."""
    ious = []
    for label in range(CLASSES):
        both = either = 0
        for labels, truth in pairs:
            for mine, theirs in zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True):
                if theirs == VOID:
                    continue
                both += mine == label and theirs == label
                either += mine == label or theirs == label
        ious.append(both / either if either else math.nan)
    return ious


maps = st.tuples(
    arrays(np.uint8, (5, 6), elements=st.integers(0, CLASSES - 1)),
    arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, VOID])),
)


@settings(max_examples=50, deadline=None)
@given(pairs=st.lists(maps, min_size=1, max_size=3))
def test_iou_is_that_of_the_definition(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    total = sum(confusion_matrix(*pair, CLASSES, void=VOID) for pair in pairs)
    np.testing.assert_allclose(class_iou(total), oracle_iou(pairs), rtol=1e-12)
    judged = [
        (a, t) for labels, truth in pairs for a, t in zip(labels.flat, truth.flat, strict=True)
    ]
    judged = [(a, t) for a, t in judged if t != VOID]
    if judged:
        assert pixel_accuracy(total) == pytest.approx(np.mean([a == t for a, t in judged]))
    for label, share in enumerate(class_accuracy(total)):
        own = [a == label for a, t in judged if t == label]
        assert math.isnan(share) if not own else share == pytest.approx(np.mean(own))


def test_the_set_is_one_picture_not_a_mean_of_pictures() -> None:
    small = (np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8))
    large = (np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8))
    total = sum(confusion_matrix(*pair, 2, void=VOID) for pair in (small, large))
    assert class_iou(total)[1] == pytest.approx(1 / 10)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    labels = np.array([[0, 0, 1, 1]], np.uint8)
    truth = np.array([[0, 1, 1, VOID]], np.uint8)
    iou = class_iou(confusion_matrix(labels, truth, 3, void=VOID))
    np.testing.assert_allclose(iou, [1 / 2, 1 / 2, np.nan])
    assert mean_over_classes(iou) == 1 / 2
    nothing = confusion_matrix(labels, np.full_like(truth, VOID), 3, void=VOID)
    assert math.isnan(mean_over_classes(class_iou(nothing)))
    assert math.isnan(pixel_accuracy(nothing))


def test_what_cannot_be_compared_is_told() -> None:
    labels, truth = np.array([[0, 9]], np.uint8), np.array([[0, 1]], np.uint8)
    with pytest.raises(InputError, match=r"label 9 is predicted, .* 0 to 2"):
        confusion_matrix(labels, truth, 3, void=VOID)
    with pytest.raises(InputError, match="one size"):
        confusion_matrix(labels, truth[:, :1], 3, void=VOID)
    # Where the ground truth is void, whatever is predicted is passed over.
    assert confusion_matrix(labels, np.array([[0, VOID]], np.uint8), 3, void=VOID).sum() == 1
