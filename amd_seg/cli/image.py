"""`amd-seg image`: photos in, masks and other pictures out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from amd_seg.cli import boundary
from amd_seg.cli.jobs import OUTPUTS, STANDARD_STREAM, Job, make_folders, not_yet_written, plan_jobs
from amd_seg.errors import AmdSegError

if TYPE_CHECKING:
    from amd_seg.segmentation import Segmentation

# As amd_seg.device.PRECISIONS, which would load torch for `--help`; a test holds them equal.
PRECISIONS = ("float32", "bfloat16")

# As amd_seg.refinement.REFINEMENTS, likewise.
REFINEMENTS = ("none", "guided", "grabcut")
DEFAULT_REFINEMENT = "guided"

# Pixels of results that may wait to be written: each takes about 8 bytes.
_PIXELS_WAITING = 64_000_000
_WRITERS_AHEAD = 8

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    facts: dict[str, Any] = field(default_factory=dict)
    """What `--json` tells of a result."""
    error: Exception | None = None
    picture: bytes = b""
    """A PNG for stdout."""


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


def refinement_options(command: Command) -> Command:
    """Add the flags that bring the network's coarse map to the photo's edges."""
    refine = click.option(
        "--refine",
        type=click.Choice(REFINEMENTS),
        default=DEFAULT_REFINEMENT,
        help="How masks find the edges of the photo; grabcut needs OpenCV.",
    )
    tta = click.option(
        "--tta", is_flag=True, help="Mean of three sizes, each mirrored too: six times the work."
    )
    return refine(tta(command))


@click.command(context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--out", metavar="OUT", help="A file, a folder, or - for stdout.")
@click.option("--output", type=click.Choice(OUTPUTS), default="mask", help="What to write.")
@click.option(
    "--threshold",
    metavar="T",
    callback=parse_threshold,
    help="Saliency above which a pixel is in the mask: between 0 and 1, or otsu. "
    "[default: that of the weights]",
)
@click.option(
    "--size",
    type=click.IntRange(16, 8192),
    help="Short edge, in pixels, that the network sees. [default: that of the weights]",
)
@click.option(
    "--weights",
    metavar="W",
    help="A name, a folder, a .safetensors file, or org/name on the Hub. [default: bundled]",
)
@click.option("--revision", metavar="R", help="Branch, tag or commit of weights on the Hub.")
@click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="float32", help="Of the network."
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=8,
    help="Photos that share a pass of the network where their sizes allow it.",
)
@refinement_options
@click.option(
    "--min-confidence",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Confidence below which a photo counts as one without an object: its mask is empty.",
)
@click.option("--keep-rgb", is_flag=True, help="Of cutouts: keep all colours, hidden ones too.")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=200_000_000,
    help="Refuse a file that claims more, before it is decoded.",
)
@click.option("--recursive", is_flag=True, help="Look into sub-folders too.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True, help="Skip photos whose output exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo.")
@boundary.quiet_option
@boundary.debug_option
def image(
    inputs: tuple[str, ...],
    out: str | None,
    output: str,
    keep_rgb: bool,
    recursive: bool,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Segment the object in photos.

    INPUT is a file, a folder, a glob, or - for stdin. Without -o, photo.mask.png is written
    beside photo.jpg; with several inputs, or a folder, OUT is a folder. Files that this command
    named, such as photo.mask.png, are passed over where a folder or a glob finds them.

    \b
    Exit codes: 0 all done, 1 some photos failed, 2 wrong usage,
    3 the weights cannot be had, 130 interrupted.
    """
    if keep_rgb and output != "cutout":
        raise click.UsageError(f"--keep-rgb is of cutouts, not of --output {output}. Drop it.")
    jobs, missing = plan_jobs(inputs, out, output, recursive=recursive)
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise click.UsageError("--json and a picture on stdout cannot share it. Drop one of them.")
    waiting = not_yet_written(jobs, overwrite=overwrite, resume=resume)
    outcomes = [Outcome(Job(text, ""), error=error) for text, error in missing]
    failed = sum(_report(outcome, as_json) for outcome in outcomes)
    if as_json:
        _report_skipped(jobs, waiting)
    if len(waiting) < len(jobs):
        boundary.notice(f"{len(jobs) - len(waiting)} of {len(jobs)} photos were done before.")
    make_folders(waiting, out)
    with boundary.progress(len(waiting), "photo") as bar:
        for outcome in _segment(waiting, output, keep_rgb=keep_rgb, **settings):
            failed += _report(outcome, as_json)
            bar.update()
    if failed:
        boundary.fail(f"{failed} of {len(jobs) + len(missing)} photos failed.")


def _segment(
    jobs: list[Job],
    output: str,
    *,
    keep_rgb: bool,
    weights: str | None,
    revision: str | None,
    device: str,
    precision: str,
    **call: Any,
) -> Iterator[Outcome]:
    """Yield what became of each job, in order; reading, network and writing overlap."""
    if not jobs:
        return
    from amd_seg.overlap import map_ahead
    from amd_seg.segmenter import Segmenter

    drawing = {"keep_rgb": True} if keep_rgb else {}

    def write(pair: "tuple[Job, Segmentation | AmdSegError]") -> Outcome:
        return _write(*pair, output, drawing)

    segmenter = Segmenter.from_pretrained(
        weights, revision=revision, device=device, precision=precision
    )
    results = segmenter.stream((_open(job.source) for job in jobs), **call)
    outcomes = map_ahead(
        write,
        zip(jobs, results, strict=True),
        ahead=_WRITERS_AHEAD,
        weigh=lambda outcome: int(outcome.facts.get("width", 0) * outcome.facts.get("height", 0)),
        budget=_PIXELS_WAITING,
    )
    with closing(results), closing(outcomes):
        yield from outcomes


def _open(source: str) -> str | bytes:
    return sys.stdin.buffer.read() if source == STANDARD_STREAM else source


def _write(
    job: Job, result: "Segmentation | AmdSegError", output: str, drawing: dict[str, bool]
) -> Outcome:
    if isinstance(result, AmdSegError):
        return Outcome(job, error=result)
    picture = b""
    try:
        if job.target == STANDARD_STREAM:
            picture = result.encode(output, **drawing)
        else:
            result.save(job.target, output, **drawing)
    except (AmdSegError, OSError) as error:
        return Outcome(job, error=error)
    height, width = result.mask.shape
    facts = {
        "width": width,
        "height": height,
        "threshold": round(result.threshold, 4),
        "mask_share": round(float(result.mask.mean()), 4),
        "confidence": round(result.confidence, 4),
        "object": bool(result.mask.any()),
    }
    return Outcome(job, facts, picture=picture)


def _report(outcome: Outcome, as_json: bool) -> bool:
    """Print what became of a job; True where it failed."""
    job = outcome.job
    if outcome.error is not None:
        boundary.say(f"Error: {outcome.error}")
        if as_json:
            boundary.put({"input": job.source, "status": "failed", "error": str(outcome.error)})
        return True
    if as_json:
        boundary.put({"input": job.source, "output": job.target, "status": "done", **outcome.facts})
    elif job.target == STANDARD_STREAM:
        sys.stdout.buffer.write(outcome.picture)
    else:
        boundary.put(job.target)
    return False


def _report_skipped(jobs: list[Job], waiting: list[Job]) -> None:
    todo = set(waiting)
    for job in jobs:
        if job not in todo:
            boundary.put({"input": job.source, "output": job.target, "status": "skipped"})
