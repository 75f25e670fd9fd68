"""Which pairs of frames a run sees, in which order, and which part of them: no pixel is read here.

Every draw depends on the seed and on its own number alone, whatever the batch, so a run resumes
from four numbers and all ranks agree without talking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from amd_seg.errors import ConfigError
from amd_seg.training.crops import resize_parts

Sampling = Literal["video", "pair"]
Box = tuple[int, int, int, int]

# Uniform numbers kept for each draw: gap, start, zoom, top, left, flip, two spare. A multiple of
# four, which is what one step of the counter-based generator gives.
_NUMBERS = 8


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


class PairDraw(NamedTuple):
    """One draw: a pair of stored frames of a clip, and the chances of its crop, in [0, 1)."""

    clip: int
    first: int
    second: int
    zoom: float
    top: float
    left: float
    flip: float


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Which part of a pair is seen, at which size.

    Attributes:
        size: (height, width) of what the network sees, in pixels.
        scale: least and largest side of the box, as a share of the largest box of this aspect
            that fits the frame. The size that the frame is resized to before the crop is uniform:
            (0.96, 1.0) is the published crop of 384 from a short edge uniform in 384..400.
        flip: mirror half of the pairs left to right.

    Source: FACTS 4 in the words of the released pipeline: one ratio, one box for both frames.
    """

    size: tuple[int, int] = (384, 384)
    scale: tuple[float, float] = (0.96, 1.0)
    flip: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ConfigError(f"crop size is {self.size}. Give a height and a width above 0.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(
                f"crop scale is {self.scale}. Give a least and a largest share in (0, 1]."
            )

    def box(self, draw: PairDraw, height: int, width: int) -> Box:
        """Return (top, left, height, width) of the drawn box in a frame of the given size."""
        low, high = self.scale
        scale = 1 / (1 / high + draw.zoom * (1 / low - 1 / high))
        factor = scale * min(height / self.size[0], width / self.size[1])
        box_height = min(height, max(1, round(self.size[0] * factor)))
        box_width = min(width, max(1, round(self.size[1] * factor)))
        top = int(draw.top * (height - box_height + 1))
        left = int(draw.left * (width - box_width + 1))
        return top, left, box_height, box_width

    def __call__(self, pairs: Sequence[Tensor], draws: Sequence[PairDraw]) -> Tensor:
        """Return the drawn part of each pair at `size`, antialiased, mirrored where that is drawn.

        Args:
            pairs: each (2, 3, height, width), uint8, on one device.
            draws: whose chances place the boxes and decide the flips.

        Returns:
            (pair, 2, 3, *size), uint8.
        """
        boxes = [self.box(draw, *pair.shape[-2:]) for pair, draw in zip(pairs, draws, strict=True)]
        parts = [
            pair[..., top : top + height, left : left + width]
            for pair, (top, left, height, width) in zip(pairs, boxes, strict=True)
        ]
        return resize_parts(parts, self.size, [self.flip and draw.flip < 0.5 for draw in draws])


class PairSchedule:
    """An endless, seeded sequence of pairs, the same for every batch size and rank.

    Args:
        lengths: frames of each clip, at least 2.
        weights: how often each clip is drawn, relative to the others.
        sampling: "video": an epoch draws one random pair of each clip, as published; "pair": an
            epoch draws a pair at every frame of every clip.
        max_gap: the second frame comes 1..max_gap frames after the first, uniformly.
        seed: what all draws follow from.

    Raises:
        ConfigError: there is no clip, one is too short, or an argument is not a possible value.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        sampling: Sampling = "video",
        max_gap: int = 1,
        seed: int = 0,
    ) -> None:
        if not lengths or min(lengths) < 2:
            raise ConfigError(f"Pairs need clips of 2 frames or more, not of {list(lengths)[:9]}.")
        if sampling not in ("video", "pair"):
            raise ConfigError(f"sampling is {sampling!r}. Use video or pair.")
        if max_gap < 1:
            raise ConfigError(f"max_gap is {max_gap}. Give 1 for adjacent frames, or more.")
        self._lengths = np.asarray(lengths, np.int64)
        self._weights = np.ones(len(lengths)) if weights is None else np.asarray(weights, float)
        # The least weight is drawn once an epoch.
        self._weights = self._weights / self._weights.min()
        self._phases = np.random.default_rng(seed).random(len(lengths))
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
        blocks = _NUMBERS // 4
        philox = np.random.Philox(key=self._seed, counter=self._drawn * blocks)
        chances = np.random.Generator(philox).random((count, _NUMBERS))
        self._drawn += count
        return [self._pair(*item, *row) for item, row in zip(items, chances.tolist(), strict=True)]

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

    def _order(self, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the epoch's items, (item, 2): clip and first frame, -1 where chance decides."""
        # A weight of 1.5 is once in one epoch and twice in the next, in its own rhythm per clip.
        turns = np.floor((epoch + 1) * self._weights + self._phases)
        copies = (turns - np.floor(epoch * self._weights + self._phases)).astype(np.int64)
        clips = np.repeat(np.arange(len(copies)), copies)
        if self._sampling == "pair":
            starts = [np.arange(self._lengths[clip] - 1) for clip in clips]
            clips = np.repeat(clips, self._lengths[clips] - 1)
            items = np.stack((clips, np.concatenate(starts)), axis=1)
        else:
            items = np.stack((clips, np.full_like(clips, -1)), axis=1)
        return np.random.default_rng((self._seed, epoch)).permutation(items)

    def _pair(self, clip: int, first: int, gap: float, start: float, *crop: float) -> PairDraw:
        last = int(self._lengths[clip]) - 1
        reach = last if first < 0 else last - first
        step = 1 + int(gap * min(self._max_gap, reach))
        if first < 0:
            first = int(start * (last - step + 1))
        return PairDraw(clip, first, first + step, *crop[:4])
