"""What the engine adds to a run: streamed frames, alarms, scores, stages, sums."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.model.config import AMDConfig
from amd_seg.training.batches import open_batches
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.run import train
from tests.clips import moving_square, write_clip, write_folder

SETTINGS = TrainingConfig(
    steps=2, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1
)
ALONE = Processes(torch.device("cpu"))
NOWHERE = RunFolder(Path("nowhere"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of two short clips of a moving square."""
    folder = tmp_path_factory.mktemp("clips")
    for number, step in enumerate(((0, 2), (1, 0))):
        write_clip(folder / f"clip-{number}.mp4", moving_square(6, step=step))
    return str(folder)


def column(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "log.jsonl").read_text().splitlines()]


def test_streamed_frames_give_the_run_that_frames_in_memory_give(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    for frames, workers in (("memory", 0), ("loader", 0), ("loader", 1)):
        config = dataclasses.replace(SETTINGS, frames=frames, workers=workers)
        out = tmp_path / f"{frames}-{workers}"
        train([clips], out, model=tiny_config, config=config, device="cpu")
    assert column(tmp_path / "loader-0", "loss") == column(tmp_path / "memory-0", "loss")
    assert column(tmp_path / "loader-1", "loss") == column(tmp_path / "memory-0", "loss")


def test_a_run_takes_every_nth_frame(clips: str) -> None:
    config = dataclasses.replace(SETTINGS, frame_step=3)
    for frames in ("memory", "loader"):
        batches = open_batches(
            [clips], dataclasses.replace(config, frames=frames, workers=0), ALONE
        )
        ends = {name.rpartition(":")[2] for _ in range(4) for name in next(batches).names}
        assert ends == {"0-3"}


def test_portrait_frames_lie_down_if_asked_to(tmp_path: Path) -> None:
    write_folder(tmp_path / "clip", moving_square(3, height=64, width=32))
    for transposed in (True, False):
        config = dataclasses.replace(
            SETTINGS, crop=(32, 32), scale=(1, 1), flip=False, transpose_portrait=transposed
        )
        store = open_batches([str(tmp_path)], config, ALONE, NOWHERE)._store
        height, width = store.clips[0].frames.shape[-2:]
        assert (height < width) == transposed


def test_the_mover_objective_needs_its_frames_in_memory() -> None:
    with pytest.raises(ConfigError, match="frames='loader'"):
        TrainingConfig(objective="mover", frames="loader")
