"""A clip's twin in any form: a video file, a folder of PNG frames, a GIF.

    with open_writer(Path("clip.mask.mp4"), clip) as writer:
        for frame in clip:
            writer.write(writer.prepare(picture_of(frame)), frame.index, frame.time)

Every form is written beside its target and moved there at the end: whoever stops the process in
between leaves what was there before.
"""

import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.encodings import OPAQUE, WITH_ALPHA
from amd_seg.media.files import name_beside, replacing, unwritable
from amd_seg.media.images import WRITERS
from amd_seg.media.video import FrameReader
from amd_seg.media.video_writer import VideoWriter

SUFFIXES = tuple(OPAQUE)
"""Endings of the files that can be written; a name without an ending is a folder's."""

# As DAVIS calls its frames.
_FRAME_NAME = "{:05d}.png"
_FRAME_NAMES = re.compile(r"\d{5,}\.png")


class FrameWriter(Protocol):
    """What the writers of all forms offer; it is used in a `with` statement."""

    def prepare(self, picture: NDArray[Any]) -> Any:
        """Do what can be done in any thread and in any order; the result is for `write`."""

    def write(self, prepared: Any, index: int, time: float) -> None:
        """Append a picture: `index` and `time`, in seconds, are those of its frame."""


def check_target(
    target: Path, source: str, *, has_alpha: bool = False, overwrite: bool = False
) -> None:
    """Raise where a clip's twin could not be written, before any work is done.

    Args:
        target: the file, or the folder of frames, that is to be made.
        source: the clip, as its reader was told.
        has_alpha: the pictures have an alpha channel.
        overwrite: what is there may be replaced.

    Raises:
        InputError: the ending is unknown or holds no alpha, something is there already, or it is
            the clip itself.
    """
    suffix = target.suffix.lower()
    is_folder = _is_folder(target)
    if not is_folder and suffix not in SUFFIXES:
        raise InputError(
            f"Cannot write {target}: unknown ending {suffix!r}. Use one of {', '.join(SUFFIXES)}, "
            "or a folder's name."
        )
    if has_alpha and suffix in OPAQUE.keys() - WITH_ALPHA.keys():
        raise InputError(
            f"Cannot write {target}: {suffix} holds no transparency. Use .webm or .mov, or give a "
            "background."
        )
    if target.exists() and target.samefile(_place_of(source)):
        raise InputError(f"Cannot write {target}: it is the clip itself. Give another name.")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        if not overwrite:
            raise InputError(f"{target} exists. Give another name, or overwrite it (--overwrite).")
        _require_frames_only(target)


@contextmanager
def open_writer(
    target: Path,
    clip: FrameReader,
    *,
    has_alpha: bool = False,
    origin: float = 0.0,
) -> Iterator[FrameWriter]:
    """Give a writer of a clip's twin; an error within leaves what was there before.

    Args:
        target: as `check_target` allows it; what is there is replaced.
        clip: whose twin it is: a video file gets its timestamps, sound and subtitles.
        has_alpha: pictures are (height, width, 4), RGBA.
        origin: the time in the clip, in seconds, at which a video file begins.

    Raises:
        MediaError: it cannot be written.
    """
    suffix = target.suffix.lower()
    if _is_folder(target):
        with _replacing_folder(target) as folder:
            yield FolderWriter(folder)
        return
    with replacing(target) as path:
        encoding = (WITH_ALPHA if has_alpha else OPAQUE)[suffix]
        with VideoWriter(path, target, clip, encoding, origin=origin) as video:
            yield video


class FolderWriter:
    """Writes PNG frames into a folder, called as DAVIS does: 00000.png, 00001.png, ..."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self, picture: NDArray[np.uint8]) -> bytes:
        """Return a picture (height, width[, 3|4]) as the bytes of a PNG."""
        file = BytesIO()
        name, options = WRITERS[".png"]
        Image.fromarray(picture).save(file, name, **options)
        return file.getvalue()

    def write(self, prepared: bytes, index: int, time: float) -> None:
        """Write the file of the frame `index`."""
        (self._folder / _FRAME_NAME.format(index)).write_bytes(prepared)


def _is_folder(target: Path) -> bool:
    return target.is_dir() or not target.suffix


def _place_of(source: str) -> Path:
    """Return where a clip lies: a file, or the folder of its frames."""
    path = Path(source)
    return path if path.exists() else Path(glob.glob(source)[0]).parent


def _require_frames_only(target: Path) -> None:
    # A folder is replaced as a whole, or frames of an older, longer run would stay among ours.
    names = [path.name for path in target.iterdir()] if target.is_dir() else []
    others = [name for name in names if not _FRAME_NAMES.fullmatch(name)]
    if others:
        raise InputError(
            f"Cannot replace the folder {target}: it holds more than frames, such as {others[0]}. "
            "Give another name."
        )


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to write to; it takes the place of `path` when all went well."""
    target = Path(os.path.realpath(path))
    temporary, old = name_beside(target), name_beside(target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except AmdSegError:
        raise
    except OSError as cause:
        raise unwritable(path, cause) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
