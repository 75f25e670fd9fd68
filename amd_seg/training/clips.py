"""Where training clips come from: video files, folders of frames, data sets, split files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import natural_key
from amd_seg.media.frames import EVERY_FRAME, FrameFolder, Span, list_frames
from amd_seg.media.video import VideoReader

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # noqa: SIM905
)

# In this order a data set's folder leads to its frames: YouTube-VOS, then DAVIS. Masks, lists and
# the same frames in another size lie beside these folders.
_LAYOUT = ("train_all_frames", "JPEGImages", "480p")

# Above this share of clips that cannot be read, the data is not what its owner thinks it is.
MAX_BROKEN = 0.01


@dataclass(frozen=True)
class Clip:
    """A clip to learn from; nothing of it is decoded yet.

    Attributes:
        name: how messages and batches name it, relative to its root.
        path: the video file, or the folder of its frames.
        frames: file names in `path`, in order; empty for a video file.
        weight: how often it is drawn, relative to the other clips.
    """

    name: str
    path: Path
    frames: tuple[str, ...] = ()
    weight: float = 1.0

    def open(
        self, *, short_edge: int | None = None, span: Span = EVERY_FRAME
    ) -> VideoReader | FrameFolder:
        """Return a reader of its frames, for one thread: clips are read in parallel.

        Raises:
            MediaError: it cannot be read.
        """
        if not self.frames:
            return VideoReader(self.path, span=span, short_edge=short_edge, threads=1)
        images = [self.path / frame for frame in self.frames]
        return FrameFolder(images, source=str(self.path), span=span, short_edge=short_edge)

    def timestamps(self) -> list[float]:
        """Return the time of each frame in seconds, without decoding any.

        Raises:
            MediaError: it cannot be read, or has no timestamps.
        """
        return self.open().timestamps()

    def identity(self) -> str:
        """Tell the clip from another one, wherever its root lies, without opening it.

        What is a single file is told by its size: not every container tells its frames, and
        another encoding of a clip is another clip.
        """
        name = self.name if self.weight == 1 else f"{self.name}@{self.weight:g}"
        return f"{name} ({self._content()})"

    def unweighted_identity(self) -> str:
        """Tell the clip from another one, however often either is drawn."""
        return f"{self.name} ({self._content()})"

    def _content(self) -> str:
        if len(self.frames) > 1:
            first, last = self.frames[0], self.frames[-1]
            return f"{len(self.frames)} frames, {first} to {last}"
        file = self.path.joinpath(*self.frames)
        # What cannot be read is said where clips are opened.
        return f"{file.stat().st_size if file.is_file() else 0} bytes"


def find_clips(roots: Sequence[str]) -> list[Clip]:
    """Return the clips under `roots`, each root in natural order.

    A root is a video file; a folder of frames; a folder of such files and folders, at any depth;
    a data set in the layout of YouTube-VOS or DAVIS, of which only the frames are taken; or a
    `.txt` file with one line a clip, `folder frame frame ...`, folders relative to the file or to
    a folder above it. `ROOT@2` draws the clips of that root twice as often.

    Raises:
        InputError: a root does not exist, its weight is not above 0, or it holds no clip.
    """
    clips = []
    for root in roots:
        path, weight = _split_weight(root)
        found = list(_clips_of(path))
        if not found:
            raise InputError(
                f"No clip in {path}: neither a video file nor a folder of frames. "
                "Give a folder that holds some."
            )
        clips += [replace(clip, weight=weight) for clip in found]
    return clips


def find_photos(root: str | os.PathLike[str]) -> list[Clip]:
    """Return the photos in a folder, at any depth, each as a clip of one frame.

    Raises:
        InputError: the folder does not exist, or holds no photo.
    """
    top = Path(root)
    if not top.is_dir():
        raise InputError(f"No such folder: {top}. Check the path.")
    folders = [top, *sorted((path for path in top.rglob("*") if path.is_dir()), key=natural_key)]
    photos = [photo for folder in folders for photo in list_frames(folder)]
    if not photos:
        raise InputError(f"No photo in {top}. Give a folder that holds some.")
    return [Clip(str(path.relative_to(top)), path.parent, (path.name,)) for path in photos]


def require_mostly_intact(broken: dict[str, str], total: int) -> None:
    """Raise when too many clips are broken.

    Args:
        broken: reason by clip name.
        total: clips that were tried.

    Raises:
        MediaError: more than one in a hundred is broken.
    """
    if len(broken) > MAX_BROKEN * total:
        names = "; ".join(f"{name}: {reason}" for name, reason in list(broken.items())[:5])
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise MediaError(
            f"{len(broken)} of {total} clips cannot be read ({names}{more}). "
            f"At most {MAX_BROKEN:.0%} may be broken: mend or remove them."
        )


def _split_weight(root: str) -> tuple[Path, float]:
    path = Path(root)
    head, at, tail = root.rpartition("@")
    if path.exists() or not at:
        weight = 1.0
    else:
        path = Path(head)
        try:
            weight = float(tail)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise InputError(
                f"Root {root!r}: {tail!r} is no weight. Give PATH@2, a number above 0."
            )
    if not path.exists():
        raise InputError(f"No such file or folder: {path}. Check the path.")
    return path, weight


def _clips_of(root: Path) -> Iterator[Clip]:
    if root.is_dir():
        yield from _walk(root, root)
    elif root.suffix.lower() == ".txt":
        yield from _split_file(root)
    else:
        yield Clip(root.name, root)


def _walk(folder: Path, root: Path) -> Iterator[Clip]:
    for known in _LAYOUT:
        if (folder / known).is_dir():
            yield from _walk(folder / known, root)
            return
    name = folder.name if folder == root else str(folder.relative_to(root))
    frames = list_frames(folder)
    if frames:
        yield Clip(name, folder, tuple(frame.name for frame in frames))
    for path in sorted(folder.iterdir(), key=natural_key):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, root)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield Clip(str(path.relative_to(root)), path)


def _split_file(path: Path) -> Iterator[Clip]:
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as cause:
        raise InputError(
            f"Cannot use {path}: {cause}. Give a text file with a line a clip."
        ) from cause
    lines = [line for line in lines if line]
    if not lines:
        return
    bare = [line[0] for line in lines if len(line) == 1]
    if bare:
        raise InputError(
            f"Cannot use {path}: it names no frame of {', '.join(bare[:5])}. Write lines as "
            '"folder frame frame ...", or give the folders themselves.'
        )
    base = next((up for up in path.parents if (up / lines[0][0]).is_dir()), None)
    if base is None:
        raise InputError(
            f"Cannot use {path}: its first folder, {lines[0][0]}, is neither beside it nor beside "
            "a folder above it. Put the file into the data set's folder."
        )
    for folder, *frames in lines:
        yield Clip(folder.rstrip("/"), base / folder, _with_suffixes(base / folder, frames))


def _with_suffixes(folder: Path, frames: list[str]) -> tuple[str, ...]:
    if all(Path(frame).suffix for frame in frames) or not folder.is_dir():
        return tuple(frames)
    known = {path.stem: path.name for path in list_frames(folder)}
    return tuple(known.get(frame, frame) for frame in frames)
