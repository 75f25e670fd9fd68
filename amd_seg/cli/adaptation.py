"""`--adapt` and its flags: a model that learns from the clip before it segments it."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amd_seg.cli import terminal
from amd_seg.cli.options import parse_clip_points
from amd_seg.errors import InputError
from amd_seg.training.config import ADAPTATIONS, AdaptationConfig

if TYPE_CHECKING:
    from amd_seg.media.video import FrameReader
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.loop import StepReport
    from amd_seg.video_segmenter import VideoSegmenter

ClipPoints = tuple[tuple[float, float, float], ...]

_FLAGS = (
    *("steps", "objective", "blend", "seed", "channel", "include", "exclude"),
    *("save_adapted", "report"),
)

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Adapting:
    """What a user asked for with `--adapt`."""

    config: AdaptationConfig
    channel: int | None
    include: ClipPoints
    exclude: ClipPoints
    save_to: Path | None
    page: Path | None


def adaptation_options(command: Command) -> Command:
    """Add `--adapt` and the flags that need it, for one clip."""
    options = (
        click.option(
            "--channel", type=click.IntRange(0), help="The object's region. [default: chosen]"
        ),
        click.option(
            "--include",
            metavar="T:X,Y",
            multiple=True,
            callback=parse_clip_points,
            help="A pixel of the object that is meant, in the frame at a time (12.5s:320,240) or "
            "of a number (300:320,240). Give several by repeating it.",
        ),
        click.option(
            "--exclude",
            metavar="T:X,Y",
            multiple=True,
            callback=parse_clip_points,
            help="A pixel that is not the object's, likewise.",
        ),
        click.option(
            "--save-adapted",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Keep what was learned, for --weights; after Ctrl-C too.",
        ),
        click.option(
            "--report",
            type=click.Path(path_type=Path),
            metavar="HTML",
            help="Write a page about what was learned: loss, frames before and after, times.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return learning_options(command)


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


def asked_for(settings: dict[str, Any], *, precision: str) -> Adapting | None:
    """Take what these options gave out of a command's settings; None without `--adapt`.

    Raises:
        click.UsageError: one of the other flags was given without it.
        InputError: the folder to save to has weights already, or the page is there.
    """
    values = {name: settings.pop(name, None) for name in _FLAGS}
    given = {name: value for name, value in values.items() if value not in (None, ())}
    if not settings.pop("adapt"):
        for name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} is of use with --adapt only.")
        return None
    objective = given.pop("objective", "motion-masks")
    channel, save_to = given.pop("channel", None), given.pop("save_adapted", None)
    page = given.pop("report", None)
    include, exclude = given.pop("include", ()), given.pop("exclude", ())
    if page is not None:
        from amd_seg.adaptation_report import check_page

        check_page(page, overwrite=settings["overwrite"])
    if save_to is not None and not settings["overwrite"] and any(save_to.glob("*.safetensors")):
        raise InputError(
            f"{save_to} has weights. Give another folder, or overwrite them (--overwrite)."
        )
    config = dataclasses.replace(ADAPTATIONS[objective](), **{**given, "precision": precision})
    return Adapting(config, channel, include, exclude, save_to, page)


def adapt_to(
    segmenter: "VideoSegmenter",
    clip: "FrameReader",
    wish: Adapting,
    *,
    shown: "FrameReader",
    overwrite: bool,
    **drawn: Any,
) -> "AdaptationReport":
    """Adapt to a clip, with a bar of the steps; Ctrl-C saves what was learned, if that was asked.

    Args:
        segmenter: goes on with what was learned.
        clip: its frames may be small.
        wish: what was asked for.
        shown: the clip, for the frames of the page; `overwrite` and `drawn` are of the page too,
            see `write_adaptation_page`.

    Raises:
        click.exceptions.Exit: the user interrupted, and what was learned was saved.
    """
    from amd_seg.training.loop import StopTraining

    released = segmenter.segmenter
    with terminal.progress(wish.config.steps, "step") as bar, _noted_if(wish.save_to) as received:
        terminal.notice(f"Learning from {clip.source}.")

        def on_step(step: "StepReport") -> None:
            bar.set_postfix(loss=f"{step.parts['loss']:.4f}", refresh=False)
            bar.update(step.step - bar.n)
            if received:
                raise StopTraining(received[0])

        report = segmenter.adapt(
            clip,
            wish.config,
            channel=wish.channel,
            include=wish.include,
            exclude=wish.exclude,
            on_step=on_step,
        )
    if wish.save_to is not None:
        segmenter.save(wish.save_to)
    if received:
        terminal.fail(
            f"Interrupted. What was learned in {report.steps} of {wish.config.steps} steps is in "
            f"{wish.save_to}: give it to --weights.",
            terminal.INTERRUPTED,
        )
    terminal.notice(summary(report))
    if wish.page is not None:
        from amd_seg.adaptation_report import write_adaptation_page

        write_adaptation_page(
            wish.page,
            shown,
            report,
            wish.config,
            released=released,
            adapted=segmenter.segmenter,
            overwrite=overwrite,
            **drawn,
        )
    return report


def facts_of(report: "AdaptationReport") -> dict[str, Any]:
    """Return what `--json` tells of an adaptation."""
    names = ("objective", "steps", "held_out", "is_adapted", "reason", "channel")
    numbers = ("loss_before", "loss_after", "margin", "evidence")
    facts = {name: getattr(report, name) for name in names}
    for name in numbers:
        value = getattr(report, name)
        facts[name] = None if value is None else round(value, 4)
    return {**facts, "seconds": round(sum(report.seconds.values()), 1)}


def _noted_if(wanted: object) -> AbstractContextManager[list[str]]:
    return terminal.stopped_by_signals() if wanted else nullcontext([])


def summary(report: "AdaptationReport") -> str:
    """What an adaptation did, in one line."""
    seconds = sum(report.seconds.values())
    where = "on held-out frames" if report.held_out else "on its frames"
    return (
        f"{report.steps} steps in {seconds:.0f} s: loss {where} {report.loss_before:.3f} before, "
        f"{report.loss_after:.3f} after; the object is region {report.channel}, which moves "
        f"{report.margin:+.0%} against the next."
    )
