"""`amd-seg image`: photos in, masks and other pictures out."""

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from amd_seg.choices import (
    ANNOTATIONS,
    DEFAULT_REFINEMENT,
    MASK_FORMATS,
    MAX_PIXELS,
    OUTPUTS,
    SEMANTIC_OUTPUTS,
)
from amd_seg.cli import terminal
from amd_seg.cli.jobs import (
    ONE_FILE,
    STANDARD_STREAM,
    Job,
    make_folders,
    not_yet_written,
    plan_jobs,
)
from amd_seg.cli.options import (
    min_confidence_option,
    network_options,
    parse_points,
    parse_shard,
    refinement_options,
    threshold_option,
    under_headings,
)
from amd_seg.errors import AmdSegError

if TYPE_CHECKING:
    from amd_seg.annotations import AnnotationFile
    from amd_seg.review_page import ReviewPage
    from amd_seg.segmentation import Segmentation
    from amd_seg.segmenter import Segmenter
    from amd_seg.semantic import SemanticSegmentation, SemanticSegmenter

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
    annotations: Sequence[dict[str, Any]] = ()
    """What goes into the one file of all photos."""
    shown: str = ""
    """The picture on the page of all photos."""


_HEADINGS = {
    "Output": "--out --output --include --exclude --mask-format --split --report --json",
    "Edges": "--threshold --refine --min-confidence",
    "Batch": "--list --recursive --shard --resume --overwrite --max-pixels --batch-size",
    "Network": "--weights --size --device --precision",
}


@click.command(cls=under_headings(_HEADINGS), context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-o", "--out", metavar="OUT", help="A file, a folder, or - for stdout.")
@click.option(
    "--output",
    type=click.Choice(list(dict.fromkeys(OUTPUTS + SEMANTIC_OUTPUTS + ANNOTATIONS))),
    default="mask",
    metavar="NAME",
    help=f"{', '.join(OUTPUTS)}; labels (of fine-tuned weights); or for labelling tools "
    f"{', '.join(ANNOTATIONS)}.",
)
@click.option(
    "--mask-format",
    type=click.Choice(MASK_FORMATS),
    default="rle",
    metavar="F",
    help="coco: rle (exact) or polygon (can be edited).",
)
@click.option("--split", is_flag=True, help="coco, yolo: each connected part for itself.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="HTML",
    help="A page to look through all masks.",
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
@network_options("Photos of one size that share a pass.")
@refinement_options
@min_confidence_option("a photo")
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    metavar="N",
    help="Refuse larger files, before they are decoded.",
)
@click.option(
    "--list",
    "list_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Photos, one a line: the page's accepted.txt.",
)
@click.option("--recursive", is_flag=True, help="Look into sub-folders too.")
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    callback=parse_shard,
    help="Do the I-th of N parts, for job arrays.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True, help="Skip photos whose output exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo.")
@terminal.quiet_option
def image(
    inputs: tuple[str, ...],
    out: str | None,
    output: str,
    mask_format: str,
    split: bool,
    report: Path | None,
    list_file: Path | None,
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
    named, such as photo.mask.png, are passed over where a folder or a glob finds them. coco and
    labelstudio write one file, -o masks.json; yolo a photo.txt for each.

    \b
    Exit codes: 0 all done, 1 some photos failed, 2 wrong usage,
    3 the weights cannot be had, 130 interrupted.
    """
    _check_usage(out, output, mask_format, split)
    listed = [] if list_file is None else _read_list(list_file)
    if not inputs and not listed:
        raise click.UsageError("Give a photo, a folder, or --list with a file that names some.")
    jobs, missing = plan_jobs(inputs, out, output, listed=listed, recursive=recursive, shard=shard)
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise click.UsageError("--json and a picture on stdout cannot share it. Drop one of them.")
    if (settings["include"] or settings["exclude"]) and len(jobs) + len(missing) != 1:
        raise click.UsageError(
            f"--include and --exclude choose an object in one photo, not in {len(jobs)}."
        )
    is_one_file = output in ONE_FILE
    kept = {"overwrite": overwrite, "resume": resume}
    if is_one_file and overwrite and resume:
        raise click.UsageError("--overwrite replaces outputs, --resume keeps them. Choose one.")
    waiting = jobs if is_one_file else not_yet_written(jobs, **kept)
    _check_files([Path(jobs[0].target)] if is_one_file and jobs else [], report, **kept)
    outcomes = [Outcome(Job(text, ""), error=error) for text, error in missing]
    failed = sum(_report(outcome, as_json) for outcome in outcomes)
    with ExitStack() as stack:
        file, page, segmenter = None, None, None
        if waiting or (report and jobs):
            segmenter = _open_segmenter(output, settings)
            made_by = _made_by(settings)
        if segmenter and is_one_file:
            how = {"mask_format": mask_format, "split": split}
            file = _annotation_file(jobs[0].target, output, segmenter, {**made_by, **how}, kept)
            stack.callback(file.close)
            waiting = [job for job in jobs if job.name not in file.done]
        if segmenter and report is not None:
            from amd_seg.review_page import ReviewPage

            if hasattr(segmenter, "classes"):
                raise click.UsageError("--report shows masks; these weights tell classes. Drop it.")
            page = ReviewPage(report, made_by, **kept)
            stack.callback(page.close)
            todo = set(waiting)
            waiting = [job for job in jobs if job in todo or job.source not in page.done]
        if as_json:
            _report_skipped(jobs, waiting)
        if len(waiting) < len(jobs):
            terminal.notice(f"{len(jobs) - len(waiting)} of {len(jobs)} photos were done before.")
        if not is_one_file:
            make_folders(waiting, out)
        with terminal.progress(len(waiting), "photo") as bar:
            marking = {"mask_format": mask_format, "split": split, "on_page": page is not None}
            for outcome in _segment(waiting, segmenter, output, marking, **settings):
                if outcome.error is None:
                    _keep(outcome, file, page)
                failed += _report(outcome, as_json, is_one_file=is_one_file)
                bar.update()
        if file is not None:
            file.finish()
            if not as_json:
                terminal.put(jobs[0].target)
        if page is not None:
            for path in page.finish():
                terminal.notice(f"To look through the masks, open {path}.")
    if failed:
        terminal.fail(f"{failed} of {len(jobs) + len(missing)} photos failed.")


def _check_usage(out: str | None, output: str, mask_format: str, split: bool) -> None:
    if output in ONE_FILE and (out is None or Path(out).suffix.lower() != ".json"):
        raise click.UsageError(f"{output} is one file of all photos. Name it: -o masks.json.")
    if mask_format != "rle" and output != "coco":
        raise click.UsageError("--mask-format is for --output coco. Drop it.")
    if split and output not in ("coco", "yolo"):
        raise click.UsageError("--split is for --output coco and yolo. Drop it.")


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise click.UsageError(f"Cannot read the list {path}: {cause}. Check the name.") from cause
    return [line.strip() for line in text.splitlines() if line.strip()]


def _check_files(files: list[Path], report: Path | None, *, overwrite: bool, resume: bool) -> None:
    """Raise for files of all photos that are there already, before torch is loaded."""
    from amd_seg.media.part_file import begun

    for path in (*files, *([] if report is None else [report])):
        begun(path, lambda path: (), resume=resume, overwrite=overwrite)


def _open_segmenter(output: str, settings: dict[str, Any]) -> "Segmenter | SemanticSegmenter":
    from amd_seg.semantic import open_segmenter

    load = {name: settings[name] for name in ("device", "precision")}
    return open_segmenter(settings["weights"], output, **load)


def _made_by(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a mask depends on."""
    from amd_seg import __version__
    from amd_seg.weights import digest_of_weights

    names = ("size", "precision", "threshold", "refine", "min_confidence")
    return {
        "version": f"amd-seg {__version__}",
        "weights": settings["weights"] or "bundled",
        "weights_sha256": digest_of_weights(settings["weights"]),
        **{name: settings[name] for name in names},
    }


def _annotation_file(
    path: str,
    output: str,
    segmenter: "Segmenter | SemanticSegmenter",
    made_by: dict[str, Any],
    kept: dict[str, bool],
) -> "AnnotationFile":
    from datetime import UTC, datetime

    from amd_seg.annotations import AnnotationFile
    from amd_seg.semantic import SemanticSegmenter

    categories: Sequence[str] = ("object",)
    if isinstance(segmenter, SemanticSegmenter):
        categories = segmenter.classes.names[1:]
    info = {"description": "Masks found by amd-seg", **made_by}
    info["date_created"] = datetime.now(UTC).isoformat(timespec="seconds")
    return AnnotationFile(Path(path), output, info=info, categories=categories, **kept)


def _segment(
    jobs: list[Job],
    segmenter: "Segmenter | SemanticSegmenter | None",
    output: str,
    marking: dict[str, Any],
    *,
    weights: str | None,
    device: str,
    precision: str,
    include: Points,
    exclude: Points,
    **call: Any,
) -> Iterator[Outcome]:
    """Yield what became of each job, in order; reading, network and writing overlap."""
    if not jobs or segmenter is None:
        return
    from amd_seg.prefetch import map_ahead
    from amd_seg.semantic import SemanticSegmenter

    def write(pair: "tuple[Job, Result]") -> Outcome:
        return _write(*pair, output, **marking)

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


def _keep(outcome: Outcome, file: "AnnotationFile | None", page: "ReviewPage | None") -> None:
    """Add a photo to the files of all photos."""
    width, height = outcome.facts["width"], outcome.facts["height"]
    if file is not None:
        file.add(outcome.job.name, width, height, list(outcome.annotations))
    if page is not None:
        page.add(outcome.job.source, outcome.facts, outcome.shown)


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


def _write(
    job: Job, result: "Result", output: str, *, mask_format: str, split: bool, on_page: bool
) -> Outcome:
    if isinstance(result, AmdSegError):
        return Outcome(job, error=result)
    from amd_seg.semantic import SemanticSegmentation

    picture, marks, shown = b"", [], ""
    try:
        if output in ANNOTATIONS:
            marks = _marks(job, result, output, mask_format, split)
        elif job.target == STANDARD_STREAM:
            picture = result.encode(output)
        else:
            result.save(job.target, output)
        if on_page:
            from amd_seg.review_page import picture_of

            assert not isinstance(result, SemanticSegmentation)
            shown = picture_of(result.photo.pixels, result.mask)
    except (AmdSegError, OSError) as error:
        return Outcome(job, error=error)
    return Outcome(job, result.facts, picture=picture, annotations=marks, shown=shown)


def _marks(
    job: Job,
    result: "Segmentation | SemanticSegmentation",
    output: str,
    mask_format: str,
    split: bool,
) -> list[dict[str, Any]]:
    """Return what the one file holds of a photo; YOLO's file is written at once."""
    from amd_seg import annotations
    from amd_seg.media.files import write_atomically

    if output == "coco":
        return annotations.coco_annotations(result.things, mask_format, split=split)
    if output == "labelstudio":
        classes = getattr(result, "classes", None)
        names = ("object",) if classes is None else classes.names[1:]
        return annotations.labelstudio_result(result.things, names)

    def write(stream: BinaryIO) -> None:
        stream.write(annotations.yolo_lines(result.things, split=split).encode())

    write_atomically(Path(job.target), write)
    return []


def _report(outcome: Outcome, as_json: bool, *, is_one_file: bool = False) -> bool:
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
    elif not is_one_file:
        terminal.put(job.target)
    return False


def _report_skipped(jobs: list[Job], waiting: list[Job]) -> None:
    todo = set(waiting)
    for job in jobs:
        if job not in todo:
            terminal.put({"input": job.source, "output": job.target, "status": "skipped"})
