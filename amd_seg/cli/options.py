"""Options that several commands share."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

import click

from amd_seg.choices import DEFAULT_REFINEMENT, PRECISIONS, REFINEMENTS

Command = TypeVar("Command", bound=Callable[..., Any])


def under_headings(headings: dict[str, str]) -> type[click.Command]:
    """Return a kind of command whose help has its options under headings.

    Args:
        headings: heading -> names of options, "--out --output"; the rest come last.
    """

    class Sorted(click.Command):
        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            records = {
                parameter.opts[-1]: record
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option)
                and (record := parameter.get_help_record(ctx)) is not None
            }
            for heading, names in headings.items():
                with formatter.section(heading):
                    formatter.write_dl([records.pop(name) for name in names.split()], col_max=22)
            with formatter.section("Other"):
                formatter.write_dl(list(records.values()), col_max=22)

    return Sorted


def weights_option(command: Command) -> Command:
    """Add `--weights`."""
    return click.option(
        "--weights",
        metavar="W",
        help="A name, a folder, a file of weights, or org/name[@revision] on the Hub. "
        "[default: bundled]",
    )(command)


def device_options(command: Command) -> Command:
    """Add `--device` and `--precision`."""
    device = click.option(
        "--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1 or mps."
    )
    precision = click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        metavar="P",
        help=f"Of the network: {' or '.join(PRECISIONS)}.",
    )
    return device(precision(command))


def network_options(batch_help: str) -> Callable[[Command], Command]:
    """Add the flags that choose a network and how it runs.

    Args:
        batch_help: what a batch holds, for `--batch-size`.
    """
    size = click.option(
        "--size",
        type=click.IntRange(16, 8192),
        metavar="S",
        help="Short edge that the network sees, in pixels. [default: the weights']",
    )
    batch_size = click.option(
        "--batch-size", type=click.IntRange(1), metavar="N", default=8, help=batch_help
    )

    def decorate(command: Command) -> Command:
        return weights_option(size(device_options(batch_size(command))))

    return decorate


def refinement_options(command: Command) -> Command:
    """Add the flags that bring the network's coarse map to the photo's edges."""
    refine = click.option(
        "--refine",
        type=click.Choice(REFINEMENTS),
        default=DEFAULT_REFINEMENT,
        metavar="HOW",
        help=f"How masks find the photo's edges: {', '.join(REFINEMENTS)}.",
    )
    return refine(command)


def min_confidence_option(what: str) -> Callable[[Command], Command]:
    """Add `--min-confidence`; `what` has too little of it, "a photo" or "a frame"."""
    return click.option(
        "--min-confidence",
        type=click.FloatRange(0, 1),
        default=0.0,
        metavar="P",
        help=f"Give {what} of less confidence an empty mask.",
    )


def threshold_option(command: Command) -> Command:
    """Add `--threshold`, whose default is that of the weights."""
    return click.option(
        "--threshold",
        metavar="T",
        callback=parse_threshold,
        help="Saliency above which a pixel is in the mask, or otsu. [default: the weights']",
    )(command)


def parse_threshold(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> float | str | None:
    """Return a threshold as a number or "otsu": the callback of `--threshold`."""
    if value is None or value == "otsu":
        return value
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise click.BadParameter(f"{value!r} is neither otsu nor a number between 0 and 1.")
    return number


def parse_points(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[float, float], ...]:
    """Return points in pixels, x first: the callback of `--include` and `--exclude`."""
    points = []
    for value in values:
        try:
            x, y = (float(number) for number in value.split(","))
        except ValueError:
            raise click.BadParameter(f"{value!r} is no point. Give X,Y such as 320,240.") from None
        points.append((x, y))
    return tuple(points)


def parse_clip_points(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[float, float, float], ...]:
    """Return points in a clip: a time in seconds (float) or a frame's number (int), then x, y."""
    points = []
    for value in values:
        moment, _, place = value.partition(":")
        try:
            at = float(moment[:-1]) if moment.endswith("s") else int(moment)
            x, y = (float(number) for number in place.split(","))
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is no point in a clip. Give a time, or a frame's number, and X,Y: "
                "12.5s:320,240 or 300:320,240."
            ) from None
        points.append((at, x, y))
    return tuple(points)


def parse_shard(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Return which part of how many, counted from 1: the callback of `--shard`."""
    index, _, count = value.partition("/")
    if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise click.BadParameter(f"{value!r} is no part. Give I/N, such as 1/64, with I from 1 to N.")


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return a time in seconds, given so or as [H:]M:S: the callback of `--start` and `--end`."""
    if value is None:
        return None
    parts = value.split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or not all(0 <= number < float("inf") for number in numbers):
        raise click.BadParameter(f"{value!r} is no time. Give seconds, or M:S, or H:M:S.")
    return sum(number * 60.0**power for power, number in enumerate(reversed(numbers)))


def parse_rate(ctx: click.Context, param: click.Parameter, value: str) -> Fraction:
    """Return a rate such as 25, 23.976 or 30000/1001: the callback of `--frame-rate`."""
    try:
        rate = Fraction(value)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise click.BadParameter(f"{value!r} is no rate. Give a number above 0, or 30000/1001.")
    return rate
