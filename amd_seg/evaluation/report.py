"""An evaluation for its reader: the table with definitions, JSON, and a sheet of pictures."""

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageOps import pad

from amd_seg.evaluation.predictions import truth_of
from amd_seg.evaluation.scoring import Evaluation, Row, Scores
from amd_seg.media.images import read_image, save_image
from amd_seg.media.labels import read_labels, render_labels_overlay
from amd_seg.media.render import TILE, tiled
from amd_seg.review_page import small_overlay

_AT = "of the pixels above"
_F = "precision and recall averaged over images"
_ENDS = "first and last frames left out, mean over sequences (DAVIS 2016)"
DEFINITIONS = {
    "saliency": {
        "f_max": ("max F", f"{_F}, best of 256 thresholds"),
        "f_mean": ("mean F", f"{_F}, mean over the 256 thresholds"),
        "f_max_per_image": ("max F per image", "F averaged, best of 256 thresholds"),
        "f_mean_per_image": ("mean F per image", "F averaged, mean over thresholds"),
        "f_adaptive": ("adaptive F", "F of each image at twice its mean, averaged"),
        "f_weighted": ("weighted F", "Margolin et al. 2014, beta^2 = 1"),
        "s_measure": ("S-measure", "Fan et al. 2017: half object, half region"),
        "e_max": ("max E", "Fan et al. 2018, averaged, best of 256 thresholds"),
        "e_mean": ("mean E", "E averaged, mean over the 256 thresholds"),
        "e_adaptive": ("adaptive E", "E of each image at twice its mean, averaged"),
        "mae": ("MAE", "mean absolute error of the soft map, lower is better"),
        "iou_half": ("IoU 0.5", f"intersection over union {_AT} 0.5"),
        "accuracy_half": ("Acc 0.5", f"accuracy {_AT} 0.5"),
        "boundary_f": ("boundary F", f"agreement of outlines (DAVIS) {_AT} 0.5"),
        "iou_otsu": ("IoU Otsu", f"intersection over union {_AT} Otsu's threshold"),
        "accuracy_otsu": ("Acc Otsu", f"accuracy {_AT} Otsu's threshold"),
    },
    "video": {
        "j_mean": ("J mean", f"intersection over union, {_ENDS}"),
        "j_recall": ("J recall", "share of those frames with J above 0.5"),
        "j_decay": ("J decay", "first quarter minus last, lower is better"),
        "f_mean": ("F mean", f"agreement of outlines, {_ENDS}"),
        "f_recall": ("F recall", "share of those frames with F above 0.5"),
        "f_decay": ("F decay", "first quarter minus last, lower is better"),
        "j_all": ("J all", "all frames, mean over sequences (DAVIS 2017)"),
        "f_all": ("F all", "all frames, mean over sequences (DAVIS 2017)"),
        "j_frames": ("J frames", "all frames, mean over frames"),
        "f_frames": ("F frames", "all frames, mean over frames"),
    },
    "semantic": {
        "miou": ("mIoU", "IoU over all pixels of the set, mean over classes (VOC)"),
        "class_accuracy": ("class accuracy", "pixels of a class that are right, mean"),
        "pixel_accuracy": ("pixel accuracy", "pixels that are right; void left out"),
    },
}
"""Kind of a data set -> key of a score -> its name and how it is made, in the order of tables.

F has beta^2 = 0.3 for saliency where not said otherwise."""


def table(evaluation: Evaluation, *, per_sequence: bool = False) -> str:
    """Return a table for the terminal: a score a line with its definition, then what others have.

    With `per_sequence` each sequence of a video set has a line.
    """
    dataset, scoring = evaluation.dataset, evaluation.scoring
    kind, parts = dataset.benchmark.kind, [dataset.title, evaluation.method]
    if kind == "video" and scoring["threshold"] != 0.5:
        parts.append(f"threshold {scoring['threshold']}")
    if scoring["resize_masks"]:
        parts.append("maps resized to the ground truth")
    lines = [", ".join(parts), ""]
    for key, (label, text) in DEFINITIONS[kind].items():
        lines.append(f"{label:20}{shown(key, evaluation.scores[key]):>7}  {text}")
    if kind == "semantic" or (kind == "video" and per_sequence):
        names = {"iou": "IoU", "class_accuracy": "accuracy"}
        if kind == "video":
            names = {k: name for k, (name, _) in DEFINITIONS[kind].items() if k[1:] != "_frames"}
        cells = [["sequence" if kind == "video" else "class", *names.values()]]
        for name, scores in evaluation.groups.items():
            cells.append([name, *(shown(key, scores[key]) for key in names)])
        lines += ["", *_aligned(cells)]
    return "\n".join([*lines, *_published(dataset.benchmark.name)])


def shown(key: str, value: float) -> str:
    """Return a score as tables print it: percent, or three digits; a dash where it is undefined."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if key == "mae" else f"{100 * value:.1f}"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain values, scores from 0 to 1, None where undefined."""
    dataset, kind = evaluation.dataset, evaluation.dataset.benchmark.kind

    def defined(scores: Scores) -> dict[str, float | None]:
        return {key: None if math.isnan(value) else value for key, value in scores.items()}

    groups = {name: defined(scores) for name, scores in evaluation.groups.items()}
    return {
        "dataset": dataset.benchmark.name,
        "title": dataset.title,
        "folder": str(dataset.folder),
        "method": evaluation.method,
        "count": len(dataset.samples),
        "scoring": evaluation.scoring,
        "scores": defined(evaluation.scores),
        "sequences": groups if kind == "video" else {},
        "classes": groups if kind == "semantic" else {},
        "definitions": {key: DEFINITIONS[kind][key][1] for key in evaluation.scores},
    }


def _published(dataset: str) -> list[str]:
    """Return what others published for a data set, as lines of a table; [] where nothing is."""
    rows = json.loads(Path(__file__).with_name("published.json").read_text("utf-8")).get(dataset)
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    cells = [["method", *names, "outside help"]]
    for row in rows:
        mark = "" if row.get("checked", True) else " *"
        scores = (row["scores"].get(name, "-") for name in names)
        cells.append([row["method"] + mark, *scores, row["help"]])
    lines = ["", "Published, on the full set:", *_aligned(cells)]
    if not all(row.get("checked", True) for row in rows):
        lines.append("* not checked against its own paper")
    return lines


def _aligned(cells: list[list[str]]) -> list[str]:
    """Return rows for a terminal: first column and words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # Columns of numbers are narrow.
    sides = ["<", *(">" if width < 12 else "<" for width in widths[1:])]
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [form.format(*row).rstrip() for row in cells]


_CELL = (TILE, 3 * TILE // 4)  # one picture of a sheet
_CASES = 4  # best, median and worst samples of a sheet, each


def write_sheet(evaluation: Evaluation, path: Path) -> None:
    """Write a picture of the best, median and worst samples, by J, IoU at 0.5 or mean IoU.

    Each case is its ground truth over the picture, then the scored mask or labels over it.
    """
    ranking = {"saliency": "iou_half", "video": "j", "semantic": "iou"}
    key = ranking[evaluation.dataset.benchmark.kind]
    ranked = sorted(evaluation.rows, key=lambda row: row.values[key], reverse=True)
    count = min(_CASES, len(ranked))
    lines = []
    for rank, first in (("best", 0), ("median", (len(ranked) - count) // 2), ("worst", -count)):
        line = []
        for row in ranked[first:][:count]:
            caption = f"{rank} {row.sample.name} {100 * row.values[key]:.0f}"
            overlays = _overlays(row, evaluation)
            line += [(pad(each, _CELL, color="white"), caption) for each in overlays]
        lines.append(line)
    save_image(tiled(["ground truth", "scored"] * count, lines), path)


def _overlays(row: Row, evaluation: Evaluation) -> list[Image.Image]:
    """Return the ground truth and what was scored, each over the picture; grey if that is gone."""
    scored = np.asarray(Image.open(BytesIO(row.scored)))
    height, width = scored.shape
    pixels = np.full((height, width, 3), 128, np.uint8)
    if row.sample.image is not None:
        picture = Image.fromarray(read_image(row.sample.image).pixels)
        pixels = np.asarray(picture.resize((width, height)))
    dataset = evaluation.dataset
    if (classes := dataset.benchmark.classes) is not None:
        truth = read_labels(row.sample.masks[0], classes, by_colour=dataset.by_colour)
        return [render_labels_overlay(pixels, shown, classes) for shown in (truth, scored)]
    return [small_overlay(pixels, mask, _CELL) for mask in (truth_of(row.sample)[0], scored)]
