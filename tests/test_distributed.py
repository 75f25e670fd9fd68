"""Processes on one machine share each step, and go on where they were stopped."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.training.config import TrainingConfig
from amd_seg.training.distributed import Processes
from amd_seg.training.run_folder import RunFolder, load_checkpoint
from tests.clips import moving_patch, write_clip
from tests.processes import ENVIRONMENT, until
from tests.test_run import begin, column, newest
from tests.tiny import TINY_SETTINGS, settings

# Dropout is drawn by each process for itself: without it nothing is random but the pairs.
SETTINGS = [
    *("--objective", "photometric", "--minutes", "0", "--batch-size", "4", "--crop", "32x48"),
    *TINY_SETTINGS,
    *settings("optimizer=adam weight_decay=1e-6 max_gap=2 dropout=0 estimator_channels=8,8,8,4,4"),
]


def train(clips: Path, out: Path, processes: int, *flags: str) -> str:
    flags = (*SETTINGS, "--steps", "4", *flags)
    with begin(clips, out, *flags, processes=processes) as run:
        output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return output


@pytest.mark.slow
def test_two_processes_share_the_batch_and_stay_one_model(clips: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        out = tmp_path / f"{processes}"
        flags = settings("shared_visibility=true ema_decay=0.9")
        assert train(clips, out, processes, *flags) == f"{out / 'weights'}\n"
    one, two = (torch.tensor(column(tmp_path / name)) for name in ("1", "2"))
    # On a CPU each process normalises by its own half of the batch: near to one with the whole.
    torch.testing.assert_close(two, one, rtol=0.1, atol=0)


@pytest.mark.slow
def test_two_processes_go_on_where_they_were_stopped(clips: Path, tmp_path: Path) -> None:
    flags = ("--checkpoint-every", "2", *settings("dropout=0.5 keep=9"), "--precision", "bfloat16")
    train(clips, tmp_path, 2, *flags)
    whole = column(tmp_path)
    newest(tmp_path).unlink()
    train(clips, tmp_path, 2, *flags, "--resume")
    assert column(tmp_path) == whole


@pytest.mark.slow
def test_masks_are_found_once_and_a_process_that_joins_draws_its_own_crops(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", list(moving_patch(12)[0]), rate=24)
    flags = ("--objective", "motion-masks", *settings("max_gap=1 short_edge=72"))
    train(clip, tmp_path / "two", 2, *flags, "--steps", "1")
    train(clip, tmp_path / "one", 1, *flags, "--steps", "2")
    masks = [sorted((tmp_path / n).glob("targets/masks/clip/*.png")) for n in ("one", "two")]
    assert [path.read_bytes() for path in masks[0]] == [path.read_bytes() for path in masks[1]]
    train(clip, tmp_path / "one", 2, *flags, "--resume", "--steps", "3")
    saved = load_checkpoint(newest(tmp_path / "one"))
    generators = [rank["batches"]["generator"] for rank in (saved, *saved["other_ranks"])]
    assert not torch.equal(*generators)


GROUP = """
import gc, pathlib, torch
from torch.nn.parallel import DistributedDataParallel
from amd_seg.training.distributed import joined_processes
with joined_processes("cpu"):
    DistributedDataParallel(torch.nn.Linear(1, 1))
gc.collect()
print(*(path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system lists no threads")
def test_no_thread_of_the_group_is_left_that_could_abort_the_process() -> None:
    shared = ["-m", "torch.distributed.run", "--standalone", "--no-python", sys.executable]
    command = [sys.executable, *shared, "-c", GROUP]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "python" in done.stdout
    assert "gloo" not in done.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_leaves_a_checkpoint_and_line(clips: Path, tmp_path: Path, processes: int) -> None:
    flags = (*SETTINGS, "--steps", "99999", "--checkpoint-every", "99999")
    run, log = begin(clips, tmp_path, *flags, processes=processes), tmp_path / "log.jsonl"
    has_begun = lambda: log.exists() and len(log.read_text().splitlines()) > 1  # noqa: E731
    until(lambda: has_begun() or run.poll() is not None, "a step")
    run.terminate()
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 130 or processes > 1  # torchrun has a code of its own
    assert re.search("Stopped by SIGTERM .*a checkpoint is saved.*--resume", errors)
    assert len(RunFolder(tmp_path).list_checkpoints()) == 1


@pytest.mark.parametrize(("accumulate", "allowed"), [(1, 2), (3, 6)])
def test_a_batch_that_cannot_be_shared_is_refused(accumulate: int, allowed: int) -> None:
    second = Processes(torch.device("cpu"), rank=1, world_size=2)
    with pytest.raises(ConfigError, match=f"Give --batch-size a multiple of {allowed}."):
        second.share_of(TrainingConfig(batch_size=9, accumulate=accumulate))
