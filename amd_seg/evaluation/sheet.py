"""A contact sheet: the best, the middling and the worst cases, beside their ground truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from amd_seg.evaluation.origins import MapSource, Origin
from amd_seg.evaluation.run import Evaluation
from amd_seg.evaluation.scoring import Row, binarised, saliency_of, truth_of
from amd_seg.media.images import read_image, save_image
from amd_seg.media.render import render_overlay

CELL = (240, 180)
"""Room for one picture, in pixels."""

_CAPTION = 16
_MARGIN = 6


@dataclass(frozen=True)
class _Case:
    title: str
    row: Row
    source: MapSource


def write_sheet(evaluation: Evaluation, origin: Origin, path: Path, *, count: int = 4) -> None:
    """Write a picture of the best, median and worst `count` samples, by J or IoU at 0.5.

    Each case is its ground truth over the picture, then the scored mask over the picture.

    Args:
        evaluation: what was scored.
        origin: makes the maps of the chosen samples once more.
        path: ends as an image does.
        count: samples in each of the three rows.

    Raises:
        MediaError: the picture cannot be written.
    """
    key = "j" if evaluation.dataset.benchmark.kind == "video" else "iou_half"
    chosen = _chosen(evaluation.rows, key, count)
    samples = [row.sample for _, row in chosen]
    sources = origin(evaluation.dataset.part(samples))
    cases = [
        _Case(f"{title} {row.sample.name} {100 * row.values[key]:.0f}", row, source)
        for (title, row), source in zip(chosen, sources, strict=True)
    ]
    width, height = 2 * CELL[0] + 3 * _MARGIN, CELL[1] + _CAPTION + _MARGIN
    columns = min(count, len(evaluation.rows))
    sheet = Image.new("RGB", (width * columns, height * 3), "white")
    for place, case in enumerate(cases):
        left, top = place % columns * width, place // columns * height
        sheet.paste(_drawn(case, evaluation), (left + _MARGIN, top))
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


def _drawn(case: _Case, evaluation: Evaluation) -> Image.Image:
    sample = case.row.sample
    truth, _ = truth_of(sample)
    saliency = saliency_of(sample, case.source, truth.shape, evaluation.scoring)
    mask = binarised(saliency, evaluation.scoring)
    pixels = np.full((*truth.shape, 3), 128, np.uint8)
    if sample.image is not None:
        picture = Image.fromarray(read_image(sample.image).pixels)
        pixels = np.asarray(picture.resize(truth.shape[::-1]))
    drawn = Image.new("RGB", (2 * CELL[0] + _MARGIN, CELL[1] + _CAPTION), "white")
    ImageDraw.Draw(drawn).text((0, 2), case.title, fill="black")
    for place, shape in enumerate((truth, mask)):
        overlay = render_overlay(pixels, shape)
        overlay.thumbnail(CELL)
        drawn.paste(overlay, (place * (CELL[0] + _MARGIN), _CAPTION))
    return drawn
