"""Label maps against their ground truth, and where such maps come from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from amd_seg.classes import VOID, Classes
from amd_seg.errors import InputError
from amd_seg.evaluation import confusion
from amd_seg.evaluation.layouts import Sample
from amd_seg.evaluation.maps import Packed
from amd_seg.evaluation.scoring import Curves, Row, Source, wrong_size
from amd_seg.media.labels import Labels, read_labels


@dataclass(frozen=True)
class LabelTruth:
    """How the ground truths of a semantic set are read."""

    classes: Classes
    by_colour: bool = False
    """They are RGB pictures in the classes' colours."""

    def __call__(self, sample: Sample) -> Labels:
        """Return the ground truth of a sample, (height, width): labels and VOID."""
        return read_labels(sample.masks[0], self.classes, by_colour=self.by_colour)


@dataclass(frozen=True)
class FromLabels:
    """A label map that is read from a file when it is scored."""

    path: Path
    classes: Classes

    def __call__(self, sample: Sample, shape: tuple[int, ...]) -> Labels:
        """Return the map in the file."""
        return read_labels(self.path, self.classes)


def score_labels(
    sample: Sample, source: Source, *, truth: LabelTruth, resize_masks: bool = False
) -> Row:
    """Return the values of one picture, and its confusion matrix as a curve.

    Args:
        sample: its ground truth is read.
        source: gives the label map for the sample and the shape of its ground truth.
        truth: how the ground truth is read.
        resize_masks: resize a map of another size, instead of raising.

    Raises:
        InputError: a map and its ground truth differ in size, or hold what is no class.
        MediaError: a file cannot be read.
    """
    wanted = truth(sample)
    labels = labels_of(sample, source, wanted.shape, resize_masks=resize_masks)
    try:
        counts = confusion.confusion_matrix(labels, wanted, len(truth.classes), void=VOID)
    except InputError as cause:
        raise InputError(f"{getattr(source, 'path', sample.name)}: {cause}") from cause
    values = {
        "iou": confusion.mean_over_classes(confusion.class_iou(counts)),
        "accuracy": confusion.pixel_accuracy(counts),
    }
    return Row(sample, values, Packed.of(labels), {"confusion": counts.astype(np.float64)})


def labels_of(
    sample: Sample, source: Source, shape: tuple[int, ...], *, resize_masks: bool
) -> Labels:
    """Return the label map that is scored, at the shape of the ground truth.

    Raises:
        InputError: the map has another size, and is not to be resized.
        MediaError: a file cannot be read.
    """
    labels = source(sample, shape)
    if labels.shape == shape:
        return labels
    if not resize_masks:
        raise wrong_size(sample, source, labels.shape, shape)
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def semantic_scores(
    curves: Curves, classes: Classes
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the scores of a set of pictures, and those of each class.

    Args:
        curves: holds the sum of the "confusion" of all pictures.
        classes: what the labels are.
    """
    counts = curves["confusion"]
    iou, accuracy = confusion.class_iou(counts), confusion.class_accuracy(counts)
    scores = {
        "miou": confusion.mean_over_classes(iou),
        "class_accuracy": confusion.mean_over_classes(accuracy),
        "pixel_accuracy": confusion.pixel_accuracy(counts),
    }
    by_class = {
        name: {"iou": float(iou[label]), "class_accuracy": float(accuracy[label])}
        for label, name in enumerate(classes.names)
    }
    return scores, by_class
