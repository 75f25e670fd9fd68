"""The stream of batches that a run learns from: opened as its settings say."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from amd_seg.errors import ConfigError, InputError
from amd_seg.training.clips import Clip, find_clips, find_photos, log_progress, require_memory
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.mover_files import write_targets_of_clips
from amd_seg.training.movers import MoverConfig
from amd_seg.training.pairs import open_pairs
from amd_seg.training.photo_files import write_photo_targets
from amd_seg.training.photos import PhotoConfig
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run_config import RunConfig
from amd_seg.training.target_files import by_target_name
from amd_seg.training.targets import TargetSampler, load_target_clips, target_bytes

FEWER_TARGETS = (
    "fewer clips, or fewer targets: python -m amd_seg.training.mover_files VIDEOS OUT --every 12, "
    "then --targets OUT"
)
"""What helps where the frames with a target do not fit."""


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
            objective.
        InputError, MediaError: the clips, or their targets, cannot be used.
    """
    require_shareable(config, processes)
    _require_used(config, targets=targets, photos=photos, photo_targets=photo_targets)
    clips = find_clips(roots)
    if config.objective == "mover":
        # What is missing is said now, not when the clips' targets have been found.
        stills = [] if photos is None else find_photos(photos)
        sets = (
            _TargetSet(clips, Path(targets or folder.targets), is_there=targets is not None),
            _TargetSet(
                stills,
                Path(photo_targets or folder.photo_targets),
                is_there=photo_targets is not None or not stills,
            ),
        )
        return _open_targets(*sets, config, processes)
    return open_pairs(clips, config, processes)


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


@dataclass(frozen=True)
class _TargetSet:
    """Clips, or stills, and the folder of their targets."""

    clips: Sequence[Clip]
    folder: Path
    is_there: bool
    """They were found before, and clips without any are left out."""


def _open_targets(
    videos: _TargetSet, stills: _TargetSet, config: TrainingConfig, processes: Processes
) -> TargetSampler:
    """Find the targets that are not there, and load all with their frames."""
    by_target_name(videos.clips)
    by_target_name(stills.clips)
    sets, size, device = (videos, stills), config.short_edge, processes.device
    if not videos.is_there:
        _require_alone(processes, "motion", "mover_files", "--targets")
    if not stills.is_there:
        _require_alone(processes, "photo", "photo_files", "--photo-targets")
    if not (videos.is_there and stills.is_there):
        # Finding them takes longer than all else.
        _require_room(sets, size, device, are_found=False)
    if not videos.is_there:
        _find_targets(videos, size)
    if not stills.is_there:
        _find_photo_targets(stills, size)
    _require_room(sets, size, device, are_found=True)
    found, photos = (
        load_target_clips(each.clips, each.folder, short_edge=size, device=device) for each in sets
    )
    return TargetSampler(found, _own_share(config, processes), device, photos)


def _require_room(
    sets: Sequence[_TargetSet], short_edge: int, device: torch.device, *, are_found: bool
) -> None:
    """Raise where frames with a target do not fit; before they are found, at most so many."""
    needed = 0.0
    for each in sets:
        finding = None if are_found or each.is_there else MoverConfig()
        needed += target_bytes(each.clips, each.folder, short_edge=short_edge, finding=finding)
    require_memory(needed, device, is_bound=not are_found, advice=FEWER_TARGETS)


def _find_targets(videos: _TargetSet, short_edge: int) -> None:
    mover = MoverConfig(mask_height=short_edge)
    tell = log_progress("Motion targets", len(videos.clips))
    workers = os.cpu_count() or 1
    write_targets_of_clips(videos.clips, videos.folder, mover, workers=workers, on_clip=tell)


def _find_photo_targets(stills: _TargetSet, short_edge: int) -> None:
    contrast = PhotoConfig(mask_height=short_edge)
    tell = log_progress("Photo targets", len(stills.clips))
    workers = os.cpu_count() or 1
    write_photo_targets(stills.clips, stills.folder, contrast, workers=workers, on_photo=tell)


def _require_alone(processes: Processes, kind: str, module: str, flag: str) -> None:
    if not processes.is_alone:
        # The others would wait for longer than a collective may take.
        raise InputError(
            f"{processes.world_size} processes cannot look for {kind} targets together. Find them "
            f"first with python -m amd_seg.training.{module}, and give their folder by {flag}."
        )


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
