"""Motion targets of many clips: found in parallel, kept as one file a clip.

Run it on clips with `python -m amd_seg.training.mover_files VIDEO_FOLDER OUT`.
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import MediaError
from amd_seg.training.background import Flow, dis_flow
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.movers import REFERENCE_RATE, MoverConfig, MoverTargets, mover_targets
from amd_seg.training.target_files import TargetJob, by_target_name, write_targets

logger = logging.getLogger(__name__)

FrameSource = Callable[[], Iterable[NDArray[np.uint8]]]
"""Gives the frames of one clip, each (height, width, 3), RGB uint8."""


def write_mover_targets(
    clips: Mapping[str, FrameSource],
    folder: str | os.PathLike[str],
    config: MoverConfig | Mapping[str, MoverConfig] | None = None,
    *,
    flow: Flow = dis_flow,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find the targets of many clips and write one file a clip, see `write_targets`.

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
        MediaError: more than one in a hundred cannot be read; the others are done.
    """
    jobs = {}
    for name, source in clips.items():
        settings = config[name] if isinstance(config, Mapping) else config or MoverConfig()
        jobs[name] = TargetJob(partial(_find, source, settings, flow), settings)
    return write_targets(jobs, folder, workers=workers, on_file=on_clip)


def _find(source: FrameSource, config: MoverConfig, flow: Flow) -> MoverTargets:
    return mover_targets(source(), config, flow)


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


def clip_frames(clip: Clip, short_edge: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a clip, (height, width, 3), RGB uint8, at most this short edge in pixels.

    Raises:
        MediaError: it cannot be read.
    """
    for frame in clip.open(short_edge=short_edge):
        yield frame.pixels


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
    flow: Flow = dis_flow,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find the targets of clips, gaps scaled to each clip's frame rate; see `write_mover_targets`.

    Sources take turns, so that what an ended run leaves is varied.

    Raises:
        InputError: two clips have one name.
    """
    config = config or MoverConfig()
    named = by_target_name(clips)
    jobs = {}
    for name in interleaved(named):
        clip = named[name]
        settings = config.at_rate(_frame_rate(clip))
        find = partial(_find, partial(clip_frames, clip, config.work_height), settings, flow)
        jobs[name] = TargetJob(find, settings, clip.identity())
    return write_targets(jobs, folder, workers=workers, on_file=on_clip)


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
    parser.add_argument(
        "--flow", metavar="W", help="the dense flow of these weights, in place of OpenCV's DIS"
    )
    parser.add_argument(
        "--motion-size",
        type=_size,
        metavar="HxW",
        help="where --flow finds it; finer than the weights' parts small movers better",
    )
    parser.add_argument(
        "--work-height", type=int, default=240, help="short edge at which movers are found"
    )
    parser.add_argument(
        "--min-motion", type=float, default=0.5, help="pixels there, below which it is noise"
    )
    parser.add_argument(
        "--no-grabcut", action="store_true", help="no colour model: what the motion says, alone"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    if options.motion_size and not options.flow:
        parser.error("--motion-size is of use with --flow only.")
    write_targets_of_clips(
        find_clips([options.videos]),
        options.out,
        MoverConfig(
            mask_height=options.short_edge,
            work_height=options.work_height,
            min_motion=options.min_motion,
            every=options.every,
            partners=tuple(int(gap) for gap in options.partners.split(",")),
            grabcut=not options.no_grabcut,
        ),
        flow=_flow_of(options.flow, options.motion_size),
        workers=options.workers,
        on_clip=partial(logger.info, "%s: %d targets"),
    )


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def _flow_of(weights: str | None, motion_size: tuple[int, int] | None) -> Flow:
    if weights is None:
        return dis_flow
    from amd_seg.training.own_flow import OwnFlow  # DIS needs no torch.

    return OwnFlow(weights, motion_size)


if __name__ == "__main__":
    main()
