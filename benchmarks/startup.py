"""python benchmarks/startup.py PHOTO [CLIP]: what a command costs beside `import torch`.

Whole processes, by turns: `import torch`, one photo with threads as they come, the same with
spinning threads (the default of OpenMP) and with one thread; likewise a clip. Printed is the
processor time of each, user and system, the median of the rounds with the least and the most.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

SPINNING = {"OMP_WAIT_POLICY": "ACTIVE"}
ONE = {"OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("clip", nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = commands(options, Path(folder))
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, (command, environment) in rows.items():
                times[name].append(seconds(command, environment))
    base = median(times["import torch"])
    print(
        f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__}; median of {options.rounds}\n\n"
        "| process | processor seconds | times import torch |\n| --- | --- | --- |"
    )
    for name, values in times.items():
        middle = median(values)
        spread = f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"
        print(f"| {name} | {spread} | {middle / base:.2f} |")


def commands(
    options: argparse.Namespace, folder: Path
) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the command and the environment of each row."""
    amd_seg = [sys.executable, "-m", "amd_seg.cli"]
    photo = [*amd_seg, "image", options.photo, "-o", str(folder / "m.png"), "--overwrite", "-q"]
    rows = {
        "import torch": ([sys.executable, "-c", "import torch"], {}),
        "amd-seg --help": ([*amd_seg, "--help"], {}),
        "amd-seg image": (photo, {}),
        "the same, one thread": (photo, ONE),
        "the same, threads that spin": (photo, SPINNING),
    }
    if options.clip is not None:
        clip = [*amd_seg, "video", options.clip, "-o", str(folder / "m.mp4"), "--overwrite", "-q"]
        rows["amd-seg video"] = (clip, {})
        rows["a clip, one thread"] = (clip, ONE)
        rows["a clip, threads that spin"] = (clip, SPINNING)
    return rows


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Processor time, user and system, of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
