"""The stream of batches that a run learns from: opened as its settings say."""

import dataclasses
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from amd_seg.colour_model import require_opencv
from amd_seg.errors import ConfigError, InputError
from amd_seg.training.clips import Clip, find_clips, find_photos
from amd_seg.training.data import FrameStore, PairSampler
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.loader import PairLoader
from amd_seg.training.mover_files import write_targets_of_clips
from amd_seg.training.movers import MoverConfig
from amd_seg.training.moving_pairs import MovingPairs
from amd_seg.training.pairs import Crop
from amd_seg.training.photo_files import write_photo_targets
from amd_seg.training.photos import PhotoConfig
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run_config import RunConfig
from amd_seg.training.target_files import by_target_name
from amd_seg.training.targets import TargetClip, TargetSampler, load_target_clips

logger = logging.getLogger(__name__)


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


def open_batches(
    roots: Sequence[str],
    config: TrainingConfig,
    processes: Processes,
    folder: RunFolder,
    *,
    targets: str | os.PathLike[str] | None = None,
    photos: str | os.PathLike[str] | None = None,
    photo_targets: str | os.PathLike[str] | None = None,
) -> Batches:
    """Open the clips under the roots as a stream of this process's micro-batches.

    Args:
        roots: see `find_clips`.
        config: the settings.
        processes: those that share a step.
        folder: where motion targets are kept if they must be found first.
        targets: a folder of motion targets that are there.
        photos: a folder of stills to learn from beside the clips (objective mover).
        photo_targets: a folder of their targets that are there.

    Raises:
        ConfigError: the batch cannot be shared by the processes, a folder does not fit the
            objective, or OpenCV is needed and not installed.
        InputError, MediaError: the clips, or their targets, cannot be used.
    """
    require_shareable(config, processes)
    _require_used(config, targets=targets, photos=photos, photo_targets=photo_targets)
    if config.flow_teacher_weight:
        require_opencv()  # Before all clips are decoded, not after it.
    clips = find_clips(roots)
    if config.objective == "mover":
        by_target_name(clips)
        if len({clip.weight for clip in clips}) > 1:
            logger.warning(
                "The weights of roots (PATH@2) do not count for the objective mover: it draws "
                "clips by their targets."
            )
        # What is missing is said now, not when the clips' targets have been found.
        photo_clips = [] if photos is None else find_photos(photos)
        by_target_name(photo_clips)
        place = Path(targets) if targets else _found_targets(clips, config, processes, folder)
        found = load_target_clips(clips, place, short_edge=config.short_edge)
        stills = _open_photos(photo_clips, photo_targets, config, processes, folder)
        return TargetSampler(found, _own_share(config, processes), processes.device, stills)
    pairs = _open_pairs(clips, config, processes)
    if config.min_relative_motion:
        return MovingPairs(pairs, config.min_relative_motion)
    return pairs


def _require_used(config: TrainingConfig, **given: str | os.PathLike[str] | None) -> None:
    """Raise where a folder that was given has no part in the run, or does not exist."""
    folders = {name: folder for name, folder in given.items() if folder is not None}
    if folders and config.objective != "mover":
        flags = " and ".join("--" + name.replace("_", "-") for name in folders)
        raise ConfigError(
            f"The objective {config.objective} learns from pairs of frames alone. "
            f"Give {flags} with --objective mover only."
        )
    if "photo_targets" in folders and "photos" not in folders:
        raise ConfigError("Targets of photos are of no use without photos. Give --photos too.")
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise InputError(f"No such folder: {os.fspath(folder)}. Check the path.")


def _found_targets(
    clips: Sequence[Clip], config: TrainingConfig, processes: Processes, folder: RunFolder
) -> Path:
    _require_alone(processes, "motion", "mover_files", "--targets")
    mover = MoverConfig(mask_height=config.short_edge)
    tell = _progress_of("Motion targets", len(clips))
    write_targets_of_clips(clips, folder.targets, mover, workers=os.cpu_count() or 1, on_clip=tell)
    return folder.targets


def _open_photos(
    stills: Sequence[Clip],
    targets: str | os.PathLike[str] | None,
    config: TrainingConfig,
    processes: Processes,
    folder: RunFolder,
) -> list[TargetClip]:
    if not stills:
        return []
    place = Path(targets) if targets else folder.photo_targets
    if not targets:
        _require_alone(processes, "photo", "photo_files", "--photo-targets")
        contrast = PhotoConfig(mask_height=config.short_edge)
        tell = _progress_of("Photo targets", len(stills))
        write_photo_targets(stills, place, contrast, workers=os.cpu_count() or 1, on_photo=tell)
    return load_target_clips(stills, place, short_edge=config.short_edge)


def _require_alone(processes: Processes, kind: str, module: str, flag: str) -> None:
    if not processes.is_alone:
        # The others would wait for longer than a collective may take.
        raise InputError(
            f"{processes.world_size} processes cannot look for {kind} targets together. Find them "
            f"first with python -m amd_seg.training.{module}, and give their folder by {flag}."
        )


def _open_pairs(
    clips: Sequence[Clip], config: TrainingConfig, processes: Processes
) -> PairSampler | PairLoader:
    # The same pairs in the same order either way.
    draws: dict[str, Any] = {
        "batch_size": config.batch_size // config.accumulate,
        "crop": Crop(size=config.crop, scale=config.scale, flip=config.flip),
        "sampling": config.sampling,
        "max_gap": config.max_gap,
        "seed": config.seed,
        "rank": processes.rank,
        "world_size": processes.world_size,
    }
    decoding: dict[str, Any] = {
        "short_edge": config.short_edge,
        "frame_step": config.frame_step,
        "transpose_portrait": config.transpose_portrait,
        "device": processes.device,
    }
    if config.frames == "loader":
        return PairLoader(clips, workers=config.workers, **draws, **decoding)
    tell = _progress_of("Decoded", len(clips))
    store = FrameStore.decode(clips, on_clip=tell, **decoding)
    logger.info(
        *("%d frames of %d clips take %.2f GiB on %s.", store.frame_count, len(store.clips)),
        *(store.gib, store.device),
    )
    return PairSampler(store, **draws)


def _progress_of(what: str, total: int) -> Callable[..., None]:
    """Return a callback for each clip that is done, which logs every tenth of them."""
    done = itertools.count(1)

    def tell(*_: object) -> None:
        count = next(done)
        if count * 10 // total > (count - 1) * 10 // total:
            logger.info("%s: %d of %d.", what, count, total)

    return tell


def _own_share(config: TrainingConfig, processes: Processes) -> TrainingConfig:
    """Settings of a stream that draws on its own: each process has another seed."""
    return dataclasses.replace(
        config,
        batch_size=config.batch_size // processes.world_size,
        # Far apart, so that neighbouring seeds of two runs share no stream.
        seed=config.seed + 1_000_003 * processes.rank,
    )


def require_shareable(config: RunConfig, processes: Processes) -> None:
    """Raise a ConfigError unless all processes get equal shares of a step."""
    shares = config.accumulate * processes.world_size
    if config.batch_size % shares:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared equally by {processes.world_size} "
            f"process(es) with {config.accumulate} micro-batch(es) each. "
            f"Give --batch-size a multiple of {shares}."
        )
