"""What `amd-seg image` will read and write, settled before the first photo is read."""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from amd_seg.choices import OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.errors import InputError

STANDARD_STREAM = "-"

ONE_FILE = ("coco", "labelstudio")
"""Outputs that hold all photos in one file."""


@dataclass(frozen=True)
class Job:
    """One photo to segment: where it is and where its picture goes; "-" is stdin or stdout."""

    source: str
    target: str
    name: str = ""
    """The photo's place below the folder that all of them are in."""


def plan_jobs(
    inputs: Sequence[str],
    out: str | None,
    output: str,
    *,
    listed: Sequence[str] = (),
    recursive: bool,
    shard: tuple[int, int],
) -> tuple[list[Job], list[tuple[str, InputError]]]:
    """Return the jobs in the order of the inputs, and each input that matches nothing.

    Args:
        listed: more photos, by their names; below OUT they keep their folders.
        shard: of the jobs only those of this part of so many, see `in_shard`.

    Raises:
        click.UsageError: `out` cannot take the outputs, or two photos would share one.
    """
    # Each photo, and its folder below the input folder that it was found in.
    found: dict[str, tuple[str, Path]] = {}
    missing: list[tuple[str, InputError]] = []
    for text in inputs:
        try:
            # A photo that two inputs name is segmented once.
            for item in _find(text, recursive):
                found.setdefault(_place(item[0]), item)
        except InputError as error:
            missing.append((text, error))
    home = _common_folder(listed)
    for text in listed:
        if os.path.isfile(text):
            folder = Path(os.path.relpath(Path(text).resolve().parent, home))
            found.setdefault(_place(text), (text, folder))
        else:
            missing.append((text, InputError(f"{text} of the list is no file. Check the name.")))
    is_one = len(inputs) == 1 and (inputs[0] == STANDARD_STREAM or os.path.isfile(inputs[0]))
    several = bool(listed) or not is_one
    base = _common_folder([*listed, *(source for source, _ in found.values())], inputs)
    jobs = [
        Job(
            source,
            out if out and output in ONE_FILE else _target(source, folder, out, output, several),
            _name_below(source, base),
        )
        for source, folder in found.values()
    ]
    if output not in ONE_FILE:
        _check_targets(jobs)
        _check_out(jobs, out, output)
    if shard != (1, 1):
        from amd_seg.media.files import in_shard

        jobs = [job for job in jobs if in_shard(job.source, *shard)]
    return jobs, missing


def not_yet_written(jobs: Sequence[Job], *, overwrite: bool, resume: bool) -> list[Job]:
    """Return the jobs to do, by what the user wants for outputs that exist.

    Raises:
        click.UsageError: some exist and the user did not say what to do, or said both.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite replaces outputs, --resume keeps them. Choose one.")
    written = {j for j in jobs if j.target != STANDARD_STREAM and os.path.exists(j.target)}
    if written and not overwrite and not resume:
        first = min(job.target for job in written)
        raise click.UsageError(
            f"{len(written)} of {len(jobs)} outputs exist, such as {first}. Use --overwrite to "
            "replace them, or --resume to skip them."
        )
    return [job for job in jobs if overwrite or job not in written]


def make_folders(jobs: Sequence[Job], out: str | None) -> None:
    """Make the folders of outputs that go below the folder `out`.

    Raises:
        MediaError: one cannot be made.
    """
    targets = [job.target for job in jobs if job.target not in (out, STANDARD_STREAM)]
    if not targets:
        return
    from amd_seg.media.files import make_folder

    for folder in {Path(target).parent for target in targets}:
        make_folder(folder)


def _find(text: str, recursive: bool) -> list[tuple[str, Path]]:
    if text == STANDARD_STREAM:
        return [(text, Path())]
    from amd_seg.media.files import find_images

    paths = find_images([text], recursive=recursive)
    given = Path(text)
    if os.path.isfile(given):
        return [(str(path), Path()) for path in paths]
    own = {f".{output}" for output in (*OUTPUTS, *SEMANTIC_OUTPUTS)}
    photos = [path for path in paths if Path(path.stem).suffix not in own]
    if not photos:
        raise InputError(f"{text} holds only files that amd-seg wrote. Give the photos.")
    base = given if os.path.isdir(given) else None
    return [(str(p), p.parent.relative_to(base) if base else Path()) for p in photos]


def _common_folder(files: Sequence[str], inputs: Sequence[str] = ()) -> Path:
    """Return the folder that all these files, and all folders of the inputs, are in."""
    homes = [Path(file).resolve().parent for file in files if file != STANDARD_STREAM]
    homes += [Path(text).resolve() for text in inputs if os.path.isdir(text)]
    return Path(os.path.commonpath(homes)) if homes else Path.cwd()


def _name_below(source: str, base: Path) -> str:
    if source == STANDARD_STREAM:
        return "stdin"
    # The link itself is meant where a photo is one: only its folder is looked up.
    path = Path(source)
    return (path.parent.resolve() / path.name).relative_to(base).as_posix()


def _place(source: str) -> str:
    """Return one name for all names of a photo; links to one photo are several, each by itself."""
    if source == STANDARD_STREAM:
        return source
    folder, name = os.path.split(source)
    return os.path.join(os.path.realpath(folder), name)


def _file(name: str) -> str:
    """Return the file that a name leads to."""
    return name if name == STANDARD_STREAM else os.path.realpath(name)


def _target(source: str, folder: Path, out: str | None, output: str, several: bool) -> str:
    path = Path("stdin" if source == STANDARD_STREAM else source)
    # YOLO finds the labels of a photo by its name.
    name = f"{path.stem}.txt" if output == "yolo" else f"{path.stem}.{output}.png"
    if out is None:
        return source if source == STANDARD_STREAM else str(path.with_name(name))
    is_folder = several or out.endswith(("/", "\\")) or os.path.isdir(out)
    return str(Path(out) / folder / name) if is_folder and out != STANDARD_STREAM else out


def _check_targets(jobs: Sequence[Job]) -> None:
    """Raise for two photos with one output, and for an output that is an input."""
    by_target: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        by_target[_file(job.target)].append(job.source)
    on_stdout = len(by_target.get(STANDARD_STREAM, []))
    if on_stdout > 1:
        raise click.UsageError(f"{on_stdout} photos cannot share stdout. Give -o a folder.")
    shared = {target: sources for target, sources in by_target.items() if len(sources) > 1}
    if shared:
        named = "; ".join(f"{' and '.join(sources)} to {to}" for to, sources in shared.items())
        raise click.UsageError(f"Photos would share an output: {named}. Rename or move them.")
    own = {_file(job.source) for job in jobs} - {STANDARD_STREAM}
    for target in by_target.keys() & own:
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
    if output == "yolo":
        if suffix != ".txt":
            raise click.UsageError(f"-o {out}: YOLO's labels are text. Use .txt, or a folder.")
        return
    if suffix not in WRITERS:
        raise click.UsageError(f"-o {out} has no known ending. Use one of {', '.join(WRITERS)}.")
    if output == "labels" and suffix != ".png":
        raise click.UsageError(f"-o {out}: labels are an indexed picture. Use .png.")
    if output == "cutout" and WRITERS[suffix][0] in FORMATS_WITHOUT_ALPHA:
        raise click.UsageError(f"-o {out}: {suffix} holds no transparency. Use .png.")
