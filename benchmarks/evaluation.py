"""python benchmarks/evaluation.py [--images 1000] [--workers 1 2]: pictures scored a second.

Masks and maps of 400x300 are made, read from PNG files and scored by every metric of a salient-
object set, then as the frames of a video: what `amd-seg evaluate --predictions` does. Every row
is the median of the repeats, with the least and the most; process start-up counts. On a machine
that others use, `--clock cpu --workers 1` takes the process's own time instead of the wall's.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
from PIL import Image

from amd_seg.evaluation.datasets import Dataset, open_folders
from amd_seg.evaluation.predictions import from_folder
from amd_seg.evaluation.scoring import evaluate

CLOCKS = {"wall": perf_counter, "cpu": process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--height", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, numpy "
        f"{np.__version__}\n{options.images} maps of {options.width}x{options.height}, median "
        f"(least to most) of {options.repeats}, {options.clock} time\n"
    )
    print("| metrics | workers | maps/s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), options)
        dataset = open_folders(None, Path(name, "masks"))
        for kind in ("saliency", "video"):
            part = of_kind(dataset, kind)
            for workers in options.workers:

                def work(part: Dataset = part, workers: int = workers) -> None:
                    maps = from_folder(part, Path(name, "maps"))
                    evaluate(part, maps, method="benchmark", workers=workers)

                seconds = timed(work, options)
                print(f"| {kind} | {workers} | {rate(options.images, seconds)} |")


def write_files(folder: Path, options: argparse.Namespace) -> None:
    """Write ellipses as ground truth, and blurred, shifted ones as maps."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[-1 : 1 : options.height * 1j, -1 : 1 : options.width * 1j]
    for name in ("masks", "maps"):
        (folder / name).mkdir()
    for index in range(options.images):
        y, x, height, width = generator.uniform((-0.4, -0.4, 0.2, 0.2), (0.4, 0.4, 0.6, 0.6))
        away = np.hypot((rows - y) / height, (columns - x) / width)
        noise = generator.normal(0, 0.1, away.shape)
        values = np.clip(1.5 - np.roll(away, 12, axis=1) + noise, 0, 1) * 255
        Image.fromarray((away < 1).astype(np.uint8) * np.uint8(255)).save(
            folder / "masks" / f"{index}.png"
        )
        Image.fromarray(values.astype(np.uint8)).save(folder / "maps" / f"{index}.png")


def of_kind(dataset: Dataset, kind: str) -> Dataset:
    return replace(dataset, benchmark=replace(dataset.benchmark, kind=kind))


def timed(work: Callable[[], None], options: argparse.Namespace) -> list[float]:
    now = CLOCKS[options.clock]
    seconds = []
    for _ in range(options.repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return seconds


def rate(count: int, seconds: list[float]) -> str:
    least, most = count / max(seconds), count / min(seconds)
    return f"{count / median(seconds):.1f} ({least:.1f} to {most:.1f})"


if __name__ == "__main__":
    main()
