"""The page of a run: its loss so far, its picture sheets, its settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from amd_seg.media.curve import draw_curve
from amd_seg.media.images import read_image
from amd_seg.media.page import paragraph, pictures, section, table, write_page
from amd_seg.media.render import Tile
from amd_seg.training.folder import RunFolder

SHEETS = 8
"""Sheets that are shown; of more, the first, the last, and some evenly between."""


def write_run_page(folder: RunFolder) -> None:
    """Write `folder.page` from what the run folder holds: it needs nothing beside itself.

    Raises:
        MediaError: the page cannot be written.
    """
    lines, settings = folder.read_lines(), folder.read_settings()
    sheets = _some(sorted(folder.sheets.glob("step-*.png")))
    write_page(
        folder.page,
        f"Training run {folder.path.resolve().name}",
        paragraph(_state(lines, settings)),
        section("Loss", _curve(lines, "loss")),
        section("What the model makes of the first batch, the newest first", *map(_shown, sheets)),
        section("Settings", table({**settings["model"], **settings["training"]})),
    )


def _state(lines: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    if not lines:
        return "No step is logged yet."
    last = lines[-1]
    return (
        f"Step {last['step']}, {last['seconds'] / 60:.1f} minutes of steps, loss "
        f"{last['loss']:.4f}. amd-seg {settings['amd_seg']}."
    )


def _curve(lines: Sequence[dict[str, Any]], name: str) -> str:
    known = [line for line in lines if name in line]
    return draw_curve([line["step"] for line in known], [line[name] for line in known], name=name)


def _some(sheets: Sequence[Path]) -> list[Path]:
    """Take the newest sheet first, the oldest last, and some evenly between."""
    newest = sheets[::-1]
    if len(newest) <= SHEETS:
        return [*newest]
    return [newest[round(place * (len(newest) - 1) / (SHEETS - 1))] for place in range(SHEETS)]


def _shown(sheet: Path) -> str:
    step = int(sheet.stem.removeprefix("step-"))
    picture = Image.fromarray(read_image(sheet).pixels)
    return pictures((f"Step {step}",), [[Tile(picture)]])
