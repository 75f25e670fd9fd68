"""The one visible loop: training and adaptation are this function on different batches."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from amd_seg.device import resolve_precision
from amd_seg.errors import ConfigError, TrainingDivergedError
from amd_seg.media.files import some
from amd_seg.training.config import RunConfig
from amd_seg.training.distributed import mean_over_processes


class StopTraining(Exception):
    """Raised by `on_step` to end a run between two steps; what was learned is kept."""


class StepReport(NamedTuple):
    """What one step did."""

    step: int  # steps done, this one included
    done: float  # how much of the run that is, 0 to 1; see `progress`
    parts: dict[str, float]  # the loss, its terms and the monitors
    learning_rate: float
    gradient_norm: float
    seconds: float  # since the run began, over all its parts


OnStep = Callable[[StepReport], None]


class Batches(Iterator[Any], Protocol):
    """An endless stream of micro-batches, on the run's device, that knows where it stands."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as numbers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class TrainState:
    """What changes while a run goes on, all of it in a checkpoint."""

    def __init__(self, objective: nn.Module, config: RunConfig) -> None:
        self.objective = objective.train()
        # DistributedDataParallel holds it as its `module`.
        self.bare_objective: nn.Module = getattr(objective, "module", objective)
        self.model: nn.Module = self.bare_objective.model  # type: ignore[assignment]
        self.average: nn.Module | None = None
        if config.ema_decay:
            self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.step, self.seconds = 0, 0.0  # time spent in steps, over all parts of a resumed run
        parameters = [p for p in objective.parameters() if p.requires_grad]
        options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, momentum=config.momentum, **options)
        else:
            kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
            # One kernel for all parameters, where there is one.
            is_fused = parameters[0].device.type in ("cpu", "cuda")
            self.optimizer = kind(parameters, fused=is_fused, **options)

    @property
    def released(self) -> nn.Module:
        """The model that is worth keeping: the average where there is one."""
        return self.model if self.average is None else self.average

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and numbers; the same in all processes."""
        return {
            "objective": self.bare_objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, under the settings that this state was made with.

        A ConfigError says where it is of another model or optimiser; the state is then as it was.
        """
        mine, its = (
            {name: tuple(value.shape) for name, value in values.items()}
            for values in (self.bare_objective.state_dict(), saved["objective"])
        )
        if differing := [name for name in {**mine, **its} if mine.get(name) != its.get(name)]:
            shown = some(f"{name} {its.get(name)}, now {mine.get(name)}" for name in differing)
            raise ConfigError(
                f"Cannot go on from a checkpoint of another model ({shown}). "
                "Leave out the settings that change the model."
            )
        needed = "momentum_buffer" if isinstance(self.optimizer, torch.optim.SGD) else "exp_avg"
        if any(needed not in kept for kept in saved["optimizer"]["state"].values()):
            raise ConfigError(
                "Cannot go on from a checkpoint of another optimiser. Leave out --set optimizer."
            )
        self.bare_objective.load_state_dict(saved["objective"])
        # The saved groups would bring back the weight decay and momentum of before.
        groups = zip(self.optimizer.param_groups, saved["optimizer"]["param_groups"], strict=True)
        own = [{**mine, "params": its["params"]} for mine, its in groups]
        self.optimizer.load_state_dict({**saved["optimizer"], "param_groups": own})
        if self.average is not None:
            # A run that had none begins its average with the model as it is now.
            self.average.load_state_dict(saved["average"] or self.model.state_dict())
        self.step, self.seconds = saved["step"], saved["seconds"]


def optimize(
    state: TrainState,
    batches: Iterator[Any],
    config: RunConfig,
    *,
    on_step: OnStep | None = None,
) -> None:
    """Take steps until the settings' number, or their minutes, are reached.

    An exception from `on_step` ends the run. A TrainingDivergedError says that the loss or its
    gradient is not finite; the weights are still those before the step.
    """
    device = next(state.model.parameters()).device
    dtype = resolve_precision(config.precision, device)
    while (done := progress(state, config)) < 1:
        began = time.perf_counter()
        learning_rate = learning_rate_at(done, state.step, config)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate

        totals: dict[str, Tensor] = {}
        for micro_batch in range(1, config.accumulate + 1):
            batch = next(batches)
            # The gradients are averaged over processes with the last micro-batch.
            is_last = micro_batch == config.accumulate
            with nullcontext() if is_last else getattr(state.objective, "no_sync", nullcontext)():
                with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                    parts = state.objective(batch, done)
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
        # The mean of the processes' clocks: the schedule must be the same in all of them.
        place = device if device.type == "cuda" else "cpu"  # MPS has no float64
        seconds = torch.tensor(state.seconds, dtype=torch.float64, device=place)
        state.seconds = mean_over_processes(seconds).item()
        if on_step is not None:
            means = mean_over_processes(torch.stack([v.float() for v in totals.values()])).tolist()
            parts, done = dict(zip(totals, means, strict=True)), progress(state, config)
            on_step(StepReport(state.step, done, parts, learning_rate, norm.item(), state.seconds))


def progress(state: TrainState, config: RunConfig) -> float:
    """How much of the run is done, 0 to 1: by the clock where minutes are set, else by steps."""
    by_clock = state.seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(state.step / config.steps, by_clock))


def learning_rate_at(done: float, step: int, config: RunConfig) -> float:
    """Polynomial decay, (base - final) (1 - t/T)^power + final, after a linear warm-up."""
    decay: float = (1 - done) ** config.poly_power
    span = config.learning_rate - config.final_learning_rate
    warm_up = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return (span * decay + config.final_learning_rate) * warm_up


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; early on faster, so that it forgets the start."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    for kept, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(value, share)
        else:
            kept.copy_(value)


def _require_finite(
    value: Tensor, what: str, parts: dict[str, Tensor], names: tuple[str, ...], step: int
) -> None:
    if not torch.isfinite(value):
        values = ", ".join(f"{name} {part.item():.4g}" for name, part in parts.items())
        raise TrainingDivergedError(
            f"The {what} is not finite at step {step} ({values}), on {', '.join(names)}. "
            "Take a lower learning rate, or clip the gradient."
        )
