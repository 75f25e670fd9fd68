"""A whole training run: clips in, a folder with log, checkpoints and weights out."""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from amd_seg import __version__
from amd_seg.device import resolve_device, seed_everything
from amd_seg.errors import ConfigError, InputError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training import loop
from amd_seg.training.channel import choose_object_channel
from amd_seg.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from amd_seg.training.clips import find_clips
from amd_seg.training.data import FrameStore, PairSampler
from amd_seg.training.mover_files import write_targets_of_clips
from amd_seg.training.movers import MoverConfig
from amd_seg.training.objectives import make_objective
from amd_seg.training.pairs import Crop
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.targets import TargetSampler, load_target_clips
from amd_seg.weights import load_weights, save_weights

logger = logging.getLogger(__name__)


class StopTraining(Exception):
    """Raised by `on_step` to end a run between two steps, with a checkpoint."""


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


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What the run goes on from."""
        return self.path / "checkpoints"

    @property
    def targets(self) -> Path:
        """The motion masks that the object channel learns from."""
        return self.path / "targets"

    @property
    def weights(self) -> Path:
        """The trained model, as `from_pretrained` reads it."""
        return self.path / "weights"


def train(
    roots: Sequence[str],
    out: str | os.PathLike[str],
    *,
    model: AMDConfig,
    config: TrainingConfig,
    init: str | None = None,
    targets: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    on_step: Callable[[loop.StepReport], None] | None = None,
) -> Path:
    """Train a model on clips.

    Args:
        roots: files, folders and data sets of clips, see `find_clips`.
        out: the run folder; it must be empty or new, unless `resume` is set.
        model: the architecture; `init` must agree with it.
        config: how to train.
        init: weights to start from, as `load_weights` takes them.
        targets: folder of motion masks that are there, for the objective "mover"; None finds
            them first and keeps them in the run folder.
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
    place = resolve_device(device)
    _require_usable(folder, resume)
    seed_everything(config.seed)
    amd = _start_model(model, init).to(place)
    if config.channels_last:
        _require_wide_enough(model)
        amd.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = _open_batches(roots, config, folder, targets, place)
    state = loop.start(make_objective(amd, config), config)
    folder.path.mkdir(parents=True, exist_ok=True)
    if resume:
        _resume(folder, state, batches)
    settings = {
        "amd_seg": __version__,
        "roots": list(roots),
        "init": init,
        "model": dataclasses.asdict(model),
        "training": dataclasses.asdict(config),
    }
    folder.config.write_text(json.dumps(settings, indent=2) + "\n")

    def after_step(report: loop.StepReport) -> None:
        if report.step % config.log_every == 0:
            _log(folder, report)
        if report.step % config.checkpoint_every == 0:
            _checkpoint(folder, state, batches, config)
        if on_step is not None:
            on_step(report)

    try:
        loop.optimize(state, batches, config, on_step=after_step)
    except StopTraining:
        _checkpoint(folder, state, batches, config)
        raise
    _checkpoint(folder, state, batches, config)
    return _release(folder, state, batches, config, settings)


def _require_usable(folder: RunFolder, resume: bool) -> None:
    if resume and not list_checkpoints(folder.checkpoints):
        raise InputError(
            f"Cannot resume {folder.path}: it has no checkpoint. Start it without --resume."
        )
    in_use = folder.path.exists() and set(folder.path.iterdir()) - {folder.targets}
    if in_use and not resume:
        raise InputError(
            f"The run folder {folder.path} is not empty. Give --resume to go on, or another --out."
        )


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


def _open_batches(
    roots: Sequence[str],
    config: TrainingConfig,
    folder: RunFolder,
    targets: str | os.PathLike[str] | None,
    device: torch.device,
) -> Batches:
    clips = find_clips(roots)
    if config.objective == "mover":
        if targets is None:
            targets = folder.targets
            mover = MoverConfig(mask_height=config.short_edge)
            write_targets_of_clips(clips, targets, mover, workers=os.cpu_count() or 1)
        found = load_target_clips(clips, Path(targets), short_edge=config.short_edge)
        return TargetSampler(found, config, device)
    store = FrameStore.decode(clips, short_edge=config.short_edge, device=device)
    return PairSampler(
        store,
        batch_size=config.batch_size // config.accumulate,
        crop=Crop(size=config.crop, scale=config.scale, flip=config.flip),
        sampling=config.sampling,
        max_gap=config.max_gap,
        seed=config.seed,
    )


def _resume(folder: RunFolder, state: loop.TrainState, batches: Batches) -> None:
    """Go on from the newest checkpoint; lines of the log after it are taken back."""
    saved = load_checkpoint(list_checkpoints(folder.checkpoints)[-1])
    loop.load_state_dict(state, saved)
    batches.load_state_dict(saved["batches"])
    if folder.log.is_file():
        lines = folder.log.read_text().splitlines()
        kept = itertools.takewhile(lambda line: json.loads(line)["step"] <= state.step, lines)
        folder.log.write_text("".join(line + "\n" for line in kept))


def _checkpoint(
    folder: RunFolder, state: loop.TrainState, batches: Batches, config: TrainingConfig
) -> None:
    saved = {**loop.state_dict(state), "batches": batches.state_dict()}
    save_checkpoint(folder.checkpoints, state.step, saved, keep=config.keep)


def _log(folder: RunFolder, report: loop.StepReport) -> None:
    line = {
        "step": report.step,
        **{name: round(value, 6) for name, value in report.parts.items()},
        "learning_rate": report.learning_rate,
        "gradient_norm": round(report.gradient_norm, 6),
        "seconds": round(report.seconds, 2),
    }
    with folder.log.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _release(
    folder: RunFolder,
    state: loop.TrainState,
    batches: Batches,
    config: TrainingConfig,
    settings: dict[str, Any],
) -> Path:
    """Write the trained weights, with the object channel chosen without labels."""
    amd = state.released
    assert isinstance(amd, AMD)
    channel = 0 if config.objective == "mover" else choose_object_channel(amd, batches).channel
    card = WeightsConfig(
        model=amd.config,
        object_channel=channel,
        input_size=min(config.crop),
        name=folder.path.name,
        training={**settings, "steps": state.step, "minutes": round(state.seconds / 60, 1)},
    )
    return save_weights(folder.weights, amd, card)
