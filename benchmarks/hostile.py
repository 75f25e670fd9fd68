"""python -m benchmarks.hostile pictures 10000, or clips 500: files that mean harm, one by one.

Each goes through `amd-seg image` or `amd-seg video` in a process of its own. What went wrong is
printed on stderr, and at the end one line of a table; the exit code is 1 where anything did.
"""

import os
import sys
import tempfile
from collections import Counter
from datetime import date
from functools import cache
from pathlib import Path

import torch

import amd_seg.weights
from tests.hostile import bombs, good_clips, good_pictures, hostile_files, png
from tests.kill import import_commands, start
from tests.tiny import tiny_weights

PATIENCE = 30.0  # seconds of processor time that one file may take
MEMORY = 4096.0  # MiB that a command may take: a picture of 200 million pixels needs some 3,000


def run(folder: Path, kind: str, count: int) -> int:
    """Try `count` files, print what is wrong and a line of a table; return the exit code."""
    if kind == "pictures":
        # 0.9 MB that unpack to nearly as many pixels as are allowed.
        bomb = png(14_000, 14_000, bytes(14_001) * 14_000)
        files = [*bombs().items(), ("bomb.png", bomb)]
        files += hostile_files(good_pictures(), count - len(files))
        command, target = "image", folder / "out.png"
    else:
        files = list(hostile_files(good_clips(folder), count))
        command, target = "video", folder / "out.mp4"
    # A tiny network, read once before the commands fork: files are what is tried.
    weights = tiny_weights(folder / "weights")
    amd_seg.weights.read_weights = cache(amd_seg.weights.read_weights)
    amd_seg.weights.read_weights(weights)
    import_commands()
    os.chdir(folder)
    codes, faults, slowest, peak = Counter[int](), 0, (0.0, ""), 0.0
    command = [command, "-o", str(target), "--overwrite", "--device", "cpu", "--quiet"]
    command += ["--weights", str(weights), "--"]
    for name, data in files:
        Path(name).write_bytes(data)
        _, status, usage = os.wait4(start(*command, name, log="log"), 0)
        code, stderr = os.waitstatus_to_exitcode(status), Path("log").read_text(errors="replace")
        seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        fault = fault_of(code, stderr, name, target.exists())
        if seconds > PATIENCE or memory > MEMORY:
            fault = f"{seconds:.0f} s of processor time, {memory:.0f} MiB of memory"
        if fault:
            print(f"{name!a}: {fault}\n{stderr}", file=sys.stderr, flush=True)
        codes[code] += 1
        faults += bool(fault)
        slowest, peak = max(slowest, (seconds, name)), max(peak, memory)
        Path(name).unlink()
        target.unlink(missing_ok=True)
    print(
        f"| {date.today()} | {len(files)} {kind} | {codes[0]} | {codes[1]} | {faults} | "
        f"{slowest[0]:.1f} s, {slowest[1]!a} | {peak / 1024:.2f} GiB |"
    )
    return 1 if faults else 0


def fault_of(code: int, stderr: str, name: str, is_written: bool) -> str:
    """Return what a command should not have done; nothing, where all is well."""
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    is_cut_short = "is cut short: the" in stderr
    # Names differ in what follows the last dash, which no way of quoting changes.
    is_named = not errors or name.rpartition("-")[2] in errors[0]
    if code not in (0, 1):
        return f"exit code {code}"
    if "Traceback" in stderr:
        return "a traceback"
    if is_written != (code == 0 or is_cut_short):
        return "an output without success, or the reverse"
    if code == 1 and len(errors) != (not is_cut_short):
        return f"{len(errors)} lines of error"
    return "" if is_named else "an error that does not name the file"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(run(Path(folder), sys.argv[1], int(sys.argv[2])))
