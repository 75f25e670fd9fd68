"""`amd-seg video`: a clip in, the output video out; `--adapt` learns from the clip first."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from amd_seg.choices import ADAPTED_REFINEMENT, CLIP_REFINEMENT, OUTPUTS
from amd_seg.cli import options, terminal
from amd_seg.cli.options import PATH, refuse
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.errors import AmdSegError, InputError
from amd_seg.training.config import ADAPTATIONS, AdaptationConfig

if TYPE_CHECKING:
    from amd_seg.media.video import FrameReader
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.loop import StepReport
    from amd_seg.video_segmenter import VideoSegmenter

# What only an adaptation takes, and what each frame takes.
_CLIP = ("channel", "include", "exclude")
_CALL = ("size", "threshold", "refine", "min_confidence", "batch_size")
_LEARNED = (
    *("loss_before", "loss_after", "margin", "evidence", "objective", "steps", "held_out"),
    *("is_adapted", "reason", "channel"),
)
LEARNING = ("steps", "objective", "blend", "seed")

learning_options = options.several(
    click.option("--adapt", is_flag=True, help="Learn from the clip first: better masks."),
    click.option("--steps", type=options.COUNT, help="Of learning. [default: 100]"),
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


def adaptation_config(settings: dict[str, Any]) -> AdaptationConfig:
    """Return what `learning_options` of a command say of how a clip is learned from."""
    given = {name: settings[name] for name in LEARNING if settings[name] is not None}
    config = ADAPTATIONS[given.pop("objective", "motion-masks")]
    # The default of --precision is that of masks; what is learned takes the fastest.
    source = click.get_current_context().get_parameter_source("precision")
    if source is not ParameterSource.DEFAULT:
        given["precision"] = settings["precision"]
    return replace(config, **given)


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
    "--start", metavar="T", type=options.time, help="Leave out what is before: S, M:S or H:M:S."
)
@click.option("--end", metavar="T", type=options.time, help="Leave out what is after.")
@click.option("--every", type=options.COUNT, default=1, help="Keep every n-th frame.")
@click.option(
    "--frame-rate",
    metavar="R",
    type=options.rate,
    default="24",
    help="Frames a second of a folder, which has no times of its own.",
)
@learning_options
@click.option("--channel", type=click.IntRange(0), help="The object's region. [default: chosen]")
@options.click_options(
    options.clip_point,
    "T:X,Y",
    "A pixel of the object that is meant, in the frame at a time (12.5s:320,240) or "
    "of a number (300:320,240). Give several by repeating it.",
)
@click.option(
    "--save-adapted",
    type=PATH,
    metavar="DIR",
    help="Keep what was learned, for --weights; after Ctrl-C too.",
)
@click.option(
    "--report",
    type=PATH,
    metavar="HTML",
    help="Write a page about what was learned: loss, frames before and after, times.",
)
@options.mask_options(None, f" [default: {CLIP_REFINEMENT}, after --adapt {ADAPTED_REFINEMENT}]")
@options.network_options("Frames that share a pass of the network.")
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
        facts = _segment(source, settings)
    except AmdSegError as error:
        if as_json:
            terminal.put({"input": source, "status": "failed", "error": str(error)})
        raise
    terminal.put(facts if as_json else facts["output"])
    if facts["status"] == "truncated":
        terminal.fail(f"{source} is cut short: the {facts['frames']} frames it has were written.")


def _segment(source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Do what was asked for, and return what `--json` tells of it."""
    from amd_seg.media.video import open_video
    from amd_seg.video_segmenter import VideoSegmenter, check_output

    adapt, report, save_adapted = (settings[k] for k in ("adapt", "report", "save_adapted"))
    drawing = {name: settings[name] for name in ("output", "background", "overwrite")}
    if not adapt:
        refuse("--adapt", *LEARNING, *_CLIP, "save_adapted", "report")
    # Whatever could not be written is told before the clip is adapted to.
    if report is not None:
        from amd_seg.adaptation_report import check_page, write_adaptation_page

        check_page(report, overwrite=settings["overwrite"])
    if save_adapted is not None and save_adapted.exists() and not save_adapted.is_dir():
        raise InputError(f"{save_adapted} is no folder. Weights are saved in one.")
    keeps_files = save_adapted is not None and not settings["overwrite"]
    if keeps_files and any(save_adapted.glob("*.safetensors")):
        raise InputError(
            f"{save_adapted} has weights. Give another folder, or overwrite them (--overwrite)."
        )
    span = {name: settings[name] for name in ("start", "end", "frame_rate")}
    clip = open_video(source, every=settings["every"], **span)
    target = _beside(source, settings) if settings["out"] is None else Path(settings["out"])
    check_output(clip, target, **drawing)
    load = {name: settings[name] for name in ("device", "precision")}
    video = VideoSegmenter.from_pretrained(settings["weights"], **load)
    released, learned = video.segmenter, {}
    if adapt:
        config = adaptation_config(settings)
        # Points are those of the clip's own frames.
        is_clicked = settings["include"] or settings["exclude"]
        size = None if is_clicked else config.clip_size(released.config)
        found = _adapt(video, open_video(source, short_edge=size, **span), config, settings)
        if report is not None:
            call = {name: settings[name] for name in ("size", "threshold", "overwrite")}
            call |= {"refine": settings["refine"] or video.refinement}
            call |= {"released": released, "adapted": video.segmenter}
            write_adaptation_page(report, clip, found, config, **call)
        seconds = round(sum(found.seconds.values()), 1)
        learned = {"adaptation": {**_rounded(found, *_LEARNED), "seconds": seconds}}
    with terminal.progress(clip.frame_count, "frame") as bar:
        written = video.write(
            clip,
            target,
            **drawing,
            **{name: settings[name] for name in _CALL if settings[name] is not None},
            on_frame=lambda done, total: bar.update(),
            info={"weights": settings["weights"] or "bundled", "adapted": adapt},
        )
    return {
        "input": source,
        "output": str(written.path),
        "status": "truncated" if written.is_truncated else "done",
        **_rounded(written, "frames", "width", "height", "hdr", "mask_share", "confidence"),
        "object": written.mask_share > 0,
        **learned,
    }


def _adapt(
    video: "VideoSegmenter", clip: "FrameReader", config: AdaptationConfig, settings: dict[str, Any]
) -> "AdaptationReport":
    """Adapt to a clip, with a bar; Ctrl-C saves what was learned, if asked to, and ends all."""
    from amd_seg.training.loop import StopTraining

    save_adapted: Path | None = settings["save_adapted"]
    clicks = {name: settings[name] for name in _CLIP}
    with (
        terminal.progress(config.steps, "step") as bar,
        terminal.stopped_by_signals(has_begun=lambda: save_adapted is not None) as received,
    ):
        terminal.notice(f"Learning from {clip.source}.")

        def on_step(step: "StepReport") -> None:
            bar.set_postfix(loss=f"{step.parts['loss']:.4f}", refresh=False)
            bar.update(step.step - bar.n)
            if received:
                raise StopTraining(received[0])

        learned = video.adapt(clip, config, on_step=on_step, **clicks)
    if save_adapted is not None:
        video.save(save_adapted)
    elif received:
        raise KeyboardInterrupt
    if received:
        kept = f"What was learned in {learned.steps} of {config.steps} steps is in {save_adapted}"
        if not learned.is_adapted:
            kept = f"The released weights are in {save_adapted}, as nothing was gained yet"
        terminal.fail(f"Interrupted. {kept}: give it to --weights.", terminal.INTERRUPTED)
    terminal.notice(summary(learned))
    return learned


def _rounded(facts: object, *names: str) -> dict[str, Any]:
    values = {name: getattr(facts, name) for name in names}
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()}


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


def _beside(source: str, settings: dict[str, Any]) -> Path:
    """Return where the output goes by default: beside the clip, in a form that can hold it."""
    path, output = Path(source), settings["output"]
    if not os.path.exists(path):
        raise click.UsageError(f"{source} is a glob, which has no place beside it. Give -o.")
    if path.name in ("", ".."):  # "." or "clips/..": a folder whose own name is elsewhere.
        path = path.resolve()
    stem = path.name if os.path.isdir(path) else path.stem
    suffix = ".webm" if output == "cutout" and settings["background"] is None else ".mp4"
    return path.with_name(f"{stem}.{output}{suffix}")
