"""`amd-seg image`: photos in, masks and other pictures out."""

import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import click

from amd_seg import __version__, choices
from amd_seg.cli import options, terminal
from amd_seg.cli.options import PATH, refuse
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.files import find_images, in_shard, make_folder, write_atomically

_OUTPUTS = dict.fromkeys(choices.OUTPUTS + choices.SEMANTIC_OUTPUTS + choices.ANNOTATIONS)
ONE_FILE = ("coco", "labelstudio")  # outputs that hold all photos
_OF_MASKS = ("threshold", "refine", "min_confidence")  # what classes do not depend on

_WRITERS_AHEAD = 8
_PIXELS_WAITING = 64_000_000  # of results that wait to be written: each takes about 8 bytes
_FREED_KEPT = 384 * 2**20  # bytes of freed memory, about, that may gather in the process


class Job(NamedTuple):
    """One photo to segment: where it is and where its picture goes; "-" is stdin or stdout."""

    source: str
    target: str
    name: str  # the photo's place below the folder that all of them are in


@dataclass
class Outcome:
    """What became of a photo, beside its file."""

    facts: dict[str, Any] = field(default_factory=dict)  # what `--json` tells of it
    error: Exception | None = None
    picture: bytes = b""  # a PNG for stdout
    annotations: Sequence[dict[str, Any]] = ()  # what goes into the one file of all photos
    shown: str = ""  # the picture on the page of all photos


_HEADINGS = options.under_headings(
    out="Output", include="Object and edges", weights="Network", batch_size="Batch"
)


@click.command(cls=_HEADINGS, context_settings={"show_default": True})
@click.argument("inputs", nargs=-1, metavar="[INPUT]...")
@click.option("-o", "--out", metavar="OUT", help="A file, a folder, or - for stdout.")
@click.option(
    "--output",
    type=click.Choice(list(_OUTPUTS)),
    default="mask",
    metavar="NAME",
    help=f"{', '.join(choices.OUTPUTS)}; labels (of fine-tuned weights); or for labelling tools "
    f"{', '.join(choices.ANNOTATIONS)}.",
)
@click.option(
    "--mask-format",
    type=click.Choice(choices.MASK_FORMATS),
    default="rle",
    metavar="F",
    help="coco: rle (exact) or polygon (can be edited).",
)
@click.option("--split", is_flag=True, help="coco, yolo: each connected part for itself.")
@click.option("--report", type=PATH, metavar="HTML", help="A page to look through all masks.")
@options.click_options(
    options.point,
    "X,Y",
    "A pixel of the object that is meant, in one photo. Give several by repeating it.",
)
@options.mask_options(choices.DEFAULT_REFINEMENT)
@options.network_options("Photos of one size that share a pass.")
@click.option(
    "--max-pixels",
    type=options.COUNT,
    default=choices.MAX_PIXELS,
    metavar="N",
    help="Refuse larger files, before they are decoded.",
)
@click.option(
    "--list",
    "list_file",
    type=click.File(encoding="utf-8-sig", errors="surrogateescape"),
    metavar="FILE",
    help="Photos, one a line: the page's accepted.txt.",
)
@click.option("--recursive", is_flag=True, help="Look into sub-folders too.")
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    type=options.shard,
    help="Do the I-th of N parts, for job arrays.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--resume", is_flag=True, help="Skip photos whose output exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo.")
@terminal.quiet_option
def image(
    inputs: tuple[str, ...],
    list_file: TextIO | None,
    recursive: bool,
    shard: tuple[int, int],
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
    out, output, as_json = (settings[name] for name in ("out", "output", "as_json"))
    if output in ONE_FILE and (out is None or Path(out).suffix.lower() != ".json"):
        raise click.UsageError(f"{output} is one file of all photos. Name it: -o masks.json.")
    if output != "coco":
        refuse("--output coco", "mask_format")
    if output not in ("coco", "yolo"):
        refuse("--output coco and yolo", "split")
    if settings["overwrite"] and settings["resume"]:
        raise click.UsageError("--overwrite replaces outputs, --resume keeps them. Choose one.")
    listed = [line.strip() for line in list_file or () if line.strip()]
    if any("\0" in line for line in listed):  # As PowerShell writes it.
        raise click.UsageError(f"The list {list_file and list_file.name} is no UTF-8. Save it so.")
    if not inputs and not listed:
        raise click.UsageError("Give a photo, a folder, or --list with a file that names some.")
    jobs, missing = _plan(inputs, listed, out, output, recursive)
    jobs = [job for job in jobs if in_shard(job.source, *shard)]
    for path in (out if output in ONE_FILE else None, settings["report"]):
        if path is not None and shard[1] > 1 and str(shard[0]) not in Path(path).stem:
            raise click.UsageError(f"Parts cannot share {path}. Put the part's number in its name.")
    count = len(jobs) + len(missing)
    if as_json and any(job.target == STANDARD_STREAM for job in jobs):
        raise click.UsageError("--json and a picture on stdout cannot share it. Drop one of them.")
    if (settings["include"] or settings["exclude"]) and count != 1:
        raise click.UsageError(
            f"--include and --exclude choose an object in one photo, not in {len(jobs)}."
        )
    done: set[Job] = set()
    if output not in ONE_FILE and not settings["overwrite"]:
        done = _written(jobs, settings["resume"])
    for text, error in missing:
        _tell_failure(text, error, as_json)
    failed = len(missing)
    if len(done) < len(jobs) or (settings["report"] and jobs):
        failed += _segment_photos(jobs, done, settings)
    else:
        _tell_done(jobs, done, as_json)
    if failed:
        terminal.fail(f"{failed} of {count} photos failed.")


# What will be read and written, settled before the first photo is read.


def _plan(
    inputs: Sequence[str], listed: Sequence[str], out: str | None, output: str, recursive: bool
) -> tuple[list[Job], list[tuple[str, Exception]]]:
    """Return the jobs, in the order of the inputs, and each input that matches nothing."""
    found: dict[str, tuple[str, Path]] = {}  # Whole path -> photo, and its folder below OUT.
    missing: list[tuple[str, Exception]] = []
    for text in (*inputs, *listed):
        try:
            for source, folder in _find(text, recursive):
                parent, ending = os.path.split(source)
                whole = os.path.join(os.path.realpath(parent), ending)
                found.setdefault(whole, (source, folder))
        except InputError as error:
            missing.append((text, error))
    homes = [os.path.realpath(text) for text in inputs if os.path.isdir(text)]
    homes += [os.path.realpath(os.path.dirname(text)) for text in listed]
    homes += [os.path.dirname(path) for path in found if found[path][0] != STANDARD_STREAM]
    base = os.path.commonpath(homes) if homes else os.getcwd()
    is_alone = len(inputs) == 1 and (inputs[0] == STANDARD_STREAM or os.path.isfile(inputs[0]))
    is_folder = out not in (None, STANDARD_STREAM) and output not in ONE_FILE
    if is_folder and is_alone and not listed:
        is_folder = str(out).endswith(("/", "\\")) or os.path.isdir(str(out))
    jobs, of_list = [], {str(Path(text)) for text in listed}
    for whole, (source, folder) in found.items():
        path = Path("stdin" if source == STANDARD_STREAM else source)
        name = path if source == STANDARD_STREAM else Path(os.path.relpath(whole, base))
        # YOLO finds the labels of a photo by its name.
        picture = f"{path.stem}.txt" if output == "yolo" else f"{path.stem}.{output}.png"
        target = out
        if out is None:
            target = source if source == STANDARD_STREAM else str(path.with_name(picture))
        elif is_folder:
            target = str(Path(out, name.parent if source in of_list else folder, picture))
        jobs.append(Job(source, str(target), name.as_posix()))
    if jobs and output not in ONE_FILE:
        _check_targets(jobs, out, output, is_folder)
    return jobs, missing


def _find(text: str, recursive: bool) -> list[tuple[str, Path]]:
    """Return the photos that an input stands for, each with its folder below the input."""
    if text == STANDARD_STREAM or os.path.isfile(text):
        return [(text if text == "./-" else str(Path(text)), Path())]  # "-" is stdin.
    own = {f".{output}" for output in (*choices.OUTPUTS, *choices.SEMANTIC_OUTPUTS)}
    paths = find_images([text], recursive=recursive)
    photos = [path for path in paths if Path(path.stem).suffix not in own]
    if not photos:
        raise InputError(f"{text} holds only files that amd-seg wrote. Give the photos.")
    is_folder = os.path.isdir(text)
    return [(str(p), p.parent.relative_to(text) if is_folder else Path()) for p in photos]


def _check_targets(jobs: Sequence[Job], out: str | None, output: str, is_folder: bool) -> None:
    """Raise where outputs could not be written, would share a file, or are inputs."""
    by_target: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        to = job.target
        by_target[to if to == STANDARD_STREAM else os.path.realpath(to)].append(job.source)
    on_stdout = len(by_target.pop(STANDARD_STREAM, ()))
    if on_stdout > 1:
        raise click.UsageError(f"{on_stdout} photos cannot share stdout. Give -o a folder.")
    if on_stdout and sys.stdout.isatty():
        raise click.UsageError("A terminal shows no picture. Redirect stdout, or give -o a file.")
    shared = [f"{' and '.join(each)} to {to}" for to, each in by_target.items() if len(each) > 1]
    if shared:
        named = "; ".join(shared)
        raise click.UsageError(f"Photos would share an output: {named}. Rename or move them.")
    for source in {os.path.realpath(job.source) for job in jobs} & by_target.keys():
        raise click.UsageError(f"{source} is an input. Give its output another name.")
    if is_folder and os.path.isfile(str(out)):
        raise click.UsageError(f"-o {out} is a file. With several photos give a folder.")
    if is_folder or out is None or out == STANDARD_STREAM:
        return
    from amd_seg.media.images import FORMATS_WITHOUT_ALPHA, WRITERS

    endings = [".txt"] if output == "yolo" else [".png"] if output == "labels" else [*WRITERS]
    if output == "cutout":
        endings = [end for end in endings if WRITERS[end][0] not in FORMATS_WITHOUT_ALPHA]
    if Path(out).suffix.lower() not in endings:
        known = ", ".join(endings)
        raise click.UsageError(f"-o {out} cannot hold {output}. Use {known}, or a folder.")


def _written(jobs: Sequence[Job], resume: bool) -> set[Job]:
    """Return the jobs whose output exists; raise where the user did not say what to do then."""
    found = {j for j in jobs if j.target != STANDARD_STREAM and os.path.exists(j.target)}
    if found and not resume:
        first = min(job.target for job in found)
        raise click.UsageError(
            f"{len(found)} of {len(jobs)} outputs exist, such as {first}. Use --overwrite to "
            "replace them, or --resume to skip them."
        )
    return found


# From the network to the files.


def _segment_photos(jobs: Sequence[Job], done: set[Job], settings: dict[str, Any]) -> int:
    """Do the jobs that are not done, tell of each, and return how many failed.

    One that is done still goes into a new page, and its output stays as it is.
    """
    from amd_seg.prefetch import map_ahead

    out, output, as_json = (settings[name] for name in ("out", "output", "as_json"))
    segmenter, call, names = _load(settings)
    how = {name: settings[name] for name in ("overwrite", "resume")}
    kept = settings | {"output": None}
    file, page, failed, written = None, None, 0, done
    with ExitStack() as stack:
        if output in ONE_FILE:
            from amd_seg.annotations import AnnotationFile

            info = {"description": "Masks found by amd-seg", **_made_by(settings)}
            info |= {name: settings[name] for name in ("mask_format", "split")}
            info["date_created"] = datetime.now(UTC).isoformat(timespec="seconds")
            file = AnnotationFile(Path(out), output, info=info, categories=names, **how)
            stack.callback(file.close)
            done = written = {job for job in jobs if job.name in file.done}
        if settings["report"] is not None:
            from amd_seg.review_page import ReviewPage

            page = ReviewPage(settings["report"], _made_by(settings), **how)
            stack.callback(page.close)
            done = {job for job in done if job.source in page.done}
        _tell_done(jobs, done, as_json)
        waiting = [job for job in jobs if job not in done]
        if file is None:
            for folder in {Path(job.target).parent for job in waiting if job.target != out}:
                make_folder(folder)
        bar = stack.enter_context(terminal.progress(len(waiting), "photo"))
        photos = (
            sys.stdin.buffer.read() if j.source == STANDARD_STREAM else j.source for j in waiting
        )
        # Reading, network and writing overlap.
        results = stack.enter_context(closing(segmenter.stream(photos, **call)))
        outcomes = map_ahead(
            lambda pair: _write(*pair, names, kept if pair[0] in written else settings),
            zip(waiting, results, strict=True),
            ahead=_WRITERS_AHEAD,
            weigh=lambda made: made.facts.get("width", 0) * made.facts.get("height", 0),
            budget=_PIXELS_WAITING,
        )
        stack.enter_context(closing(outcomes))
        settle_memory = _memory_keeper()
        for job, made in zip(waiting, outcomes, strict=True):
            bar.update()
            settle_memory()
            if made.error is not None:
                failed += 1
                _tell_failure(job.source, made.error, as_json)
                continue
            if file is not None and job not in written:
                file.add(job.name, made.facts["width"], made.facts["height"], made.annotations)
            if page is not None:
                page.add(job.source, made.facts, made.shown)
            if as_json:
                status = "skipped" if job in written else "done"
                told = {"input": job.source, "output": job.target, "status": status}
                terminal.put({**told, **made.facts})
            elif file is None and job not in written:
                terminal.put(made.picture if job.target == STANDARD_STREAM else job.target)
        if file is not None:
            file.finish()
            if not as_json:
                terminal.put(out)
        for path in page.finish() if page is not None else ():
            terminal.notice(f"To look through the masks, open {path}.")
    return failed


def _memory_keeper() -> Callable[[], None]:
    """Return what gives freed memory back to the system, once `_FREED_KEPT` of it has gathered.

    glibc keeps it for what comes, and pieces that photos of one size leave fit those of no other:
    without end of photos there would be no end of pieces. Other C libraries are left alone.
    """
    import ctypes  # Help needs none.

    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim: Any = getattr(libc, "malloc_trim", None)
    needed = math.inf  # bytes, at least, that the process holds for good

    def settle() -> None:
        nonlocal needed
        needed = min(needed, held := _resident())
        if held > needed + _FREED_KEPT:
            trim(0)
            needed = _resident()

    return settle if trim is not None else lambda: None


def _resident() -> int:
    """Return how much memory the process holds, in bytes (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _made_by(settings: dict[str, Any]) -> dict[str, Any]:
    """What a file of masks says of its origin; the same files and settings give the same masks."""
    from amd_seg.weights import digest_of_weights

    return {
        "version": f"amd-seg {__version__}",
        "weights": settings["weights"] or "bundled",
        "weights_sha256": digest_of_weights(settings["weights"]),
        **{name: settings[name] for name in ("size", "precision", *_OF_MASKS)},
    }


def _load(settings: dict[str, Any]) -> tuple[Any, dict[str, Any], Sequence[str]]:
    """Return the segmenter, the settings of its calls, and the names of what it marks."""
    from amd_seg.semantic import SemanticSegmenter, open_segmenter

    load = {name: settings[name] for name in ("device", "precision")}
    segmenter = open_segmenter(settings["weights"], settings["output"], **load)
    call = {name: settings[name] for name in ("size", "batch_size", "max_pixels")}
    if isinstance(segmenter, SemanticSegmenter):
        names = (*_OF_MASKS, "include", "exclude", "report")
        refuse("masks, and these weights tell classes", *names)
        return segmenter, call, segmenter.classes.names[1:]
    return segmenter, call | {name: settings[name] for name in _OF_MASKS}, ("object",)


def _write(job: Job, result: Any, names: Sequence[str], settings: dict[str, Any]) -> Outcome:
    """Write a photo's own file, unless the output is None; make what goes into those of all."""
    if isinstance(result, AmdSegError):
        return Outcome(error=result)
    from amd_seg.annotations import coco_annotations, labelstudio_result, yolo_lines

    if settings["include"] or settings["exclude"]:
        result = result.clicked(settings["include"], settings["exclude"])
    output, split, mask_format = (settings[name] for name in ("output", "split", "mask_format"))
    try:
        made = Outcome(result.facts)
        if output == "coco":
            made.annotations = coco_annotations(result.things, mask_format, split=split)
        elif output == "labelstudio":
            made.annotations = labelstudio_result(result.things, names)
        elif output == "yolo":
            lines = yolo_lines(result.things, split=split)
            if job.target == STANDARD_STREAM:
                made.picture = lines.encode()
            else:
                write_atomically(Path(job.target), lines)
        elif job.target == STANDARD_STREAM:
            made.picture = result.encode(output)
        elif output is not None:
            result.save(job.target, output)
        if settings["report"] is not None:
            from amd_seg.review_page import picture_of

            made.shown = picture_of(result.photo.pixels, result.mask)
    except (AmdSegError, OSError) as error:
        return Outcome(error=error)
    return made


def _tell_done(jobs: Sequence[Job], done: set[Job], as_json: bool) -> None:
    for job in jobs if as_json else ():
        if job in done:
            terminal.put({"input": job.source, "output": job.target, "status": "skipped"})
    if done:
        terminal.notice(f"{len(done)} of {len(jobs)} photos were done before.")


def _tell_failure(source: str, error: Exception, as_json: bool) -> None:
    terminal.say(f"Error: {error}")
    if as_json:
        terminal.put({"input": source, "status": "failed", "error": str(error)})
