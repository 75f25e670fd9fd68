"""Where clips lie: videos, folders of frames, data sets, split files; if they fit in memory."""

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import natural_key, some
from amd_seg.media.video import FrameFolder, VideoReader, list_frames
from amd_seg.prefetch import map_ahead

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

VIDEO_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # noqa: SIM905
)

# In this order a data set's folder leads to its frames: YouTube-VOS, then DAVIS. Masks, lists and
# the same frames in another size lie beside these folders.
_LAYOUT = ("train_all_frames", "JPEGImages", "480p")
MAX_BROKEN = 0.01  # More clips that cannot be read: the data is not what its owner thinks it is.
GIB = 2**30
_SHARE_OF_FREE = 0.9  # Decoding holds a clip or two a thread beside what is kept.


@dataclass(frozen=True)
class Clip:
    """A clip to learn from; nothing of it is decoded yet."""

    name: str  # how messages and batches name it, relative to its root
    path: Path  # the video file, or the folder of its frames
    frames: tuple[str, ...] = ()  # file names in `path`, in order; none for a video file

    def open(self, *, short_edge: int | None = None) -> VideoReader | FrameFolder:
        """Return a reader of its frames, for one thread: clips are read in parallel."""
        if not self.frames:
            return VideoReader(self.path, short_edge=short_edge, threads=1)
        images = [self.path / frame for frame in self.frames]
        return FrameFolder(images, source=str(self.path), short_edge=short_edge)

    def identity(self) -> str:
        """Tell the clip from another one, wherever its root lies, without opening it."""
        if len(self.frames) > 1:
            content = f"{len(self.frames)} frames, {self.frames[0]} to {self.frames[-1]}"
        else:
            # Not every container tells its frames, and another encoding is another clip. What
            # cannot be read is said where clips are opened.
            file = self.path.joinpath(*self.frames)
            content = f"{file.stat().st_size if file.is_file() else 0} bytes"
        return f"{self.name} ({content})"


def find_clips(roots: Sequence[str]) -> list[Clip]:
    """Return the clips under `roots`, each root in natural order.

    A root is a video file; a folder of frames; a folder of such files and folders, at any depth;
    a data set in the layout of YouTube-VOS or DAVIS, of which only the frames are taken; or a
    `.txt` file with one line a clip, `folder frame frame ...`, folders relative to the file or to
    a folder above it. An InputError names one that does not exist, or holds no clip.
    """
    clips = []
    for root in roots:
        path = Path(root)
        if not os.path.exists(root):
            raise InputError(f"No such file or folder: {root!r}. Check the path.")
        if path.is_dir():
            found = list(_walk(path, path))
        elif path.suffix.lower() == ".txt":
            found = list(_split_file(path))
        else:
            found = [Clip(path.name, path)]
        if not found:
            raise InputError(
                f"No clip in {path}: neither a video file nor a folder of frames. "
                "Give a folder that holds some."
            )
        clips += found
    return clips


def require_mostly_intact(broken: dict[str, str], total: int) -> None:
    """Raise a MediaError where more than one in a hundred clips is broken, with their reasons."""
    if len(broken) > MAX_BROKEN * total:
        named = some(f"{name}: {reason}" for name, reason in broken.items())
        raise MediaError(
            f"{len(broken)} of {total} clips cannot be read ({named}). "
            f"At most {MAX_BROKEN:.0%} may be broken: mend or remove them."
        )


def of_each_clip(
    clips: Sequence[Clip], work: Callable[[Clip], Result]
) -> Iterator[tuple[Clip, Result]]:
    """Yield what `work` gives for each clip, in order, done by one thread a core.

    Clips that cannot be read are named and left out, one in a hundred at most.
    """
    broken: dict[str, str] = {}

    def attempt(clip: Clip) -> Result | None:
        try:
            return work(clip)
        except MediaError as error:
            logger.warning("Clip %s is left out: %s", clip.name, error)
            broken[clip.name] = str(error)
            return None

    results = map_ahead(attempt, clips, ahead=os.cpu_count() or 1)
    for clip, result in zip(clips, results, strict=True):
        if result is not None:
            yield clip, result
    require_mostly_intact(broken, len(clips))


def log_progress(what: str, total: int) -> Callable[..., None]:
    """Return what is called after each clip that is done; it logs every tenth of them."""
    done = itertools.count(1)

    def tell(*_: object) -> None:
        if (count := next(done)) * 10 // total > (count - 1) * 10 // total:
            logger.info("%s: %d of %d.", what, count, total)

    return tell


def require_memory(
    needed: float,
    device: torch.device,
    *,
    advice: str = "fewer clips, or --set frames=loader, which decodes as it goes",
) -> None:
    """Raise an InputError where frames of `needed` bytes do not fit the memory of a device.

    The processes that torchrun starts on a machine without GPUs keep a copy each.
    """
    free = _free_bytes(device)
    copies = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
    usable = _SHARE_OF_FREE * free / copies
    if needed > usable:
        raise InputError(
            f"The frames do not fit the memory of {device}: they need {needed / GIB:.3g} GiB, "
            f"{usable / GIB:.3g} GiB can be used of {free / GIB:.3g} GiB free, in each of {copies} "
            f"process(es). Use a smaller short edge, fewer processes, {advice}."
        )


def _free_bytes(device: torch.device) -> float:
    """The memory that is free on `device`; without end where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return float("inf")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    # A container may have less than the machine. What it has used holds cached files, too.
    limit = Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.is_file() else ""
    return min(free, int(told)) if told.isdecimal() else free


def _walk(folder: Path, root: Path) -> Iterator[Clip]:
    for known in _LAYOUT:
        if (folder / known).is_dir():
            yield from _walk(folder / known, root)
            return
    name = folder.name if folder == root else str(folder.relative_to(root))
    if frames := list_frames(folder):
        yield Clip(name, folder, tuple(frame.name for frame in frames))
    for path in sorted(folder.iterdir(), key=natural_key):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, root)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield Clip(str(path.relative_to(root)), path)


def _split_file(path: Path) -> Iterator[Clip]:
    def unusable(fault: object) -> InputError:
        return InputError(
            f'Cannot use {path}: {fault}. Give a text file with lines as "folder frame frame ...", '
            "in the data set's folder or one below it, or give the folders themselves."
        )

    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as cause:
        raise unusable(cause) from cause
    if bare := [folder for folder, *frames in lines if not frames]:
        raise unusable(f"it names no frame of {some(bare)}")
    first = lines[0][0] if lines else ""
    base = next((up for up in path.parents if (up / first).is_dir()), None)
    if base is None:
        raise unusable(f"its first folder, {first}, is not in its folder, nor in one above")
    for folder, *frames in lines:
        place = base / folder
        if place.is_dir() and not all(Path(frame).suffix for frame in frames):
            known = {file.stem: file.name for file in list_frames(place)}
            frames = [known.get(frame, frame) for frame in frames]
        yield Clip(folder.rstrip("/"), place, tuple(frames))
