"""Pairs of frames for training: all clips decoded once and kept in memory, crops made there."""

import logging
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.media.frames import FrameReader, Pixels, Span
from amd_seg.training.clips import Clip, require_mostly_intact
from amd_seg.training.pairs import Crop, PairBatch, PairDraw, PairSchedule, Sampling
from amd_seg.training.room import GIB, estimated_frames, require_memory

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredClip:
    """The frames of one clip.

    Attributes:
        name: how batches name it.
        frames: (frame, 3, height, width), uint8, RGB.
        numbers: of each frame in its clip.
        weight: how often it is drawn, relative to the other clips.
        digests: of each frame, alike where the frames are; empty where they are not known.
    """

    name: str
    frames: Tensor
    numbers: tuple[int, ...]
    weight: float = 1.0
    digests: tuple[int, ...] = ()


class FrameStore:
    """Clips whose frames are all in the memory of one device."""

    def __init__(self, clips: Sequence[StoredClip]) -> None:
        if not clips:
            raise InputError("No clip has two different frames. Give clips in which things move.")
        self.clips = tuple(clips)
        self.device = clips[0].frames.device
        self.frame_count = sum(len(clip.frames) for clip in clips)
        self.gib = sum(clip.frames.nbytes for clip in clips) / GIB

    @classmethod
    def decode(
        cls,
        clips: Sequence[Clip],
        *,
        short_edge: int,
        frame_step: int = 1,
        transpose_portrait: bool = True,
        device: torch.device | str = "cpu",
        threads: int | None = None,
        limit_gib: float | None = None,
        on_clip: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Decode all clips in parallel; frames that repeat the one before are left out.

        Args:
            clips: what find_clips gave.
            short_edge: shrink frames to this shorter side, in pixels; never enlarges.
            frame_step: keep every n-th frame.
            transpose_portrait: swap the axes of frames that are higher than wide, as published.
            device: where the frames are kept.
            threads: clips decoded at a time; None takes one a core.
            limit_gib: memory that may be used, in GiB; None takes nine tenths of what is free.
            on_clip: called with the number of clips done and of all clips, after each clip.

        Raises:
            MediaError: more than one in a hundred clips cannot be read.
            InputError: the frames do not fit the memory, found before they are decoded; or there
                is no pair in them.
        """
        device = torch.device(device)
        decoder = _ClipDecoder(short_edge, frame_step, transpose_portrait)
        stored: list[StoredClip] = []
        broken: dict[str, str] = {}
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            try:
                opened = list(_each(pool, decoder.open, clips, broken, lambda clip: clip.name))
                require_mostly_intact(broken, len(clips))
                needed = sum(_estimated_bytes(reader) for _, reader in opened)
                require_memory(needed, device, limit_gib)
                decoded = _each(pool, decoder.decode, opened, broken, lambda job: job[0].name)
                for done, clip in enumerate(decoded, start=1):
                    stored.append(replace(clip, frames=clip.frames.to(device)))
                    if on_clip is not None:
                        on_clip(done, len(opened))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        require_mostly_intact(broken, len(clips))
        return cls([clip for clip in stored if _has_pair(clip)])

    def differing(self, draw: PairDraw) -> PairDraw:
        """Return a draw whose frames are not alike: where something blinks, the adjacent two."""
        digests = self.clips[draw.clip].digests
        if digests and digests[draw.first] == digests[draw.second]:
            return draw._replace(second=draw.first + 1)
        return draw

    def pair(self, draw: PairDraw) -> Tensor:
        """Return the two frames of a draw, (2, 3, height, width), uint8, without a copy."""
        step = draw.second - draw.first
        return self.clips[draw.clip].frames[draw.first : draw.second + 1 : step]

    def name(self, draw: PairDraw) -> str:
        """Return the clip and the frame numbers of a draw, as "clip.mp4:12-13"."""
        clip = self.clips[draw.clip]
        return f"{clip.name}:{clip.numbers[draw.first]}-{clip.numbers[draw.second]}"


class PairSampler:
    """An endless iterator over batches of pairs, cropped on the device of the store.

    Args:
        store: the clips.
        batch_size: pairs of a step, over all ranks.
        crop: which part of a pair is seen.
        sampling: "video" (published) or "pair"; see PairSchedule.
        max_gap: the second frame comes 1..max_gap stored frames after the first.
        seed: what all draws follow from; the same on all ranks.
        rank: which share of each step this process gets.
        world_size: processes that share a step.

    Raises:
        ConfigError: batch_size cannot be shared equally, or an argument is not a possible value.
    """

    def __init__(
        self,
        store: FrameStore,
        *,
        batch_size: int,
        crop: Crop | None = None,
        sampling: Sampling = "video",
        max_gap: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._mine = share_of_step(batch_size, rank, world_size)
        self._store, self._batch_size = store, batch_size
        self._crop = crop or Crop()
        self._schedule = PairSchedule(
            [len(clip.frames) for clip in store.clips],
            [clip.weight for clip in store.clips],
            sampling=sampling,
            max_gap=max_gap,
            seed=seed,
        )

    def __iter__(self) -> Iterator[PairBatch]:
        return self

    def __next__(self) -> PairBatch:
        drawn = self._schedule.draw(self._batch_size)[self._mine]
        draws = [self._store.differing(draw) for draw in drawn]
        pairs = self._crop([self._store.pair(draw) for draw in draws], draws)
        names = tuple(self._store.name(draw) for draw in draws)
        return PairBatch(pairs[:, 0], pairs[:, 1], names)

    def state_dict(self) -> dict[str, int]:
        """Return the position, for `load_state_dict`; the same on all ranks."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from the position in `state`.

        Raises:
            ConfigError: it was written with other clips or another seed.
        """
        self._schedule.load_state_dict(state)


def share_of_step(batch_size: int, rank: int, world_size: int) -> slice:
    """Return which of a step's pairs belong to `rank`.

    Raises:
        ConfigError: the pairs cannot be shared equally.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ConfigError(
            f"batch_size is {batch_size} pairs for {world_size} process(es). "
            "Give a multiple of the number of processes."
        )
    share = batch_size // world_size
    return slice(rank * share, (rank + 1) * share)


@dataclass(frozen=True)
class _ClipDecoder:
    short_edge: int
    frame_step: int
    transpose_portrait: bool

    def open(self, clip: Clip) -> tuple[Clip, FrameReader]:
        return clip, clip.open(short_edge=self.short_edge, span=Span(every=self.frame_step))

    def decode(self, opened: tuple[Clip, FrameReader]) -> StoredClip:
        clip, reader = opened
        frames: list[Pixels] = []
        numbers: list[int] = []
        for frame in reader:
            # A raised frame rate repeats frames; a pair of equal ones teaches nothing.
            if not frames or not np.array_equal(frame.pixels, frames[-1]):
                frames.append(frame.pixels)
                numbers.append(frame.index)
        digests = tuple(zlib.crc32(pixels.data) for pixels in frames)
        # Swapped axes, not a turn: what the published pipeline does with portrait frames.
        swaps = self.transpose_portrait and reader.height > reader.width
        pixels = torch.from_numpy(np.stack(frames)).permute((0, 3, 2, 1) if swaps else (0, 3, 1, 2))
        return StoredClip(clip.name, pixels.contiguous(), tuple(numbers), clip.weight, digests)


def _each(
    pool: ThreadPoolExecutor,
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    broken: dict[str, str],
    name: Callable[[Job], str],
) -> Iterator[Result]:
    """Yield the results of `work` in order; those that cannot be read go to `broken`."""
    pending = deque((name(job), pool.submit(work, job)) for job in jobs)
    while pending:
        # Popped, so that a result does not stay in memory after it was used.
        key, future = pending.popleft()
        try:
            yield future.result()
        except MediaError as error:
            logger.warning("Clip %s is left out: %s", key, error)
            broken[key] = str(error)


def _has_pair(clip: StoredClip) -> bool:
    if len(clip.numbers) < 2:
        logger.warning("Clip %s is left out: it has no two different frames.", clip.name)
    return len(clip.numbers) > 1


def _estimated_bytes(reader: FrameReader) -> float:
    return estimated_frames(reader) * reader.height * reader.width * 3
