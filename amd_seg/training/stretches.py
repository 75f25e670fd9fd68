"""A few stretches of a clip in memory, spread over all of it, however long it is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from amd_seg.errors import InputError
from amd_seg.media.video import Frame, FrameReader, shrunk_size
from amd_seg.training.adaptation_config import AdaptationConfig

FEWEST_STRETCHES = 4
"""Places of a long clip that are looked at, whatever the number of frames in memory."""
LONGEST_ASPECT = 4
"""The long edge of a crop, in its short edges, at most."""


@dataclass(frozen=True)
class Stretch:
    """Frames of a clip that follow each other.

    Attributes:
        numbers: of each frame in its clip.
        frames: (frame, height, width, 3), RGB uint8.
    """

    numbers: tuple[int, ...]
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class ClipFrames:
    """A clip as far as it is in memory."""

    source: str
    """How messages name it."""
    stretches: Sequence[Stretch]
    frame_rate: float | None
    """Frames a second, as far as the clip tells."""

    def crop_size(self, short_edge: int) -> tuple[int, int]:
        """Height and width of the clip's aspect, in multiples of the grid of the masks."""
        height, width = self.stretches[0].frames.shape[1:3]
        factor = short_edge / min(height, width)
        rows, columns = (min(LONGEST_ASPECT * short_edge, n * factor) for n in (height, width))
        return max(16, round(rows / 8) * 8), max(16, round(columns / 8) * 8)


def gather_frames(clip: FrameReader, config: AdaptationConfig, *, short_edge: int) -> ClipFrames:
    """Read a clip once and keep what the settings allow, in stretches long enough for its pairs.

    Raises:
        InputError: the clip has no two different frames.
        MediaError: it cannot be read.
    """
    rate = None if clip.frame_rate is None else float(clip.frame_rate)
    length = 2 * config.gap_at(rate) + 1
    most = max(FEWEST_STRETCHES, config.frames // length)
    stretches = gather_stretches(
        clip, source=clip.source, short_edge=short_edge, length=length, most=most
    )
    return ClipFrames(clip.source, stretches, rate)


def gather_stretches(
    clip: Iterable[Frame], *, source: str, short_edge: int, length: int, most: int
) -> list[Stretch]:
    """Read a clip once and keep stretches of it, evenly spread.

    A clip of at most `most` stretches is kept whole, as a single one. Of a longer one every
    second stretch is dropped as often as there are too many, so that memory is bounded by
    `most` + 1 stretches of small frames, whatever the length. Frames that repeat the one before
    are left out: a pair of equal ones teaches nothing.

    Args:
        clip: its frames; a reader that shrinks them saves time here.
        source: how a message names the clip.
        short_edge: shrink frames to this shorter side, in pixels; never enlarges.
        length: frames of a stretch, 2 or more.
        most: stretches that are kept, 2 or more.

    Raises:
        InputError: the clip has no two different frames.
        MediaError: it cannot be read.
    """
    kept: list[Stretch] = []
    stride = 1
    for number, stretch in enumerate(_cut(_distinct(clip, short_edge), length)):
        if number % stride == 0:
            kept.append(stretch)
        if len(kept) > most:
            kept, stride = kept[::2], 2 * stride
    if stride == 1 and kept:
        kept = [_joined(kept)]
    kept = [stretch for stretch in kept if len(stretch.numbers) > 1]
    if not kept:
        raise InputError(
            f"Cannot adapt to {source}: it has no two different frames, so nothing moves in it. "
            "Give a clip, or segment it without adaptation."
        )
    return kept


def _distinct(clip: Iterable[Frame], short_edge: int) -> Iterator[Frame]:
    """Yield small frames, each different from the one before."""
    before: NDArray[np.uint8] | None = None
    for frame in clip:
        pixels = shrink(frame.pixels, short_edge)
        if before is None or not np.array_equal(pixels, before):
            yield Frame(frame.index, frame.time, pixels)
        before = pixels


def shrink(pixels: NDArray[np.uint8], short_edge: int) -> NDArray[np.uint8]:
    """Return pixels (height, width, 3) at most `short_edge` high or wide, antialiased."""
    height, width = pixels.shape[:2]
    small_width, small_height = shrunk_size(width, height, short_edge)
    if (small_height, small_width) == (height, width):
        return pixels
    # torch warns of memory that numpy may not write to.
    writeable = pixels if pixels.flags.writeable else pixels.copy()
    whole = torch.from_numpy(writeable).permute(2, 0, 1)[None]
    size = (small_height, small_width)
    small = F.interpolate(whole, size, mode="bilinear", antialias=True)[0]
    shrunk: NDArray[np.uint8] = small.permute(1, 2, 0).contiguous().numpy()
    return shrunk


def _cut(frames: Iterable[Frame], length: int) -> Iterator[Stretch]:
    """Yield the frames in stretches of `length`; the last one may be shorter."""
    waiting: list[Frame] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == length:
            yield _stretch(waiting)
            waiting = []
    if waiting:
        yield _stretch(waiting)


def _stretch(frames: Sequence[Frame]) -> Stretch:
    return Stretch(tuple(frame.index for frame in frames), np.stack([f.pixels for f in frames]))


def _joined(stretches: Sequence[Stretch]) -> Stretch:
    numbers = tuple(number for stretch in stretches for number in stretch.numbers)
    return Stretch(numbers, np.concatenate([stretch.frames for stretch in stretches]))
