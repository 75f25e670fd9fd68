"""Commands killed at random moments: no output is half there, and a rerun gives the same bytes.

    python -m tests.kill image 50
    python -m tests.kill video 50
    python -m tests.kill train 50

Each run is a child that is forked where everything is imported already, so that a moment of the
work is hit and not one of the start.
"""

import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import date
from importlib import import_module
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from amd_seg.cli import main as amd_seg
from amd_seg.training.run_folder import RunFolder, load_checkpoint
from tests.clips import moving_square, write_clip
from tests.tiny import TINY_SETTINGS, tiny_weights

# What each command writes below a folder of its own, and what a rerun says besides.
OUTPUTS = {"image": "out", "video": "out.mp4", "train": "run"}
AGAIN = {"image": "--resume", "video": "--overwrite", "train": "--resume"}


def import_commands() -> None:
    """Import what commands need before any fork, or each child would."""
    for module in ("segmenter", "video_segmenter", "training.run"):
        import_module(f"amd_seg.{module}")


def start(*arguments: str, log: str = os.devnull) -> int:
    """Fork a child that runs `amd-seg` with these arguments; return its number."""
    child = os.fork()
    if child:
        return child
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv, code = ["amd-seg", *arguments], 0
    try:
        amd_seg()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def prepare(kind: str, folder: Path) -> list[str]:
    """Write what a command works on; return its arguments, up to the name of its output."""
    common, source = ["--device", "cpu", "--quiet"], folder / "source"
    if kind != "train":
        common += ["--weights", str(tiny_weights(folder / "weights"))]
    source.mkdir()
    frames = moving_square(24, height=96, width=128)
    if kind == "video":
        clip = write_clip(source / "clip.mp4", frames, audio=True)
        return ["video", str(clip), *common, "-o"]
    if kind == "train":
        for number in range(2):
            write_clip(source / f"{number}.mp4", frames[number:])
        pace = "--crop 32x48 --steps 12 --minutes 0 --batch-size 2 --checkpoint-every 2"
        pace += " --objective photometric"
        return ["train", str(source), *pace.split(), *TINY_SETTINGS, *common, "--out"]
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 255, (200, 300, 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{seed}.png")
    # With more photos in a pass the network may round otherwise.
    return ["image", str(source), "--output", "cutout", "--batch-size", "1", *common, "-o"]


def kill_and_go_on(command: list[str], folder: Path, whole: dict[str, str], after: float) -> str:
    """Kill a run after some seconds, look, and run it again; return what is wrong, or nothing."""
    folder.mkdir()
    kind, output = command[0], folder / OUTPUTS[command[0]]
    child = start(*command, str(output))
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    half = {name for name, digest in digests(folder).items() if whole.get(name) != digest}
    if half:
        return f"half-written: {', '.join(sorted(half))}"
    # A run without a checkpoint is told to be none, and starts anew.
    is_begun = kind != "train" or bool(RunFolder(output).list_checkpoints())
    again = start(*command, str(output), *[AGAIN[kind]] * is_begun)
    status = os.waitpid(again, 0)[1]
    if status:
        return f"the rerun ended with {os.waitstatus_to_exitcode(status)}"
    return "" if digests(folder) == whole else "the rerun gave other bytes"


def digests(folder: Path) -> dict[str, str]:
    """Return a digest of each output that is there; of a training run of what must not differ."""
    found = {}
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        if path.parent.name == "checkpoints":
            load_checkpoint(path)  # Reading is the check: older ones make room, and times differ.
        elif path.name not in ("config.json", "log.jsonl") and path.parent.name != "sheets":
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main(kind: str, count: int) -> int:
    torch.set_num_threads(1)
    import_commands()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = prepare(kind, folder)
        (folder / "whole").mkdir()
        begin = time.perf_counter()
        os.waitpid(start(*command, str(folder / "whole" / OUTPUTS[kind])), 0)
        duration = time.perf_counter() - begin
        whole, random = digests(folder / "whole"), Random(0)
        faults = Counter(
            kill_and_go_on(command, folder / str(number), whole, random.uniform(0, duration))
            for number in range(count)
        )
    print(f"| {date.today()} | {kind} | {count} | {faults.pop('', 0)} |")
    for fault, times in faults.items():
        print(f"{times} times {fault}", file=sys.stderr)
    return 1 if faults or not whole else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
