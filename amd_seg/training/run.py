"""A run from its first step, or its newest checkpoint, to its last; and a run on clips."""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amd_seg import __version__
from amd_seg.device import seed_everything
from amd_seg.errors import ConfigError, InputError, MediaError, TrainingDivergedError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.batches import Batches
from amd_seg.training.clips import find_clips, log_progress
from amd_seg.training.config import SEEDS, RunConfig, TrainingConfig
from amd_seg.training.distributed import Processes, distribute, joined_processes
from amd_seg.training.loop import OnStep, StepReport, StopTraining, TrainState, optimize
from amd_seg.training.masked_images import MaskBatches, find_masked_images, load_masked_images
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.object_channel import choose_object_channel
from amd_seg.training.objectives import make_objective
from amd_seg.training.pairs import DecodedPairs, PairBatches, StoredPairs
from amd_seg.training.run_folder import (
    ORIGIN,
    RunFolder,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from amd_seg.training.run_log import CollapseCheck, RunLog
from amd_seg.weights import Network, load_weights, save_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The parts of a run in this process."""

    config: RunConfig
    folder: RunFolder
    processes: Processes
    state: TrainState
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
        device = self.processes.device
        own = {"rng": torch.get_rng_state(), "batches": self.batches.state_dict()}
        if device.type == "cuda":
            own["cuda_rng"] = [torch.cuda.get_rng_state(device)]
        ranks = self.processes.gather(own)
        if ranks:
            saved = {**self.state.state_dict(), **ranks[0], "other_ranks": ranks[1:]}
            folder = self.folder.checkpoints
            save_checkpoint(folder, self.state.step, saved, keep=self.config.keep)

    def resume(self) -> None:
        """Go on from the newest checkpoint.

        Raises:
            WeightsError: it cannot be read.
            ConfigError: it is of another model, optimiser or stream of batches.
        """
        saved = load_checkpoint(list_checkpoints(self.folder.checkpoints)[-1])
        if not saved["batches"].keys() >= self.batches.state_dict().keys():
            raise ConfigError(
                f"Cannot resume {self.folder.path}: it learned by another objective, from other "
                "batches. Leave out --objective."
            )
        self.state.load_state_dict(saved)
        ranks, device = [saved, *saved.get("other_ranks", [])], self.processes.device
        if self.processes.rank < len(ranks):
            own = ranks[self.processes.rank]
            torch.set_rng_state(own["rng"])
            if device.type == "cuda" and "cuda_rng" in own:
                torch.cuda.set_rng_state(own["cuda_rng"][0], device)
            self.batches.load_state_dict(own["batches"])
        elif isinstance(self.batches, MaskBatches):
            # The run goes on in more processes than before.
            self.batches.begin_at(self.state.step)
        else:
            self.batches.load_state_dict(saved["batches"])

    def take_steps(self, log: RunLog | None, on_step: OnStep | None) -> None:
        """Take the steps, and write what is due after each."""
        check = CollapseCheck()

        def after_step(report: StepReport) -> None:
            if log is not None:
                log.after_step(self.model, report)
            if self.config.alarms:
                check(report.step, report.parts)
            if report.step % self.config.checkpoint_every == 0:
                self.checkpoint()
            asked = None
            try:
                if on_step is not None:
                    on_step(report)
            except StopTraining as stop:
                asked = stop  # Processes stop together.
            if self.processes.any(asked is not None):
                raise asked or StopTraining(f"another process, after step {report.step}")

        try:
            try:
                optimize(
                    self.state,
                    self.batches,
                    self.config,
                    on_step=after_step,
                    processes=self.processes,
                )
            except StopTraining:
                self.checkpoint()
                raise
            self.checkpoint()
        except (TrainingDivergedError, MediaError) as error:
            # A lost run, a full disk, or clips that break while they are read.
            found = list_checkpoints(self.folder.checkpoints)
            good = "There is no checkpoint yet."
            if found:
                good = f"The last good checkpoint is {found[-1]}; --resume goes on from it."
            raise type(error)(f"{error} {good}") from error


def carry_out(
    out: str | os.PathLike[str],
    *,
    config: RunConfig,
    settings: Mapping[str, Any],
    data: Mapping[str, Sequence[str]],
    make_model: Callable[[], Network],
    open_batches: Callable[[Processes, RunFolder], Batches],
    make_objective: Callable[[Any], nn.Module],
    release: Callable[[Run, dict[str, Any]], None],
    object_channel: int = 0,
    some_unused: bool = False,
    device: str = "auto",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Take a run from its first step, or from the newest checkpoint, to its last.

    Args:
        out: the run folder; it must be new, or without a checkpoint, unless `resume` is set.
        config: how steps are taken.
        settings: what config.json of the run says besides, as JSON-able values.
        data: what it learns from, see `RunFolder.require_same`.
        make_model: the model before the first step.
        open_batches: what this process learns from.
        make_objective: model and loss as one module; maps a batch to {"loss": ..., parts}.
        release: writes the trained weights, with these words about the run; in the first process.
        object_channel: see `RunLog`.
        some_unused: parameters may have no part in a step.
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
    with joined_processes(device) as processes:
        if processes.is_first:
            folder.require_usable(resume)
            if resume:
                folder.require_same(config.seed, data)
        seed_everything(config.seed)
        model = make_model().to(processes.device)
        batches = open_batches(processes, folder)
        config = _with_layout(model, config, processes.device)
        settings = {"amd_seg": __version__, **settings, "training": dataclasses.asdict(config)}
        objective = distribute(make_objective(model), processes, some_unused=some_unused)
        if not processes.is_alone:
            # Dropout must not be the same in all processes.
            seed_everything(config.seed + processes.rank)
        run = Run(config, folder, processes, TrainState(objective, config), batches)
        log = None
        if processes.is_first:
            if not resume:
                folder.write_settings(settings, data)
            log = RunLog(folder, config, batches, object_channel)
        if resume:
            run.resume()
            if processes.is_first:
                # Not before: settings that do not fit must not take the place of those that do.
                before = folder.read_settings()
                settings |= {name: before[name] for name in ORIGIN if name in before}
                folder.write_settings(settings, data)
        with log or nullcontext():
            if log is not None:
                log.cut_after(run.state.step)
            run.take_steps(log, on_step)
        if processes.is_first:
            minutes = round(run.state.seconds / 60, 1)
            release(run, {**settings, "steps": run.state.step, "minutes": minutes})
    return folder.weights


def _with_layout(model: Network, config: RunConfig, device: torch.device) -> RunConfig:
    """Bring a model to the memory layout of the settings, and name it in them."""
    layout = config.memory_layout
    # oneDNN's strided 1x1 convolution writes out of bounds there (found with torch 2.13 on AVX2).
    is_too_narrow = min(model.config.stage_widths) < 8
    if layout == "channels-last" and is_too_narrow:
        raise ConfigError(
            f"stage_widths={model.config.stage_widths!r} cannot be trained in channels-last "
            "layout: fewer than 8 channels crash there. Give --set memory_layout=channels-first, "
            "or wider stages."
        )
    if layout == "auto":
        # Measured: a tenth faster on GPUs and with AVX-512, a sixth slower on other CPUs.
        has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
        is_faster = device.type == "cuda" or (device.type == "cpu" and has_avx512)
        layout = "channels-last" if is_faster and not is_too_narrow else "channels-first"
    if layout == "channels-last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return dataclasses.replace(config, memory_layout=layout)


def train(
    roots: Sequence[str],
    out: str | os.PathLike[str],
    *,
    model: AMDConfig,
    config: TrainingConfig,
    init: str | None = None,
    targets: Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
    resume: bool = False,
    on_step: OnStep | None = None,
) -> Path:
    """Train a model on clips, or on images with masks.

    Args:
        roots: files, folders and data sets of clips, see `find_clips`; the objective
            "motion-masks" needs none where it has `targets`.
        out: the run folder; it must be empty or new, unless `resume` is set.
        model: the architecture; the tensors of `init` must fit it.
        config: how to train.
        init: weights to start from, as `load_weights` takes them.
        targets: folders of images with masks, see `masked_images`, for the objective
            "motion-masks"; all are drawn equally often. The masks of the clips are found first
            and kept in the run folder. A resumed run knows its own.
        device, resume, on_step: see `carry_out`, as for what is returned and raised.
    """
    before = RunFolder(Path(out)).read_settings() if resume else {}
    given = [os.fspath(each) for each in targets] or list(before.get("targets") or ())
    if given and config.objective != "motion-masks":
        raise ConfigError(
            f"The objective {config.objective} learns from pairs of frames alone. "
            "Give --targets with --objective motion-masks only."
        )
    images = [
        f"{clip} ({len(found)} masks)"
        for folder in given
        for clip, found in find_masked_images(folder).items()
    ]
    if not roots and not given:
        raise InputError("There is nothing to learn from. Give VIDEOS, or --targets.")
    clips = find_clips(roots) if roots else []
    start = None if init is None or resume else load_weights(init)
    # The object's region in the weights that the run began with, which may be gone by now.
    known = before.get("init_channel") if start is None else start.config.object_channel

    def make_model() -> AMD:
        amd = AMD(model)
        if start is not None:
            try:
                amd.load_state_dict(start.model.state_dict())
            except RuntimeError as cause:
                differing = [
                    f"{name} {value!r} instead of {getattr(model, name)!r}"
                    for name, value in vars(start.model.config).items()
                    if value != getattr(model, name)
                ]
                raise ConfigError(
                    f"The weights {start.source} are of another model: {', '.join(differing)}. "
                    "Train the same model, or start without --init."
                ) from cause
        if config.motion_init == "kaiming" and not resume:
            amd.motion.initialise_by_kaiming()
        return amd

    def release(run: Run, training: dict[str, Any]) -> None:
        channel = known or 0
        if config.objective != "motion-masks":
            # The region that moves most, without labels; the known one if in doubt.
            assert isinstance(run.model, AMD)
            choice = choose_object_channel(run.model, run.batches)
            if known is not None:
                choice = choice.unless_clear(known)
            channel = choice.channel
            logger.info(
                "The object is region %d. The regions move %s pixels against their frames.",
                *(channel, ", ".join(f"{pixels:.2g}" for pixels in choice.motion)),
            )
        card = WeightsConfig(
            model=model,
            object_channel=channel,
            input_size=min(config.crop),
            name=run.folder.path.name,
            training=training,
        )
        save_weights(run.folder.weights, run.model, card)

    return carry_out(
        out,
        config=config,
        settings={
            "roots": list(roots),
            "init": init,
            "init_channel": known,
            "targets": given,
            "model": dataclasses.asdict(model),
        },
        data={"clips": [clip.identity() for clip in clips], "images": images},
        make_model=make_model,
        open_batches=lambda processes, folder: open_batches(
            roots, config, processes, folder, targets=given
        ),
        make_objective=lambda amd: make_objective(amd, config, known or 0),
        release=release,
        object_channel=known or 0,
        some_unused=config.objective != "photometric",
        device=device,
        resume=resume,
        on_step=on_step,
    )


def open_batches(
    roots: Sequence[str],
    config: TrainingConfig,
    processes: Processes,
    folder: RunFolder,
    *,
    targets: Sequence[str] = (),
) -> Batches:
    """Open clips, and images with masks, as a stream of this process's micro-batches.

    Args:
        roots, targets: see `train`.
        config: the settings.
        processes: those that share a step.
        folder: where the masks of the clips are kept (objective motion-masks).

    Raises:
        ConfigError: the batch cannot be shared by the processes.
        InputError, MediaError: the clips, or the images, cannot be used.
    """
    processes.share_of(config)
    clips, device = find_clips(roots) if roots else [], processes.device
    if config.objective != "motion-masks":
        if config.frames == "loader":
            return PairBatches(DecodedPairs(clips, config), processes)
        return PairBatches(StoredPairs(clips, config, device), processes)
    if clips:
        if processes.is_first:
            write_motion_masks(
                clips,
                folder.targets,
                MotionMaskConfig(short_edge=config.short_edge),
                workers=os.cpu_count() or 1,
                on_clip=log_progress("Motion masks", len(clips)),
            )
        processes.wait_for_all()
        targets = [os.fspath(folder.targets), *targets]
    own = dataclasses.replace(
        config,
        batch_size=config.batch_size // processes.world_size,
        # Each process draws on its own. Seeds far apart: neighbouring runs share no stream.
        seed=(config.seed + 1_000_003 * processes.rank) % SEEDS,
    )
    short_edge = config.short_edge
    loaded = [load_masked_images(each, short_edge=short_edge, device=device) for each in targets]
    return MaskBatches(loaded, own, device)
