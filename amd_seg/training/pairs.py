"""Pairs of frames to learn from: kept in memory, or decoded as they are drawn."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amd_seg.errors import InputError, MediaError
from amd_seg.media.video import Frame, FrameFolder, Span, VideoReader
from amd_seg.training.clips import (
    GIB,
    Clip,
    log_progress,
    of_each_clip,
    require_memory,
    require_mostly_intact,
)
from amd_seg.training.config import TrainingConfig
from amd_seg.training.crops import crop_pairs
from amd_seg.training.distributed import order_of

logger = logging.getLogger(__name__)

_SAME_TIME = 1e-4  # Two ways of reading one timestamp differ by rounding only, frames by more.


class PairDraw(NamedTuple):
    """One draw: two frames of a clip, and the chances of their crop."""

    clip: int
    first: int
    second: int
    chances: tuple[float, ...]


class PairBatch(NamedTuple):
    """Pairs of frames to learn from."""

    frame_i: Tensor  # (batch, 3, height, width), uint8, RGB, the earlier frames
    frame_j: Tensor  # the later frames, cropped and flipped as frame_i
    names: tuple[str, ...]  # clip and frame numbers of each pair, as "clip.mp4:12-13"


def draw_pair(number: int, lengths: Sequence[int], config: TrainingConfig) -> PairDraw:
    """Return a draw from clips of some lengths, each of two frames or more.

    An epoch has one pair of each clip, as published. Its frames are 1 to `max_gap` apart.
    """
    epoch, place = divmod(number, len(lengths))
    clip = int(order_of(config.seed, epoch, len(lengths))[place])
    # Two steps of this generator, which can be begun anywhere, are eight numbers: two are spare.
    random = np.random.Generator(np.random.Philox(key=config.seed, counter=2 * number))
    gap, start, *chances = random.random(6).tolist()
    last = lengths[clip] - 1
    step = 1 + int(gap * min(config.max_gap, last))
    first = int(start * (last - step + 1))
    return PairDraw(clip, first, first + step, tuple(chances))


class Pairs:
    """Clips, as the source of numbered pairs for `NumberedBatches`."""

    def __init__(self, lengths: list[int], config: TrainingConfig) -> None:
        self.lengths, self.config = lengths, config

    def __call__(self, numbers: range) -> PairBatch:
        """Return the pairs of some numbers."""
        draws = [draw_pair(number, self.lengths, self.config) for number in numbers]
        pairs, names = zip(*map(self.fetch, draws), strict=True)
        cut = crop_pairs(pairs, [draw.chances for draw in draws], self.config)
        return PairBatch(cut[:, 0], cut[:, 1], names)

    @abstractmethod
    def fetch(self, draw: PairDraw) -> tuple[Tensor, str]:
        """Return the frames of a pair, (2, 3, height, width), uint8, and its name."""


class StoredPairs(Pairs):
    """Clips whose frames, but repeats, are all on one device, where their pairs are cropped."""

    def __init__(self, clips: Sequence[Clip], config: TrainingConfig, device: torch.device) -> None:
        def size(clip: Clip) -> float:
            reader = clip.open(short_edge=config.short_edge)
            count = reader.frame_count
            # A clip that tells nothing counts as a short one.
            guessed = (reader.duration or 10) * float(reader.frame_rate or 25)
            return (guessed if count is None else count) * reader.height * reader.width * 3

        def decode(clip: Clip) -> tuple[Tensor, list[int]]:
            frames: list[Any] = []
            numbers: list[int] = []
            for frame in clip.open(short_edge=config.short_edge):
                # A raised frame rate repeats frames; a pair of equal ones teaches nothing.
                if not frames or not np.array_equal(frame.pixels, frames[-1]):
                    frames.append(frame.pixels)
                    numbers.append(frame.index)
            return _channels_first(frames).contiguous(), numbers

        sizes = list(of_each_clip(clips, size))
        require_memory(sum(needed for _, needed in sizes), device)
        # Names; frames, (frame, 3, height, width), uint8; and their numbers in the clip.
        self.clips: list[tuple[str, Tensor, list[int]]] = []
        tell = log_progress("Decoded", len(sizes))
        for clip, (frames, numbers) in of_each_clip([clip for clip, _ in sizes], decode):
            tell()
            if len(frames) > 1:
                self.clips.append((clip.name, frames.to(device), numbers))
            else:
                logger.warning("Clip %s is left out: it has no two different frames.", clip.name)
        if not self.clips:
            raise InputError("No clip has two different frames. Give clips in which things move.")
        super().__init__([len(frames) for _, frames, _ in self.clips], config)
        count, gib = sum(self.lengths), sum(frames.nbytes for _, frames, _ in self.clips) / GIB
        text = "%d frames of %d clips take %.2f GiB on %s."
        logger.info(text, count, len(self.clips), gib, device)

    def fetch(self, draw: PairDraw) -> tuple[Tensor, str]:
        """See `Pairs`."""
        first, second = draw.first, draw.second
        name, frames, numbers = self.clips[draw.clip]
        if second > first + 1 and torch.equal(frames[first], frames[second]):
            second = first + 1  # Where something blinks, the adjacent two differ.
        pair = frames[first : second + 1 : second - first]
        return pair, f"{name}:{numbers[first]}-{numbers[second]}"


class DecodedPairs(Pairs):
    """Clips whose pairs are decoded as they are drawn: for those that do not fit in memory.

    A clip that turns out to be broken, or in which nothing moves, gives its place to the next one;
    each worker process that meets it names it once.
    """

    def __init__(self, clips: Sequence[Clip], config: TrainingConfig) -> None:
        self._clips: list[tuple[Clip, list[float]]] = []
        for clip, times in of_each_clip(clips, lambda clip: clip.open().timestamps()):
            if len(times) > 1:
                self._clips.append((clip, times))
            else:
                logger.warning("Clip %s is left out: it has no two frames.", clip.name)
        if not self._clips:
            raise InputError("No clip has two frames. Give clips in which things move.")
        super().__init__([len(times) for _, times in self._clips], config)
        self._readers: dict[int, FrameFolder | VideoReader] = {}
        self._broken: dict[str, str] = {}  # names, with the reasons

    def fetch(self, draw: PairDraw) -> tuple[Tensor, str]:
        """See `Pairs`."""
        for number in range(draw.clip, draw.clip + len(self._clips)):
            place = number % len(self._clips)
            clip, times = self._clips[place]
            if clip.name in self._broken:
                continue
            try:
                if place not in self._readers:
                    self._readers[place] = clip.open(short_edge=self.config.short_edge)
                start, frames = _differing(self._readers[place], times, draw)
            except MediaError as error:
                logger.warning("Clip %s is left out: %s", clip.name, error)
                self._broken[clip.name] = str(error)
                require_mostly_intact(self._broken, len(self._clips))
            else:
                pair = _channels_first([frame.pixels for frame in frames])
                return pair, f"{clip.name}:{start}-{start + frames[1].index}"
        raise MediaError("No clip can be read any more.")


def _channels_first(frames: Sequence[Any]) -> Tensor:
    pixels = torch.from_numpy(np.stack(frames))
    # Swapped axes, not a turn: what the published pipeline does with portrait frames.
    return pixels.permute((0, 3, 2, 1) if pixels.shape[1] > pixels.shape[2] else (0, 3, 1, 2))


def _differing(
    reader: FrameFolder | VideoReader, times: Sequence[float], draw: PairDraw
) -> tuple[int, tuple[Frame, Frame]]:
    """Return the number of a draw's first frame, with it and a later one that differs from it."""
    gap = draw.second - draw.first
    # The second try is for a clip that stands still at its end; the bounds are for a clip that
    # stands in for another.
    for start in (min(draw.first, max(0, len(times) - 1 - gap)), 0):
        end = times[min(start + gap, len(times) - 1)]
        first: Frame | None = None
        for frame in reader.read(Span(start=max(0.0, times[start] - _SAME_TIME))):
            if first is None:
                first = frame
            elif frame.time > end - _SAME_TIME and not np.array_equal(frame.pixels, first.pixels):
                return start, (first, frame)
    raise MediaError(f"Cannot use {reader.source}: no two frames differ. Leave it out.")
