"""What `amd-seg image` will read and write, settled before the first photo is read."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from amd_seg.errors import InputError

STANDARD_STREAM = "-"

# As amd_seg.segmentation.OUTPUTS, which would load numpy for `--help`; a test holds them equal.
OUTPUTS = ("mask", "saliency", "cutout", "overlay", "regions")


@dataclass(frozen=True)
class Job:
    """One photo to segment: where it is and where its picture goes; "-" is stdin or stdout."""

    source: str
    target: str


@dataclass(frozen=True)
class _Found:
    source: str
    folder: Path
    """The photo's folder below the input folder that it was found in."""


def plan_jobs(
    inputs: Sequence[str], out: str | None, output: str, *, recursive: bool
) -> tuple[list[Job], list[tuple[str, InputError]]]:
    """Return the jobs in the order of the inputs, and each input that matches nothing.

    Raises:
        click.UsageError: `out` cannot take the outputs, or two photos would share one.
    """
    found: dict[str, _Found] = {}
    missing: list[tuple[str, InputError]] = []
    for text in inputs:
        try:
            # A photo that two inputs name is segmented once.
            for item in _find(text, recursive):
                found.setdefault(_identity(item.source), item)
        except InputError as error:
            missing.append((text, error))
    several = len(inputs) > 1 or not _is_one_file(inputs[0])
    jobs = [Job(item.source, _target(item, out, output, several)) for item in found.values()]
    _check_targets(jobs, out)
    return jobs, missing


def not_yet_written(jobs: Sequence[Job], *, overwrite: bool, resume: bool) -> list[Job]:
    """Return the jobs to do, by what the user wants for outputs that exist.

    Raises:
        click.UsageError: some exist and the user did not say what to do, or said both.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite replaces outputs, --resume keeps them. Choose one.")
    written = {job for job in jobs if _exists(job.target)}
    if written and not overwrite and not resume:
        first = min(job.target for job in written)
        raise click.UsageError(
            f"{len(written)} of {len(jobs)} outputs exist, such as {first}. Use --overwrite to "
            "replace them, or --resume to skip them."
        )
    return [job for job in jobs if overwrite or job not in written]


def _find(text: str, recursive: bool) -> list[_Found]:
    if text == STANDARD_STREAM:
        return [_Found(text, Path())]
    from amd_seg.media.images import find_images

    paths = find_images([text], recursive=recursive)
    given = Path(text)
    if given.is_file():
        return [_Found(str(path), Path()) for path in paths]
    photos = [path for path in paths if not _is_own_output(path)]
    if not photos:
        raise InputError(f"{text} holds only files that amd-seg wrote. Give the photos.")
    base = given if given.is_dir() else None
    return [_Found(str(p), p.parent.relative_to(base) if base else Path()) for p in photos]


def _is_own_output(path: Path) -> bool:
    return Path(path.stem).suffix.removeprefix(".") in OUTPUTS


def _is_one_file(text: str) -> bool:
    return text == STANDARD_STREAM or Path(text).is_file()


def _identity(source: str) -> str:
    return source if source == STANDARD_STREAM else str(Path(source).resolve())


def _exists(target: str) -> bool:
    return target != STANDARD_STREAM and Path(target).exists()


def _target(item: _Found, out: str | None, output: str, several: bool) -> str:
    source = Path("stdin" if item.source == STANDARD_STREAM else item.source)
    name = f"{source.stem}.{output}.png"
    if out == STANDARD_STREAM:
        return out
    if out is None:
        return item.source if item.source == STANDARD_STREAM else str(source.with_name(name))
    if several or out.endswith(("/", "\\")) or Path(out).is_dir():
        return str(Path(out) / item.folder / name)
    return out


def _check_targets(jobs: Sequence[Job], out: str | None) -> None:
    by_target: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        by_target[_identity(job.target)].append(job.source)
    shared = {target: sources for target, sources in by_target.items() if len(sources) > 1}
    if STANDARD_STREAM in shared:
        raise click.UsageError(
            f"{len(shared[STANDARD_STREAM])} photos cannot share stdout. Give -o a folder."
        )
    if shared:
        pairs = "; ".join(f"{' and '.join(names)} to {to}" for to, names in shared.items())
        raise click.UsageError(f"Photos would share an output: {pairs}. Rename them, or use -o.")
    if STANDARD_STREAM in by_target and sys.stdout.isatty():
        raise click.UsageError("A picture cannot be shown in a terminal. Redirect stdout, or -o.")
    own = {_identity(job.source) for job in jobs} - {STANDARD_STREAM}
    for target in by_target.keys() & own:
        raise click.UsageError(f"{target} is an input; its output needs another name.")
    folder = Path(out) if out not in (None, STANDARD_STREAM) else None
    if folder is not None and folder.is_file() and all(job.target != out for job in jobs):
        raise click.UsageError(f"-o {out} is a file. With several photos give a folder.")
