"""The options of `amd-seg evaluate`, in groups."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from amd_seg.cli.options import parse_threshold

Command = Callable[..., Any]


def label_options(command: Command) -> Command:
    """Add the options of semantic sets: what the labels are, how a fine-tuned network looks."""
    options = (
        click.option(
            "--classes",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Masks hold labels: the classes that they are, one name a line, from 0 on.",
        ),
        click.option(
            "--coloured-masks", is_flag=True, help="Masks are RGB, in the colours of the classes."
        ),
        click.option(
            "--slide", is_flag=True, help="Labels: windows slide over the photo and are averaged."
        ),
        click.option("--flip", is_flag=True, help="Labels: average with the mirrored photo."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def scoring_options(command: Command) -> Command:
    """Add the options of how maps are compared."""
    options = (
        click.option(
            "--threshold",
            metavar="T",
            default="0.5",
            callback=parse_threshold,
            help="Saliency above which a pixel of a video's frame is in the mask, or otsu.",
        ),
        click.option(
            "--resize-masks", is_flag=True, help="Resize predictions to the ground truth."
        ),
        click.option(
            "--stretch",
            is_flag=True,
            help="Stretch each map to 0..1 first, as PySODMetrics does by default.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def report_options(command: Command) -> Command:
    """Add the options of what is written."""
    options = (
        click.option("--per-sequence", is_flag=True, help="A line for each sequence of videos."),
        click.option("--json", "json_file", metavar="FILE", help="Scores as JSON; - is stdout."),
        click.option("--csv", "csv_file", metavar="FILE", help="The values of every sample."),
        click.option("--markdown", "markdown_file", metavar="FILE", help="The table as Markdown."),
        click.option("--sheet", metavar="FILE", help="A picture of best, median, worst cases."),
        click.option("--overwrite", is_flag=True, help="Replace files of these names."),
    )
    for option in reversed(options):
        command = option(command)
    return command
