"""python benchmarks/image.py [--device cuda] [--compile]: photos a second, and the network's share.

Photos are decoded, segmented and their masks written as `amd-seg image` does, at the published
size. Weights are random: they change nothing about the time. Every row is the median of the
repeats after a warm-up, with the least and the most. On a machine that others use, the processor
time of one thread (`--threads 1 --clock cpu`) is the number to trust.
"""

import argparse
import itertools
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import torch
from PIL import Image

from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.prefetch import map_ahead
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter, prepare

LAYOUTS = ("channels-first", "channels-last")
CLOCKS = {"wall": perf_counter, "cpu": process_time}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), device "
        f"{device_name(options.device)}\n{options.photos} JPEG photos of {options.width}x"
        f"{options.height}, short edge {options.size}, batches of {options.batch_size}; "
        f"{options.clock} time, median (least to most) of {options.repeats}\n"
    )
    print(
        "| backbone | precision | layout | compiled | photos/s | network alone, photos/s | share |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    compiled = (False, True) if options.compile else (False,)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), options)
        for setting in itertools.product(
            options.backbones, options.precisions, options.layouts, compiled
        ):
            print(row(paths, setting, options), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--size", type=int, default=392)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    return parser.parse_args()


def row(paths: list[Path], setting: tuple[str, str, str, bool], options: argparse.Namespace) -> str:
    backbone, precision, layout, compiled = setting
    segmenter = make_segmenter(backbone, precision, layout, compiled, options.device)
    frames = torch.stack([prepare(path, options.size, 10**9)[1] for path in paths])
    batches = frames.split(options.batch_size)

    def network() -> None:
        for batch in batches:
            segmenter.region_masks(batch)

    def whole() -> None:
        results = segmenter(paths, size=options.size, batch_size=options.batch_size)
        for _ in map_ahead(write, results, ahead=8):
            pass

    alone, total = (timed(work, options) for work in (network, whole))
    cells = (
        backbone,
        precision,
        layout,
        "yes" if compiled else "no",
        rate(len(paths), total),
        rate(len(paths), alone),
        f"{median(alone) / median(total):.0%}",
    )
    return f"| {' | '.join(cells)} |"


def make_segmenter(
    backbone: str, precision: str, layout: str, compiled: bool, device: str
) -> Segmenter:
    torch.manual_seed(0)
    config = AMDConfig(backbone=backbone)
    model = AMD(config)
    segmenter = Segmenter(model, WeightsConfig(model=config), device=device, precision=precision)
    if layout == "channels-first":
        model.to(memory_format=torch.contiguous_format)
    if compiled:
        torch.compiler.reset()
        model.appearance.compile()
    return segmenter


def write(result: Segmentation) -> Path:
    return result.save(Path(result.source).with_suffix(".png"))


def write_photos(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Write photos with as much detail as a camera's: smooth shapes under some noise."""
    generator = np.random.default_rng(0)
    paths = []
    for index in range(options.photos):
        coarse = generator.integers(0, 255, (12, 18, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((options.width, options.height), 3)
        noise = generator.normal(0, 6, (options.height, options.width, 3))
        pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{index}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def timed(work: Callable[[], None], options: argparse.Namespace) -> list[float]:
    """Return the seconds of each repeat, after one to warm up; results are on the CPU by then."""
    now = CLOCKS[options.clock]
    work()
    seconds = []
    for _ in range(options.repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return seconds


def rate(count: int, seconds: list[float]) -> str:
    least, most = count / max(seconds), count / min(seconds)
    return f"{count / median(seconds):.2f} ({least:.2f} to {most:.2f})"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


if __name__ == "__main__":
    main()
