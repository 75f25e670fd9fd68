"""python benchmarks/adaptation.py CLIP [--device cuda]: seconds and memory of adapting to a clip.

A row for each backbone and objective, each in a process of its own: seconds to read the clip, to
make the examples (masks of what moves, or pairs), for 100 steps (from the median step), and to
compare before and after; the peak of memory. Weights are random: they change nothing about the
time.
"""

import argparse
import dataclasses
import itertools
import os
import platform
import resource
import statistics
from multiprocessing import get_context

import torch

from amd_seg.device import resolve_device
from amd_seg.media.video import open_video
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.adaptation import AdaptationReport, adapt
from amd_seg.training.config import ADAPTATIONS

WEIGHTS = {
    "released (light resnet18)": WeightsConfig(
        model=AMDConfig(
            backbone="resnet18",
            layout="top-down",
            stage_widths=(64, 128, 256, 256),
            dilations=(1, 1, 1, 1),
            motion_size=(128, 192),
        ),
        input_size=240,
    ),
    "resnet18": WeightsConfig(
        model=AMDConfig(backbone="resnet18", head_dilation=2, motion_size=(256, 384)),
        input_size=224,
    ),
    "resnet50": WeightsConfig(model=AMDConfig(), input_size=392),
}
GIB = 2**30


def main() -> None:
    options = parse()
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__} "
        f"({options.threads} threads), {options.precision}; {options.clip}; a step is the median "
        f"of {options.steps - 1}\n\n"
        "| weights | objective | read | examples | 100 steps | checks | peak GiB |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    context = get_context("spawn")
    for backbone in options.weights:
        for objective in options.objectives:
            # Peaks are those of a process: each row needs its own.
            with context.Pool(1) as pool:
                print(pool.apply(row, (options, backbone, objective)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", help="a video file or a folder of frames")
    parser.add_argument("--weights", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--objectives", nargs="+", default=list(ADAPTATIONS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=6)
    return parser.parse_args()


def row(options: argparse.Namespace, backbone: str, objective: str) -> str:
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    weights = WEIGHTS[backbone]
    model = AMD(weights.model).eval().to(device, memory_format=torch.channels_last)
    held = peak(device)
    report, step = adapted(options, model, weights, objective)
    seconds = report.seconds
    cells = (
        backbone,
        objective,
        f"{seconds['frames']:.1f} s",
        f"{seconds['examples']:.1f} s",
        f"{100 * step:.0f} s",
        f"{seconds['checks']:.1f} s",
        f"{(peak(device) - held) / GIB:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def adapted(
    options: argparse.Namespace, model: AMD, weights: WeightsConfig, objective: str
) -> tuple[AdaptationReport, float]:
    """Adapt, and give the report and the seconds of the median step after the first."""
    config = dataclasses.replace(
        ADAPTATIONS[objective],
        steps=options.steps,
        guard=False,
        precision=options.precision,
    )
    clip = open_video(options.clip, short_edge=config.clip_size(weights))
    ends: list[float] = []
    report = adapt(model, weights, clip, config, on_step=lambda step: ends.append(step.seconds))
    steps = [after - before for before, after in itertools.pairwise(ends)]
    return report.report, statistics.median(steps)


def peak(device: torch.device) -> int:
    """The most memory that this process has held, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
