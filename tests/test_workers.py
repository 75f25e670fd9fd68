"""No process outlives the command that started it, however the command ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg.cli.terminal import stopped_by_signals
from tests.processes import python, until
from tests.tiny import TINY_SETTINGS, settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes in /proc"),
]

TRAIN = "train --device cpu --steps 100000 --batch-size 2 --crop 32x48 --objective photometric"
LOADING = ["--workers", "2", *settings("frames=loader"), *TINY_SETTINGS]


def of_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own, *_ = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(own) == session and state not in "ZX":
            found.append(int(status.parent.name))
    return found


def moment(name: str, clips: Path, out: Path) -> tuple[list[object], Callable[[], object]]:
    """A command with worker processes, and what tells that they are at work."""
    if name == "loading pairs":
        return [*TRAIN.split(), *LOADING, clips, "--out", out], (out / "log.jsonl").is_file
    noise = np.random.default_rng(0).integers(0, 255, (400, 500), np.uint8)
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True)
        Image.fromarray(noise).save(out / kind / "0.png")
        for number in range(1, 2000):
            os.link(out / kind / "0.png", out / kind / f"{number}.png")
    began = time.monotonic()
    score = ["evaluate", "ecssd", out, "--predictions", out / "masks", "--workers", "2"]
    return score, lambda: time.monotonic() > began + 6


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", ["loading pairs", "scoring"])
def test_no_process_is_left(name: str, end: signal.Signals, clips: Path, tmp_path: Path) -> None:
    command, has_come = moment(name, clips, tmp_path / "out")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [sys.executable, "-m", "amd_seg.cli", *map(str, command)]
    run = subprocess.Popen(words, start_new_session=True, **quiet)
    try:
        is_at_work = lambda: has_come() and len(of_session(run.pid)) > 2  # noqa: E731
        until(lambda: is_at_work() or run.poll() is not None)
        assert run.poll() is None
        run.send_signal(end)
        until(lambda: not of_session(run.pid), "the end of all")
    finally:
        for left in of_session(run.pid):
            os.kill(left, signal.SIGKILL)
        run.wait()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_still_ends_the_run() -> None:
    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with stopped_by_signals(has_begun=lambda: False) as received:
        Freed()
    assert received == ["SIGTERM"]


def test_a_script_without_a_guard_is_told_so(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from amd_seg.training.config import PRESETS\n"
        "from amd_seg.training.run import train\n"
        f"train([{str(clips)!r}], 'out', model=PRESETS['cpu'].model, "
        "config=PRESETS['cpu'].training, device='cpu')\n"
    )
    run = python("script.py", code=1, cwd=tmp_path)
    assert 'if __name__ == "__main__":' in run.stderr
