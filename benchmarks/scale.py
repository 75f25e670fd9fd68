"""python benchmarks/scale.py PHOTOS: photos a second by the command, and by Ray's workers.

Each way segments the same folder into a fresh one and writes saliency as PNG, one thread a worker.
The clock runs from the first output to the last, so that starting (of Python, of Ray) does not
count. Photos a second are by the wall's clock: on a busy machine they say little. Processor
milliseconds a photo are of the processes that segment, alone: on free cores, N workers bring N
times what one brings only as long as these stay the same. Memory is the most that one such process
held, Linux's VmHWM. Each cell is the median of the rounds, with the least and the most.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BATCH = 8
TICK = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """What can be seen of a run at one moment."""

    seconds: float
    photos: int
    processor: float
    """Seconds, of all processes that segment."""
    memory: float
    """MiB, the peak of the largest of them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    count = len(list(options.photos.iterdir()))
    print(f"{count} photos, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}\n")
    ways = ["amd-seg image", *(f"Ray, workers: {workers}" for workers in options.workers)]
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for way in ways:
            found[way].append(measured(way, options.photos))
    print("| way | photos/s | processor ms a photo | MiB of a process |")
    print("| --- | --- | --- | --- |")
    for way in ways:
        rates, costs, memory = zip(*found[way], strict=True)
        print(f"| {way} | {cell(rates)} | {cell(costs)} | {max(memory):.0f} |")
    print(f"\nload {os.getloadavg()[0]:.0f} at the end")


def measured(way: str, photos: Path) -> tuple[float, float, float]:
    """Return photos a second, processor milliseconds a photo, and MiB of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        samples = [sample for sample in run(command(way, photos, out), out) if sample.photos]
    first, last = samples[0], max(samples, key=lambda sample: sample.processor)
    done = last.photos - first.photos
    rate = done / (last.seconds - first.seconds)
    cost = 1000 * (last.processor - first.processor) / done
    return rate, cost, max(sample.memory for sample in samples)


def command(way: str, photos: Path, out: Path) -> list[str]:
    if way == "amd-seg image":
        base = [sys.executable, "-m", "amd_seg.cli", "image", str(photos), "-o", str(out)]
        return [*base, "--output", "saliency", "--quiet", "--batch-size", str(BATCH)]
    example = str(ROOT / "examples" / "batch_over_a_dataset.py")
    base = [sys.executable, example, str(photos), str(out), "--png", "--batch-size", str(BATCH)]
    return [*base, "--workers", way.rpartition(" ")[2]]


def run(arguments: list[str], out: Path) -> Iterator[Sample]:
    """Run a command, and look at it ten times a second."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "AMD_SEG_BENCHMARK": str(out)}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    workers: set[Path] = set()
    while process.poll() is None:
        time.sleep(0.1)
        photos = len(list(out.glob("*.png")))
        if not photos:
            continue
        workers = workers or set(processes(str(out)))
        facts = [fact for folder in workers if (fact := cost_of(folder))]
        if len(facts) == len(workers):
            processor, memory = zip(*facts, strict=True)
            yield Sample(time.monotonic(), photos, sum(processor), max(memory))
    assert process.returncode == 0, arguments


def processes(mark: str) -> Iterator[Path]:
    """Yield the /proc folders of the processes of a run that segment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # It ended meanwhile, or is another user's.
            continue
        if f"AMD_SEG_BENCHMARK={mark}".encode() in variables and (
            words.startswith(b"ray::MapWorker") or b"amd_seg.cli" in words
        ):
            yield folder


def cost_of(folder: Path) -> tuple[float, float] | None:
    """Return a process's processor seconds and peak MiB; None where it has ended."""
    try:
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        lines = (folder / "status").read_text().splitlines()
    except OSError:
        return None
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return (sum(map(int, times)) / TICK, peaks[0]) if peaks else None


def cell(values: tuple[float, ...]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
