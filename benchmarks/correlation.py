"""Run with `python benchmarks/correlation.py --batch 1 2 --threads 1 --clock cpu`.

Time of the cost volume (reach 4, mean over channels) of the five pyramid levels of a 384x640
pair, in milliseconds: the naive loop, formulations that copy the windows, and ours. All run in
turns, round after round, so that a busy moment of the machine hits each of them; on a machine
that others use, one thread's processor time (`--clock cpu`) is the number to trust.
`--also compiled` adds our plain path under torch.compile, whose first call takes minutes on a CPU
(it is printed after the table); `--also spatial-correlation-sampler` that package, if installed.

On a GPU, `python benchmarks/correlation.py --device cuda --batch 1 16 32 --large`: our kernels,
our plain path, the naive loop, the public kernels' algorithm (float32), and the floor: the larger
of the bytes that must move over the copy bandwidth measured at the start, and the operations over
--tflops. Beside it what our kernels reach of both, forward / backward alone. It is the device's own
time: a call's Python takes longer than the kernels of the coarse levels, so calls are queued behind
a pause. What fits into the device's cache moves faster than the floor supposes.
"""

import argparse
import functools
import os
import platform
import statistics
import time
from collections.abc import Callable

import correlation_peers
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


class CompiledPlain(torch.autograd.Function):
    """The plain path where a compiler sees into it; the operator itself is opaque to it."""

    @staticmethod
    def forward(ctx, x1: Tensor, x2: Tensor) -> Tensor:  # noqa: D102 -- torch's own protocol
        ctx.save_for_backward(x1, x2)
        return compiled(volume_plain)(x1, x2, REACH)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: D102 -- torch's own protocol
        return compiled(gradients_plain)(grad, *ctx.saved_tensors, REACH)


@functools.cache
def compiled(function: Callable[..., object]) -> Callable[..., object]:
    return torch.compile(function, dynamic=False)


def forced(path: str) -> Operator:
    def operator(x1: Tensor, x2: Tensor) -> Tensor:
        os.environ[VARIABLE] = path  # the gradients, which follow, read it too
        return correlation(x1, x2)

    return operator


def then_leaky(operator: Operator) -> Operator:
    """With what always follows: what an epilogue inside the kernels could save at most."""
    return lambda x1, x2: functional.leaky_relu(operator(x1, x2), 0.1)


ON_CPU: dict[str, Operator] = {
    "naive loop": correlation_peers.naive_loop,
    "unfold, einsum": correlation_peers.unfolded,
    "strided matmul": correlation_peers.strided_matmul,
    "ours": correlation,
    "ours, then LeakyReLU": then_leaky(correlation),
}
ON_CUDA: dict[str, Operator] = {
    "naive loop": correlation_peers.naive_loop,
    "warp per pixel": correlation_peers.WarpPerPixel.apply,
    "ours, plain": forced("plain"),
    "ours, kernels": forced("cuda"),
    "ours, kernels, then LeakyReLU": then_leaky(forced("cuda")),
}
AGAINST = ("floor", "kernels reach", "kernels' time over the floor's", "plain's over kernels'")
ALSO: dict[str, Operator] = {
    "compiled": CompiledPlain.apply,
    "spatial-correlation-sampler": correlation_peers.correlation_sampler,
}


def forward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    with torch.no_grad():
        operator(x1, x2)


def forward_backward(operator: Operator, x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    torch.autograd.grad(operator(x1, x2), (x1, x2), grad)


PAUSE = 20_000_000
"""Cycles, some 10 ms, in which the calls to be timed are queued."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def milliseconds(work: Callable[[], object], options: argparse.Namespace) -> float:
    if options.device == "cpu":
        now = CLOCKS[options.clock]
        start = now()
        work()
        return (now() - start) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(PAUSE)
    begin.record()
    for _ in range(options.repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / options.repeats


first_calls: dict[str, float] = {}
"""Seconds of the first calls of each formulation, over all shapes."""


def measure(
    operators: dict[str, Operator], batch: int, level: Level, options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """Return, for every formulation, milliseconds of forward and of forward+backward."""
    generator = torch.Generator().manual_seed(0)

    def features(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator)
        return values.to(options.device, getattr(torch, options.dtype))

    x1, x2 = (features(batch, *level).requires_grad_() for _ in "12")
    grad = features(batch, SIDE * SIDE, *level[1:])
    found: dict[str, list[list[float]]] = {name: [] for name in operators}
    for run in (forward, forward_backward):
        works = {
            name: functools.partial(run, operator, x1, x2, grad)
            for name, operator in operators.items()
        }
        for name, work in works.items():
            began = time.perf_counter()
            work()
            first_calls[name] = first_calls.get(name, 0.0) + time.perf_counter() - began
            found[name].append([])
        for _ in range(options.rounds):
            for name, work in works.items():
                found[name][-1].append(milliseconds(work, options))
    return found


def in_words(runs: list[list[float]], digits: int) -> str:
    """Return "forward (low-high) / forward+backward (low-high)"."""
    cells = []
    for times in runs:
        low, *_, high = statistics.quantiles(times, n=10)
        cells.append(f"{statistics.median(times):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
    return " / ".join(cells)


def copy_bandwidth() -> float:
    """Return the bytes a second that a large copy on the device reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    options = argparse.Namespace(device="cuda", repeats=20)
    target.copy_(source)
    best = min(milliseconds(lambda: target.copy_(source), options) for _ in range(5))
    return 2 * source.numel() / best * 1e3


def least_work(batch: int, level: Level, dtype: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the bytes that must move and the operations, of forward and of backward."""
    channels, pixels = level[0], batch * level[1] * level[2]
    size = getattr(torch, dtype).itemsize * pixels
    operations = 2 * SIDE * SIDE * channels * pixels
    return (
        (size * (2 * channels + SIDE * SIDE), operations),
        (size * (4 * channels + SIDE * SIDE), 2 * operations),
    )


def against_the_device(
    found: dict[str, list[list[float]]],
    batch: int,
    level: Level,
    bandwidth: float,
    options: argparse.Namespace,
) -> list[str]:
    """Return the cells of AGAINST for one row."""
    work = least_work(batch, level, options.dtype)
    floors = [max(moved / bandwidth, done / options.tflops / 1e12) * 1e3 for moved, done in work]
    kernels, plain = (
        forward_and_backward(found[name]) for name in ("ours, kernels", "ours, plain")
    )
    reached = [
        f"{moved / took / 1e9:.2f} TB/s, {done / took / 1e9:.1f} TFLOP/s"
        for (moved, done), took in zip(work, kernels, strict=True)
    ]
    return [
        f"{floors[0]:.3f} / {sum(floors):.3f}",
        " / ".join(reached),
        " / ".join(f"{took / least:.1f}" for took, least in zip(kernels, floors, strict=True)),
        " / ".join(f"{slow / took:.1f}" for slow, took in zip(plain, kernels, strict=True)),
    ]


def forward_and_backward(runs: list[list[float]]) -> tuple[float, float]:
    """Return the medians of forward and of what backward adds to it."""
    there, both = (statistics.median(times) for times in runs)
    return there, both - there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--large", action="store_true", help="also 8 x 256 x 128 x 256")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "bfloat16", "float64"]
    )
    parser.add_argument("--also", nargs="+", default=[], choices=ALSO)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=20, help="runs a round on a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=CLOCKS)
    parser.add_argument("--tflops", type=float, default=67.0, help="the GPU's float32 peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    on_cuda = options.device == "cuda"
    operators = (ON_CUDA if on_cuda else ON_CPU) | {name: ALSO[name] for name in options.also}
    if options.dtype != "float32":
        operators.pop("warp per pixel", None)
    device = (
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
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
    names = [*operators, *(AGAINST if on_cuda else ())]
    print("\n| batch x channels x grid | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    cases = [(batch, level) for batch in options.batch for level in LEVELS]
    for batch, level in [*cases, *([LARGE] if options.large else [])]:
        torch.compiler.reset()  # it gives up after eight shapes
        found = measure(operators, batch, level, options)
        row = [in_words(runs, 3 if on_cuda else 1) for runs in found.values()]
        if on_cuda:
            row += against_the_device(found, batch, level, bandwidth, options)
        print(f"| {'x'.join(map(str, (batch, *level)))} | " + " | ".join(row) + " |", flush=True)
    print(
        "\nfirst calls, seconds over all rows: "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in first_calls.items())
    )


if __name__ == "__main__":
    main()
