"""`--report`: an HTML page about one adaptation, which holds its pictures itself."""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from amd_seg import __version__
from amd_seg.errors import InputError, raising
from amd_seg.media.files import check_target, write_atomically
from amd_seg.media.images import Photo
from amd_seg.media.video import Frame, FrameReader
from amd_seg.review_page import picture_of
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.adaptation import AdaptationReport
from amd_seg.training.config import AdaptationConfig

FRAMES = 6  # that are shown, spread over the clip
EDGE = 440  # longer side of a picture, in pixels

CURVE_STYLE = """
.curve { width: 100%; max-width: 45rem; height: auto; font: 12px system-ui, sans-serif; }
.curve path { stroke: #8884; } .curve .axis { fill: #888; } .curve text { fill: currentColor; }
.curve polyline { fill: none; stroke: #0072b2; stroke-width: 2.5; stroke-linejoin: round; }
.curve polyline.raw { stroke-width: 1; opacity: .45; } .curve circle { fill: #d55e00; }
"""

_TIMES = {
    "frames": "Reading the clip",
    "examples": "Finding what moves",
    "steps": "Learning",
    "checks": "Checking on frames held out",
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
    """Write the page: the loss, frames before and after, what was chosen, times and settings.

    Args:
        path: ends in .html; it is there whole or not at all.
        clip: what was adapted to; it is read once, for the frames that are shown.
        report, config: of `VideoSegmenter.adapt`.
        released, adapted: `VideoSegmenter.segmenter` before it and after it.
        **call: size, threshold and refine, as for a call of a `Segmenter`.
    """
    path = Path(path)
    check_page(path, overwrite=overwrite)
    frames = spread(clip, FRAMES)
    photos = [Photo(f.pixels, None, f"{clip.source}, frame {f.index}") for f in frames]
    pairs = zip(*(raising(s.stream(photos, **call)) for s in (released, adapted)), strict=True)
    pictures = [
        f"<tr><td>{_picture(frame, before)}</td><td>{_picture(frame, after)}</td></tr>"
        for frame, (before, after) in zip(frames, pairs, strict=True)
    ]
    chosen = {
        "Objective": report.objective,
        "Object channel": f"region {report.channel}",
        "Margin": f"it moves {report.margin:+.0%} against the next region",
        "Learned from": f"{report.examples} frames or pairs, {report.held_out} held out",
    }
    if report.evidence is not None:
        chosen["Evidence"] = f"{report.evidence:.2f} of 1: how clear the clip's motion is"
    times = {_TIMES[part]: f"{seconds:.1f} s" for part, seconds in report.seconds.items()}
    times["In all"] = f"{sum(report.seconds.values()):.1f} s"
    settings = {
        "Clip": f"{Path(clip.source).name}, {clip.width}x{clip.height}",
        "Weights": released.config.name,
        "Device": released.device,
        **dataclasses.asdict(config),
        **{name: value for name, value in call.items() if value is not None},
        "amd-seg": __version__,
    }
    template = Template(files("amd_seg").joinpath("adaptation_report.html").read_text("utf-8"))
    text = template.substitute(
        title=escape(f"Adaptation to {Path(clip.source).name}"),
        verdict=escape(verdict(report)),
        where="frames that were not learned from" if report.held_out else "the frames learned from",
        pictures="".join(pictures),
        chosen=_table(chosen),
        times=_table(times),
        settings=_table(settings),
        curve=loss_curve(report),
        curve_style=CURVE_STYLE,
    )
    # A file's name may hold bytes that are no text.
    write_atomically(path, text.encode(errors="replace"))
    return path


def check_page(path: Path, *, overwrite: bool) -> None:
    """Raise where a page shall not be written, before there is anything to write."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"Cannot write {path}: a page ends in .html or .htm.")
    check_target(path, overwrite=overwrite)


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
    """Return an SVG of the loss of each step and its running mean, with dots before and after."""
    ends = (0.0, report.loss_before, "before"), (report.steps, report.loss_after, "after")
    dots = [(step, value, name) for step, value, name in ends if math.isfinite(value)]
    raw = np.array([(n, v) for n, v in enumerate(report.losses, 1) if math.isfinite(v)])
    raw = raw.reshape(-1, 2)
    reach = len(raw) // 20
    means = [raw[max(0, i - reach) : i + reach + 1, 1].mean() for i in range(len(raw))]
    heights = np.array([*raw[:, 1], *(value for _, value, _ in dots)])
    if not len(heights):
        return "<p>The loss is no finite number.</p>"
    low, high, last = heights.min(), heights.max(), max(report.steps, 1)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    # The plot's corners, in units of the drawing.
    left, right, top, bottom, width, height = 64, 704, 12, 220, 720, 260

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + step / last * (right - left)
        y = bottom - (value - low) / (high - low) * (bottom - top)
        return round(x, 1), round(y, 1)

    parts = [f'<text class="axis" x="{left}" y="{height - 4}">step</text>']
    for value in np.linspace(low, high, 5):
        _, y = place(0, value)
        parts.append(f'<path d="M{left} {y}H{right}"/>')
        parts.append(f'<text class="axis" x="{left - 56}" y="{y + 4}">{value:.3g}</text>')
    for tick in range(0, last + 1, -(-last // 5)):
        x, _ = place(tick, low)
        parts.append(f'<text class="axis" x="{x - 8}" y="{bottom + 18}">{tick}</text>')
    for kind, losses in (("raw", raw[:, 1]), ("mean", means)):
        points = " ".join("{},{}".format(*place(*p)) for p in zip(raw[:, 0], losses, strict=True))
        parts.append(f'<polyline class="{kind}" points="{points}"/>')
    for step, value, name in dots:
        x, y = place(step, value)
        side = f'x="{x + 9}"' if name == "before" else f'x="{x - 9}" text-anchor="end"'
        parts.append(f'<circle cx="{x}" cy="{y}" r="5"/>')
        parts.append(f'<text {side} y="{round(y - 8, 1)}">{name} {value:.3f}</text>')
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="loss over steps">{"".join(parts)}</svg>'
    )


def spread(clip: Iterable[Frame], count: int) -> Sequence[Frame]:
    """Read a clip once and keep `count` frames, about evenly spread; fewer of a shorter one."""
    kept: list[Frame] = []
    stride = 1
    for number, frame in enumerate(clip):
        if number % stride == 0:
            kept.append(frame)
        if len(kept) > 2 * count:
            kept, stride = kept[::2], 2 * stride
    count = min(count, len(kept))
    return [kept[round(place)] for place in np.linspace(0, len(kept) - 1, count)]


def _picture(frame: Frame, shown: Segmentation) -> str:
    data = picture_of(frame.pixels, shown.mask, (EDGE, EDGE), quality=85)
    share = f"{shown.mask.mean():.0%} of the frame, confidence {shown.confidence:.2f}"
    return f'<img src="data:image/jpeg;base64,{data}" alt="">{frame.time:.2f} s: {share}'


def _table(rows: Mapping[str, object]) -> str:
    lines = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(lines)}</table>"
