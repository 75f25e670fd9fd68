"""What the engine adds to a run: streamed frames, alarms, backbones, presets."""

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tqdm import tqdm

from amd_seg.cli import cli
from amd_seg.cli.runs import show
from amd_seg.errors import ConfigError
from amd_seg.model.config import AMDConfig
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.loop import StepReport
from amd_seg.training.presets import PRESETS, TrainingConfig
from amd_seg.training.run import train
from amd_seg.weights import load_weights
from tests.clips import moving_square, write_clip

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


def column(run: Path, name: str) -> list[Any]:
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


def test_motion_masks_need_their_frames_in_memory() -> None:
    with pytest.raises(ConfigError, match="frames='loader'"):
        TrainingConfig(objective="motion-masks", frames="loader")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_its_first_steps(clips: str, tmp_path: Path, preset: str) -> None:
    command = ["train", clips, "--preset", preset, "--out", str(tmp_path / "run")]
    # The recipe is the preset's; only the amount of work is not.
    command += ["--stage-widths", "8,8,16,16", "--head-channels", "8"]
    command += ["--steps", "3", "--minutes", "0", "--batch-size", "2", "--crop", "32x32"]
    command += ["--short-edge", "32", "--motion-size", "64x64", "--device", "cpu"]
    command += ["--log-every", "1", "--sheet-every", "1"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'run' / 'weights'}\n"
    assert max(map(len, result.stderr.splitlines()[:4])) <= 100
    assert re.search(
        rf"model: backbone={PRESETS[preset]().model.backbone} .* crop=32,32",
        " ".join(result.stderr.split()),
    )
    assert load_weights(tmp_path / "run" / "weights").config.training["steps"] == 3


def test_a_run_takes_the_model_of_the_weights_it_starts_from(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    first = train([clips], tmp_path / "a", model=tiny_config, config=SETTINGS, device="cpu")
    command = ["train", clips, "--out", str(tmp_path / "b"), "--init", str(first), "--dropout", "0"]
    command += ["--steps", "1", "--minutes", "0", "--batch-size", "2", "--crop", "32x32"]
    command += ["--short-edge", "32", "--device", "cpu", "--quiet", "--log-every", "1"]
    result = CliRunner().invoke(cli, command)
    assert (result.exit_code, result.stderr) == (0, "")
    trained = load_weights(tmp_path / "b" / "weights").config
    assert trained.model == dataclasses.replace(tiny_config, dropout=0)
    assert trained.training["init"] == str(first)
    result = CliRunner().invoke(
        cli, [*command[:3], str(tmp_path / "c"), *command[4:6], "--regions", "6"]
    )
    assert result.exit_code == 2
    assert "regions 5 instead of 6" in result.stderr


def report(step: int, seconds: float, done: float) -> StepReport:
    return StepReport(step, done, {"loss": 0.5}, 1e-4, 1.0, seconds, ("clip:0-1",))


def test_the_bar_of_a_run_by_the_clock_ends_with_the_clock() -> None:
    config = TrainingConfig(minutes=1)
    bar = tqdm(total=config.steps, file=io.StringIO())
    # A resumed run: the first step seen is the eleventh, and a sixth of the minute is over.
    show(bar, report(11, 11.0, 11 / 60), config, "pairs")
    assert (bar.initial, bar.n, bar.total) == (10, 11, 60)
    show(bar, report(12, 10.0, 10 / 60), config, "pairs")
    assert (bar.initial, bar.n, bar.total) == (10, 12, 72)
    assert "loss 0.5000, 19.2 pairs/s" in str(bar)
