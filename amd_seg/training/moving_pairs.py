"""Batches of pairs in which something moves against the background; the others are passed over."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.training.background import background_residual, dis_flow, resize_frames
from amd_seg.training.data import PairSampler
from amd_seg.training.loader import PairLoader
from amd_seg.training.pairs import PairBatch

logger = logging.getLogger(__name__)

WORK_EDGE = 96
"""Short edge, in pixels, at which the motion is measured."""
MOVING_SHARE = 0.05
"""Share of a frame that must move: less is noise or a leaf."""
MOST_DRAWS = 20
"""Batches drawn for one: then the rest is filled with what does not move."""


class MovingPairs(Iterator[PairBatch]):
    """A stream of pairs without those in which nothing moves on its own.

    Pairs drawn beyond a full batch are dropped, so that the position of the stream says all. In
    several processes each one passes over its own pairs: positions differ from then on.
    """

    def __init__(self, pairs: PairSampler | PairLoader, least_motion: float) -> None:
        self._pairs, self._least = pairs, least_motion
        self._has_warned = False

    def __next__(self) -> PairBatch:
        batch = next(self._pairs)
        count = len(batch.names)
        kept, others = self._parted(batch)
        for _ in range(MOST_DRAWS - 1):
            if len(kept.names) >= count:
                break
            more, still = self._parted(next(self._pairs))
            kept, others = _joined(kept, more), _joined(others, still)
        if len(kept.names) < count and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "In %d batches fewer than %d pairs move by %g pixels: a batch is filled up with "
                "pairs that do not. Give a lower --min-relative-motion or a larger --max-gap.",
                *(MOST_DRAWS, count, self._least),
            )
        return _chosen(_joined(kept, others), list(range(count)))

    def state_dict(self) -> dict[str, int]:
        """Return the position, for `load_state_dict`."""
        return self._pairs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the position in `state`."""
        self._pairs.load_state_dict(state)

    def _parted(self, batch: PairBatch) -> tuple[PairBatch, PairBatch]:
        frames_i, frames_j = (
            frames.permute(0, 2, 3, 1).cpu().numpy() for frames in (batch.frame_i, batch.frame_j)
        )
        moves = [
            relative_motion(*pair) >= self._least for pair in zip(frames_i, frames_j, strict=True)
        ]
        places = range(len(moves))
        return (
            _chosen(batch, [place for place in places if moves[place]]),
            _chosen(batch, [place for place in places if not moves[place]]),
        )


def relative_motion(frame_i: NDArray[np.uint8], frame_j: NDArray[np.uint8]) -> float:
    """How far the fastest twentieth of a frame moves against the background at least.

    Args:
        frame_i, frame_j: (height, width, 3), RGB.

    Returns:
        Pixels, at a short edge of 96; 0 where no background can be fitted.
    """
    small_i, small_j = resize_frames(np.stack((frame_i, frame_j)), WORK_EDGE)
    residual = background_residual(dis_flow(small_i, small_j))
    return 0.0 if residual is None else float(np.quantile(residual, 1 - MOVING_SHARE))


def _chosen(batch: PairBatch, places: list[int]) -> PairBatch:
    index = torch.tensor(places, dtype=torch.long, device=batch.frame_i.device)
    names = tuple(batch.names[place] for place in places)
    return PairBatch(batch.frame_i[index], batch.frame_j[index], names)


def _joined(first: PairBatch, second: PairBatch) -> PairBatch:
    return PairBatch(
        torch.cat((first.frame_i, second.frame_i)),
        torch.cat((first.frame_j, second.frame_j)),
        first.names + second.names,
    )
