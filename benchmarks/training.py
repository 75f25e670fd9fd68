"""python benchmarks/training.py CLIPS... [--preset paper] [--objective photometric]: whole steps.

A whole step, as a run takes it, against the forward and backward pass alone of the same network on
a batch that is there: the rest of a step is data, optimiser, average and reports. Both take turns,
in each layout and precision. Weights are random: they change nothing about the time. On a machine
that others use, the processor time of one thread (`--clock cpu`) is the number to trust.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from amd_seg.device import resolve_device, resolve_precision
from amd_seg.model.amd import AMD
from amd_seg.training import loop
from amd_seg.training.clips import find_clips
from amd_seg.training.config import PRESETS, Preset
from amd_seg.training.distributed import Processes
from amd_seg.training.loop import Batches
from amd_seg.training.objectives import make_objective
from amd_seg.training.run import open_batches
from amd_seg.training.run_folder import RunFolder

LAYOUTS = {"channels-first": torch.contiguous_format, "channels-last": torch.channels_last}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    preset = PRESETS[options.preset]
    config = dataclasses.replace(
        preset.training,
        objective=options.objective,
        batch_size=options.batch_size,
        frames="memory",
        minutes=0.0,
        steps=10**6,
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else os.uname().machine
    print(
        f"{name} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}, torch {torch.__version__} ({torch.get_num_threads()} threads), "
        f"{options.clock} time\npreset {options.preset}: {preset.model.backbone}, "
        f"{config.objective}, crops {config.crop}, motion at {preset.model.motion_size}, "
        f"{config.batch_size} a step; median of {options.repeats} after a warm-up\n\n"
        "| layout | precision | step, s | forward + backward, s | share |\n"
        "| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        batches = open_batches(find_clips(options.clips), config, Processes(device), run)
        for layout in options.layouts:
            for precision in options.precisions:
                settings = dataclasses.replace(config, precision=precision, memory_layout=layout)
                whole, bare = measured(
                    Preset(model=preset.model, training=settings), batches, options
                )
                print(
                    f"| {layout} | {precision} | {whole:.3g} | {bare:.3g} | {bare / whole:.0%} |",
                    flush=True,
                )


def measured(preset: Preset, batches: Batches, options: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a whole step, and of its forward and backward pass alone."""
    device, config = resolve_device(options.device), preset.training
    dtype = resolve_precision(config.precision, device)
    model = AMD(preset.model).to(device, memory_format=LAYOUTS[config.memory_layout])
    state = loop.TrainState(make_objective(model, config), config)
    batch = next(batches)

    def whole() -> None:
        loop.optimize(state, batches, dataclasses.replace(config, steps=state.step + 1))

    def bare() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
            loss = state.objective(batch, 0.5)["loss"]
        loss.backward()
        state.optimizer.zero_grad()

    def seconds(work: Callable[[], None]) -> float:
        began = CLOCKS[options.clock]()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return CLOCKS[options.clock]() - began

    pairs = [(seconds(whole), seconds(bare)) for _ in range(options.repeats + 1)][1:]
    return statistics.median(pair[0] for pair in pairs), statistics.median(p[1] for p in pairs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", help="folders or files of clips")
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--objective", default="photometric")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precisions", nargs="+", default=["float32"])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
