"""Training in several processes, started by torchrun: who is who, and what they agree on.

On GPUs N processes with B pairs in all take the steps of one process with B pairs, up to rounding
and dropout, if `shared_visibility` is set; as published each divides the photometric error by its
own visible share. BatchNorm's statistics are the whole batch's there, each process's own on CPUs.
"""

import atexit
import gc
import importlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_seg.device import resolve_device, say_which
from amd_seg.errors import AmdSegError, ConfigError, DeviceError
from amd_seg.training.config import RunConfig
from amd_seg.workers import start_worker


@dataclass(frozen=True)
class Processes:
    """Who this process is among those that share a run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the log, the checkpoints and the pictures."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def share_of(self, config: RunConfig) -> slice:
        """Which items of a micro-batch are this process's; equally many for each."""
        shares = config.accumulate * self.world_size
        size, rest = divmod(config.batch_size, shares)
        if rest:
            raise ConfigError(
                f"batch_size={config.batch_size} cannot be shared equally by {self.world_size} "
                f"process(es) with {config.accumulate} micro-batch(es) each. "
                f"Give --batch-size a multiple of {shares}."
            )
        return slice(self.rank * size, (self.rank + 1) * size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one process or more."""
        return bool(mean_over_processes(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank; nothing in all but the first."""
        if self.is_alone:
            return [value]
        gathered: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, gathered)
        return gathered or []

    def wait_for_all(self) -> None:
        """Return when every process has come here, for which one may need a day."""
        if not self.is_alone:
            dist.barrier(dist.new_group(backend="gloo", timeout=timedelta(days=1)))


@contextmanager
def joined_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun, stand alone.

    The devices "auto" and "cuda" become the process's own GPU.
    """
    place = resolve_device(device)
    if not is_launched():
        say_which(device, place)
        yield Processes(place)
        return
    if place.type == "cuda":
        if device not in ("auto", "cuda"):
            raise DeviceError(
                f"Device {device} cannot be shared by {os.environ['WORLD_SIZE']} processes. "
                "Give --device cuda: each process takes its own GPU."
            )
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise DeviceError(
                f"Process {own} of this node has no GPU: there are {there}. "
                f"Give --nproc-per-node {there}."
            )
        place = torch.device("cuda", own)
        torch.cuda.set_device(place)
    # Gloo's threads must end before the interpreter, or they may abort it. Cycles of DDP's hold the
    # group, and so do functions of this module, if it is first imported while there is one.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    atexit.register(gc.collect)
    try:
        if dist.get_rank():
            # What all processes notice is said once.
            logging.getLogger("amd_seg").setLevel(logging.ERROR)
        say_which(device, place)
        yield Processes(place, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first_process() -> bool:
    """Whether this process speaks for all: rank 0, or not started by torchrun."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean over the processes, without a gradient; each process gets the same numbers."""
    mean = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean


def batch_mean(values: Tensor) -> Tensor:
    """Mean of the values in the batches of all processes, without a gradient."""
    return mean_over_processes(values.mean())


class NumberedBatches(Iterator[Any]):
    """An endless stream of the batches of this process's draws.

    What a draw shows follows from the seed and its number alone. So a run resumes from one number,
    and processes agree without talking. `draw` gives the batch of a range of numbers, two tensors
    and names, in workers that fetch ahead, or without any in this process.
    """

    def __init__(
        self, draw: Callable[[range], Any], config: RunConfig, processes: Processes, workers: int
    ) -> None:
        self._draw, self._workers, self._device = _Draws(draw), workers, processes.device
        self._mine = processes.share_of(config)
        self._size = config.batch_size // config.accumulate
        self._drawn = 0
        self._fetched: Iterator[Any] | None = None

    def __next__(self) -> Any:
        if self._fetched is None:
            self._fetched = self._fetch()
        batch = next(self._fetched)
        if isinstance(batch, AmdSegError):
            raise batch
        self._drawn += self._size
        first, second = (each.to(self._device, non_blocking=True) for each in batch[:2])
        return type(batch)(first, second, tuple(batch.names))

    def state_dict(self) -> dict[str, int]:
        """The position after the batch given last; the same in all processes."""
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a position; what was fetched ahead is dropped."""
        self._drawn, self._fetched = state["drawn"], None

    def _fetch(self) -> Iterator[Any]:
        firsts = itertools.count(self._drawn, self._size)
        steps = (range(first, first + self._size)[self._mine] for first in firsts)
        if not self._workers:
            return map(self._draw.__getitem__, steps)
        loader = DataLoader(
            self._draw,
            sampler=steps,
            batch_size=None,  # An item is a batch already.
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            # Its own, so that starting the workers does not move the generator of the run.
            generator=torch.Generator(),
            worker_init_fn=start_worker,
        )
        return iter(loader)


class _Draws(Dataset[Any]):
    """What a function draws, or the error that it raises, as DataLoader's workers take it."""

    def __init__(self, draw: Callable[[range], Any]) -> None:
        self.draw = draw

    def __getitem__(self, numbers: range) -> Any:
        try:
            return self.draw(numbers)
        except AmdSegError as error:
            return error  # raised in a worker it would arrive with its traceback as its message


@lru_cache(maxsize=2)
def order_of(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the random order of an epoch's items."""
    return np.random.default_rng((seed, epoch)).permutation(count)
