"""Two processes on one machine share each step, and go on where they were stopped."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.training.config import TrainingConfig
from amd_seg.training.distributed import Processes
from amd_seg.training.run_folder import list_checkpoints, load_checkpoint
from amd_seg.weights import load_weights
from tests.clips import moving_patch, write_clip
from tests.test_run import column, wait_until
from tests.tiny import TINY_SETTINGS, settings

# Dropout is drawn by each process for itself: without it nothing is random but the pairs.
SETTINGS = [
    *("--objective", "photometric", "--steps", "4", "--minutes", "0", "--batch-size", "4"),
    *("--crop", "32x48", "--device", "cpu", *TINY_SETTINGS),
    *settings("optimizer=adam weight_decay=1e-6 max_gap=2 dropout=0 estimator_channels=8,8,8,4,4"),
]


def begin(clips: Path, out: Path, processes: int, *flags: str) -> "subprocess.Popen[str]":
    """Start `amd-seg train` in some processes."""
    launcher = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher += ["-m", "torch.distributed.run", "--master-port", str(port)]
        launcher += ["--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "amd_seg.cli", "train", str(clips), "--out", str(out)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *SETTINGS, *flags], env=environment, **pipes)


def train(clips: Path, out: Path, processes: int, *flags: str) -> str:
    with begin(clips, out, processes, *flags) as run:
        output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return output


def test_two_processes_share_the_batch_and_stay_one_model(clips: Path, tmp_path: Path) -> None:
    runs = {processes: tmp_path / f"{processes}" for processes in (1, 2)}
    for processes, out in runs.items():
        flags = settings("shared_visibility=true ema_decay=0.9")
        assert train(clips, out, processes, *flags) == f"{out / 'weights'}\n"
    one, two = (torch.tensor(column(runs[n])) for n in (1, 2))
    # On a CPU each process normalises by its own half of the batch: near to one with the whole.
    torch.testing.assert_close(two, one, rtol=0.1, atol=0)
    assert load_weights(runs[2] / "weights").config.model.dropout == 0


def test_two_processes_go_on_where_they_were_stopped(clips: Path, tmp_path: Path) -> None:
    flags = ("--checkpoint-every", "2", *settings("dropout=0.5 keep=9"), "--precision", "bfloat16")
    train(clips, tmp_path, 2, *flags)
    whole = column(tmp_path)
    checkpoints = list_checkpoints(tmp_path / "checkpoints")
    assert len(load_checkpoint(checkpoints[0])["other_ranks"]) == 1
    checkpoints[-1].unlink()
    train(clips, tmp_path, 2, *flags, "--resume")
    assert column(tmp_path) == whole


def test_masks_are_found_by_the_first_process_and_one_that_joins_draws_its_own_crops(
    tmp_path: Path,
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", list(moving_patch(12)[0]), rate=24)
    run = tmp_path / "run"
    flags = ("--objective", "motion-masks", *settings("max_gap=1 short_edge=72"))
    train(clip, tmp_path / "two", 2, *flags, "--steps", "1")
    train(clip, run, 1, *flags, "--steps", "2")
    masks = [sorted(out.glob("targets/masks/clip/*.png")) for out in (tmp_path / "two", run)]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]
    train(clip, run, 2, *flags, "--resume", "--steps", "3")
    saved = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    generators = [rank["batches"]["generator"] for rank in (saved, *saved["other_ranks"])]
    assert not torch.equal(*generators)


def test_sigterm_to_torchrun_ends_with_one_checkpoint(clips: Path, tmp_path: Path) -> None:
    run, log = begin(clips, tmp_path, 2, "--steps", "100000"), tmp_path / "log.jsonl"
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 1, run)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=300)
    assert "a checkpoint is saved" in errors
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize(("accumulate", "allowed"), [(1, 2), (3, 6)])
def test_a_batch_that_cannot_be_shared_is_refused(accumulate: int, allowed: int) -> None:
    second = Processes(torch.device("cpu"), rank=1, world_size=2)
    with pytest.raises(ConfigError, match=f"Give --batch-size a multiple of {allowed}."):
        second.share_of(TrainingConfig(batch_size=9, accumulate=accumulate))
