"""Training on clips: a whole run of the paper's model."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amd_seg.errors import ConfigError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.alarms import Alarms
from amd_seg.training.batches import Batches, open_batches
from amd_seg.training.clips import find_clips
from amd_seg.training.distributed import Processes
from amd_seg.training.engine import OnStep, Run, carry_out
from amd_seg.training.folder import RunFolder
from amd_seg.training.loop import StepReport
from amd_seg.training.masked_images import find_masked_images
from amd_seg.training.object_channel import choose_object_channel
from amd_seg.training.objectives import make_objective
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.watch import Watch
from amd_seg.weights import Network, load_weights, save_weights
from amd_seg.weights_import import load_backbone

logger = logging.getLogger(__name__)


def train(
    roots: Sequence[str],
    out: str | os.PathLike[str],
    *,
    model: AMDConfig,
    config: TrainingConfig,
    init: str | None = None,
    init_backbone: str | os.PathLike[str] | None = None,
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
        init_backbone: a ResNet's weights for the backbone, see `load_backbone`.
        targets: folders of images with masks, see `masked_images`, for the objective
            "motion-masks"; all are drawn equally often. The masks of the clips are found first
            and kept in the run folder. A resumed run knows its own.
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
    if resume and not targets:
        targets = folder.read_settings().get("targets") or ()
    task = _ClipTask(
        roots=tuple(roots),
        model=model,
        config=config,
        init=init,
        init_channel=_channel_before(folder) if resume else _channel_of(init),
        init_backbone=init_backbone,
        targets=tuple(os.fspath(each) for each in targets),
    )
    return carry_out(task, out, device=device, resume=resume, on_step=on_step)


@dataclass(frozen=True, kw_only=True)
class _ClipTask:
    """Eq. 7, or what stands in for it, on clips: the arguments of `train` as a task."""

    roots: tuple[str, ...]
    model: AMDConfig
    config: TrainingConfig
    init: str | None
    init_channel: int | None
    """The object's region in the weights that the run began with."""
    init_backbone: str | os.PathLike[str] | None
    targets: tuple[str, ...]
    alarms: Alarms = field(default_factory=Alarms)

    @property
    def some_unused(self) -> bool:
        return self.config.objective != "photometric"

    def settings(self) -> dict[str, Any]:
        return {
            "roots": list(self.roots),
            "init": self.init,
            "init_channel": self.init_channel,
            "targets": list(self.targets),
            "init_backbone": None if self.init_backbone is None else os.fspath(self.init_backbone),
            "model": dataclasses.asdict(self.model),
            "training": dataclasses.asdict(self.config),
        }

    def data(self) -> dict[str, list[str]]:
        images = [
            f"{clip} ({len(found)} masks)"
            for folder in self.targets
            for clip, found in find_masked_images(folder).items()
        ]
        clips = find_clips(self.roots) if self.roots else []
        return {"clips": [clip.identity() for clip in clips], "images": images}

    def start_model(self, *, resume: bool) -> AMD:
        if resume:
            return AMD(self.model)
        amd = _start_model(self.model, self.init)
        if self.config.motion_init == "kaiming":
            amd.motion.initialise_by_kaiming()
        if self.init_backbone is not None:
            load_backbone(amd, self.init_backbone)
        return amd

    def open_batches(self, processes: Processes, folder: RunFolder) -> Batches:
        return open_batches(
            self.roots,
            self.config,
            processes,
            folder,
            targets=self.targets,
        )

    def make_objective(self, model: Network) -> nn.Module:
        return make_objective(_amd(model), self.config, self.init_channel or 0)

    def open_watch(self, folder: RunFolder, batches: Batches) -> Watch:
        return Watch.start(folder, self.config, batches, object_channel=self.init_channel or 0)

    def after_step(self, run: Run, watch: Watch | None, report: StepReport) -> None:
        if watch is not None:
            watch.after_step(run.model, report)
        if self.config.alarms:
            self.alarms.check(report.step, report.parts)

    def release(self, run: Run, training: dict[str, Any]) -> None:
        # The object channel is chosen without labels.
        channel = self.init_channel or 0
        if self.config.objective != "motion-masks":
            channel = self._moving_channel(run)
        card = WeightsConfig(
            model=self.model,
            object_channel=channel,
            input_size=min(self.config.crop),
            name=run.folder.path.name,
            training=training,
        )
        save_weights(run.folder.weights, run.model, card)

    def _moving_channel(self, run: Run) -> int:
        """Return the region that moves most; that of the weights the run began with if in doubt."""
        choice = choose_object_channel(_amd(run.model), run.batches)
        if self.init_channel is not None:
            choice = choice.unless_clear(self.init_channel)
        motion = ", ".join(f"{pixels:.2g}" for pixels in choice.motion)
        logger.info(
            "The object is region %d. The regions move %s pixels against their frames.",
            *(choice.channel, motion),
        )
        return choice.channel


def _channel_of(init: str | None) -> int | None:
    return None if init is None else load_weights(init).config.object_channel


def _channel_before(folder: RunFolder) -> int | None:
    """The object channel of the weights that a run began with; they need not be there any more."""
    channel: int | None = folder.read_settings().get("init_channel")
    return channel


def _amd(model: Network) -> AMD:
    assert isinstance(model, AMD)
    return model


def _start_model(config: AMDConfig, init: str | None) -> AMD:
    if init is None:
        return AMD(config)
    start, amd = load_weights(init), AMD(config)
    if _shapes(start.model) != _shapes(amd):
        differing = [
            f"{name} {value!r} instead of {getattr(config, name)!r}"
            for name, value in vars(start.config.model).items()
            if value != getattr(config, name)
        ]
        raise ConfigError(
            f"The weights {start.source} are of another model: {', '.join(differing)}. "
            "Train the same model, or start without --init."
        )
    amd.load_state_dict(start.model.state_dict())
    return amd


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}
