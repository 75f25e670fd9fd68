"""What a training step needs of memory, found without taking it, and how to need less."""

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amd_seg.device import resolve_precision
from amd_seg.errors import DeviceError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.training.clips import GIB, free_bytes
from amd_seg.training.presets import TrainingConfig

MakeObjective = Callable[[AMD], nn.Module]
MakeBatch = Callable[[int], Any]
"""Gives a batch of n items whose tensors are empty, on the CPU."""

SHARE_OF_FREE = 0.8
"""Of the memory that is free, what a step may take: libraries keep buffers of their own."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is taken so that it fits.

    Attributes:
        gib: what a step needs at its peak, weights and optimiser included, in GiB.
        accumulate: micro-batches of a step.
        is_checkpointed: the backbone computes its stages twice, see `ResNet`.
        motion_size: height and width at which the motion pathway sees frames.
    """

    gib: float
    accumulate: int
    is_checkpointed: bool
    motion_size: tuple[int, int]


def plan_memory(
    model: AMDConfig,
    training: TrainingConfig,
    make_objective: MakeObjective,
    make_batch: MakeBatch,
    *,
    device: torch.device,
    limit_gib: float | None = None,
) -> MemoryPlan:
    """Return the first way to take a step that fits the memory.

    In this order: as asked for; in micro-batches; with the backbone's stages computed twice; with
    a motion size of a half, a quarter, ... of the model's.

    Args:
        model, training: the settings; the motion size is given up only where the objective
            looks at motion.
        make_objective: of a model.
        make_batch: of a number of items.
        device: whose memory counts.
        limit_gib: what may be taken; None takes `SHARE_OF_FREE` of what is free.

    Raises:
        DeviceError: no way fits.
    """
    limit = _limit(device, limit_gib)
    plans = []
    for accumulate, is_checkpointed, size in _ways(model, training):
        config = dataclasses.replace(model, motion_size=size)
        needed = step_bytes(
            config,
            make_objective,
            make_batch(training.batch_size // accumulate),
            precision=training.precision,
            is_checkpointed=is_checkpointed,
        )
        plans.append(MemoryPlan(needed / GIB, accumulate, is_checkpointed, size))
        if limit is None or needed <= limit:
            return plans[-1]
    assert limit is not None
    least = min(plan.gib for plan in plans)
    raise DeviceError(
        f"A step does not fit the memory of {device}: it needs {least:.2g} GiB at least (crops of "
        f"{training.crop[0]}x{training.crop[1]}, one at a time), and {limit / GIB:.2g} GiB may be "
        "used. Let the network see a smaller size, free memory, or take smaller weights."
    )


def step_bytes(
    model: AMDConfig,
    make_objective: MakeObjective,
    batch: Any,
    *,
    precision: str = "float32",
    is_checkpointed: bool = False,
) -> int:
    """Return what one step needs at its peak: weights, gradients, Adam's state and activations.

    The step is taken on tensors that have shapes and no memory. What libraries take for
    themselves is not in the number.
    """
    dtype = resolve_precision(precision, torch.device("cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        amd = AMD(model)
        amd.appearance.backbone.is_checkpointed = is_checkpointed
        objective = make_objective(amd).train()
        weights: int = sum(p.nbytes for p in objective.parameters())
        with _PeakMemory() as memory:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
                loss = objective(_faked(batch), 0.0, 0)["loss"]
            loss.backward()
    # The model, and two numbers a weight for Adam.
    needed: int = memory.peak + 3 * weights
    return needed


class _PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def on_end(_: Any) -> None:
            self._now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, on_end)
        self._now += size
        self.peak = max(self.peak, self._now)


def _ways(
    model: AMDConfig, training: TrainingConfig
) -> Iterator[tuple[int, bool, tuple[int, int]]]:
    """Yield micro-batches, checkpointing and motion size, from the fastest to the smallest."""
    batch = training.batch_size
    shares = [n for n in range(training.accumulate, batch + 1) if batch % n == 0]
    yield from ((share, False, model.motion_size) for share in shares)
    yield batch, True, model.motion_size
    if training.objective == "mover":
        return
    stride = 2 ** len(model.pyramid_channels)
    height, width = (size // 2 // stride * stride for size in model.motion_size)
    while min(height, width) >= 2 * stride:
        yield batch, True, (height, width)
        height, width = (size // 2 // stride * stride for size in (height, width))


def _limit(device: torch.device, limit_gib: float | None) -> float | None:
    if limit_gib is not None:
        return limit_gib * GIB
    free = free_bytes(device)
    return None if free is None else SHARE_OF_FREE * free


def _faked(batch: Any) -> Any:
    """The batch's tensors without memory, made inside the mode that is active."""
    changes = {
        field.name: torch.empty_like(value)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    return dataclasses.replace(batch, **changes)
