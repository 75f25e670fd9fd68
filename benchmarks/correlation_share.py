"""python benchmarks/correlation_share.py [--objectives photometric dense]: the cost volume's share.

Of the time that torch's profiler counts in the operators of training steps on the CPU: the operator
forward and backward, and the LeakyReLU that follows it. Frames and weights are random: they change
nothing about the time. (The objective motion-masks has no motion pathway, and so no cost volume.)
"""

import argparse
import dataclasses
import itertools
import platform

import torch
from torch.profiler import ProfilerActivity, profile

from amd_seg.model.amd import AMD
from amd_seg.training import loop
from amd_seg.training.config import PRESETS
from amd_seg.training.objectives import make_objective
from amd_seg.training.pairs import PairBatch

GROUPS = {
    "volume": ("amd_seg::correlation",),
    "its gradients": ("amd_seg::correlation_backward",),
    "LeakyReLU on it": ("aten::leaky_relu", "aten::leaky_relu_backward"),
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    preset = PRESETS[options.preset]
    print(
        f"torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), preset "
        f"{options.preset}: {preset.model.backbone}, crops {preset.training.crop}, motion at "
        f"{preset.model.motion_size}, {options.batch_size} pairs; of {options.steps} steps\n\n"
        f"| objective | {' | '.join(GROUPS)} |\n|---{'|---' * len(GROUPS)}|"
    )
    for objective in options.objectives:
        config = dataclasses.replace(
            preset.training, objective=objective, minutes=0.0, precision="float32"
        )
        amd = AMD(preset.model)
        volume_channels = (2 * preset.model.max_displacement + 1) ** 2
        if config.memory_layout == "channels-last":
            amd.to(memory_format=torch.channels_last)
        frames = torch.randint(256, (2, options.batch_size, 3, *config.crop), dtype=torch.uint8)
        batch = PairBatch(*frames, ("random",) * options.batch_size)
        state = loop.TrainState(make_objective(amd, config), config)

        def steps(count: int, state=state, batch=batch, config=config) -> None:
            until = dataclasses.replace(config, steps=state.step + count)
            loop.optimize(state, itertools.repeat(batch), until)

        steps(1)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as measured:
            steps(options.steps)
        cells = " | ".join(f"{share:.1%}" for share in shares_of(measured, volume_channels))
        print(f"| {objective} | {cells} |", flush=True)


def shares_of(measured: profile, volume_channels: int) -> list[float]:
    """Return the shares of the profiled time that GROUPS took."""
    events = measured.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    shares = []
    for names in GROUPS.values():
        of_group = [
            event.cpu_time_total
            for event in events
            if event.key in names
            and (names[0].startswith("amd_seg") or event.input_shapes[0][1:2] == [volume_channels])
        ]
        shares.append(sum(of_group) / total)
    return shares


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu")
    parser.add_argument("--objectives", nargs="+", default=["photometric", "dense"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="after one that warms up")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
