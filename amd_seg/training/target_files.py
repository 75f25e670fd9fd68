"""Files of targets: found in parallel, one file a clip, whole or not at all."""

import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from amd_seg.errors import AmdSegError, InputError, MediaError
from amd_seg.media.files import make_folder, write_atomically
from amd_seg.training.clips import Clip, require_mostly_intact
from amd_seg.training.movers import MoverTargets
from amd_seg.workers import worker_pool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetJob:
    """How the targets of one clip, or one photo, are found.

    Attributes:
        find: finds them; picklable where several processes share the work.
        settings: what `find` was told: a file of other settings is not taken for done.
        clip: identity of the clip or photo, where it has one: likewise.
    """

    find: Callable[[], MoverTargets]
    settings: object
    clip: str | None = None


def by_target_name(clips: Iterable[Clip]) -> dict[str, Clip]:
    """Return clips, or photos, by the names of their target files.

    Raises:
        InputError: two have one name, so that one would be taught by the other's targets.
    """
    # The workers import this module, and they need no torch.
    from amd_seg.training.targets import target_name

    named: dict[str, Clip] = {}
    for clip in clips:
        other = named.setdefault(target_name(clip), clip)
        if (other.path, other.frames) != (clip.path, clip.frames):
            paths = " and ".join(
                str(each.path.joinpath(*each.frames[:1])) for each in (other, clip)
            )
            raise InputError(
                f"{paths} would share one file of targets, {target_name(clip)}.npz. "
                "Rename one, or give the folder above both."
            )
    return named


def write_targets(
    jobs: Mapping[str, TargetJob],
    folder: str | os.PathLike[str],
    *,
    workers: int = 2,
    on_file: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find targets and write one file `<name>.npz` a job.

    Jobs whose file is there, whole, and of the same settings and clip are skipped, so that a run
    that was ended goes on. Jobs without a file come first, then those of other settings.

    Args:
        jobs: by name.
        folder: where the files go; it is made when missing.
        workers: processes; with 1 all is done in this one.
        on_file: called with name and number of targets after each file that was written.

    Returns:
        The file of each job that could be read, in the order of `jobs`.

    Raises:
        MediaError: more than one in a hundred cannot be read; the others are done.
        DeviceError: a process was killed, as happens where memory runs out, or could not begin.
    """
    out = Path(folder)
    make_folder(out)
    paths = {name: out / f"{name}.npz" for name in jobs}
    waiting = {
        name: partial(_write, jobs[name], paths[name])
        for name in sorted(jobs, key=lambda name: paths[name].exists())
        if not _is_done(paths[name], jobs[name])
    }
    broken: dict[str, str] = {}
    for name, result in _run(waiting, workers):
        if isinstance(result, AmdSegError):
            logger.warning("Clip %s is left out: %s", name, result)
            broken[name] = str(result)
        elif on_file is not None:
            on_file(name, result)
    require_mostly_intact(broken, len(jobs))
    return [path for name, path in paths.items() if name not in broken]


def _run(
    jobs: Mapping[str, Callable[[], int | AmdSegError]], workers: int
) -> Iterator[tuple[str, int | AmdSegError]]:
    if workers <= 1:
        yield from ((name, job()) for name, job in jobs.items())
        return
    with worker_pool(workers, job="look for targets") as pool:
        names = {pool.submit(_on_one_core, job): name for name, job in jobs.items()}
        yield from ((names[done], done.result()) for done in as_completed(names))


def _on_one_core(job: Callable[[], int | AmdSegError]) -> int | AmdSegError:
    # The processes share the cores already.
    import cv2

    cv2.setNumThreads(1)
    return job()


def _write(job: TargetJob, path: Path) -> int | AmdSegError:
    """Write one file and give its number of targets, or the error to report."""
    try:
        targets = job.find()
    except MediaError as error:
        return error

    arrays: dict[str, Any] = {"settings": np.array(repr(job.settings)), **vars(targets)}
    if job.clip is not None:
        arrays["clip"] = np.array(job.clip)

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, **arrays)

    write_atomically(path, write)
    return len(targets.indices)


def _is_done(path: Path, job: TargetJob) -> bool:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            # Older files do not tell their clip, and are taken at their word.
            is_same = job.clip is None or "clip" not in stored or stored["clip"] == job.clip
            is_asked = stored["settings"] == repr(job.settings)
            return bool(is_same and is_asked) and "confidence" in stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
