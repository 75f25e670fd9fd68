"""`amd-seg video`: a clip in, the output video out; `--adapt` learns from the clip first."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from amd_seg.choices import OUTPUTS
from amd_seg.cli import terminal
from amd_seg.cli.options import (
    min_confidence_option,
    network_options,
    parse_clip_points,
    parse_rate,
    parse_time,
    refinement_options,
    threshold_option,
)
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.errors import AmdSegError, InputError
from amd_seg.training.config import ADAPTATIONS, AdaptationConfig

if TYPE_CHECKING:
    from amd_seg.media.video import FrameReader
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.loop import StepReport
    from amd_seg.video_segmenter import VideoSegmenter

Command = TypeVar("Command", bound=Callable[..., Any])

_OF_CONFIG = ("steps", "objective", "blend", "seed")
_OF_CLIP = ("channel", "include", "exclude", "save_adapted", "report")


def learning_options(command: Command) -> Command:
    """Add `--adapt` and how a clip is learned from."""
    options = (
        click.option("--adapt", is_flag=True, help="Learn from the clip first: better masks."),
        click.option("--steps", type=click.IntRange(1), help="Of learning. [default: 100]"),
        click.option(
            "--objective",
            type=click.Choice(list(ADAPTATIONS)),
            help="What is learned: what moves, or eq. 7 as published. [default: motion-masks]",
        ),
        click.option(
            "--blend",
            type=click.FloatRange(0, 1, min_open=True),
            help="Of what was learned in the result, beside the weights before. "
            "[default: 1; photometric: 0.5]",
        ),
        click.option("--seed", type=int, help="Of what is drawn at random. [default: 0]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def adaptation_asked_for(
    settings: dict[str, Any], *flags: str
) -> tuple[AdaptationConfig, dict[str, Any]] | None:
    """Take what `learning_options` gave, and further flags, out of a command's settings.

    Returns:
        The config and the further flags that were given; None without `--adapt`.

    Raises:
        click.UsageError: one of the others was given without it.
    """
    values = {name: settings.pop(name) for name in (*_OF_CONFIG, *flags)}
    given = {name: value for name, value in values.items() if value not in (None, ())}
    if not settings.pop("adapt"):
        for name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} is of use with --adapt only.")
        return None
    others = {name: given.pop(name) for name in flags if name in given}
    config = ADAPTATIONS[given.pop("objective", "motion-masks")]()
    # The default of --precision is that of masks; what is learned takes the fastest.
    source = click.get_current_context().get_parameter_source("precision")
    if source is not ParameterSource.DEFAULT:
        given["precision"] = settings["precision"]
    return replace(config, **given), others


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
@learning_options
@click.option("--channel", type=click.IntRange(0), help="The object's region. [default: chosen]")
@click.option(
    "--include",
    metavar="T:X,Y",
    multiple=True,
    callback=parse_clip_points,
    help="A pixel of the object that is meant, in the frame at a time (12.5s:320,240) or "
    "of a number (300:320,240). Give several by repeating it.",
)
@click.option(
    "--exclude",
    metavar="T:X,Y",
    multiple=True,
    callback=parse_clip_points,
    help="A pixel that is not the object's, likewise.",
)
@click.option(
    "--save-adapted",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep what was learned, for --weights; after Ctrl-C too.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="HTML",
    help="Write a page about what was learned: loss, frames before and after, times.",
)
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
        facts = _segment(source, **settings)
    except AmdSegError as error:
        if as_json:
            terminal.put({"input": source, "status": "failed", "error": str(error)})
        raise
    terminal.put(facts if as_json else facts["output"])
    if facts["status"] == "truncated":
        terminal.fail(f"{source} is cut short: the {facts['frames']} frames it has were written.")


def _segment(
    source: str,
    *,
    out: str | None,
    weights: str | None,
    device: str,
    **settings: Any,
) -> dict[str, Any]:
    """Do what was asked for, and return what `--json` tells of it."""
    asked = adaptation_asked_for(settings, *_OF_CLIP)
    drawing = {name: settings.pop(name) for name in ("output", "background", "overwrite")}
    span = {name: settings.pop(name) for name in ("start", "end", "frame_rate")}
    precision = settings.pop("precision")
    if asked is not None:
        _check_files(asked[1], overwrite=drawing["overwrite"])
    from amd_seg.media.video import open_video
    from amd_seg.video_segmenter import VideoSegmenter, check_output

    clip = open_video(source, every=settings.pop("every"), **span)
    target = Path(out) if out is not None else _beside(source, **drawing)
    check_output(clip, target, **drawing)  # Before the clip is adapted to.
    segmenter = VideoSegmenter.from_pretrained(weights, device=device, precision=precision)
    learned = {}
    if asked is not None:
        config, flags = asked
        # Points are those of the clip's own frames.
        has_clicks = not flags.keys().isdisjoint(("include", "exclude"))
        size = None if has_clicks else config.frame_size(segmenter.segmenter.config.input_size)
        small = open_video(source, short_edge=size, **span)
        call = {name: settings[name] for name in ("size", "threshold", "refine")}
        call["overwrite"] = drawing["overwrite"]
        learned = {"adaptation": _adapt(segmenter, small, clip, config, call, **flags)}
    with terminal.progress(clip.frame_count, "frame") as bar:
        report = segmenter.write(
            clip,
            target,
            **drawing,
            **settings,
            on_frame=lambda done, total: bar.update(),
            info={"weights": weights or "bundled", "adapted": asked is not None},
        )
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
        **learned,
    }


def _check_files(flags: dict[str, Any], *, overwrite: bool) -> None:
    """Raise for files of an adaptation that are there already, before it is made."""
    if "report" in flags:
        from amd_seg.adaptation_report import check_page

        check_page(flags["report"], overwrite=overwrite)
    folder = flags.get("save_adapted")
    if folder is not None and not overwrite and any(folder.glob("*.safetensors")):
        raise InputError(
            f"{folder} has weights. Give another folder, or overwrite them (--overwrite)."
        )


def _adapt(
    segmenter: "VideoSegmenter",
    small: "FrameReader",
    clip: "FrameReader",
    config: AdaptationConfig,
    call: dict[str, Any],
    *,
    save_adapted: Path | None = None,
    report: Path | None = None,
    **clicks: Any,
) -> dict[str, Any]:
    """Adapt to a clip, with a bar of the steps, and return what `--json` tells of it.

    Ctrl-C saves what was learned, if that was asked for, and ends the command.
    """
    from amd_seg.training.loop import StopTraining

    released = segmenter.segmenter
    noted: AbstractContextManager[list[str]] = nullcontext([])
    if save_adapted is not None:
        noted = terminal.stopped_by_signals()
    with terminal.progress(config.steps, "step") as bar, noted as received:
        terminal.notice(f"Learning from {clip.source}.")

        def on_step(step: "StepReport") -> None:
            bar.set_postfix(loss=f"{step.parts['loss']:.4f}", refresh=False)
            bar.update(step.step - bar.n)
            if received:
                raise StopTraining(received[0])

        learned = segmenter.adapt(small, config, on_step=on_step, **clicks)
    if save_adapted is not None:
        segmenter.save(save_adapted)
    if received:
        terminal.fail(
            f"Interrupted. What was learned in {learned.steps} of {config.steps} steps is in "
            f"{save_adapted}: give it to --weights.",
            terminal.INTERRUPTED,
        )
    terminal.notice(summary(learned))
    if report is not None:
        from amd_seg.adaptation_report import write_adaptation_page

        adapted = segmenter.segmenter
        write_adaptation_page(
            report, clip, learned, config, released=released, adapted=adapted, **call
        )
    names = ("objective", "steps", "held_out", "is_adapted", "reason", "channel")
    numbers = {name: getattr(learned, name) for name in ("loss_before", "loss_after", "margin")}
    numbers["evidence"] = learned.evidence
    facts = {name: None if n is None else round(n, 4) for name, n in numbers.items()}
    facts |= {name: getattr(learned, name) for name in names}
    return facts | {"seconds": round(sum(learned.seconds.values()), 1)}


def summary(report: "AdaptationReport") -> str:
    """What an adaptation did, in one line."""
    seconds = sum(report.seconds.values())
    parts = ", ".join(f"{part} {spent:.0f}" for part, spent in report.seconds.items())
    where = "on held-out frames" if report.held_out else "on its frames"
    return (
        f"{report.steps} steps in {seconds:.0f} s ({parts}): loss {where} "
        f"{report.loss_before:.3f} before, {report.loss_after:.3f} after; the object is region "
        f"{report.channel}, which moves {report.margin:+.0%} against the next."
    )


def _beside(source: str, output: str, background: str | None, **_: Any) -> Path:
    """Return where the output goes by default: beside the clip, in a form that can hold it."""
    path = Path(source)
    if not os.path.exists(path):
        raise click.UsageError(f"{source} is a glob, which has no place beside it. Give -o.")
    if path.name in ("", ".."):  # "." or "clips/..": a folder whose own name is elsewhere.
        path = path.resolve()
    stem = path.name if os.path.isdir(path) else path.stem
    suffix = ".webm" if output == "cutout" and background is None else ".mp4"
    return path.with_name(f"{stem}.{output}{suffix}")
