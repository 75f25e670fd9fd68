"""A run from its first step, or its newest checkpoint, to its last; and a run on clips."""

import copy
import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from amd_seg import __version__
from amd_seg.errors import ConfigError, InputError, MediaError, TrainingDivergedError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.clips import Clip, find_clips, log_progress
from amd_seg.training.config import SEEDS, RunConfig, TrainingConfig
from amd_seg.training.distributed import NumberedBatches, Processes, joined_processes
from amd_seg.training.loop import Batches, OnStep, StepReport, StopTraining, TrainState, optimize
from amd_seg.training.masked_images import MaskBatches, find_masked_images, load_masked_images
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.objectives import choose_object_channel, make_objective
from amd_seg.training.pairs import DecodedPairs, StoredPairs
from amd_seg.training.run_folder import RunFolder, load_checkpoint
from amd_seg.training.run_log import CollapseCheck, RunLog
from amd_seg.weights import Network, Pretrained, load_weights, save_weights

logger = logging.getLogger(__name__)

STEPS_WORTH_A_TRIAL = 200  # a shorter run is not worth the steps that find the faster layout


@dataclass
class Run:
    """A run in this process; making one checks that it may start, or go on with these data."""

    folder: RunFolder
    config: RunConfig
    processes: Processes
    data: Mapping[str, Sequence[str]]  # see `RunFolder.require_usable`
    is_resumed: bool

    def __post_init__(self) -> None:
        self.processes.share_of(self.config)
        if self.processes.is_first:
            self.folder.require_usable(self.config.seed, self.data, resume=self.is_resumed)
        torch.manual_seed(self.config.seed)

    def learn(
        self,
        objective: nn.Module,
        batches: Batches,
        settings: Mapping[str, Any],
        *,
        some_unused: bool = False,
        on_step: OnStep | None = None,
    ) -> tuple[Network, dict[str, Any]]:
        """Take all steps; return the model that is released, and what its config.json says.

        With `some_unused`, parameters may have no part in a step (costs a walk over the graph). The
        settings go into config.json.
        """
        folder, processes = self.folder, self.processes
        self.config = config = _with_layout(objective, self.config, batches, processes)
        about = {"amd_seg": __version__, **settings, "training": dataclasses.asdict(config)}
        if not processes.is_alone:
            if processes.device.type == "cuda":
                objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)  # type: ignore[no-untyped-call]
            # Its weights become those of the first process.
            objective = DistributedDataParallel(objective, find_unused_parameters=some_unused)
            # Dropout must not be the same in all processes.
            torch.manual_seed(config.seed + processes.rank)
        state = TrainState(objective, config)
        channel = getattr(state.bare_objective, "object_channel", 0)
        log = RunLog(folder, config, batches, channel) if processes.is_first else None
        if self.is_resumed:
            self._go_on(state, batches)
            # What the run started from is not asked for again.
            origin = {"init", "init_channel", "start"}
            about |= {k: v for k, v in folder.read_settings().items() if k in origin}
        if log is not None:
            # Not before: settings that do not fit must not take the place of those that do.
            folder.write_settings(about, self.data)
            log.cut_after(state.step)
        with closing(log) if log else nullcontext():
            self._take_steps(state, batches, log, on_step)
        model = state.released
        assert isinstance(model, Network)
        return model, {**about, "steps": state.step, "minutes": round(state.seconds / 60, 1)}

    def _go_on(self, state: TrainState, batches: Batches) -> None:
        saved = load_checkpoint(self.folder.list_checkpoints()[-1])
        if not saved["batches"].keys() >= batches.state_dict().keys():
            raise ConfigError(
                f"Cannot resume {self.folder.path}: it learned by another objective, from other "
                "batches. Leave out --objective."
            )
        state.load_state_dict(saved)
        ranks, device = [saved, *saved.get("other_ranks", [])], self.processes.device
        if self.processes.rank < len(ranks):
            own = ranks[self.processes.rank]
            torch.set_rng_state(own["rng"])
            if device.type == "cuda" and "cuda_rng" in own:
                torch.cuda.set_rng_state(own["cuda_rng"][0], device)
            batches.load_state_dict(own["batches"])
        elif not isinstance(batches, MaskBatches):
            # In more processes than before. Masks are drawn by each from a seed of its own.
            batches.load_state_dict(saved["batches"])

    def _take_steps(
        self, state: TrainState, batches: Batches, log: RunLog | None, on_step: OnStep | None
    ) -> None:
        """Take the steps, and write what is due after each."""
        config, processes, folder = self.config, self.processes, self.folder
        check = CollapseCheck()

        def checkpoint() -> None:
            own = {"rng": torch.get_rng_state(), "batches": batches.state_dict()}
            if processes.device.type == "cuda":
                own["cuda_rng"] = [torch.cuda.get_rng_state(processes.device)]
            if ranks := processes.gather(own):
                saved = {**state.state_dict(), **ranks[0], "other_ranks": ranks[1:]}
                folder.save_checkpoint(state.step, saved, keep=config.keep)

        def after_step(report: StepReport) -> None:
            if log is not None:
                log.after_step(state.released, report)
            if config.alarms:
                check(report.step, report.parts)
            if report.step % config.checkpoint_every == 0:
                checkpoint()
            asked = None
            try:
                if on_step is not None:
                    on_step(report)
            except StopTraining as stop:
                asked = stop  # Processes stop together.
            if processes.any(asked is not None):
                checkpoint()
                raise asked or StopTraining(f"another process, after step {report.step}")

        try:
            optimize(state, batches, config, on_step=after_step)
            checkpoint()
        except (TrainingDivergedError, MediaError) as error:
            # A lost run, a full disk, or clips that break while they are read.
            good = "There is no checkpoint yet."
            if found := folder.list_checkpoints():
                good = f"The last good checkpoint is {found[-1]}; --resume goes on from it."
            raise type(error)(f"{error} {good}") from error


def _with_layout(
    objective: nn.Module, config: RunConfig, batches: Batches, processes: Processes
) -> RunConfig:
    """Bring a model to the memory layout of the settings, and name it in them."""
    layout, device = config.memory_layout, processes.device
    model: Any = objective.model
    # oneDNN's strided 1x1 convolution writes out of bounds there (found with torch 2.13 on AVX2).
    is_too_narrow = min(model.config.stage_widths) < 8
    if layout == "channels-last" and is_too_narrow:
        raise ConfigError(
            f"stage_widths={model.config.stage_widths!r} cannot be trained in channels-last "
            "layout: fewer than 8 channels crash there. Give --set memory_layout=channels-first, "
            "or wider stages."
        )
    if layout == "auto":
        # Channels-last is a tenth faster on one machine, and a sixth slower on another.
        layout, seconds, position = "channels-first", [], batches.state_dict()
        if config.steps >= STEPS_WORTH_A_TRIAL and not is_too_narrow:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                for memory_format in (torch.contiguous_format, torch.channels_last):
                    twin: Any = copy.deepcopy(objective)
                    twin.model.to(memory_format=memory_format)
                    state = TrainState(twin, config)
                    for step in (1, 2):  # The first one warms up.
                        settings = dataclasses.replace(config, steps=step, minutes=0.0)
                        began = time.perf_counter()
                        optimize(state, batches, settings)
                        if device.type == "cuda":
                            torch.cuda.synchronize(device)
                    seconds.append(time.perf_counter() - began)
            batches.load_state_dict(position)
            # The first process decides for all.
            if processes.any(processes.is_first and seconds[1] < seconds[0]):
                layout = "channels-last"
            text = "A step takes %.3g s channels-first, %.3g s channels-last: %s is taken."
            logger.info(text, *seconds, layout)
    if layout == "channels-last":
        model.to(memory_format=torch.channels_last)
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
    """Train a model on clips, or on images with masks; return the folder of its weights.

    Args:
        roots: of clips, see `find_clips`; "motion-masks" needs none where it has `targets`.
        out: the run folder; it must be empty or new, unless `resume` is set.
        model: the architecture; the tensors of `init` must fit it.
        init: weights to start from, as `load_weights` takes them.
        targets: folders of images with masks, see `masked_images`, for the objective
            "motion-masks"; all are drawn equally often. The masks of the clips are found first
            and kept in the run folder. A resumed run knows its own.
        on_step: called after each step; it may raise `StopTraining`.

    Raises:
        ConfigError, InputError, MediaError, WeightsError: the run cannot start.
        TrainingDivergedError: the loss is not finite, or the masks have collapsed.
        StopTraining: from `on_step`, after a checkpoint.
    """
    by_masks = config.objective == "motion-masks"
    folder = RunFolder(Path(out))
    before = folder.read_settings() if resume else {}
    given = [os.fspath(each) for each in targets] or list(before.get("targets") or ())
    if given and not by_masks:
        raise ConfigError(
            f"The objective {config.objective} learns from pairs of frames alone. "
            "Give --targets with --objective motion-masks only."
        )
    if not roots and not given:
        raise InputError("There is nothing to learn from. Give VIDEOS, or --targets.")
    masked = [found for each in given for found in find_masked_images(each).items()]
    clips = find_clips(roots) if roots else []
    data = {
        "clips": [clip.identity() for clip in clips],
        "images": [f"{clip} ({len(images)} masks)" for clip, images in masked],
    }
    start = None if init is None or resume else load_weights(init)
    # The object's region in the weights that the run began with, which may be gone by now.
    known = before.get("init_channel") if start is None else start.config.object_channel
    channel = known or 0
    settings = {"roots": list(roots), "init": init, "init_channel": known, "targets": given}
    settings |= {"model": dataclasses.asdict(model)}
    with joined_processes(device) as processes:
        run = Run(folder, config, processes, data, resume)
        amd = _first_model(model, start)
        if config.motion_init == "kaiming" and not resume:
            amd.motion.initialise_by_kaiming()
        amd.to(processes.device)
        batches = open_batches(clips, config, processes, folder, targets=given)
        trained, about = run.learn(
            make_objective(amd, config, channel),
            batches,
            settings,
            some_unused=config.objective != "photometric",
            on_step=on_step,
        )
        if processes.is_first:
            assert isinstance(trained, AMD)
            if config.objective == "photometric":
                # The region that moves most, without labels; the known one if in doubt.
                choice = choose_object_channel(trained, batches)
                if known is not None:
                    choice = choice.unless_clear(known)
                channel = choice.channel
                text = "The object is region %d. The regions move %s pixels against their frames."
                logger.info(text, channel, ", ".join(f"{pixels:.2g}" for pixels in choice.motion))
            card = WeightsConfig(
                model=model,
                object_channel=channel,
                input_size=min(config.crop),
                name=folder.path.name,
                training=about,
            )
            save_weights(folder.weights, trained, card)
    return folder.weights


def _first_model(config: AMDConfig, start: Pretrained[AMD, WeightsConfig] | None) -> AMD:
    model = AMD(config)
    if start is not None:
        try:
            model.load_state_dict(start.model.state_dict())
        except RuntimeError as cause:
            differing = differences(start.model.config, config, vars(config))
            raise ConfigError(
                f"The weights {start.source} are of another model: {differing}. "
                "Train the same model, or start without --init."
            ) from cause
    return model


def differences(one: object, other: object, names: Iterable[str]) -> str:
    """Say in which of some settings one group differs from another."""
    values = [(name, getattr(one, name), getattr(other, name)) for name in names]
    return ", ".join(f"{name} {x!r} instead of {y!r}" for name, x, y in values if x != y)


def open_batches(
    clips: Sequence[Clip],
    config: TrainingConfig,
    processes: Processes,
    folder: RunFolder,
    *,
    targets: Sequence[str] = (),
) -> Batches:
    """Open clips, and images with masks, as a stream of this process's micro-batches."""
    device = processes.device
    if config.objective != "motion-masks":
        if config.frames == "loader":
            return NumberedBatches(DecodedPairs(clips, config), config, processes, config.workers)
        return NumberedBatches(StoredPairs(clips, config, device), config, processes, workers=0)
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
        if not (folder.targets / "masks").is_dir():
            raise InputError("Nothing in the clips moves on its own. Give others, or --targets.")
        targets = [os.fspath(folder.targets), *targets]
    # Each process draws on its own. Seeds far apart: neighbouring runs share no stream.
    seed, size = (config.seed + 1_000_003 * processes.rank) % SEEDS, config.batch_size
    own = dataclasses.replace(config, batch_size=size // processes.world_size, seed=seed)
    images = [load_masked_images(each, config.short_edge, device).values() for each in targets]
    return MaskBatches(images, own, device)
