"""The long run of `tests.hostile`: the command on thousands of files, each by itself."""

import argparse
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from time import process_time

import torch

import amd_seg.cli
import amd_seg.weights
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from tests.hostile import (
    bombs,
    good_clips,
    good_pictures,
    hostile_files,
    unpacking_bomb,
)
from tests.tiny import TINY

PATIENCE = 30.0
"""Seconds of processor time that one file may take."""

SILENCE = 300.0
"""Seconds by the clock after which a command counts as hung: a busy machine makes it wait."""

MEMORY = 4096.0
"""MiB that a command may take: a picture of 200 million pixels needs some 3,000."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    """Its exit code; negative for a crash, -1 for a hang."""
    stderr: str
    seconds: float
    """Of processor time, all threads together."""
    memory: float
    """Highest resident memory of the process so far, in MiB."""


class Worker:
    """A process that runs one command after the other, so that each is spared the start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def run(self, *command: str) -> Ending:
        """Run `amd-seg` with these arguments."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        is_ready = select.select([process.stdout], [], [], SILENCE)[0]
        answer = process.stdout.readline() if is_ready else ""
        if answer:
            return Ending(*json.loads(answer))
        process.kill()
        process.wait()
        self._start()
        return Ending(process.returncode if is_ready else -1, "", SILENCE, 0.0)

    def close(self) -> None:
        self._process.communicate()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile_run", "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        # Its start is no file's fault, and on a busy machine takes longer than one may.
        assert self._process.stdout is not None
        self._process.stdout.readline()


def serve() -> None:
    """Run the commands that come on stdin; tell of each on the first stdout."""
    torch.set_num_threads(1)
    # Nine tenths of a command's work: the weights are good ones, and one reading of them serves.
    amd_seg.weights.read_weights = cache(amd_seg.weights.read_weights)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        # What C libraries print goes past Python's own streams.
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 1)
            os.dup2(caught.fileno(), 2)
            sys.argv = ["amd-seg", *json.loads(line)]
            code, start = 0, process_time()
            try:
                amd_seg.cli.main()
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 1
            except Exception:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            caught.seek(0)
            text = caught.read().decode(errors="replace")
        seconds = process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answers.write(json.dumps([code, text, seconds, memory]) + "\n")
        answers.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["pictures", "clips", "serve"])
    parser.add_argument("count", type=int, nargs="?", default=100)
    options = parser.parse_args()
    if options.kind == "serve":
        serve()
        return 0
    with tempfile.TemporaryDirectory() as folder:
        endings = run(Path(folder), options.kind, options.count)
    return report(endings, options.kind)


def run(folder: Path, kind: str, count: int) -> dict[str, tuple[Ending, str]]:
    """Return how each file ended, and what is wrong with that, empty where nothing is."""
    if kind == "pictures":
        files = [*bombs().items(), ("bomb.png", unpacking_bomb())]
        files += hostile_files(good_pictures(), count - len(files))
        command, target = "image", Path("out.png")
    else:
        files = list(hostile_files(good_clips(folder), count))
        command, target = "video", Path("out.mp4")
    # A tiny network: files are what is tried.
    config = WeightsConfig(model=TINY, object_channel=1, input_size=64)
    weights = amd_seg.weights.save_weights(folder / "weights", AMD(TINY), config)
    worker = Worker(folder)
    endings = {}
    for name, data in files:
        (folder / name).write_bytes(data)
        ending = worker.run(
            *(command, "-o", str(target), "--overwrite", "--device", "cpu", "--quiet"),
            *("--weights", str(weights), "--", name),
        )
        fault = fault_of(ending, name, (folder / target).exists())
        endings[name] = ending, fault
        if fault:
            print(f"{name!a}: {fault}\n{ending.stderr}", file=sys.stderr, flush=True)
        (folder / name).unlink()
        (folder / target).unlink(missing_ok=True)
    worker.close()
    return endings


def fault_of(ending: Ending, name: str, is_written: bool) -> str:
    """Return what a command should not have done; nothing, where all is well."""
    lines = ending.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    is_cut_short = any("is cut short: the" in line for line in lines)
    if ending.code == -1:
        return f"nothing for {SILENCE:.0f} s"
    if ending.seconds > PATIENCE:
        return f"{ending.seconds:.0f} s of processor time"
    if ending.code not in (0, 1):
        return f"exit code {ending.code}"
    if "Traceback" in ending.stderr:
        return "a traceback"
    if is_written != (ending.code == 0 or is_cut_short):
        return "an output without success, or the reverse"
    if ending.code == 1 and len(errors) != (not is_cut_short):
        return f"{len(errors)} lines of error"
    # Names differ in what follows the last dash, which no way of quoting changes.
    if errors and name.rpartition("-")[2] not in errors[0]:
        return "an error that does not name the file"
    if ending.memory > MEMORY:
        return f"{ending.memory:.0f} MiB of memory"
    return ""


def report(endings: dict[str, tuple[Ending, str]], kind: str) -> int:
    """Print the results as a line of a table; return the exit code."""
    codes = Counter(ending.code for ending, _ in endings.values())
    faults = sum(bool(fault) for _, fault in endings.values())
    slowest = max(endings, key=lambda name: endings[name][0].seconds)
    peak = max(ending.memory for ending, _ in endings.values())
    print(
        f"| {date.today()} | {len(endings)} {kind} | {codes[0]} | {codes[1]} | {faults} | "
        f"{endings[slowest][0].seconds:.1f} s, {slowest!a} | {peak / 1024:.2f} GiB |"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
