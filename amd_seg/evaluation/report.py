"""An evaluation in words: definitions, table, Markdown, CSV, JSON."""

import csv
import io
import math
from dataclasses import asdict
from typing import Any, NamedTuple

from amd_seg.evaluation.published import published
from amd_seg.evaluation.run import Evaluation


class Definition(NamedTuple):
    """How a number is named, printed and made."""

    label: str
    is_percent: bool
    text: str


_AT = "of the pixels above"
_F = "precision and recall averaged over images"
_ENDS = "first and last frames left out, mean over sequences (DAVIS 2016)"
_SALIENCY = {
    "f_max": Definition("max F", True, f"{_F}, best of 256 thresholds"),
    "f_mean": Definition("mean F", True, f"{_F}, mean over the 256 thresholds"),
    "f_max_per_image": Definition("max F per image", True, "F averaged, best of 256 thresholds"),
    "f_mean_per_image": Definition("mean F per image", True, "F averaged, mean over thresholds"),
    "f_adaptive": Definition("adaptive F", True, "F of each image at twice its mean, averaged"),
    "f_weighted": Definition("weighted F", True, "Margolin et al. 2014, beta^2 = 1"),
    "s_measure": Definition("S-measure", True, "Fan et al. 2017: half object, half region"),
    "e_max": Definition("max E", True, "Fan et al. 2018, averaged, best of 256 thresholds"),
    "e_mean": Definition("mean E", True, "E averaged, mean over the 256 thresholds"),
    "e_adaptive": Definition("adaptive E", True, "E of each image at twice its mean, averaged"),
    "mae": Definition("MAE", False, "mean absolute error of the soft map, lower is better"),
    "iou_half": Definition("IoU 0.5", True, f"intersection over union {_AT} 0.5"),
    "accuracy_half": Definition("Acc 0.5", True, f"accuracy {_AT} 0.5"),
    "boundary_f": Definition("boundary F", True, f"agreement of outlines (DAVIS) {_AT} 0.5"),
    "iou_otsu": Definition("IoU Otsu", True, f"intersection over union {_AT} Otsu's threshold"),
    "accuracy_otsu": Definition("Acc Otsu", True, f"accuracy {_AT} Otsu's threshold"),
}
_VIDEO = {
    "j_mean": Definition("J mean", True, f"intersection over union, {_ENDS}"),
    "j_recall": Definition("J recall", True, "share of those frames with J above 0.5"),
    "j_decay": Definition("J decay", True, "first quarter minus last, lower is better"),
    "f_mean": Definition("F mean", True, f"agreement of outlines, {_ENDS}"),
    "f_recall": Definition("F recall", True, "share of those frames with F above 0.5"),
    "f_decay": Definition("F decay", True, "first quarter minus last, lower is better"),
    "j_all": Definition("J all", True, "all frames, mean over sequences (DAVIS 2017)"),
    "f_all": Definition("F all", True, "all frames, mean over sequences (DAVIS 2017)"),
    "j_frames": Definition("J frames", True, "all frames, mean over frames"),
    "f_frames": Definition("F frames", True, "all frames, mean over frames"),
}
_SEMANTIC = {
    "miou": Definition("mIoU", True, "IoU over all pixels of the set, mean over classes (VOC)"),
    "class_accuracy": Definition("class accuracy", True, "pixels of a class that are right, mean"),
    "pixel_accuracy": Definition("pixel accuracy", True, "pixels that are right; void left out"),
}
DEFINITIONS = {"saliency": _SALIENCY, "video": _VIDEO, "semantic": _SEMANTIC}
"""Kind of a data set -> key of a score -> its definition, in the order of tables.

F has beta^2 = 0.3 for saliency where not said otherwise."""


def definition(key: str, kind: str) -> Definition:
    """Return the definition of a score in a data set of this kind."""
    return DEFINITIONS[kind][key]


def table(evaluation: Evaluation, *, per_sequence: bool = False) -> str:
    """Return a table for the terminal: a score a line with its definition, then what others have.

    Args:
        evaluation: what to print.
        per_sequence: add a line for each sequence of a video set.
    """
    kind = evaluation.dataset.benchmark.kind
    lines = [heading(evaluation), ""]
    for key, (label, _, text) in DEFINITIONS[kind].items():
        lines.append(f"{label:20}{shown(key, evaluation.scores[key], kind):>7}  {text}")
    if per_sequence and evaluation.sequences:
        lines += ["", *_aligned(_sequence_cells(evaluation))]
    if evaluation.classes:
        lines += ["", *_aligned(_class_cells(evaluation))]
    if cells := _published_cells(evaluation):
        lines += ["", "Published, on the full set:", *_aligned(cells), *_footnote(cells)]
    return "\n".join(lines)


def markdown(evaluation: Evaluation, *, per_sequence: bool = False) -> str:
    """Return the same as Markdown, with a row for ours that others can be put under."""
    kind = evaluation.dataset.benchmark.kind
    keys = list(DEFINITIONS[kind])
    ours = [evaluation.method, *(shown(key, evaluation.scores[key], kind) for key in keys)]
    head = ["method", *(definition(key, kind).label for key in keys)]
    lines = [f"### {heading(evaluation)}", "", *_piped([head, ours]), ""]
    lines += [f"- {definition(key, kind).label}: {definition(key, kind).text}" for key in keys]
    if per_sequence and evaluation.sequences:
        lines += ["", *_piped(_sequence_cells(evaluation))]
    if evaluation.classes:
        lines += ["", *_piped(_class_cells(evaluation))]
    if cells := _published_cells(evaluation):
        lines += ["", "Published, on the full set:", "", *_piped(cells)]
        lines += ["", *_footnote(cells)] if _footnote(cells) else []
    return "\n".join(lines) + "\n"


def csv_text(evaluation: Evaluation) -> str:
    """Return the values of every sample as CSV, 0 to 1, with a line of names first."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = list(evaluation.rows[0].values)
    writer.writerow(["name", "sequence", *keys])
    for row in evaluation.rows:
        values = (f"{row.values[key]:.6f}" for key in keys)
        writer.writerow([row.sample.name, row.sample.sequence or "", *values])
    return stream.getvalue()


def heading(evaluation: Evaluation) -> str:
    """Return what was scored, whose maps, and how, where that is not the usual way."""
    scoring = evaluation.scoring
    parts = [evaluation.dataset.title, evaluation.method]
    if evaluation.dataset.benchmark.kind == "video" and scoring.threshold != 0.5:
        parts.append(f"threshold {scoring.threshold}")
    parts += ["maps resized to the ground truth"] if scoring.resize_masks else []
    parts += ["maps stretched to 0..1"] if scoring.stretch else []
    return ", ".join(parts)


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
        "scoring": asdict(evaluation.scoring),
        "scores": _defined(evaluation.scores),
        "sequences": {name: _defined(s) for name, s in evaluation.sequences.items()},
        "classes": {name: _defined(s) for name, s in evaluation.classes.items()},
        "definitions": {
            key: definition(key, dataset.benchmark.kind).text for key in evaluation.scores
        },
    }


def _sequence_cells(evaluation: Evaluation) -> list[list[str]]:
    keys = ("j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "j_all", "f_all")
    cells = [["sequence", *(definition(key, "video").label for key in keys)]]
    for name, scores in evaluation.sequences.items():
        cells.append([name, *(shown(key, scores[key], "video") for key in keys)])
    return cells


def _class_cells(evaluation: Evaluation) -> list[list[str]]:
    cells = [["class", "IoU", "accuracy"]]
    for name, scores in evaluation.classes.items():
        shares = (scores["iou"], scores["class_accuracy"])
        cells.append([name, *("-" if math.isnan(s) else f"{100 * s:.1f}" for s in shares)])
    return cells


def _published_cells(evaluation: Evaluation) -> list[list[str]]:
    rows = published(evaluation.dataset.benchmark.name)
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    cells = [["method", *names, "outside help"]] if rows else []
    for row in rows:
        method = f"{row.method} *" if row.is_secondary else row.method
        cells.append([method, *(row.scores.get(name, "-") for name in names), row.outside_help])
    return cells


def _footnote(cells: list[list[str]]) -> list[str]:
    is_marked = any(row[0].endswith("*") for row in cells)
    return ["* not checked against its own paper"] if is_marked else []


def _aligned(cells: list[list[str]]) -> list[str]:
    """Return rows for a terminal: first column and words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = (
            text.rjust(width) if place and width < 12 else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return lines


def _piped(cells: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{'---|' * len(cells[0])}", *lines[1:]]


def _defined(scores: dict[str, float]) -> dict[str, float | None]:
    # JSON knows no NaN.
    return {key: None if math.isnan(value) else value for key, value in scores.items()}
