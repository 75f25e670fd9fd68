"""Pairs of frames for training, decoded as they are drawn: for clips that do not fit in memory."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_seg.errors import InputError, MediaError
from amd_seg.media.frames import Frame, FrameFolder, Span
from amd_seg.media.video import VideoReader
from amd_seg.training.clips import Clip, require_mostly_intact
from amd_seg.training.data import share_of_step
from amd_seg.training.pairs import Crop, PairBatch, PairDraw, PairSchedule, Sampling
from amd_seg.workers import start_worker

logger = logging.getLogger(__name__)

# Two ways of reading one timestamp differ by rounding only; frames are farther apart than this.
_SAME_TIME = 1e-4

Times = NDArray[np.float64]
_Reader = FrameFolder | VideoReader
_TimedClip = tuple[Clip, Times]
# A pair (2, 3, height, width), its name, and the clips found broken so far with the reasons.
_Fetched = tuple[Tensor, str, dict[str, str]]
_Collated = tuple[Tensor, tuple[str, ...], dict[str, str]]


class PairLoader:
    """An endless iterator over batches of pairs, decoded by worker processes as they are drawn.

    It draws what PairSampler draws. A clip that turns out to be broken, or in which nothing moves,
    is named once and the next clip takes its place.

    Args:
        clips: what find_clips gave.
        short_edge, frame_step, transpose_portrait: as in FrameStore.decode.
        batch_size, crop, sampling, max_gap, seed, rank, world_size: as in PairSampler.
        device: where batches go; through pinned memory if it is a CUDA device.
        workers: processes that decode; 0 decodes in this one.
        prefetch: batches that each worker keeps ready.

    Raises:
        ConfigError: batch_size cannot be shared equally, or an argument is not a possible value.
        MediaError: more than one in a hundred clips cannot be read; also while iterating.
        InputError: no clip has two frames.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        batch_size: int,
        short_edge: int,
        frame_step: int = 1,
        transpose_portrait: bool = True,
        crop: Crop | None = None,
        sampling: Sampling = "video",
        max_gap: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 2,
        prefetch: int = 2,
    ) -> None:
        self._mine, self._batch_size = share_of_step(batch_size, rank, world_size), batch_size
        self._device = torch.device(device)
        self._broken: dict[str, str] = {}
        self._clip_count = len(clips)
        timed = self._timed(clips, frame_step)
        self._schedule = PairSchedule(
            [len(times) for _, times in timed],
            [clip.weight for clip, _ in timed],
            sampling=sampling,
            max_gap=max_gap,
            seed=seed,
        )
        self._state = self._schedule.state_dict()
        self._drawn: deque[dict[str, int]] = deque()
        self._loader: DataLoader[_Fetched] = DataLoader(
            _PairDataset(timed, crop or Crop(), short_edge, frame_step, transpose_portrait),
            batch_sampler=self._steps(),
            collate_fn=_collate,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            pin_memory=self._device.type == "cuda",
            # Its own, so that starting the workers does not move the generator of the run.
            generator=torch.Generator(),
            worker_init_fn=start_worker,
        )
        self._batches: Iterator[_Collated] | None = None

    def __iter__(self) -> Iterator[PairBatch]:
        return self

    def __next__(self) -> PairBatch:
        if self._batches is None:
            self._batches = iter(self._loader)
        pairs, names, broken = next(self._batches)
        self._state = self._drawn.popleft()
        self._count_broken(broken)
        pairs = pairs.to(self._device, non_blocking=True)
        return PairBatch(pairs[:, 0], pairs[:, 1], names)

    def state_dict(self) -> dict[str, int]:
        """Return the position after the batch given last; the same on all ranks."""
        return self._state

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from the position in `state`; what was decoded ahead is dropped.

        Raises:
            ConfigError: it was written with other clips or another seed.
        """
        self._schedule.load_state_dict(state)
        self._state = self._schedule.state_dict()
        self._batches = None
        self._drawn.clear()

    def _steps(self) -> Iterator[list[PairDraw]]:
        # Workers run ahead: the position belongs to a batch, not to the schedule.
        while True:
            draws = self._schedule.draw(self._batch_size)[self._mine]
            self._drawn.append(self._schedule.state_dict())
            yield draws

    def _count_broken(self, broken: dict[str, str]) -> None:
        new = {name: reason for name, reason in broken.items() if name not in self._broken}
        for name, reason in new.items():
            logger.warning("Clip %s is left out: %s", name, reason)
        if new:
            self._broken |= new
            require_mostly_intact(self._broken, self._clip_count)

    def _timed(self, clips: Sequence[Clip], frame_step: int) -> list[_TimedClip]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            timed = list(pool.map(_times, clips, repeat(frame_step)))
        results = list(zip(clips, timed, strict=True))
        self._count_broken({clip.name: times for clip, times in results if isinstance(times, str)})
        found = [(clip, times) for clip, times in results if not isinstance(times, str)]
        for clip, times in found:
            if len(times) < 2:
                logger.warning("Clip %s is left out: it has no two frames.", clip.name)
        found = [(clip, times) for clip, times in found if len(times) > 1]
        if not found:
            raise InputError("No clip has two frames. Give clips in which things move.")
        return found


class _PairDataset(Dataset[_Fetched]):
    """Decodes and crops the pair of a draw; lives in a worker."""

    def __init__(
        self,
        clips: list[_TimedClip],
        crop: Crop,
        short_edge: int,
        frame_step: int,
        transpose_portrait: bool,
    ) -> None:
        self._clips, self._crop, self._frame_step = clips, crop, frame_step
        self._short_edge, self._transpose_portrait = short_edge, transpose_portrait
        self._broken: dict[str, str] = {}
        self._readers: dict[int, _Reader] = {}

    def __getitem__(self, draw: PairDraw) -> _Fetched:
        for number in range(draw.clip, draw.clip + len(self._clips)):
            place = number % len(self._clips)
            clip, times = self._clips[place]
            if clip.name in self._broken:
                continue
            try:
                if place not in self._readers:
                    self._readers[place] = clip.open(short_edge=self._short_edge)
                pair, name = self._fetch(self._readers[place], times, draw)
            except MediaError as error:
                self._broken[clip.name] = str(error)
            else:
                return self._crop([pair], [draw])[0], f"{clip.name}:{name}", self._broken
        raise MediaError(f"No clip can be read any more: {self._broken}. Give intact clips.")

    def _fetch(self, reader: _Reader, times: Times, draw: PairDraw) -> tuple[Tensor, str]:
        gap = draw.second - draw.first
        # The second try is for a clip that stands still at its end; the bounds are for a clip
        # that stands in for another.
        for first in (min(draw.first, max(0, len(times) - 1 - gap)), 0):
            second = min(first + gap, len(times) - 1)
            frames = _differing(reader, times[first], times[second])
            if frames is not None:
                number = first * self._frame_step
                return self._stack(frames), f"{number}-{number + frames[1].index}"
        raise MediaError(f"Cannot use {reader.source}: no two frames differ. Leave it out.")

    def _stack(self, frames: tuple[Frame, Frame]) -> Tensor:
        pair = torch.from_numpy(np.stack([frame.pixels for frame in frames]))
        swaps = self._transpose_portrait and pair.shape[1] > pair.shape[2]
        return pair.permute((0, 3, 2, 1) if swaps else (0, 3, 1, 2))


def _differing(reader: _Reader, start: float, end: float) -> tuple[Frame, Frame] | None:
    """Return the frame at `start` and the first at or after `end` that differs from it."""
    first: Frame | None = None
    for frame in reader.read(Span(start=max(0.0, start - _SAME_TIME))):
        if first is None:
            first = frame
        elif frame.time > end - _SAME_TIME and not np.array_equal(frame.pixels, first.pixels):
            return first, frame
    return None


def _collate(fetched: list[_Fetched]) -> _Collated:
    pairs, names, broken = zip(*fetched, strict=True)
    return torch.stack(pairs), names, {key: why for each in broken for key, why in each.items()}


def _times(clip: Clip, frame_step: int) -> Times | str:
    """Return the time of each used frame in seconds, or why the clip cannot be read."""
    try:
        return np.asarray(clip.timestamps()[::frame_step])
    except MediaError as error:
        return str(error)
