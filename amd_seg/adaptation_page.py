"""A page about one adaptation: the loss, what was chosen, frames before and after, times."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from amd_seg import __version__
from amd_seg.errors import raising
from amd_seg.media.curve import Mark, draw_curve
from amd_seg.media.images import Photo
from amd_seg.media.page import (
    check_page,
    paragraph,
    pictures,
    section,
    table,
    thumbnail,
    write_page,
)
from amd_seg.media.render import Tile
from amd_seg.media.video import Frame, FrameReader
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.adaptation import AdaptationReport
from amd_seg.training.config import AdaptationConfig

FRAMES = 6
"""Frames that are shown, spread over the clip."""

EDGE = 440
"""Longer side of a picture, in pixels."""

_TIMES = {
    "frames": "reading the clip",
    "examples": "finding what moves",
    "steps": "learning",
    "checks": "checking on frames held out",
}


def write_adaptation_page(
    path: str | os.PathLike[str],
    clip: FrameReader,
    report: AdaptationReport,
    config: AdaptationConfig,
    *,
    released: Segmenter,
    adapted: Segmenter,
    overwrite: bool = False,
    **call: Any,
) -> Path:
    """Write a page about an adaptation that needs nothing beside itself, and return its path.

    Args:
        path: ends in .html; it is there whole or not at all.
        clip: what was adapted to; it is read once, for the frames that are shown.
        report: of `VideoSegmenter.adapt`.
        config: the settings that it was given.
        released: `VideoSegmenter.segmenter` before it.
        adapted: and after it.
        overwrite: replace a file that is there.
        **call: size, threshold and refine, as for a call of a `Segmenter`.

    Raises:
        InputError: `path` is no page's name, has no folder, or exists.
        MediaError: the clip cannot be read, or the page not be written.
    """
    path = Path(path)
    check_page(path, overwrite=overwrite)
    frames = spread(clip, FRAMES)
    photos = [Photo(f.pixels, None, f"{clip.source}, frame {f.index}") for f in frames]
    pairs = zip(*(raising(s.stream(photos, **call)) for s in (released, adapted)), strict=True)
    rows = [_row(frame, *pair) for frame, pair in zip(frames, pairs, strict=True)]
    write_page(
        path,
        f"Adaptation to {Path(clip.source).name}",
        paragraph(verdict(report)),
        section("Loss", loss_curve(report), paragraph(_about_loss(report))),
        section("Before and after", pictures(("Released weights", "Adapted weights"), rows)),
        section("What was chosen", table(_chosen(report))),
        section("Time", table(_times(report))),
        section("Settings", table(_settings(clip, config, released, call))),
    )
    return path


def verdict(report: AdaptationReport) -> str:
    """Say in a sentence or two whether the clip's own weights are used, and why."""
    if not report.is_adapted:
        return f"The released weights are kept. {report.reason}"
    where = f"{report.held_out} held-out frames" if report.held_out else "its own frames"
    return (
        f"{report.steps} steps of learning from the clip took the loss on {where} from "
        f"{report.loss_before:.3f} to {report.loss_after:.3f}: the adapted weights are used."
    )


def loss_curve(report: AdaptationReport) -> str:
    """Return an SVG of the loss of each step, and that before and after on frames held out."""
    marks = (
        Mark(0, report.loss_before, "before"),
        Mark(max(report.steps, 1), report.loss_after, "after"),
    )
    return draw_curve(range(1, report.steps + 1), report.losses, name="loss", marks=marks)


def spread(clip: Iterable[Frame], count: int) -> Sequence[Frame]:
    """Read a clip once and keep `count` frames, about evenly spread; fewer of a shorter one."""
    kept: list[Frame] = []
    stride = 1
    for number, frame in enumerate(clip):
        if number % stride == 0:
            kept.append(frame)
        if len(kept) > 2 * count:
            kept, stride = kept[::2], 2 * stride
    if len(kept) <= count:
        return kept
    return [kept[round(place * (len(kept) - 1) / (count - 1))] for place in range(count)]


def _row(frame: Frame, before: Segmentation, after: Segmentation) -> list[Tile]:
    return [
        Tile(
            thumbnail(shown.overlay(), EDGE),
            f"{frame.time:.2f} s: {shown.mask.mean():.0%} of the frame, "
            f"confidence {shown.confidence:.2f}",
        )
        for shown in (before, after)
    ]


def _about_loss(report: AdaptationReport) -> str:
    where = "frames that were not learned from" if report.held_out else "the frames learned from"
    return (
        "Pale: of each step, on the frames that it drew. Bold: the running mean. "
        f"Dots: before and after, on {where}."
    )


def _chosen(report: AdaptationReport) -> dict[str, str]:
    chosen = {
        "Objective": report.objective,
        "Object channel": f"region {report.channel}",
        "Margin": f"it moves {report.margin:+.0%} against the next region",
    }
    if report.evidence is not None:
        chosen["Evidence"] = f"{report.evidence:.2f} of 1: how clear the clip's motion is"
    return {
        **chosen,
        "Learned from": f"{report.examples} frames or pairs, {report.held_out} held out",
    }


def _times(report: AdaptationReport) -> dict[str, str]:
    parts = {_TIMES[part].capitalize(): f"{s:.1f} s" for part, s in report.seconds.items()}
    return {**parts, "In all": f"{sum(report.seconds.values()):.1f} s"}


def _settings(
    clip: FrameReader, config: AdaptationConfig, released: Segmenter, call: dict[str, Any]
) -> dict[str, object]:
    given = {name: value for name, value in call.items() if value is not None}
    return {
        "Clip": f"{Path(clip.source).name}, {clip.width}x{clip.height}",
        "Weights": released.config.name,
        "Device": released.device,
        **dataclasses.asdict(config),
        **given,
        "amd-seg": __version__,
    }
