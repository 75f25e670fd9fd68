"""python benchmarks/training.py CLIPS... [--device cuda]: pairs a second of whole training steps.

First the stream alone, from memory and decoded as it goes; then steps of every objective, in
float32 and bfloat16, on frames in memory. Each row is the median of the repeats after a warm-up,
with the least and the most. Weights are random: they change nothing about the time. On a machine
that others use, the processor time of one thread (`--threads 1 --workers 0 --clock cpu`) is the
number to trust.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from amd_seg.device import resolve_device
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.training import loop
from amd_seg.training.batches import Batches, open_batches
from amd_seg.training.distributed import Processes
from amd_seg.training.folder import RunFolder
from amd_seg.training.objectives import make_objective
from amd_seg.training.presets import PRESETS, TrainingConfig

OBJECTIVES: dict[str, dict[str, object]] = {
    "photometric": {},
    "dense": {"objective": "dense"},
    "motion-masks": {"objective": "motion-masks"},
}
LAYOUTS = {"channels-first": False, "channels-last": True}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    preset = PRESETS[options.preset]()
    config = preset.training.with_changes(
        objective="photometric",
        batch_size=options.batch_size,
        minutes=0.0,
        frames="memory",
        workers=options.workers,
    )
    device = resolve_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{name} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__} ({torch.get_num_threads()} threads), "
        f"{options.clock} time\npreset {options.preset}: {preset.model.backbone}, "
        f"crops {config.crop}, motion at {preset.model.motion_size}, {config.batch_size} pairs a "
        f"step; median (least to most) of {options.repeats} stretches of {options.steps} steps\n\n"
        "| what | precision | layout | frames | pairs/s |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        # The masks of the objective motion-masks are found there, once.
        run = RunFolder(Path(folder))
        for frames in ("memory", "loader"):
            settings = dataclasses.replace(config, frames=frames)
            stream = open_batches(options.clips, settings, Processes(device), run)
            # Longer stretches: workers hand over what they have ready in bursts.
            rate = measured(lambda stream=stream: next(stream), options, device, 10 * options.steps)
            print(f"| stream alone | - | - | {frames} | {rate} |", flush=True)
        for label in options.objectives:
            # The layout and the precision change nothing about what is drawn.
            settings = config.with_changes(**OBJECTIVES[label])
            stream = open_batches(options.clips, settings, Processes(device), run)
            for precision in options.precisions:
                for layout in options.layouts:
                    settings = dataclasses.replace(
                        settings, precision=precision, channels_last=LAYOUTS[layout]
                    )
                    steps = steps_of(preset.model, settings, stream, device)
                    rate = measured(steps, options, device, options.steps)
                    print(f"| {label} | {precision} | {layout} | memory | {rate} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", help="folders or files of clips")
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--steps", type=int, default=3, help="of each stretch")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def steps_of(
    model: AMDConfig, config: TrainingConfig, stream: Batches, device: torch.device
) -> Callable[[], object]:
    amd = AMD(model).to(device)
    if config.channels_last:
        amd.to(memory_format=torch.channels_last)
    state = loop.start(make_objective(amd, config), config)

    def step() -> None:
        loop.optimize(state, stream, dataclasses.replace(config, steps=state.step + 1))

    return step


def measured(
    step: Callable[[], object], options: argparse.Namespace, device: torch.device, steps: int
) -> str:
    now, rates = CLOCKS[options.clock], []
    for stretch in range(options.repeats + 1):
        began = now()
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if stretch:  # The first one warms up.
            rates.append(steps * options.batch_size / (now() - began))
    return f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


if __name__ == "__main__":
    main()
