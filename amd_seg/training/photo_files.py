"""Targets of many stills, one file a photo.

Run it on photos with `python -m amd_seg.training.photo_files PHOTO_FOLDER OUT`.
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from amd_seg.training.clips import Clip, find_photos
from amd_seg.training.mover_files import clip_frames
from amd_seg.training.movers import MoverTargets
from amd_seg.training.photos import PhotoConfig, photo_targets
from amd_seg.training.target_files import TargetJob, by_target_name, write_targets

logger = logging.getLogger(__name__)


def write_photo_targets(
    photos: Iterable[Clip],
    folder: str | os.PathLike[str],
    config: PhotoConfig | None = None,
    *,
    workers: int = 2,
    on_photo: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Find the targets of stills and write one file a photo, see `write_targets`.

    Args:
        photos: from `find_photos`.
        folder: where the files go.
        config: how to look.
        workers: processes.
        on_photo: called with name and number of targets after each photo.

    Raises:
        MediaError: more than one in a hundred cannot be read; the others are done.
        InputError: two photos have one name.
    """
    config = config or PhotoConfig()
    jobs = {
        name: TargetJob(partial(_find, photo, config), config, photo.identity())
        for name, photo in by_target_name(photos).items()
    }
    return write_targets(jobs, folder, workers=workers, on_file=on_photo)


def _find(photo: Clip, config: PhotoConfig) -> MoverTargets:
    (pixels,) = clip_frames(photo, config.work_height)
    return photo_targets(pixels, config)


def main(arguments: list[str] | None = None) -> None:
    """Write the targets of photos; the log on stderr has a line a photo."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.photo_files")
    parser.add_argument("photos", help="folder of photos")
    parser.add_argument("out", type=Path, help="folder for the targets")
    parser.add_argument("--short-edge", type=int, help="of the masks, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    write_photo_targets(
        find_photos(options.photos),
        options.out,
        PhotoConfig(mask_height=options.short_edge),
        workers=options.workers,
        on_photo=partial(logger.info, "%s: %d targets"),
    )


if __name__ == "__main__":
    main()
