"""An evaluation in words: definitions, table, JSON."""

import math
from typing import Any, NamedTuple

from amd_seg.evaluation.run import Evaluation


class Definition(NamedTuple):
    """How a number is named, printed and made."""

    label: str
    is_percent: bool
    text: str


_AT = "of the pixels above"
DEFINITIONS = {
    "f_max": Definition(
        "max F", True, "precision and recall averaged over images, best of 256 thresholds"
    ),
    "f_mean": Definition("mean F", True, "the same, mean over the 256 thresholds"),
    "f_max_per_image": Definition(
        "max F (per image)", True, "F of each image averaged, best of 256 thresholds"
    ),
    "f_mean_per_image": Definition(
        "mean F (per image)", True, "F of each image averaged, mean over the thresholds"
    ),
    "f_adaptive": Definition(
        "adaptive F", True, "F of each image at twice its mean saliency, averaged"
    ),
    "mae": Definition("MAE", False, "mean absolute error of the soft map, lower is better"),
    "iou_half": Definition("IoU 0.5", True, f"intersection over union {_AT} 0.5"),
    "accuracy_half": Definition("Acc 0.5", True, f"accuracy {_AT} 0.5"),
    "iou_otsu": Definition("IoU Otsu", True, f"intersection over union {_AT} Otsu's threshold"),
    "accuracy_otsu": Definition("Acc Otsu", True, f"accuracy {_AT} Otsu's threshold"),
    "j_mean": Definition(
        "J mean", True, "first and last frames left out, mean over sequences (DAVIS 2016)"
    ),
    "j_recall": Definition("J recall", True, "share of those frames with J above 0.5"),
    "j_decay": Definition("J decay", True, "first quarter minus last, lower is better"),
    "j_all": Definition("J all", True, "all frames, mean over sequences (DAVIS 2017)"),
    "j_frames": Definition("J frames", True, "all frames, mean over frames"),
    "f_recall": Definition("F recall", True, "share of those frames with F above 0.5"),
    "f_decay": Definition("F decay", True, "first quarter minus last, lower is better"),
    "f_all": Definition("F all", True, "all frames, mean over sequences (DAVIS 2017)"),
    "f_frames": Definition("F frames", True, "all frames, mean over frames"),
}
"""Key of a score -> its definition; F has beta^2 = 0.3 for saliency, in video outlines count."""

_VIDEO_F_MEAN = Definition(
    "F mean", True, "outlines, first and last frames left out, mean over sequences"
)


def definition(key: str, kind: str) -> Definition:
    """Return the definition of a score in a data set of this kind."""
    if kind == "video" and key == "f_mean":
        return _VIDEO_F_MEAN
    return DEFINITIONS[key]


def table(evaluation: Evaluation, *, per_sequence: bool = False) -> str:
    """Return a table for the terminal: a score a line with its definition."""
    kind = evaluation.dataset.benchmark.kind
    lines = [f"{evaluation.dataset.title}, {evaluation.method}", ""]
    for key, value in evaluation.scores.items():
        label, _, text = definition(key, kind)
        lines.append(f"{label:20}{shown(key, value, kind):>7}  {text}")
    if per_sequence and evaluation.sequences:
        keys = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "j_all")
        width = max(map(len, evaluation.sequences))
        head = "".join(f"{definition(key, kind).label:>10}" for key in keys)
        lines += ["", f"{'sequence':{width}}{head}"]
        for name, scores in evaluation.sequences.items():
            cells = "".join(f"{shown(key, scores[key], kind):>10}" for key in keys)
            lines.append(f"{name:{width}}{cells}")
    return "\n".join(lines)


def shown(key: str, value: float, kind: str) -> str:
    """Return a score as tables print it: percent, or three digits; a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" if definition(key, kind).is_percent else f"{value:.3f}"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain values, scores from 0 to 1, None where undefined."""
    dataset = evaluation.dataset
    return {
        "dataset": dataset.benchmark.name,
        "title": dataset.title,
        "folder": str(dataset.folder),
        "method": evaluation.method,
        "count": len(dataset.samples),
        "scores": _defined(evaluation.scores),
        "sequences": {name: _defined(s) for name, s in evaluation.sequences.items()},
        "definitions": {
            key: definition(key, dataset.benchmark.kind).text for key in evaluation.scores
        },
    }


def _defined(scores: dict[str, float]) -> dict[str, float | None]:
    # JSON knows no NaN.
    return {key: None if math.isnan(value) else value for key, value in scores.items()}
