"""Options that several commands share, and the kinds of values that options take."""

from collections.abc import Callable
from fractions import Fraction
from functools import reduce, wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from amd_seg.choices import PRECISIONS, REFINEMENTS, SIZES
from amd_seg.cli.terminal import Command

Value = TypeVar("Value")

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1)


def refuse(what_for: str, *names: str) -> None:
    """Raise for options of the running command that were given although they change nothing."""
    source = click.get_current_context().get_parameter_source
    if given := [name for name in names if source(name) is not ParameterSource.DEFAULT]:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        them, are = ("it", "is") if len(given) == 1 else ("them", "are")
        raise click.UsageError(f"{flags} {are} for {what_for}. Drop {them}.")


def under_headings(**headings: str) -> type[click.Command]:
    """Make a kind of command whose help has a heading before each of these options."""

    class Headed(click.Command):
        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            heading = "Options"
            sections: dict[str, list[tuple[str, str]]] = {}
            for parameter in self.get_params(ctx):
                heading = headings.get(parameter.name or "", heading)
                record = parameter.get_help_record(ctx)
                if isinstance(parameter, click.Option) and record is not None:
                    sections.setdefault(heading, []).append(record)
            for heading, records in sections.items():
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=22)

    return Headed


# Kinds of values.


def kind_of_value(otherwise: str) -> Callable[[Callable[[str], Value]], Callable[[str], Value]]:
    """Let a function be the type of an option; where it raises, `otherwise` says what is wrong."""

    def decorate(read: Callable[[str], Value]) -> Callable[[str], Value]:
        @wraps(read)
        def convert(text: str) -> Value:
            try:
                return read(text)
            except (ValueError, ZeroDivisionError):
                raise click.BadParameter(f"{text!r} {otherwise}") from None

        return convert

    return decorate


@kind_of_value("is neither otsu nor a number between 0 and 1.")
def threshold(text: str) -> float | str:
    """A number, or "otsu"."""
    if text != "otsu" and not 0 < float(text) < 1:
        raise ValueError
    return text if text == "otsu" else float(text)


@kind_of_value("is no point. Give X,Y such as 320,240.")
def point(text: str) -> tuple[float, float]:
    """A place in a photo, in pixels, x first."""
    x, y = map(float, text.split(","))
    return x, y


@kind_of_value(
    "is no point in a clip. Give a time, or a frame's number, and X,Y: "
    "12.5s:320,240 or 300:320,240."
)
def clip_point(text: str) -> tuple[float, float, float]:
    """A time in seconds (float) or a frame's number (int), then x and y."""
    moment, _, place = text.partition(":")
    x, y = map(float, place.split(","))
    return float(moment[:-1]) if moment.endswith("s") else int(moment), x, y


@kind_of_value("is no part. Give I/N, such as 1/64, with I from 1 to N.")
def shard(text: str) -> tuple[int, int]:
    """Which part of how many, counted from 1."""
    index, count = map(int, text.split("/"))
    if not 1 <= index <= count:
        raise ValueError
    return index, count


@kind_of_value("is no time. Give seconds, or M:S, or H:M:S.")
def time(text: str) -> float:
    """A time in seconds."""
    numbers = [float(part) for part in text.split(":")]
    if len(numbers) > 3 or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError
    return sum(number * 60.0**power for power, number in enumerate(reversed(numbers)))


@kind_of_value("is no rate. Give a number, or 30000/1001.")
def rate(text: str) -> Fraction:
    """Frames a second: 25, 23.976 or 30000/1001."""
    return Fraction(text)


# Options.


def several(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options in this order."""
    return lambda command: reduce(lambda made, add: add(made), reversed(options), command)


weights_option = click.option(
    "--weights",
    metavar="W",
    help="A name, a folder, a file of weights, or org/name[@revision] on the Hub. "
    "[default: bundled]",
)
device_options = several(
    click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1 or mps."),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        metavar="P",
        help=f"Of the network: {' or '.join(PRECISIONS)}.",
    ),
)


def refine_option(default: str | None, note: str = "") -> Callable[[Command], Command]:
    """Return the option that chooses a refinement."""
    return click.option(
        "--refine",
        type=click.Choice(REFINEMENTS),
        default=default,
        metavar="HOW",
        help=f"How masks find the photo's edges: {', '.join(REFINEMENTS)}.{note}",
    )


def mask_options(refinement: str | None, note: str = "") -> Callable[[Command], Command]:
    """Add the options that make masks of the network's maps."""
    return several(
        click.option(
            "--threshold",
            metavar="T",
            type=threshold,
            help="Saliency above which a pixel is in the mask, or otsu. [default: the weights']",
        ),
        refine_option(refinement, note),
        click.option(
            "--min-confidence",
            type=click.FloatRange(0, 1),
            default=0.0,
            metavar="P",
            help="Give a photo or frame of less confidence an empty mask.",
        ),
    )


def network_options(batch_help: str) -> Callable[[Command], Command]:
    """Add the options that choose a network and how it runs; `batch_help` is of a batch."""
    size_help = "Short edge that the network sees, in pixels. [default: the weights']"
    size = click.option("--size", type=click.IntRange(*SIZES), metavar="S", help=size_help)
    batch_size = click.option("--batch-size", type=COUNT, metavar="N", default=8, help=batch_help)
    return several(weights_option, size, device_options, batch_size)


def click_options(
    kind: Callable[[str], Any], metavar: str, include: str
) -> Callable[[Command], Command]:
    """Add `--include` and `--exclude`."""
    not_its = "A pixel that is not the object's, likewise."
    return several(
        click.option("--include", metavar=metavar, multiple=True, type=kind, help=include),
        click.option("--exclude", metavar=metavar, multiple=True, type=kind, help=not_its),
    )
