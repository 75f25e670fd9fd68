"""A contact sheet: the best, the middling and the worst cases, beside their ground truth."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from amd_seg.evaluation.layouts import Sample
from amd_seg.evaluation.run import Evaluation
from amd_seg.evaluation.scoring import Row, truth_of
from amd_seg.evaluation.semantic import LabelTruth
from amd_seg.media.images import Pixels, read_image, save_image
from amd_seg.media.labels import render_labels_overlay
from amd_seg.media.render import render_overlay

CELL = (240, 180)
"""Room for one picture, in pixels."""

# Kind of a data set -> the value by which its samples are ranked.
_RANKED_BY = {"saliency": "iou_half", "video": "j", "semantic": "iou"}

_CAPTION = 16
_MARGIN = 6


def write_sheet(evaluation: Evaluation, path: Path, *, count: int = 4) -> None:
    """Write a picture of the best, median and worst `count` samples, by J, IoU at 0.5 or mean IoU.

    Each case is its ground truth over the picture, then the scored mask or labels over it.

    Args:
        evaluation: what was scored.
        path: ends as an image does.
        count: samples in each of the three rows.

    Raises:
        MediaError: the picture cannot be written.
    """
    key = _RANKED_BY[evaluation.dataset.benchmark.kind]
    chosen = _chosen(evaluation.rows, key, count)
    width, height = 2 * CELL[0] + 3 * _MARGIN, CELL[1] + _CAPTION + _MARGIN
    columns = min(count, len(evaluation.rows))
    sheet = Image.new("RGB", (width * columns, height * 3), "white")
    for place, (rank, row) in enumerate(chosen):
        left, top = place % columns * width, place // columns * height
        title = f"{rank} {row.sample.name} {100 * row.values[key]:.0f}"
        sheet.paste(_drawn(title, row, evaluation), (left + _MARGIN, top))
    save_image(sheet, path)


def _chosen(rows: list[Row], key: str, count: int) -> list[tuple[str, Row]]:
    """Return the best, median and worst rows, the better ones first."""
    ranked = sorted(rows, key=lambda row: row.values[key], reverse=True)
    count = min(count, len(ranked))
    middle = (len(ranked) - count) // 2
    groups = {
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[-count:],
    }
    return [(title, row) for title, group in groups.items() for row in group]


def _drawn(title: str, row: Row, evaluation: Evaluation) -> Image.Image:
    drawn = Image.new("RGB", (2 * CELL[0] + _MARGIN, CELL[1] + _CAPTION), "white")
    ImageDraw.Draw(drawn).text((0, 2), title, fill="black")
    reader = evaluation.dataset.benchmark.truth
    overlays = _of_masks(row) if reader is None else _of_labels(row, reader)
    for place, overlay in enumerate(overlays):
        overlay.thumbnail(CELL)
        drawn.paste(overlay, (place * (CELL[0] + _MARGIN), _CAPTION))
    return drawn


def _of_masks(row: Row) -> list[Image.Image]:
    truth, _ = truth_of(row.sample)
    pixels = _pixels(row.sample, truth.shape)
    return [render_overlay(pixels, mask) for mask in (truth, row.scored.unpack())]


def _of_labels(row: Row, reader: LabelTruth) -> list[Image.Image]:
    truth = reader(row.sample)
    pixels = _pixels(row.sample, truth.shape)
    labels = (truth, row.scored.unpack())
    return [render_labels_overlay(pixels, shown, reader.classes) for shown in labels]


def _pixels(sample: Sample, shape: tuple[int, ...]) -> Pixels:
    """Return a sample's picture at the shape of its ground truth; grey where there is none."""
    if sample.image is None:
        return np.full((*shape, 3), 128, np.uint8)
    picture = Image.fromarray(read_image(sample.image).pixels)
    return np.asarray(picture.resize((shape[1], shape[0])))
