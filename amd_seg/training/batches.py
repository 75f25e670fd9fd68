"""Endless streams of batches: what a loop asks of them, and those whose draws have numbers."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from amd_seg.training.config import RunConfig
from amd_seg.training.distributed import Processes
from amd_seg.workers import start_worker


class Batches(Iterator[Any], Protocol):
    """An endless stream of micro-batches, on the run's device, that knows where it stands."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as numbers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class NumberedBatches(Iterator[Any]):
    """An endless stream of what this process's draws give.

    What a draw shows follows from the seed and its number alone, whatever the batch, the workers
    and the processes. So a run resumes from one number, and processes agree without talking. The
    source gives what the draws of a range of numbers show; workers are processes that fetch ahead.
    """

    def __init__(
        self, source: Dataset[Any], config: RunConfig, processes: Processes, workers: int
    ) -> None:
        self._source, self._workers, self._device = source, workers, processes.device
        self._mine = processes.share_of(config)
        self._size = config.batch_size // config.accumulate
        self._drawn = 0
        self._fetched: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._fetched is None:
            self._fetched = self._fetch()
        fetched = next(self._fetched)
        self._drawn += self._size
        return fetched

    def state_dict(self) -> dict[str, int]:
        """The position after the batch given last; the same in all processes."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position; what was fetched ahead is dropped."""
        self._drawn, self._fetched = state["drawn"], None

    def _fetch(self) -> Iterator[Any]:
        def steps() -> Iterator[range]:
            first = self._drawn
            while True:
                yield range(first, first + self._size)[self._mine]
                first += self._size

        if not self._workers:
            return map(self._source.__getitem__, steps())
        loader = DataLoader(
            self._source,
            sampler=steps(),
            batch_size=None,  # An item is a batch already.
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Its own, so that starting the workers does not move the generator of the run.
            generator=torch.Generator(),
            worker_init_fn=start_worker,
        )
        return iter(loader)


@lru_cache(maxsize=2)
def order_of(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the random order of an epoch's items."""
    return np.random.default_rng((seed, epoch)).permutation(count)
