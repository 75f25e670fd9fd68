"""`amd-seg image`: photos in, masks and other pictures out."""

import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from amd_seg.choices import DEFAULT_REFINEMENT, MAX_PIXELS, OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.cli import terminal
from amd_seg.cli.jobs import STANDARD_STREAM, Job, make_folders, not_yet_written, plan_jobs
from amd_seg.cli.options import (
    min_confidence_option,
    network_options,
    parse_points,
    parse_shard,
    refinement_options,
    threshold_option,
)
from amd_seg.errors import AmdSegError

if TYPE_CHECKING:
    from amd_seg.segmentation import Segmentation
    from amd_seg.semantic import SemanticSegmentation

    Result = Segmentation | SemanticSegmentation | AmdSegError

Points = tuple[tuple[float, float], ...]

# Pixels of results that may wait to be written: each takes about 8 bytes.
_PIXELS_WAITING = 64_000_000
_WRITERS_AHEAD = 8


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    facts: dict[str, Any] = field(default_factory=dict)
    """What `--json` tells of a result."""
    error: Exception | None = None
    picture: bytes = b""
    """A PNG for stdout."""


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--out", metavar="OUT", help="A file, a folder, or - for stdout.")
@click.option(
    "--output",
    type=click.Choice(list(dict.fromkeys(OUTPUTS + SEMANTIC_OUTPUTS))),
    default="mask",
    help="What to write.",
)
@click.option(
    "--include",
    metavar="X,Y",
    multiple=True,
    callback=parse_points,
    help="A pixel of the object that is meant, in one photo. Give several by repeating it.",
)
@click.option(
    "--exclude",
    metavar="X,Y",
    multiple=True,
    callback=parse_points,
    help="A pixel that is not the object's, likewise.",
)
@threshold_option
@network_options("Photos that share a pass of the network where their sizes allow it.")
@refinement_options
@min_confidence_option("a photo")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    help="Refuse a file that claims more, before it is decoded.",
)
@click.option("--recursive", is_flag=True, help="Look into sub-folders too.")
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    callback=parse_shard,
    help="Do the I-th of N parts, the same in every run: for job arrays.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True, help="Skip photos whose output exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo.")
@terminal.quiet_option
@terminal.debug_option
def image(
    inputs: tuple[str, ...],
    out: str | None,
    output: str,
    recursive: bool,
    shard: tuple[int, int],
    overwrite: bool,
    resume: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Segment the object in photos.

    INPUT is a file, a folder, a glob, or - for stdin. Without -o, photo.mask.png is written
    beside photo.jpg; with several inputs, or a folder, OUT is a folder. Files that this command
    named, such as photo.mask.png, are passed over where a folder or a glob finds them.
    Weights of amd-seg finetune give the outputs labels and overlay, and tell classes by them.

    \b
    Exit codes: 0 all done, 1 some photos failed, 2 wrong usage,
    3 the weights cannot be had, 130 interrupted.
    """
    jobs, missing = plan_jobs(inputs, out, output, recursive=recursive, shard=shard)
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise click.UsageError("--json and a picture on stdout cannot share it. Drop one of them.")
    if (settings["include"] or settings["exclude"]) and len(jobs) + len(missing) != 1:
        raise click.UsageError(
            f"--include and --exclude choose an object in one photo, not in {len(jobs)}."
        )
    waiting = not_yet_written(jobs, overwrite=overwrite, resume=resume)
    outcomes = [Outcome(Job(text, ""), error=error) for text, error in missing]
    failed = sum(_report(outcome, as_json) for outcome in outcomes)
    if as_json:
        _report_skipped(jobs, waiting)
    if len(waiting) < len(jobs):
        terminal.notice(f"{len(jobs) - len(waiting)} of {len(jobs)} photos were done before.")
    make_folders(waiting, out)
    with terminal.progress(len(waiting), "photo") as bar:
        for outcome in _segment(waiting, output, **settings):
            failed += _report(outcome, as_json)
            bar.update()
    if failed:
        terminal.fail(f"{failed} of {len(jobs) + len(missing)} photos failed.")


def _segment(
    jobs: list[Job],
    output: str,
    *,
    weights: str | None,
    device: str,
    precision: str,
    include: Points,
    exclude: Points,
    **call: Any,
) -> Iterator[Outcome]:
    """Yield what became of each job, in order; reading, network and writing overlap."""
    if not jobs:
        return
    from amd_seg.prefetch import map_ahead
    from amd_seg.semantic import SemanticSegmenter, open_segmenter

    def write(pair: "tuple[Job, Result]") -> Outcome:
        return _write(*pair, output)

    segmenter = open_segmenter(weights, output, device=device, precision=precision)
    if isinstance(segmenter, SemanticSegmenter):
        if include or exclude:
            raise click.UsageError("Clicks make masks, and these weights tell classes. Drop them.")
        call = _without_options_of_masks(call)
    results: Generator[Result] = segmenter.stream((_open(job.source) for job in jobs), **call)
    chosen = (_at_clicks(result, include, exclude) for result in results)
    outcomes = map_ahead(
        write,
        zip(jobs, chosen, strict=True),
        ahead=_WRITERS_AHEAD,
        weigh=lambda outcome: int(outcome.facts.get("width", 0) * outcome.facts.get("height", 0)),
        budget=_PIXELS_WAITING,
    )
    with closing(results), closing(outcomes):
        yield from outcomes


def _at_clicks(result: "Result", include: Points, exclude: Points) -> "Result":
    """Return the object at the clicks, where there are any."""
    from amd_seg.segmentation import Segmentation

    if isinstance(result, Segmentation) and (include or exclude):
        return result.clicked(include, exclude)
    return result


def _open(source: str) -> str | bytes:
    return sys.stdin.buffer.read() if source == STANDARD_STREAM else source


def _without_options_of_masks(call: dict[str, Any]) -> dict[str, Any]:
    """Drop what a network that tells classes has no use for; refuse it where it was asked for."""
    unused: dict[str, Any] = {
        "threshold": None,
        "refine": DEFAULT_REFINEMENT,
        "min_confidence": 0.0,
    }
    for name, default in unused.items():
        if call[name] != default:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} makes masks, and these weights tell classes. Drop it.")
    return {name: value for name, value in call.items() if name not in unused}


def _write(job: Job, result: "Result", output: str) -> Outcome:
    if isinstance(result, AmdSegError):
        return Outcome(job, error=result)
    picture = b""
    try:
        if job.target == STANDARD_STREAM:
            picture = result.encode(output)
        else:
            result.save(job.target, output)
    except (AmdSegError, OSError) as error:
        return Outcome(job, error=error)
    return Outcome(job, result.facts, picture=picture)


def _report(outcome: Outcome, as_json: bool) -> bool:
    """Print what became of a job; True where it failed."""
    job = outcome.job
    if outcome.error is not None:
        terminal.say(f"Error: {outcome.error}")
        if as_json:
            terminal.put({"input": job.source, "status": "failed", "error": str(outcome.error)})
        return True
    if as_json:
        terminal.put({"input": job.source, "output": job.target, "status": "done", **outcome.facts})
    elif job.target == STANDARD_STREAM:
        terminal.put(outcome.picture)
    else:
        terminal.put(job.target)
    return False


def _report_skipped(jobs: list[Job], waiting: list[Job]) -> None:
    todo = set(waiting)
    for job in jobs:
        if job not in todo:
            terminal.put({"input": job.source, "output": job.target, "status": "skipped"})
