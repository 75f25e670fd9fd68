"""Two processes on one machine share each step, and go on where they were stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.training.config import TrainingConfig
from amd_seg.training.distributed import Processes
from amd_seg.training.run_folder import list_checkpoints, load_checkpoint
from amd_seg.weights import load_weights
from tests.clips import moving_patch, moving_square, write_clip
from tests.tiny import TINY_SETTINGS, settings

# Dropout is drawn by each process for itself: without it nothing is random but the pairs.
SETTINGS = [
    *("--objective", "photometric", "--steps", "4", "--minutes", "0", "--batch-size", "4"),
    *("--crop", "32x48", "--device", "cpu", *TINY_SETTINGS),
    *settings("optimizer=adam weight_decay=1e-6 max_gap=2 dropout=0 estimator_channels=8,8,8,4,4"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of three short clips of a moving square."""
    folder = tmp_path_factory.mktemp("clips")
    for number, step in enumerate(((0, 2), (1, 0), (1, 1))):
        write_clip(folder / f"clip-{number}.mp4", moving_square(6, step=step))
    return str(folder)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "amd_seg.cli"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--master-port", str(port)]
    return [*torchrun, "--nproc-per-node", str(processes), "-m", "amd_seg.cli"]


def train(clips: str, out: Path, processes: int, *flags: str) -> str:
    command = [*launcher(processes), "train", clips, "--out", str(out), *SETTINGS, *flags]
    result = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def column(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_share_the_batch_and_stay_one_model(clips: str, tmp_path: Path) -> None:
    runs = {processes: tmp_path / f"{processes}" for processes in (1, 2)}
    for processes, out in runs.items():
        flags = ("--set", "shared_visibility=true", "--set", "ema_decay=0.9")
        assert train(clips, out, processes, *flags) == f"{out / 'weights'}\n"
    one, two = (torch.tensor(column(runs[n], "loss")) for n in (1, 2))
    # On a CPU each process normalises by its own half of the batch: near to one with the whole.
    torch.testing.assert_close(two, one, rtol=0.1, atol=0)
    assert load_weights(runs[2] / "weights").config.model.dropout == 0


def test_two_processes_go_on_where_they_were_stopped(clips: str, tmp_path: Path) -> None:
    flags = ("--set", "dropout=0.5", "--checkpoint-every", "2", "--set", "keep=9")
    flags += ("--precision", "bfloat16")
    train(clips, tmp_path / "run", 2, *flags)
    whole = column(tmp_path / "run", "loss")
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert len(load_checkpoint(checkpoints[0])["other_ranks"]) == 1
    checkpoints[-1].unlink()
    train(clips, tmp_path / "run", 2, *flags, "--resume")
    assert column(tmp_path / "run", "loss") == whole


def test_masks_are_found_by_the_first_process_and_one_that_joins_draws_its_own_crops(
    tmp_path: Path,
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", list(moving_patch(12)[0]), rate=24)
    run = tmp_path / "run"
    flags = ("--objective", "motion-masks", *settings("max_gap=1 short_edge=72"))
    train(str(clip), tmp_path / "two", 2, *flags, "--steps", "1")
    train(str(clip), run, 1, *flags, "--steps", "2")
    masks = [sorted(out.glob("targets/masks/clip/*.png")) for out in (tmp_path / "two", run)]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]
    train(str(clip), run, 2, *flags, "--resume", "--steps", "3")
    saved = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    generators = [rank["batches"]["generator"] for rank in (saved, *saved["other_ranks"])]
    assert len(generators) == 2
    assert not torch.equal(*generators)


def test_sigterm_to_torchrun_ends_with_one_checkpoint(clips: str, tmp_path: Path) -> None:
    command = [*launcher(2), "train", clips, "--out", str(tmp_path / "run"), *SETTINGS]
    run = subprocess.Popen(
        [*command, "--steps", "100000"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 1) and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=300)
    assert "a checkpoint is saved" in errors
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


@pytest.mark.parametrize(("accumulate", "allowed"), [(1, 2), (3, 6)])
def test_a_batch_that_cannot_be_shared_is_refused(accumulate: int, allowed: int) -> None:
    second = Processes(torch.device("cpu"), rank=1, world_size=2)
    with pytest.raises(ConfigError, match=f"Give --batch-size a multiple of {allowed}."):
        second.share_of(TrainingConfig(batch_size=9, accumulate=accumulate))
