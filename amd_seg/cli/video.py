"""`amd-seg video`: a clip in, its twin out."""

import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amd_seg.choices import OUTPUTS
from amd_seg.cli import terminal
from amd_seg.cli.adaptation import (
    Adapting,
    adapt_to,
    adaptation_options,
    asked_for,
    facts_of,
)
from amd_seg.cli.jobs import STANDARD_STREAM
from amd_seg.cli.options import (
    min_confidence_option,
    network_options,
    parse_rate,
    parse_time,
    refinement_options,
    threshold_option,
)
from amd_seg.errors import AmdSegError

if TYPE_CHECKING:
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.video_segmenter import VideoReport


@click.command(context_settings={"show_default": True})
@click.argument("source", metavar="INPUT")
@click.option("-o", "--out", metavar="OUT", help="A file or a folder: its ending says which form.")
@click.option("--output", type=click.Choice(OUTPUTS), default="mask", help="What to draw.")
@click.option(
    "--background",
    metavar="B",
    help="Behind a cutout: blur, a colour, or a picture. [default: transparent]",
)
@click.option(
    "--start", metavar="T", callback=parse_time, help="Leave out what is before: S, M:S or H:M:S."
)
@click.option("--end", metavar="T", callback=parse_time, help="Leave out what is after.")
@click.option("--every", type=click.IntRange(1), default=1, help="Keep every n-th frame.")
@click.option(
    "--frame-rate",
    metavar="R",
    callback=parse_rate,
    default="24",
    help="Frames a second of a folder, which has no times of its own.",
)
@adaptation_options
@threshold_option
@refinement_options
@min_confidence_option("a frame")
@network_options("Frames that share a pass of the network.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@terminal.quiet_option
def video(source: str, as_json: bool, **settings: Any) -> None:
    """Segment the object in a clip.

    INPUT is a video file, a folder of frames, an animated GIF, WebP or PNG, or a glob of frames.
    OUT ends in .mp4, .mov, .mkv, .webm or .gif, or in .json for masks as COCO annotations; without
    an ending it is a folder of PNG frames. Without -o, clip.mask.mp4 is written beside clip.mp4.
    Video files keep the clip's timestamps, sound and subtitles. A transparent cutout needs .webm,
    .mov, .gif or a folder.

    \b
    amd-seg video clip.mp4
    amd-seg video clip.mp4 --adapt --output overlay
    amd-seg video clip.mp4 --output cutout --background blur -o call.mp4
    amd-seg video clip.mp4 --start 1:05 --end 1:10 -o masks/

    \b
    Exit codes: 0 all done, 1 the clip cannot be read, or its end is missing and the frames
    that it has were written, 2 wrong usage, 3 the weights cannot be had, 130 interrupted.
    """
    if STANDARD_STREAM in (source, settings["out"]):
        raise click.UsageError(
            "A clip goes through no pipe: it is read and written at several places of its file. "
            "Give the names of files; ./- is a file of that name."
        )
    try:
        asked = asked_for(settings, precision=settings["precision"])
        report, learned = _segment(source, asked=asked, **settings)
    except AmdSegError as error:
        if as_json:
            terminal.put({"input": source, "status": "failed", "error": str(error)})
        raise
    terminal.put(_facts(source, report, learned) if as_json else str(report.path))
    if report.is_truncated:
        terminal.fail(f"{source} is cut short: the {report.frames} frames it has were written.")


def _segment(
    source: str,
    *,
    asked: Adapting | None,
    out: str | None,
    output: str,
    background: str | None,
    start: float | None,
    end: float | None,
    every: int,
    frame_rate: Fraction,
    overwrite: bool,
    weights: str | None,
    device: str,
    precision: str,
    **call: Any,
) -> "tuple[VideoReport, AdaptationReport | None]":
    from amd_seg.media.video import open_video
    from amd_seg.video_segmenter import check_output

    clip = open_video(source, start=start, end=end, every=every, frame_rate=frame_rate)
    target = Path(out) if out is not None else _beside(source, output, background)
    drawing: dict[str, Any] = {"output": output, "background": background, "overwrite": overwrite}
    # Before torch is loaded and the clip is adapted to.
    check_output(clip, target, **drawing)
    from amd_seg.video_segmenter import VideoSegmenter

    segmenter = VideoSegmenter.from_pretrained(weights, device=device, precision=precision)
    learned = None
    if asked is not None:
        # Points are those of the clip's own frames.
        has_clicks = bool(asked.include or asked.exclude)
        seen = asked.config.frame_size(segmenter.segmenter.config.input_size)
        size = None if has_clicks else seen
        small = open_video(source, start=start, end=end, frame_rate=frame_rate, short_edge=size)
        drawn = {name: call[name] for name in ("size", "threshold", "refine")}
        learned = adapt_to(segmenter, small, asked, shown=clip, overwrite=overwrite, **drawn)
    with terminal.progress(clip.frame_count, "frame") as bar:
        report = segmenter.write(
            clip,
            target,
            **drawing,
            **call,
            on_frame=lambda done, total: bar.update(),
            info={"weights": weights or "bundled", "adapted": asked is not None},
        )
    return report, learned


def _beside(source: str, output: str, background: str | None) -> Path:
    """Return where the twin of a clip goes by default: beside it, in the form that can hold it."""
    path = Path(source)
    if not os.path.exists(path):
        raise click.UsageError(f"{source} is a glob, which has no place beside it. Give -o.")
    if path.name in ("", ".."):  # "." or "clips/..": a folder whose own name is elsewhere.
        path = path.resolve()
    stem = path.name if os.path.isdir(path) else path.stem
    suffix = ".webm" if output == "cutout" and background is None else ".mp4"
    return path.with_name(f"{stem}.{output}{suffix}")


def _facts(
    source: str, report: "VideoReport", learned: "AdaptationReport | None"
) -> dict[str, Any]:
    adaptation = {} if learned is None else {"adaptation": facts_of(learned)}
    return {
        "input": source,
        "output": str(report.path),
        "status": "truncated" if report.is_truncated else "done",
        "frames": report.frames,
        "width": report.width,
        "height": report.height,
        "hdr": report.hdr,
        "mask_share": round(report.mask_share, 4),
        "confidence": round(report.confidence, 4),
        "object": report.mask_share > 0,
        **adaptation,
    }
