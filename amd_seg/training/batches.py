"""The stream of batches that a run learns from: opened as its settings say."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from amd_seg.errors import ConfigError
from amd_seg.training.clips import find_clips
from amd_seg.training.data import FrameStore, PairSampler
from amd_seg.training.distributed import Processes
from amd_seg.training.mover_files import write_targets_of_clips
from amd_seg.training.movers import MoverConfig
from amd_seg.training.pairs import Crop
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.targets import TargetSampler, load_target_clips


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
    *,
    targets: Path,
    finds_targets: bool,
) -> Batches:
    """Open the clips under the roots as a stream of this process's micro-batches.

    Args:
        roots: see `find_clips`.
        config: the run's settings.
        processes: of the run; this one takes its share.
        targets: where the motion masks of the objective "mover" lie.
        finds_targets: look for those that are not there yet.

    Raises:
        ConfigError: the batch cannot be shared by the processes.
        InputError, MediaError: the clips, or their targets, cannot be used.
    """
    _require_shareable(config, processes)
    clips = find_clips(roots)
    if config.objective == "mover":
        if finds_targets:
            _require_alone(processes)
            mover = MoverConfig(mask_height=config.short_edge)
            write_targets_of_clips(clips, targets, mover, workers=os.cpu_count() or 1)
        found = load_target_clips(clips, targets, short_edge=config.short_edge)
        return TargetSampler(found, _own_share(config, processes), processes.device)
    store = FrameStore.decode(clips, short_edge=config.short_edge, device=processes.device)
    return PairSampler(
        store,
        batch_size=config.batch_size // config.accumulate,
        crop=Crop(size=config.crop, scale=config.scale, flip=config.flip),
        sampling=config.sampling,
        max_gap=config.max_gap,
        seed=config.seed,
        rank=processes.rank,
        world_size=processes.world_size,
    )


def _own_share(config: TrainingConfig, processes: Processes) -> TrainingConfig:
    """Settings of a stream that draws on its own: each process has another seed."""
    return dataclasses.replace(
        config,
        batch_size=config.batch_size // processes.world_size,
        # Far apart, so that neighbouring seeds of two runs share no stream.
        seed=config.seed + 1_000_003 * processes.rank,
    )


def _require_alone(processes: Processes) -> None:
    # The others would wait for the first longer than their connection lives.
    if not processes.is_alone:
        raise ConfigError(
            "Several processes cannot look for motion targets together. Find them first, by "
            "`python -m amd_seg.training.mover_files VIDEOS TARGETS`, then give --targets TARGETS."
        )


def _require_shareable(config: TrainingConfig, processes: Processes) -> None:
    shares = config.accumulate * processes.world_size
    if config.batch_size % shares:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared equally by {processes.world_size} "
            f"process(es) with {config.accumulate} micro-batch(es) each. "
            f"Give --batch-size a multiple of {shares}."
        )
