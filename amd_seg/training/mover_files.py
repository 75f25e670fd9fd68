"""Motion targets of many clips: found in parallel, kept as one file a clip.

Run it on clips with `python -m amd_seg.training.mover_files VIDEO_FOLDER OUT`.
"""

import argparse
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from amd_seg.colour_model import require_opencv
from amd_seg.errors import AmdSegError, MediaError
from amd_seg.media.files import write_atomically
from amd_seg.training.background import Flow, dis_flow
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.movers import REFERENCE_RATE, MoverConfig, mover_targets

logger = logging.getLogger(__name__)

FrameSource = Callable[[], NDArray[np.uint8]]
"""Gives the frames of one clip: (frame, height, width, 3), RGB uint8."""


def write_mover_targets(
    clips: Mapping[str, FrameSource],
    folder: str | os.PathLike[str],
    config: MoverConfig | Mapping[str, MoverConfig] | None = None,
    *,
    flow: Flow = dis_flow,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find the targets of many clips and write one file `<name>.npz` a clip.

    Clips whose file is there, whole, and of the same settings are skipped, so that a run that
    was ended goes on. Clips without a file come first, then those of other settings. A file
    appears whole or not at all.

    Args:
        clips: name -> where its frames come from; with several workers both this and `flow`
            must be picklable (a function of a module, a `functools.partial` of one).
        folder: where the files go; it is made when missing.
        config: settings for all clips, or for each by name.
        flow: the dense flow; targets of another flow belong into another folder.
        workers: processes; with 1 all is done in this one.
        on_clip: called with name and number of targets after each clip that was computed.

    Returns:
        The file of each clip, in the order of `clips`.

    Raises:
        MediaError: clips that could not be read, all named; the others are done.
        ConfigError: OpenCV is not installed.
    """
    require_opencv()
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / f"{name}.npz" for name in clips}
    jobs = {}
    for name in sorted(clips, key=lambda name: paths[name].exists()):
        settings = config[name] if isinstance(config, Mapping) else config or MoverConfig()
        if not _is_done(paths[name], settings):
            jobs[name] = partial(_write_clip, clips[name], paths[name], settings, flow)
    failed = []
    for name, result in _run(jobs, workers):
        if isinstance(result, AmdSegError):
            failed.append(f"{name} ({result})")
        elif on_clip is not None:
            on_clip(name, result)
    if failed:
        raise MediaError(
            f"No targets for {len(failed)} of {len(clips)} clips: {'; '.join(failed)}. "
            "The others are done; mend or remove these and start again."
        )
    return list(paths.values())


def _run(
    jobs: Mapping[str, Callable[[], int | AmdSegError]], workers: int
) -> Iterator[tuple[str, int | AmdSegError]]:
    if workers <= 1:
        yield from ((name, job()) for name, job in jobs.items())
        return
    # Forking a process that holds torch's threads can hang it.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        yield from ((names[done], done.result()) for done in as_completed(names))


def _one_thread() -> None:
    require_opencv().setNumThreads(1)


def _write_clip(
    source: FrameSource, path: Path, config: MoverConfig, flow: Flow
) -> int | AmdSegError:
    """Write one clip's file and give its number of targets, or the error to report."""
    try:
        targets = mover_targets(source(), config, flow)
    except MediaError as error:
        return error

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, settings=np.array(repr(config)), **vars(targets))

    write_atomically(path, write)
    return len(targets.indices)


def _is_done(path: Path, config: MoverConfig) -> bool:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            return bool(stored["settings"] == repr(config)) and "confidence" in stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def interleaved(names: Iterable[str]) -> list[str]:
    """Order names `<source>-<number>` so that each stretch holds all sources in their shares."""
    sources: dict[str, list[str]] = {}
    for name in sorted(names):
        sources.setdefault(name.rpartition("-")[0], []).append(name)
    places = {
        name: (rank + 0.5) / len(pieces)
        for pieces in sources.values()
        for rank, name in enumerate(pieces)
    }
    return sorted(places, key=lambda name: (places[name], name))


def clip_frames(clip: Clip, short_edge: int) -> NDArray[np.uint8]:
    """Decode a clip to (frame, height, width, 3), RGB uint8, at most this short edge in pixels.

    Raises:
        MediaError: it cannot be read.
    """
    return np.stack([frame.pixels for frame in clip.open(short_edge=short_edge)])


def _frame_rate(clip: Clip) -> float:
    try:
        return float(clip.open().frame_rate or REFERENCE_RATE)
    except MediaError:
        return REFERENCE_RATE  # its own job says what is wrong with it, beside the others


def write_targets_of_clips(
    clips: Iterable[Clip],
    folder: str | os.PathLike[str],
    config: MoverConfig | None = None,
    *,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find the targets of clips, gaps scaled to each clip's frame rate; see `write_mover_targets`.

    Sources take turns, so that what an ended run leaves is varied.
    """
    # The workers import this module, and they need no torch.
    from amd_seg.training.targets import target_name

    config = config or MoverConfig()
    named = {target_name(clip): clip for clip in clips}
    order = interleaved(named)
    return write_mover_targets(
        {name: partial(clip_frames, named[name], config.work_height) for name in order},
        folder,
        {name: config.at_rate(_frame_rate(named[name])) for name in order},
        workers=workers,
        on_clip=on_clip,
    )


def main(arguments: list[str] | None = None) -> None:
    """Write the targets of clips; the log on stderr has a line a clip."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.mover_files")
    parser.add_argument("videos", help="folder of clips")
    parser.add_argument("out", type=Path, help="folder for the targets")
    parser.add_argument("--short-edge", type=int, help="of the masks, in pixels")
    parser.add_argument(
        "--every", type=int, default=3, help="a target each n-th frame at 24 a second"
    )
    parser.add_argument("--partners", default="1,-1,2,-2,4,-4", help="gaps at 24 frames a second")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    write_targets_of_clips(
        find_clips([options.videos]),
        options.out,
        MoverConfig(
            mask_height=options.short_edge,
            every=options.every,
            partners=tuple(int(gap) for gap in options.partners.split(",")),
        ),
        workers=options.workers,
        on_clip=partial(logger.info, "%s: %d targets"),
    )


if __name__ == "__main__":
    main()
