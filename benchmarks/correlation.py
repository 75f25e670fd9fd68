"""Run with `python benchmarks/correlation.py --batch 1 2 --threads 1 --clock cpu`.

Time of the cost volume (reach 4, mean over channels) of the five pyramid levels of a 384x640
pair, in milliseconds: the naive loop, formulations that copy the windows, and ours. All run in
turns, round after round, so that a busy moment of the machine hits each of them; on a machine
that others use, one thread's processor time (`--clock cpu`) is the number to trust.

On a GPU, `python benchmarks/correlation.py --device cuda --batch 1 16 32 --large`: our kernels,
our plain path, the plain path compiled, the naive loop, and the floor: the larger of the bytes
that must move over the copy bandwidth measured at the start, and the operations over --tflops.
"""

import argparse
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from amd_seg.model.correlation import correlation, gradients_plain, volume_plain
from amd_seg.model.correlation_cuda import VARIABLE

LEVELS = ((192, 6, 10), (128, 12, 20), (96, 24, 40), (64, 48, 80), (32, 96, 160))
LARGE = (8, (256, 128, 256))
REACH = 4
SIDE = 2 * REACH + 1

Level = tuple[int, int, int]
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


ON_CPU: dict[str, Operator] = {
    "naive loop": naive_loop,
    "unfold, einsum": unfolded,
    "strided matmul": strided_matmul,
    "ours": correlation,
}


class CompiledPlain(torch.autograd.Function):
    """The plain path where a compiler sees into it; the operator itself is opaque to it."""

    @staticmethod
    def forward(ctx, x1: Tensor, x2: Tensor) -> Tensor:  # noqa: D102 -- torch's own protocol
        ctx.save_for_backward(x1, x2)
        return compiled(volume_plain)(x1, x2, REACH)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: D102 -- torch's own protocol
        return compiled(gradients_plain)(grad, *ctx.saved_tensors, REACH, True, True)


compiled = functools.cache(torch.compile)


def forced(path: str) -> Operator:
    def operator(x1: Tensor, x2: Tensor) -> Tensor:
        os.environ[VARIABLE] = path  # the gradients, which follow, read it too
        return correlation(x1, x2)

    return operator


ON_CUDA: dict[str, Operator] = {
    "naive loop": naive_loop,
    "ours, plain, compiled": CompiledPlain.apply,
    "ours, plain": forced("plain"),
    "ours, kernels": forced("cuda"),
}


def forward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    with torch.no_grad():
        operator(x1, x2)


def forward_backward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(operator(x1, x2), (x1, x2), grad)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def milliseconds(work: Callable[[], object], options: argparse.Namespace) -> float:
    if options.device == "cpu":
        now = CLOCKS[options.clock]
        start = now()
        work()
        return (now() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(options.repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / options.repeats


def measure(
    operators: dict[str, Operator], batch: int, level: Level, options: argparse.Namespace
) -> dict[str, str]:
    """Return, for every formulation, "forward (low-high) / forward+backward (low-high)"."""
    generator = torch.Generator().manual_seed(0)

    def features(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator)
        return values.to(options.device, getattr(torch, options.dtype))

    x1, x2 = (features(batch, *level).requires_grad_() for _ in "12")
    grad = features(batch, SIDE * SIDE, *level[1:])
    cells: dict[str, list[str]] = {name: [] for name in operators}
    for run in (forward, forward_backward):
        works = {
            name: functools.partial(run, operator, x1, x2, grad)
            for name, operator in operators.items()
        }
        for work in works.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(options.rounds):
            for name, work in works.items():
                times[name].append(milliseconds(work, options))
        for name, found in times.items():
            low, *_, high = statistics.quantiles(found, n=10)
            digits = 1 if options.device == "cpu" else 3
            cells[name].append(
                f"{statistics.median(found):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
            )
    return {name: " / ".join(pair) for name, pair in cells.items()}


def copy_bandwidth() -> float:
    """Return the bytes a second that a large copy on the device reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    options = argparse.Namespace(device="cuda", repeats=20)
    target.copy_(source)
    best = min(milliseconds(lambda: target.copy_(source), options) for _ in range(5))
    return 2 * source.numel() / best * 1e3


def floor(batch: int, level: Level, bandwidth: float, options: argparse.Namespace) -> str:
    """Return the least milliseconds of forward / forward+backward that the device allows."""
    channels, pixels = level[0], batch * level[1] * level[2]
    size = getattr(torch, options.dtype).itemsize * pixels
    operations = 2 * SIDE * SIDE * channels * pixels / (options.tflops * 1e12)
    there = max(size * (2 * channels + SIDE * SIDE) / bandwidth, operations)
    back = max(size * (4 * channels + SIDE * SIDE) / bandwidth, 2 * operations)
    return f"{there * 1e3:.3f} / {(there + back) * 1e3:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--large", action="store_true", help="also 8 x 256 x 128 x 256")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "bfloat16", "float64"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=20, help="runs a round on a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--tflops", type=float, default=67.0, help="the GPU's float32 peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_cuda = options.device == "cuda"
    operators = ON_CUDA if on_cuda else ON_CPU
    device = (
        torch.cuda.get_device_name()
        if on_cuda
        else f"{platform.machine()} cpu, {options.threads} thread(s), {options.clock} time"
    )
    print(
        f"torch {torch.__version__}, python {platform.python_version()}, {device}, "
        f"{options.dtype}, reach {REACH}, {options.rounds} rounds\n"
        "median (10th-90th percentile), ms: forward / forward+backward"
    )
    bandwidth = copy_bandwidth() if on_cuda else 0.0
    if on_cuda:
        print(f"copy {bandwidth / 1e12:.2f} TB/s, peak {options.tflops} TFLOP/s")
    names = [*operators, *(["floor"] if on_cuda else [])]
    print("\n| batch x channels x grid | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    cases = [(batch, level) for batch in options.batch for level in LEVELS]
    for batch, level in [*cases, *([LARGE] if options.large else [])]:
        row = list(measure(operators, batch, level, options).values())
        if on_cuda:
            row.append(floor(batch, level, bandwidth, options))
        print(f"| {'x'.join(map(str, (batch, *level)))} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
