"""Run with `python benchmarks/correlation.py --batch 1 2 --threads 1 --clock cpu`.

Time of the cost volume (reach 4, mean over channels) of the five pyramid levels of a 384x640
pair, in milliseconds: the naive loop, two formulations that copy the windows, and ours. All run
in turns, round after round, so that a busy moment of the machine hits each of them; on a machine
that others use, one thread's processor time (`--clock cpu`) is the number to trust.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from amd_seg.model.correlation import correlation

LEVELS = ((192, 6, 10), (128, 12, 20), (96, 24, 40), (64, 48, 80), (32, 96, 160))
REACH = 4
SIDE = 2 * REACH + 1

Operator = Callable[[Tensor, Tensor], Tensor]


def naive_loop(x1: Tensor, x2: Tensor) -> Tensor:
    height, width = x1.shape[2:]
    padded = functional.pad(x2, (REACH,) * 4)
    return torch.stack(
        [
            (x1 * padded[:, :, y : y + height, x : x + width]).mean(1)
            for y in range(SIDE)
            for x in range(SIDE)
        ],
        1,
    )


def unfolded(x1: Tensor, x2: Tensor) -> Tensor:
    batch, channels, height, width = x1.shape
    windows = functional.unfold(x2, SIDE, padding=REACH)
    windows = windows.view(batch, channels, SIDE * SIDE, height, width)
    return torch.einsum("bchw,bckhw->bkhw", x1, windows) / channels


def strided_matmul(x1: Tensor, x2: Tensor) -> Tensor:
    """What a grouped convolution with x1 as its filters computes: (1 x C)(C x 81) a pixel."""
    batch, channels, height, width = x1.shape
    windows = functional.pad(x2, (REACH,) * 4).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    windows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, SIDE * SIDE)
    left = x1.permute(0, 2, 3, 1).reshape(-1, 1, channels)
    volume = torch.bmm(left, windows).view(batch, height, width, SIDE * SIDE)
    return volume.permute(0, 3, 1, 2) / channels


OPERATORS: dict[str, Operator] = {
    "naive loop": naive_loop,
    "unfold, einsum": unfolded,
    "strided matmul": strided_matmul,
    "ours": correlation,
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def forward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    with torch.no_grad():
        operator(x1, x2)


def forward_backward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(operator(x1, x2), (x1, x2), grad)


def measure(
    level: tuple[int, int, int], batch: int, dtype: torch.dtype, rounds: int, clock: str
) -> dict[str, list[str]]:
    """Return, for every formulation, its forward and forward+backward as "median (low-high)"."""
    generator = torch.Generator().manual_seed(0)
    x1, x2 = (
        torch.randn(batch, *level, generator=generator).to(dtype).requires_grad_() for _ in "12"
    )
    grad = torch.randn(batch, SIDE * SIDE, *level[1:], generator=generator).to(dtype)
    now = CLOCKS[clock]
    row: dict[str, list[str]] = {name: [] for name in OPERATORS}
    for run in (forward, forward_backward):
        times: dict[str, list[float]] = {name: [] for name in OPERATORS}
        for operator in OPERATORS.values():
            run(operator, x1, x2, grad)
        for _ in range(rounds):
            for name, operator in OPERATORS.items():
                start = now()
                run(operator, x1, x2, grad)
                times[name].append((now() - start) * 1e3)
        for name, found in times.items():
            low, *_, high = statistics.quantiles(found, n=10)
            row[name].append(f"{statistics.median(found):.1f} ({low:.1f}-{high:.1f})")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, "
        f"cpu, {options.threads} thread(s), {options.dtype}, reach {REACH}, "
        f"{options.rounds} rounds\n{options.clock} time, "
        "median (10th-90th percentile), ms: forward / forward+backward\n"
    )
    print("| batch x channels x grid | " + " | ".join(OPERATORS) + " |")
    print("|---" * (len(OPERATORS) + 1) + "|")
    for batch in options.batch:
        for level in LEVELS:
            row = measure(level, batch, dtype, options.rounds, options.clock)
            cells = " | ".join(" / ".join(cell) for cell in row.values())
            print(f"| {batch}x{level[0]}x{level[1]}x{level[2]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
