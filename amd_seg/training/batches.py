"""The stream of batches that a run learns from: opened as its settings say."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from amd_seg.errors import ConfigError, InputError
from amd_seg.training.clips import find_clips, log_progress
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.masked_images import (
    MaskBatches,
    find_masked_images,
    load_masked_images,
)
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.pairs import open_pairs
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run_config import RunConfig


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
    targets: Sequence[str] = (),
) -> Batches:
    """Open the clips under the roots as a stream of this process's micro-batches.

    Args:
        roots: see `find_clips`.
        config: the settings.
        processes: those that share a step.
        folder: where the masks of the clips are kept (objective motion-masks).
        targets: folders of images with masks (objective motion-masks).

    Raises:
        ConfigError: the batch cannot be shared by the processes, or targets do not fit the
            objective.
        InputError, MediaError: the clips, or the images, cannot be used.
    """
    require_shareable(config, processes)
    if not roots and not targets:
        raise InputError("There is nothing to learn from. Give VIDEOS, or --targets.")
    if config.objective == "motion-masks":
        return _open_masks(roots, targets, config, processes, folder)
    if targets:
        raise ConfigError(
            f"The objective {config.objective} learns from pairs of frames alone. "
            "Give --targets with --objective motion-masks only."
        )
    return open_pairs(find_clips(roots), config, processes)


def _open_masks(
    roots: Sequence[str],
    targets: Sequence[str],
    config: TrainingConfig,
    processes: Processes,
    folder: RunFolder,
) -> MaskBatches:
    """Find the masks of the clips, and load all images with their masks."""
    for given in targets:
        find_masked_images(given)  # What is missing is said now, not when masks have been found.
    if roots:
        clips = find_clips(roots)
        if not processes.is_alone:
            # The others would wait for longer than a collective may take.
            raise InputError(
                f"{processes.world_size} processes cannot look for masks together. Find them first "
                "with python -m amd_seg.training.motion_masks, and give their folder by --targets."
            )
        write_motion_masks(
            clips,
            folder.targets,
            MotionMaskConfig(short_edge=config.short_edge),
            workers=os.cpu_count() or 1,
            on_clip=log_progress("Motion masks", len(clips)),
        )
        targets = [os.fspath(folder.targets), *targets]
    loaded = [
        load_masked_images(each, short_edge=config.short_edge, device=processes.device)
        for each in targets
    ]
    return MaskBatches(loaded, _own_share(config, processes), processes.device)


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
