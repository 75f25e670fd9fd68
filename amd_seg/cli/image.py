"""`amd-seg image`: photos in, masks and other pictures out."""

import os
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

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
from amd_seg.cli.options import (
    min_confidence_option,
    network_options,
    parse_points,
    parse_shard,
    refinement_options,
    threshold_option,
    under_headings,
)
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.errors import AmdSegError, InputError

if TYPE_CHECKING:
    from amd_seg.annotations import AnnotationFile
    from amd_seg.segmentation import Segmentation
    from amd_seg.segmenter import Segmenter
    from amd_seg.semantic import SemanticSegmentation, SemanticSegmenter

    Result = Segmentation | SemanticSegmentation | AmdSegError

Points = tuple[tuple[float, float], ...]

ONE_FILE = ("coco", "labelstudio")
"""Outputs that hold all photos in one file."""

# Pixels of results that may wait to be written: each takes about 8 bytes.
_PIXELS_WAITING = 64_000_000
_WRITERS_AHEAD = 8


class Job(NamedTuple):
    """One photo to segment: where it is and where its picture goes; "-" is stdin or stdout."""

    source: str
    target: str
    name: str = ""
    """The photo's place below the folder that all of them are in."""


@dataclass
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


# Options that weights which tell classes have no use for, and their defaults.
_OF_MASKS = {"threshold": None, "refine": DEFAULT_REFINEMENT, "min_confidence": 0.0}

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
    is_one_file = output in ONE_FILE
    kept = {"overwrite": overwrite, "resume": resume}
    if is_one_file and (out is None or Path(out).suffix.lower() != ".json"):
        raise click.UsageError(f"{output} is one file of all photos. Name it: -o masks.json.")
    if mask_format != "rle" and output != "coco":
        raise click.UsageError("--mask-format is for --output coco. Drop it.")
    if split and output not in ("coco", "yolo"):
        raise click.UsageError("--split is for --output coco and yolo. Drop it.")
    if overwrite and resume:
        raise click.UsageError("--overwrite replaces outputs, --resume keeps them. Choose one.")
    listed = [] if list_file is None else _read_list(list_file)
    if not inputs and not listed:
        raise click.UsageError("Give a photo, a folder, or --list with a file that names some.")
    jobs, missing = _plan_jobs(inputs, out, output, listed, recursive, shard)
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise click.UsageError("--json and a picture on stdout cannot share it. Drop one of them.")
    if (settings["include"] or settings["exclude"]) and len(jobs) + len(missing) != 1:
        raise click.UsageError(
            f"--include and --exclude choose an object in one photo, not in {len(jobs)}."
        )
    waiting = jobs if is_one_file else _not_yet_written(jobs, **kept)
    _check_shared_files(jobs[0].target if is_one_file and jobs else None, report, **kept)
    failed = sum(_report(outcome, as_json) for outcome in missing)
    with ExitStack() as stack:
        file, page, segmenter = None, None, None
        if waiting or (report and jobs):
            from amd_seg.semantic import open_segmenter

            load = {name: settings[name] for name in ("device", "precision")}
            segmenter = open_segmenter(settings["weights"], output, **load)
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
        todo = set(waiting)
        for job in jobs:
            if as_json and job not in todo:
                terminal.put({"input": job.source, "output": job.target, "status": "skipped"})
        if len(waiting) < len(jobs):
            terminal.notice(f"{len(jobs) - len(waiting)} of {len(jobs)} photos were done before.")
        if not is_one_file:
            from amd_seg.media.files import make_folder

            below_out = [job for job in waiting if job.target not in (out, STANDARD_STREAM)]
            for folder in {Path(job.target).parent for job in below_out}:
                make_folder(folder)
        with terminal.progress(len(waiting), "photo") as bar:
            marking = {"mask_format": mask_format, "split": split, "on_page": page is not None}
            for outcome in _segment(waiting, segmenter, output, marking, **settings):
                facts = outcome.facts
                if outcome.error is None and file is not None:
                    size = facts["width"], facts["height"]
                    file.add(outcome.job.name, *size, list(outcome.annotations))
                if outcome.error is None and page is not None:
                    page.add(outcome.job.source, facts, outcome.shown)
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


# What will be read and written, settled before the first photo is read


def _read_list(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise click.UsageError(f"Cannot read the list {path}: {cause}. Check the name.") from cause
    return [line.strip() for line in text.splitlines() if line.strip()]


def _plan_jobs(
    inputs: Sequence[str],
    out: str | None,
    output: str,
    listed: Sequence[str],
    recursive: bool,
    shard: tuple[int, int],
) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs of a shard, in the order of the inputs, and each input that matches nothing.

    Raises:
        click.UsageError: `out` cannot take the outputs, or two photos would share one.
    """
    # Each photo, and its folder below the input folder, or the folder of the list.
    found: dict[str, tuple[str, Path]] = {}
    missing: list[Outcome] = []
    for text in inputs:
        try:
            for source, folder in _find(text, recursive):
                found.setdefault(_identity(source), (source, folder))
        except InputError as error:
            missing.append(Outcome(Job(text, ""), error=error))
    home = _common_folder(listed)
    for text in listed:
        if os.path.isfile(text):
            folder = Path(os.path.relpath(Path(text).resolve().parent, home))
            found.setdefault(_identity(text), (text, folder))
        else:
            lost = InputError(f"{text} of the list is no file. Check the name.")
            missing.append(Outcome(Job(text, ""), error=lost))
    base = _common_folder([*listed, *(source for source, _ in found.values())], inputs)
    is_one = len(inputs) == 1 and (inputs[0] == STANDARD_STREAM or os.path.isfile(inputs[0]))
    is_folder = out not in (None, STANDARD_STREAM) and output not in ONE_FILE
    if is_folder and is_one and not listed:
        is_folder = str(out).endswith(("/", "\\")) or os.path.isdir(str(out))
    jobs = []
    for source, folder in found.values():
        path = Path("stdin" if source == STANDARD_STREAM else source)
        # YOLO finds the labels of a photo by its name.
        name = f"{path.stem}.txt" if output == "yolo" else f"{path.stem}.{output}.png"
        if out is None:
            target = source if source == STANDARD_STREAM else str(path.with_name(name))
        else:
            target = str(Path(out) / folder / name) if is_folder else out
        if source == STANDARD_STREAM:
            below = "stdin"
        else:
            # The link itself is meant where a photo is one: only its folder is looked up.
            below = (path.parent.resolve() / path.name).relative_to(base).as_posix()
        jobs.append(Job(source, target, below))
    if output not in ONE_FILE:
        _check_targets(jobs)
        _check_out(jobs, out, output)
    if shard != (1, 1):
        from amd_seg.media.files import in_shard

        jobs = [job for job in jobs if in_shard(job.source, *shard)]
    return jobs, missing


def _find(text: str, recursive: bool) -> list[tuple[str, Path]]:
    if text == STANDARD_STREAM:
        return [(text, Path())]
    from amd_seg.media.files import find_images

    paths = find_images([text], recursive=recursive)
    if os.path.isfile(text):
        return [(str(path), Path()) for path in paths]
    own = {f".{output}" for output in (*OUTPUTS, *SEMANTIC_OUTPUTS)}
    photos = [path for path in paths if Path(path.stem).suffix not in own]
    if not photos:
        raise InputError(f"{text} holds only files that amd-seg wrote. Give the photos.")
    is_folder = os.path.isdir(text)
    return [(str(p), p.parent.relative_to(text) if is_folder else Path()) for p in photos]


def _identity(source: str) -> str:
    """Return one name for all names of a photo; links to one photo are several, each by itself."""
    folder, name = os.path.split(source)
    return source if source == STANDARD_STREAM else os.path.join(os.path.realpath(folder), name)


def _common_folder(files: Sequence[str], inputs: Sequence[str] = ()) -> Path:
    """Return the folder that all these files, and all folders of the inputs, are in."""
    homes = [Path(file).resolve().parent for file in files if file != STANDARD_STREAM]
    homes += [Path(text).resolve() for text in inputs if os.path.isdir(text)]
    return Path(os.path.commonpath(homes)) if homes else Path.cwd()


def _check_targets(jobs: Sequence[Job]) -> None:
    """Raise for two photos with one output, and for an output that is an input."""
    by_target: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        if job.target != STANDARD_STREAM:
            by_target[os.path.realpath(job.target)].append(job.source)
    on_stdout = sum(job.target == STANDARD_STREAM for job in jobs)
    if on_stdout > 1:
        raise click.UsageError(f"{on_stdout} photos cannot share stdout. Give -o a folder.")
    shared = [item for item in by_target.items() if len(item[1]) > 1]
    if shared:
        named = "; ".join(f"{' and '.join(sources)} to {to}" for to, sources in shared)
        raise click.UsageError(f"Photos would share an output: {named}. Rename or move them.")
    for job in jobs:
        if job.source != STANDARD_STREAM and os.path.realpath(job.source) in by_target:
            target = os.path.realpath(job.source)
            raise click.UsageError(f"{target} is an input. Give its output another name.")


def _check_out(jobs: Sequence[Job], out: str | None, output: str) -> None:
    """Raise where the outputs could not be written to `out`, before any is made."""
    if any(job.target == STANDARD_STREAM for job in jobs) and sys.stdout.isatty():
        raise click.UsageError("A terminal shows no picture. Redirect stdout, or give -o a file.")
    if out is None or out == STANDARD_STREAM:
        return
    if all(job.target != out for job in jobs):
        if os.path.isfile(out):
            raise click.UsageError(f"-o {out} is a file. With several photos give a folder.")
        return
    from amd_seg.media.images import FORMATS_WITHOUT_ALPHA, WRITERS

    suffix = Path(out).suffix.lower()
    wrong = None
    if output == "yolo":
        wrong = None if suffix == ".txt" else ": YOLO's labels are text. Use .txt, or a folder."
    elif suffix not in WRITERS:
        wrong = f" has no known ending. Use one of {', '.join(WRITERS)}."
    elif output == "labels" and suffix != ".png":
        wrong = ": labels are an indexed picture. Use .png."
    elif output == "cutout" and WRITERS[suffix][0] in FORMATS_WITHOUT_ALPHA:
        wrong = f": {suffix} holds no transparency. Use .png."
    if wrong:
        raise click.UsageError(f"-o {out}{wrong}")


def _not_yet_written(jobs: Sequence[Job], *, overwrite: bool, resume: bool) -> list[Job]:
    """Return the jobs to do; raise where outputs exist and the user did not say what to do."""
    written = {j for j in jobs if j.target != STANDARD_STREAM and os.path.exists(j.target)}
    if written and not overwrite and not resume:
        first = min(job.target for job in written)
        raise click.UsageError(
            f"{len(written)} of {len(jobs)} outputs exist, such as {first}. Use --overwrite to "
            "replace them, or --resume to skip them."
        )
    return [job for job in jobs if overwrite or job not in written]


def _check_shared_files(file: str | None, page: Path | None, **kept: bool) -> None:
    """Raise for files of all photos that are there already, before torch is loaded."""
    from amd_seg.media.part_file import begun

    for path in (file, page):
        if path is not None:
            begun(Path(path), lambda path: (), **kept)


# From the network to the files


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
    from amd_seg.segmentation import Segmentation
    from amd_seg.semantic import SemanticSegmenter

    has_clicks = bool(include or exclude)
    if isinstance(segmenter, SemanticSegmenter):
        if has_clicks:
            raise click.UsageError("Clicks make masks, and these weights tell classes. Drop them.")
        for name, default in _OF_MASKS.items():
            if call.pop(name) != default:
                flag = "--" + name.replace("_", "-")
                raise click.UsageError(
                    f"{flag} makes masks, and these weights tell classes. Drop it."
                )

    def write(pair: "tuple[Job, Result]") -> Outcome:
        job, result = pair
        if has_clicks and isinstance(result, Segmentation):
            result = result.clicked(include, exclude)
        return _write(job, result, output, **marking)

    photos = (
        sys.stdin.buffer.read() if job.source == STANDARD_STREAM else job.source for job in jobs
    )
    results: Generator[Result] = segmenter.stream(photos, **call)
    outcomes = map_ahead(
        write,
        zip(jobs, results, strict=True),
        ahead=_WRITERS_AHEAD,
        weigh=lambda outcome: int(outcome.facts.get("width", 0) * outcome.facts.get("height", 0)),
        budget=_PIXELS_WAITING,
    )
    with closing(results), closing(outcomes):
        yield from outcomes


def _write(
    job: Job, result: "Result", output: str, *, mask_format: str, split: bool, on_page: bool
) -> Outcome:
    """Write a photo's own file, and make what goes into the files of all photos."""
    if isinstance(result, AmdSegError):
        return Outcome(job, error=result)
    from amd_seg import annotations
    from amd_seg.media.files import write_atomically

    made = Outcome(job)
    try:
        if output == "coco":
            made.annotations = annotations.coco_annotations(result.things, mask_format, split=split)
        elif output == "labelstudio":
            classes = getattr(result, "classes", None)
            names = ("object",) if classes is None else classes.names[1:]
            made.annotations = annotations.labelstudio_result(result.things, names)
        elif output == "yolo":
            lines = annotations.yolo_lines(result.things, split=split).encode()

            def write(stream: BinaryIO) -> None:
                stream.write(lines)

            write_atomically(Path(job.target), write)
        elif job.target == STANDARD_STREAM:
            made.picture = result.encode(output)
        else:
            result.save(job.target, output)
        if on_page:
            from amd_seg.review_page import picture_of
            from amd_seg.segmentation import Segmentation

            assert isinstance(result, Segmentation)
            made.shown = picture_of(result.photo.pixels, result.mask)
        made.facts = result.facts
    except (AmdSegError, OSError) as error:
        return Outcome(job, error=error)
    return made


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
