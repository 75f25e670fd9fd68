"""The one visible loop: training and adaptation are this function on different pairs."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amd_seg.device import resolve_precision
from amd_seg.errors import ConfigError, TrainingDivergedError
from amd_seg.training.config import RunConfig
from amd_seg.training.distributed import Processes, local_gradients


class StopTraining(Exception):
    """Raised by `on_step` to end a run between two steps; what was learned is kept."""


class Batches(Protocol):
    """An endless stream of batches that knows where it stands."""

    def __next__(self) -> Any:
        """The next micro-batch, on the run's device."""

    def __iter__(self) -> Iterator[Any]:
        """Itself."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as numbers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class OwnBatches(Batches, Protocol):
    """A stream that draws in each process from another seed."""

    def begin_at(self, step: int) -> None:
        """Draw, from here on, what this process draws that joins a run after a step."""


@dataclass
class TrainState:
    """What changes while a run goes on; all of it is in a checkpoint."""

    objective: nn.Module
    """Model and loss; maps a batch to {"loss": ..., parts}."""
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    """The averaged model (EMA) that is released, where the settings ask for one."""
    step: int = 0
    seconds: float = 0.0
    """Wall-clock time spent in steps, over all parts of a resumed run."""

    @property
    def model(self) -> nn.Module:
        """The model that the steps change."""
        model = self.bare_objective.model
        assert isinstance(model, nn.Module)
        return model

    @property
    def bare_objective(self) -> nn.Module:
        """The objective itself, where DistributedDataParallel holds it as its `module`."""
        objective = getattr(self.objective, "module", self.objective)
        assert isinstance(objective, nn.Module)
        return objective

    @property
    def released(self) -> nn.Module:
        """The model that is worth keeping: the average where there is one."""
        return self.model if self.average is None else self.average


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    step: int
    """Steps done, this one included."""
    done: float
    """How much of the run that is, 0 to 1; see `progress`."""
    parts: dict[str, float]
    """The loss, its terms and the monitors."""
    learning_rate: float
    gradient_norm: float
    seconds: float
    """Time since the run began, over all its parts."""
    names: tuple[str, ...] = field(repr=False)
    """The pairs of the last micro-batch."""


def start(objective: nn.Module, config: RunConfig) -> TrainState:
    """A fresh state: the settings' optimiser, and an average where they ask for one."""
    state = TrainState(objective, _optimizer(objective, config))
    if config.ema_decay:
        state.average = copy.deepcopy(state.model).eval().requires_grad_(False)
    return state


def _optimizer(objective: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    parameters = [p for p in objective.parameters() if p.requires_grad]
    rates: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **rates)
    # One kernel for all parameters, where there is one.
    rates["fused"] = parameters[0].device.type in ("cpu", "cuda")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **rates)
    return torch.optim.Adam(parameters, **rates)


def optimize(
    state: TrainState,
    batches: Iterator[Any],
    config: RunConfig,
    *,
    on_step: Callable[[StepReport], None] | None = None,
    processes: Processes | None = None,
) -> TrainState:
    """Take steps until the settings' number, or their minutes, are reached.

    Args:
        state: from `start`, or from a checkpoint; it is changed and returned.
        batches: an endless iterator of micro-batches, on the model's device.
        config: the settings.
        on_step: called after each step; an exception from it ends the run.
        processes: those that take the steps together; None is this one alone.

    Raises:
        TrainingDivergedError: the loss or its gradient is not finite; the weights are still
            those before the step.
    """
    device = next(state.model.parameters()).device
    processes = processes or Processes(device)
    autocast_dtype = resolve_precision(config.precision, device)
    state.objective.train()
    while (done := progress(state, config)) < 1:
        began = time.perf_counter()
        learning_rate = learning_rate_at(done, state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate

        totals: dict[str, Tensor] = {}
        for micro_batch in range(1, config.accumulate + 1):
            batch = next(batches)
            enabled = autocast_dtype is not torch.float32
            with local_gradients(state.objective, micro_batch == config.accumulate):
                with torch.autocast(device.type, dtype=autocast_dtype, enabled=enabled):
                    parts = state.objective(batch, done, state.step)
                _require_finite(parts["loss"], "loss", parts, batch.names, state.step)
                (parts["loss"] / config.accumulate).backward()
            for name, value in parts.items():
                totals[name] = totals.get(name, 0) + value.detach() / config.accumulate

        limit = config.gradient_clip or math.inf
        norm = nn.utils.clip_grad_norm_(state.objective.parameters(), limit)
        _require_finite(norm, "gradient", totals, batch.names, state.step)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            update_average(state.average, state.model, config.ema_decay, state.step)
        state.step += 1
        state.seconds += time.perf_counter() - began
        if not processes.is_alone:
            # The mean of their clocks: the schedule must be the same in all of them.
            seconds = torch.tensor(state.seconds, dtype=torch.float64, device=device)
            state.seconds = processes.mean(seconds).item()
        if on_step is not None:
            means = processes.mean(torch.stack([v.float() for v in totals.values()])).tolist()
            on_step(
                StepReport(
                    step=state.step,
                    done=progress(state, config),
                    parts=dict(zip(totals, means, strict=True)),
                    learning_rate=learning_rate,
                    gradient_norm=norm.item(),
                    seconds=state.seconds,
                    names=batch.names,
                )
            )
    return state


def progress(state: TrainState, config: RunConfig) -> float:
    """How much of the run is done, 0 to 1: by the clock where minutes are set, else by steps."""
    by_steps = state.step / config.steps
    by_clock = state.seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(by_steps, by_clock))


def learning_rate_at(done: float, step: int, config: RunConfig) -> float:
    """Polynomial decay, (base - final) (1 - t/T)^power + final, after a linear warm-up."""
    decay: float = (1 - done) ** config.poly_power
    rate = (config.learning_rate - config.final_learning_rate) * decay
    rate += config.final_learning_rate
    return rate * min(1.0, (step + 1) / (config.warmup_steps + 1))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; early on faster, so that it forgets the start."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    for kept, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(value, share)
        else:
            kept.copy_(value)


def state_dict(state: TrainState) -> dict[str, Any]:
    """The state as tensors and numbers; the same in all processes."""
    saved = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    saved["objective"] = state.bare_objective
    for name in ("objective", "optimizer", "average"):
        saved[name] = None if saved[name] is None else saved[name].state_dict()
    return saved


def load_state_dict(state: TrainState, saved: dict[str, Any]) -> None:
    """Take over what `state_dict` returned, under the settings that this state was made with.

    Raises:
        ConfigError: it is of another model or optimiser; the state is left as it was.
    """
    mine, its = (
        {name: tuple(value.shape) for name, value in values.items()}
        for values in (state.bare_objective.state_dict(), saved["objective"])
    )
    differing = [name for name in {**mine, **its} if mine.get(name) != its.get(name)]
    if differing:
        shown = [f"{name} {its.get(name)}, now {mine.get(name)}" for name in differing[:3]]
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ConfigError(
            f"Cannot go on from a checkpoint of another model ({'; '.join(shown)}{more}). "
            "Leave out the settings that change the model."
        )
    needed = "momentum_buffer" if isinstance(state.optimizer, torch.optim.SGD) else "exp_avg"
    if any(needed not in kept for kept in saved["optimizer"]["state"].values()):
        raise ConfigError(
            "Cannot go on from a checkpoint of another optimiser. Leave out --set optimizer."
        )
    state.bare_objective.load_state_dict(saved["objective"])
    # The saved groups would bring back the weight decay and momentum of before.
    groups = zip(state.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True)
    own = [{**mine, "params": its["params"]} for mine, its in groups]
    state.optimizer.load_state_dict({**saved["optimizer"], "param_groups": own})
    if state.average is not None:
        # A run that had none begins its average with the model as it is now.
        state.average.load_state_dict(saved["average"] or state.model.state_dict())
    state.step, state.seconds = saved["step"], saved["seconds"]


def random_state(device: torch.device) -> dict[str, Any]:
    """Where this process's random generators stand, the device's included."""
    saved: dict[str, Any] = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        saved["cuda_rng"] = [torch.cuda.get_rng_state(device)]
    return saved


def load_random_state(saved: dict[str, Any], device: torch.device) -> None:
    """Go on with what `random_state` returned."""
    torch.set_rng_state(saved["rng"])
    if device.type == "cuda" and "cuda_rng" in saved:
        torch.cuda.set_rng_state(saved["cuda_rng"][0], device)


def _require_finite(
    value: Tensor, what: str, parts: dict[str, Tensor], names: tuple[str, ...], step: int
) -> None:
    if torch.isfinite(value):
        return
    values = ", ".join(f"{name} {part.item():.4g}" for name, part in parts.items())
    raise TrainingDivergedError(
        f"The {what} is not finite at step {step} ({values}), on {', '.join(names)}. "
        "Take a lower learning rate, or clip the gradient."
    )
