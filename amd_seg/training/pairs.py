"""Pairs of frames to learn from: which, in what order, kept in memory or decoded as drawn.

Every draw depends on the seed and on its own number alone, whatever the batch, so a run resumes
from four numbers and all processes agree without talking.
"""

import logging
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.media.images import Pixels
from amd_seg.media.video import Frame, FrameFolder, Span, VideoReader
from amd_seg.training.clips import (
    GIB,
    Clip,
    estimated_frames,
    log_progress,
    of_each_clip,
    require_memory,
    require_mostly_intact,
)
from amd_seg.training.config import Sampling, TrainingConfig
from amd_seg.training.crops import Chances, Crop
from amd_seg.training.distributed import Processes
from amd_seg.workers import start_worker

logger = logging.getLogger(__name__)

# Uniform numbers kept for each draw: gap, start, zoom, top, left, flip, two spare. A multiple of
# four, which is what one step of the counter-based generator gives.
_NUMBERS = 8

# Two ways of reading one timestamp differ by rounding only; frames are farther apart than this.
_SAME_TIME = 1e-4

Times = NDArray[np.float64]


class PairDraw(NamedTuple):
    """One draw: two frames of a clip, and the chances of their crop."""

    clip: int
    first: int
    second: int
    chances: Chances


# Of some draws: pairs (pair, 2, 3, height, width), uint8, RGB; their names; broken clips so far,
# with the reasons.
Fetched = tuple[Tensor, tuple[str, ...], dict[str, str]]


@dataclass(frozen=True)
class PairBatch:
    """Pairs of frames to learn from.

    Attributes:
        frame_i: (batch, 3, height, width), uint8, RGB, the earlier frames.
        frame_j: the later frames, cropped and flipped as frame_i.
        names: clip and frame numbers of each pair, as "clip.mp4:12-13".
    """

    frame_i: Tensor
    frame_j: Tensor
    names: tuple[str, ...]


class PairSchedule:
    """An endless, seeded sequence of pairs, the same for every batch size and rank.

    Args:
        lengths: frames of each clip, at least 2.
        sampling: "video": an epoch draws one random pair of each clip, as published; "pair": an
            epoch draws a pair at every frame of every clip.
        max_gap: the second frame comes 1..max_gap frames after the first, uniformly.
        seed: what all draws follow from.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        sampling: Sampling = "video",
        max_gap: int = 1,
        seed: int = 0,
    ) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._sampling, self._max_gap, self._seed = sampling, max_gap, seed
        self._drawn = self._epoch = self._offset = 0
        self._items = self._order(0)

    def draw(self, count: int) -> list[PairDraw]:
        """Return the next `count` draws."""
        items: list[tuple[int, int]] = []
        while len(items) < count:
            if self._offset == len(self._items):
                self._epoch, self._offset = self._epoch + 1, 0
                self._items = self._order(self._epoch)
            taken = self._items[self._offset : self._offset + count - len(items)]
            items += [(int(clip), int(start)) for clip, start in taken]
            self._offset += len(taken)
        philox = np.random.Philox(key=self._seed, counter=self._drawn * _NUMBERS // 4)
        numbers = np.random.Generator(philox).random((count, _NUMBERS))
        self._drawn += count
        return [self._pair(*item, *row) for item, row in zip(items, numbers.tolist(), strict=True)]

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` needs to go on from here."""
        return {
            "seed": self._seed,
            "drawn": self._drawn,
            "epoch": self._epoch,
            "offset": self._offset,
            "frames": int(self._lengths.sum()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ConfigError: it was written with other clips or another seed.
        """
        mine = self.state_dict()
        for key in ("seed", "frames"):
            if state[key] != mine[key]:
                raise ConfigError(
                    f"Cannot resume the order of pairs: it was saved with {key}={state[key]}, "
                    f"now {key}={mine[key]}. Give the same clips, options and seed."
                )
        self._drawn, self._epoch = int(state["drawn"]), int(state["epoch"])
        self._items = self._order(self._epoch)
        self._offset = int(state["offset"])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the epoch's items, (item, 2): clip and first frame, -1 where chance decides."""
        if self._sampling == "pair":
            items = [(clip, at) for clip, end in enumerate(self._lengths) for at in range(end - 1)]
        else:
            items = [(clip, -1) for clip in range(len(self._lengths))]
        return np.random.default_rng((self._seed, epoch)).permutation(np.array(items, np.int64))

    def _pair(self, clip: int, first: int, gap: float, start: float, *crop: float) -> PairDraw:
        last = int(self._lengths[clip]) - 1
        reach = last if first < 0 else last - first
        step = 1 + int(gap * min(self._max_gap, reach))
        if first < 0:
            first = int(start * (last - step + 1))
        return PairDraw(clip, first, first + step, Chances(*crop[:4]))


@dataclass(frozen=True)
class StoredClip:
    """The frames of one clip.

    Attributes:
        name: how batches name it.
        frames: (frame, 3, height, width), uint8, RGB.
        numbers: of each frame in its clip.
        digests: of each frame, alike where the frames are; empty where they are not known.
    """

    name: str
    frames: Tensor
    numbers: tuple[int, ...]
    digests: tuple[int, ...] = ()


class StoredPairs:
    """Clips whose frames are all in the memory of one device, where their pairs are cropped."""

    def __init__(self, clips: Sequence[StoredClip], crop: Crop) -> None:
        if not clips:
            raise InputError("No clip has two different frames. Give clips in which things move.")
        self.clips, self.crop = tuple(clips), crop
        self.lengths = [len(clip.frames) for clip in clips]

    @classmethod
    def decode(
        cls,
        clips: Sequence[Clip],
        crop: Crop,
        *,
        short_edge: int,
        transpose_portrait: bool = True,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Decode all clips in parallel; frames that repeat the one before are left out.

        Args:
            clips: what find_clips gave.
            crop: which part of a pair is seen.
            short_edge: shrink frames to this shorter side, in pixels; never enlarges.
            transpose_portrait: swap the axes of frames that are higher than wide, as published.
            device: where the frames are kept.

        Raises:
            MediaError: more than one in a hundred clips cannot be read.
            InputError: the frames do not fit the memory, found before they are decoded; or there
                is no pair in them.
        """
        device = torch.device(device)

        def size(clip: Clip) -> float:
            reader = clip.open(short_edge=short_edge)
            return estimated_frames(reader) * reader.height * reader.width * 3

        sizes = list(of_each_clip(clips, size))
        require_memory(sum(needed for _, needed in sizes), device)
        stored: list[StoredClip] = []
        tell = log_progress("Decoded", len(sizes))
        decode = partial(_decoded, short_edge=short_edge, transpose_portrait=transpose_portrait)
        for clip, decoded in of_each_clip([clip for clip, _ in sizes], decode):
            tell()
            if len(decoded.numbers) > 1:
                stored.append(replace(decoded, frames=decoded.frames.to(device)))
            else:
                logger.warning("Clip %s is left out: it has no two different frames.", clip.name)
        return cls(stored, crop)

    def __getitem__(self, draws: Sequence[PairDraw]) -> Fetched:
        pairs, names = [], []
        for draw in draws:
            clip, first, second = self.clips[draw.clip], draw.first, draw.second
            if clip.digests and clip.digests[first] == clip.digests[second]:
                second = first + 1  # Where something blinks, the adjacent two differ.
            pairs.append(clip.frames[first : second + 1 : second - first])
            names.append(f"{clip.name}:{clip.numbers[first]}-{clip.numbers[second]}")
        return self.crop(pairs, [draw.chances for draw in draws]), tuple(names), {}


def _decoded(clip: Clip, *, short_edge: int, transpose_portrait: bool) -> StoredClip:
    frames: list[Pixels] = []
    numbers: list[int] = []
    for frame in clip.open(short_edge=short_edge):
        # A raised frame rate repeats frames; a pair of equal ones teaches nothing.
        if not frames or not np.array_equal(frame.pixels, frames[-1]):
            frames.append(frame.pixels)
            numbers.append(frame.index)
    digests = tuple(zlib.crc32(pixels.data) for pixels in frames)
    pixels = _channels_first(frames, transpose_portrait).contiguous()
    return StoredClip(clip.name, pixels, tuple(numbers), digests)


def _channels_first(frames: Sequence[Pixels], transpose_portrait: bool) -> Tensor:
    pixels = torch.from_numpy(np.stack(frames))
    # Swapped axes, not a turn: what the published pipeline does with portrait frames.
    swaps = transpose_portrait and pixels.shape[1] > pixels.shape[2]
    return pixels.permute((0, 3, 2, 1) if swaps else (0, 3, 1, 2))


class DecodedPairs(Dataset[Fetched]):
    """Clips whose pairs are decoded as they are drawn: for those that do not fit in memory.

    It gives what StoredPairs gives. A clip that turns out to be broken, or in which nothing moves,
    gives its place to the next one. It lives in worker processes.

    Args:
        clips, crop, short_edge, transpose_portrait: as in StoredPairs.decode.

    Raises:
        MediaError: more than one in a hundred clips cannot be read; also while pairs are drawn.
        InputError: no clip has two frames.
    """

    def __init__(
        self, clips: Sequence[Clip], crop: Crop, *, short_edge: int, transpose_portrait: bool = True
    ) -> None:
        self.crop, self._short_edge, self._transpose = crop, short_edge, transpose_portrait
        self._clips: list[tuple[Clip, Times]] = []
        for clip, times in of_each_clip(clips, lambda clip: np.asarray(clip.timestamps())):
            if len(times) > 1:
                self._clips.append((clip, times))
            else:
                logger.warning("Clip %s is left out: it has no two frames.", clip.name)
        if not self._clips:
            raise InputError("No clip has two frames. Give clips in which things move.")
        self.lengths = [len(times) for _, times in self._clips]
        self._broken: dict[str, str] = {}
        self._readers: dict[int, FrameFolder | VideoReader] = {}

    def __getitem__(self, draws: Sequence[PairDraw]) -> Fetched:
        crops, names = zip(*map(self._fetch, draws), strict=True)
        return torch.cat(crops), names, dict(self._broken)

    def _fetch(self, draw: PairDraw) -> tuple[Tensor, str]:
        for number in range(draw.clip, draw.clip + len(self._clips)):
            place = number % len(self._clips)
            clip, times = self._clips[place]
            if clip.name in self._broken:
                continue
            try:
                if place not in self._readers:
                    self._readers[place] = clip.open(short_edge=self._short_edge)
                start, frames = _differing(self._readers[place], times, draw)
            except MediaError as error:
                self._broken[clip.name] = str(error)
            else:
                pair = _channels_first([frame.pixels for frame in frames], self._transpose)
                name = f"{clip.name}:{start}-{start + frames[1].index}"
                return self.crop([pair], [draw.chances]), name
        raise MediaError(f"No clip can be read any more: {self._broken}. Give intact clips.")


def _differing(
    reader: FrameFolder | VideoReader, times: Times, draw: PairDraw
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


class PairStream(Iterator[PairBatch]):
    """An endless iterator over this process's batches of pairs.

    Args:
        source: the clips; decoded pairs are made by worker processes, ahead of the steps.
        processes: those that share a step.
        batch_size: pairs of a step, over all processes.
        sampling, max_gap, seed: as in PairSchedule; the same in all processes.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        ConfigError: batch_size cannot be shared equally.
        MediaError: while iterating, when more than one in a hundred clips turned out to be broken.
    """

    def __init__(
        self,
        source: StoredPairs | DecodedPairs,
        processes: Processes,
        *,
        batch_size: int,
        sampling: Sampling = "video",
        max_gap: int = 1,
        seed: int = 0,
        workers: int = 2,
    ) -> None:
        self._source, self._device, self._workers = source, processes.device, workers
        self._batch_size, self._mine = batch_size, processes.share_of(batch_size)
        self._schedule = PairSchedule(source.lengths, sampling=sampling, max_gap=max_gap, seed=seed)
        self._state = self._schedule.state_dict()
        self._drawn: deque[dict[str, int]] = deque()
        self._fetched: Iterator[Fetched] | None = None
        self._broken: dict[str, str] = {}

    def __next__(self) -> PairBatch:
        if self._fetched is None:
            self._fetched = self._fetch()
        pairs, names, broken = next(self._fetched)
        self._state = self._drawn.popleft()
        for name in broken.keys() - self._broken.keys():
            logger.warning("Clip %s is left out: %s", name, broken[name])
        self._broken |= broken
        require_mostly_intact(self._broken, len(self._source.lengths))
        pairs = pairs.to(self._device, non_blocking=True)
        return PairBatch(pairs[:, 0], pairs[:, 1], names)

    def state_dict(self) -> dict[str, int]:
        """Return the position after the batch given last; the same in all processes."""
        return self._state

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from the position in `state`; what was decoded ahead is dropped.

        Raises:
            ConfigError: it was written with other clips or another seed.
        """
        self._schedule.load_state_dict(state)
        self._state = self._schedule.state_dict()
        self._fetched = None
        self._drawn.clear()

    def _steps(self) -> Iterator[list[PairDraw]]:
        # Workers run ahead: the position belongs to a batch, not to the schedule.
        while True:
            draws = self._schedule.draw(self._batch_size)[self._mine]
            self._drawn.append(self._schedule.state_dict())
            yield draws

    def _fetch(self) -> Iterator[Fetched]:
        if isinstance(self._source, StoredPairs):
            return map(self._source.__getitem__, self._steps())
        return iter(
            DataLoader(
                self._source,
                sampler=self._steps(),
                batch_size=None,  # An item is a batch already.
                collate_fn=_as_it_is,
                num_workers=self._workers,
                pin_memory=self._device.type == "cuda",
                # Its own, so that starting the workers does not move the generator of the run.
                generator=torch.Generator(),
                worker_init_fn=start_worker,
            )
        )


def _as_it_is(fetched: Any) -> Any:
    return fetched


def open_pairs(clips: Sequence[Clip], config: TrainingConfig, processes: Processes) -> PairStream:
    """Return the pairs of clips as the settings say: the same from memory and decoded as drawn."""
    crop = Crop(size=config.crop, scale=config.scale, flip=config.flip)
    decoding: Any = {
        "short_edge": config.short_edge,
        "transpose_portrait": config.transpose_portrait,
    }
    source: StoredPairs | DecodedPairs
    if config.frames == "loader":
        source = DecodedPairs(clips, crop, **decoding)
    else:
        source = StoredPairs.decode(clips, crop, device=processes.device, **decoding)
        gib = sum(clip.frames.nbytes for clip in source.clips) / GIB
        logger.info(
            *("%d frames of %d clips take %.2f GiB on %s.", sum(source.lengths)),
            *(len(source.clips), gib, processes.device),
        )
    return PairStream(
        source,
        processes,
        batch_size=config.batch_size // config.accumulate,
        sampling=config.sampling,
        max_gap=config.max_gap,
        seed=config.seed,
        workers=config.workers,
    )
