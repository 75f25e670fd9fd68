"""A whole run, whatever it learns: a task in, a folder with log, checkpoints and weights out."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from amd_seg import __version__
from amd_seg.device import seed_everything
from amd_seg.errors import ConfigError, MediaError, TrainingDivergedError
from amd_seg.model.config import AppearanceConfig
from amd_seg.training import loop
from amd_seg.training.batches import Batches, OwnBatches
from amd_seg.training.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from amd_seg.training.distributed import Processes, distribute, joined_processes
from amd_seg.training.folder import ORIGIN, RunFolder
from amd_seg.training.loop import StopTraining
from amd_seg.training.run_config import RunConfig
from amd_seg.training.watch import Watch
from amd_seg.weights import Network

OnStep = Callable[[loop.StepReport], None]


@dataclass(frozen=True)
class Run:
    """The parts of a run in this process."""

    config: RunConfig
    folder: RunFolder
    processes: Processes
    state: loop.TrainState
    batches: Batches

    @property
    def model(self) -> Network:
        """The model that is released: the average where there is one."""
        model = self.state.released
        assert isinstance(model, Network)
        return model

    def checkpoint(self) -> None:
        """Save what is needed to go on, with the random state of every process.

        Raises:
            MediaError: the disk is full.
        """
        own = {**loop.random_state(self.processes.device), "batches": self.batches.state_dict()}
        ranks = self.processes.gather(own)
        if ranks is not None:
            saved = {**loop.state_dict(self.state), **ranks[0], "other_ranks": ranks[1:]}
            folder = self.folder.checkpoints
            save_checkpoint(folder, self.state.step, saved, keep=self.config.keep)

    def resume(self) -> None:
        """Go on from the newest checkpoint.

        Raises:
            WeightsError: it cannot be read.
            ConfigError: it is of another model, optimiser or stream of batches.
        """
        saved = load_checkpoint(list_checkpoints(self.folder.checkpoints)[-1])
        if saved["batches"].keys() != self.batches.state_dict().keys():
            raise ConfigError(
                f"Cannot resume {self.folder.path}: it learned by another objective, from other "
                "batches. Leave out --objective."
            )
        loop.load_state_dict(self.state, saved)
        ranks = [saved, *saved.get("other_ranks", [])]
        if self.processes.rank < len(ranks):
            own = ranks[self.processes.rank]
            loop.load_random_state(own, self.processes.device)
            self.batches.load_state_dict(own["batches"])
        elif isinstance(self.batches, OwnBatches):
            # The run goes on in more processes than before.
            self.batches.begin_at(self.state.step)
        else:
            self.batches.load_state_dict(saved["batches"])


class Task(Protocol):
    """What a run learns, and from what: all in which one kind of run differs from another."""

    @property
    def config(self) -> RunConfig:
        """How the run takes its steps."""

    @property
    def some_unused(self) -> bool:
        """Whether parameters may have no part in a step."""

    def settings(self) -> dict[str, Any]:
        """What config.json of the run says, as JSON-able values."""

    def data(self) -> dict[str, list[str]]:
        """What it learns from, as far as that is known before it is read; see `RunFolder`."""

    def start_model(self, *, resume: bool) -> Network:
        """The model before the first step; of a resumed run the checkpoint has its values."""

    def open_batches(self, processes: Processes, folder: RunFolder) -> Batches:
        """What this process learns from."""

    def make_objective(self, model: Network) -> nn.Module:
        """Model and loss as one module; maps a batch to {"loss": ..., parts}."""

    def open_watch(self, folder: RunFolder, batches: Batches) -> Watch:
        """What is written for those who look on; asked of the first process only."""

    def after_step(self, run: Run, watch: Watch | None, report: loop.StepReport) -> None:
        """Look at what a step did, in every process; it may end the run by an error."""

    def release(self, run: Run, training: dict[str, Any]) -> None:
        """Write the trained weights to the run's folder; asked of the first process only."""


def carry_out(
    task: Task,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Do a task from its first step, or from the newest checkpoint, to its last.

    Args:
        task: what is learned.
        out: the run folder; it must be new, or without a checkpoint, unless `resume` is set.
        device: see `resolve_device`.
        resume: go on from the newest checkpoint in `out`.
        on_step: called after each step; it may raise `StopTraining`.

    Returns:
        The folder of the trained weights.

    Raises:
        ConfigError, InputError, MediaError, WeightsError: the run cannot start.
        TrainingDivergedError: the loss is not finite.
        StopTraining: from `on_step`, after a checkpoint.
    """
    folder = RunFolder(Path(out))
    settings = {"amd_seg": __version__, **task.settings()}
    if resume:
        before = folder.read_settings()
        settings |= {name: before[name] for name in ORIGIN if name in before}
    with joined_processes(device) as processes:
        if processes.is_first:
            folder.require_usable(resume)
            if resume:
                folder.require_same_seed(task.config.seed)
                folder.require_same_data(task.data())
        seed_everything(task.config.seed)
        model = task.start_model(resume=resume).to(processes.device)
        batches = task.open_batches(processes, folder)
        run = _prepare(task, model, folder, processes, batches)
        watch = None
        if processes.is_first:
            if not resume:
                folder.write_settings(settings, task.data())
            watch = task.open_watch(folder, batches)
        if resume:
            run.resume()
            if processes.is_first:
                # Not before: settings that do not fit must not take the place of those that do.
                folder.write_settings(settings, task.data())
        if watch is not None:
            folder.take_back_lines_after(run.state.step)
        with watch or nullcontext():
            _optimize(task, run, watch, on_step)
        if watch is not None:
            minutes = round(run.state.seconds / 60, 1)
            task.release(run, {**settings, "steps": run.state.step, "minutes": minutes})
    return folder.weights


def _prepare(
    task: Task, model: Network, folder: RunFolder, processes: Processes, batches: Batches
) -> Run:
    config = task.config
    if config.channels_last:
        _require_wide_enough(model.config)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = distribute(task.make_objective(model), processes, some_unused=task.some_unused)
    if not processes.is_alone:
        # Dropout must not be the same in all processes.
        seed_everything(config.seed + processes.rank)
    return Run(config, folder, processes, loop.start(objective, config), batches)


def _optimize(task: Task, run: Run, watch: Watch | None, on_step: OnStep | None) -> None:
    """Take the run's steps, and write what is due after each."""

    def after_step(report: loop.StepReport) -> None:
        task.after_step(run, watch, report)
        if report.step % run.config.checkpoint_every == 0:
            run.checkpoint()
        asked = _stop_asked(on_step, report)
        if run.processes.any(asked is not None):
            raise asked or StopTraining(f"another process, after step {report.step}")

    try:
        try:
            loop.optimize(
                run.state, run.batches, run.config, on_step=after_step, processes=run.processes
            )
        except StopTraining:
            run.checkpoint()
            raise
        run.checkpoint()
    except (TrainingDivergedError, MediaError) as error:
        # A lost run, a full disk, or clips that break while they are read.
        raise type(error)(f"{error} {_last_good(run.folder)}") from error


def _stop_asked(on_step: OnStep | None, report: loop.StepReport) -> StopTraining | None:
    """Call a run's observer; processes stop together, so its wish waits for the others."""
    try:
        if on_step is not None:
            on_step(report)
    except StopTraining as stop:
        return stop
    return None


def _last_good(folder: RunFolder) -> str:
    found = list_checkpoints(folder.checkpoints)
    if not found:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is {found[-1]}; --resume goes on from it."


def _require_wide_enough(model: AppearanceConfig) -> None:
    # oneDNN's strided 1x1 convolution writes out of bounds there (found with torch 2.13 on AVX2).
    if min(model.stage_widths) < 8:
        raise ConfigError(
            f"stage_widths={model.stage_widths!r} cannot be trained in channels-last layout: "
            "fewer than 8 channels crash there. Give --no-channels-last, or wider stages."
        )
