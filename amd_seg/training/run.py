"""A whole training run: clips in, a folder with log, checkpoints and weights out."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from amd_seg import __version__
from amd_seg.device import seed_everything
from amd_seg.errors import ConfigError, TrainingDivergedError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training import loop
from amd_seg.training.alarms import Alarms
from amd_seg.training.backbone import load_backbone
from amd_seg.training.batches import Batches, open_batches
from amd_seg.training.channel import choose_object_channel
from amd_seg.training.checkpoints import (
    list_checkpoints,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from amd_seg.training.combined import make_objective
from amd_seg.training.distributed import Processes, distribute, joined_processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.watch import Watch
from amd_seg.weights import load_weights, save_weights


class StopTraining(Exception):
    """Raised by `on_step` to end a run between two steps, with a checkpoint."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run in this process."""

    config: TrainingConfig
    folder: RunFolder
    processes: Processes
    state: loop.TrainState
    batches: Batches

    @property
    def model(self) -> AMD:
        """The model that is released: the average where there is one."""
        model = self.state.released
        assert isinstance(model, AMD)
        return model

    def checkpoint(self, *, is_best: bool = False) -> None:
        """Save what is needed to go on, with the random state of every process.

        Args:
            is_best: keep it apart, where no later one pushes it out.

        Raises:
            MediaError: the disk is full.
        """
        own = {**loop.random_state(self.processes.device), "batches": self.batches.state_dict()}
        ranks = self.processes.gather(own)
        if ranks is not None:
            saved = {**loop.state_dict(self.state), **ranks[0], "other_ranks": ranks[1:]}
            folder = self.folder.checkpoints
            if is_best:
                save_best(folder, saved)
            else:
                save_checkpoint(folder, self.state.step, saved, keep=self.config.keep)

    def resume(self) -> None:
        """Go on from the newest checkpoint."""
        saved = load_checkpoint(list_checkpoints(self.folder.checkpoints)[-1])
        loop.load_state_dict(self.state, saved)
        ranks = [saved, *saved.get("other_ranks", [])]
        if self.processes.rank < len(ranks):
            own = ranks[self.processes.rank]
            loop.load_random_state(own, self.processes.device)
            self.batches.load_state_dict(own["batches"])
        else:
            # The run goes on in more processes than before: a new one has its own seed.
            self.batches.load_state_dict(saved["batches"])


def train(
    roots: Sequence[str],
    out: str | os.PathLike[str],
    *,
    model: AMDConfig,
    config: TrainingConfig,
    init: str | None = None,
    init_backbone: str | os.PathLike[str] | None = None,
    targets: str | os.PathLike[str] | None = None,
    photos: str | os.PathLike[str] | None = None,
    photo_targets: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    evaluate: str | os.PathLike[str] | None = None,
    on_step: Callable[[loop.StepReport], None] | None = None,
) -> Path:
    """Train a model on clips.

    Args:
        roots: files, folders and data sets of clips, see `find_clips`.
        out: the run folder; it must be empty or new, unless `resume` is set.
        model: the architecture; `init` must agree with it.
        config: how to train.
        init: weights to start from, as `load_weights` takes them.
        init_backbone: a ResNet's weights for the backbone, see `load_backbone`.
        targets: folder of motion masks that are there, for the objective "mover"; None finds
            them first and keeps them in the run folder.
        photos: a folder of stills that the objective "mover" learns from beside the clips.
        photo_targets: folder of their masks that are there; None finds them first likewise.
        device: see `resolve_device`.
        resume: go on from the newest checkpoint in `out`.
        evaluate: a folder in the layout of DAVIS on which every region is scored while the run
            goes on; the best model is kept in `out/best`. The loss never sees its labels.
        on_step: called after each step; it may raise `StopTraining`.

    Returns:
        The folder of the trained weights.

    Raises:
        ConfigError, InputError, MediaError, WeightsError: the run cannot start.
        TrainingDivergedError: the loss is not finite.
        StopTraining: from `on_step`, after a checkpoint.
    """
    folder = RunFolder(Path(out))
    settings = {
        "amd_seg": __version__,
        "roots": list(roots),
        "init": init,
        "photos": None if photos is None else os.fspath(photos),
        "init_backbone": None if init_backbone is None else os.fspath(init_backbone),
        "model": dataclasses.asdict(model),
        "training": dataclasses.asdict(config),
    }
    with joined_processes(device) as processes:
        if processes.is_first:
            folder.require_usable(resume)
        seed_everything(config.seed)
        amd = _start_model(model, init)
        if init_backbone is not None and not resume:
            load_backbone(amd, init_backbone)
        amd.to(processes.device)
        batches = open_batches(
            roots,
            config,
            processes,
            folder,
            targets=targets,
            photos=photos,
            photo_targets=photo_targets,
        )
        run = _prepare(amd, folder, config, processes, batches)
        if processes.is_first:
            folder.write_settings(settings)
        watch = None
        if processes.is_first:
            watch = Watch.start(folder, config, batches, evaluate)
        if resume:
            run.resume()
        if resume and watch is not None:
            watch.go_on(folder.take_back_lines_after(run.state.step))
        _optimize(run, watch, on_step, is_scored=evaluate is not None)
        if watch is not None:
            watch.close()
            _release(run, settings)
    return folder.weights


def _prepare(
    amd: AMD, folder: RunFolder, config: TrainingConfig, processes: Processes, batches: Batches
) -> Run:
    if config.channels_last:
        _require_wide_enough(amd.config)
        amd.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.compile:
        # In place: names, state and checkpoints stay those of the plain model.
        amd.appearance.compile()
    some_unused = config.objective != "photometric" or config.motion_first_steps > 0
    objective = distribute(make_objective(amd, config), processes, some_unused=some_unused)
    if not processes.is_alone:
        # Dropout must not be the same in all processes.
        seed_everything(config.seed + processes.rank)
    return Run(config, folder, processes, loop.start(objective, config), batches)


def _optimize(
    run: Run,
    watch: Watch | None,
    on_step: Callable[[loop.StepReport], None] | None,
    *,
    is_scored: bool,
) -> None:
    """Take the run's steps, and write what is due after each."""
    alarms = Alarms()

    def after_step(report: loop.StepReport) -> None:
        is_best = watch is not None and watch.after_step(run.model, report)
        if is_scored and report.step % run.config.evaluate_every == 0:
            _keep_best(run, watch, is_best)
        if run.config.alarms:
            alarms.check(report.step, report.parts)
        if report.step % run.config.checkpoint_every == 0:
            run.checkpoint()
        asked = _stop_asked(on_step, report)
        if run.processes.any(asked is not None):
            raise asked or StopTraining(f"another process, after step {report.step}")

    try:
        loop.optimize(
            run.state, run.batches, run.config, on_step=after_step, processes=run.processes
        )
    except StopTraining:
        run.checkpoint()
        raise
    except TrainingDivergedError as error:
        raise TrainingDivergedError(f"{error} {_last_good(run.folder)}") from error
    run.checkpoint()


def _keep_best(run: Run, watch: Watch | None, is_best: bool) -> None:
    """Keep a model that scored better than ever, as a checkpoint and as weights."""
    if not run.processes.any(is_best):
        return
    run.checkpoint(is_best=True)
    if watch is not None and watch.best is not None:
        training = {"steps": run.state.step, "best_J": watch.best.best, "chosen_with_labels": True}
        _save(run, run.folder.best, watch.best.channel, training)


def _stop_asked(
    on_step: Callable[[loop.StepReport], None] | None, report: loop.StepReport
) -> StopTraining | None:
    """Call a run's observer; processes stop together, so its wish waits for the others."""
    try:
        if on_step is not None:
            on_step(report)
    except StopTraining as stop:
        return stop
    return None


def _last_good(folder: RunFolder) -> str:
    found = list_checkpoints(folder.checkpoints)
    return f"The last good checkpoint is {found[-1]}." if found else "There is no checkpoint yet."


def _start_model(config: AMDConfig, init: str | None) -> AMD:
    if init is None:
        return AMD(config)
    start = load_weights(init)
    if start.config.model != config:
        differing = [
            f"{name} {mine!r} instead of {theirs!r}"
            for (name, mine), theirs in zip(
                dataclasses.asdict(start.config.model).items(),
                dataclasses.asdict(config).values(),
                strict=True,
            )
            if mine != theirs
        ]
        raise ConfigError(
            f"The weights {start.source} are of another model: {', '.join(differing)}. "
            "Train the same model, or start without --init."
        )
    return start.model.train()


def _require_wide_enough(model: AMDConfig) -> None:
    # oneDNN's strided 1x1 convolution writes out of bounds there (found with torch 2.13 on AVX2).
    if min(model.stage_widths) < 8:
        raise ConfigError(
            f"stage_widths={model.stage_widths!r} cannot be trained in channels-last layout: "
            "fewer than 8 channels crash there. Give --no-channels-last, or wider stages."
        )


def _release(run: Run, settings: dict[str, Any]) -> Path:
    """Write the trained weights, with the object channel chosen without labels."""
    amd, config = run.model, run.config
    channel = 0 if config.objective == "mover" else choose_object_channel(amd, run.batches).channel
    minutes = round(run.state.seconds / 60, 1)
    training = {**settings, "steps": run.state.step, "minutes": minutes}
    return _save(run, run.folder.weights, channel, training)


def _save(run: Run, folder: Path, channel: int, training: dict[str, Any]) -> Path:
    card = WeightsConfig(
        model=run.model.config,
        object_channel=channel,
        input_size=min(run.config.crop),
        name=run.folder.path.name,
        training=training,
    )
    return save_weights(folder, run.model, card)
