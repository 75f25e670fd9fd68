"""The CUDA path of the cost volume: when it is taken, and how its kernels are launched."""

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from amd_seg.errors import ConfigError, DeviceError
from amd_seg.model import cuda_build

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("correlation.cu")
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
KERNELS = ("correlation_volume", "correlation_gradients")
PATHS = ("auto", "plain", "cuda")
VARIABLE = "AMD_SEG_CORRELATION"

# As in correlation.cu.
_TILE_COLUMNS = 32
_GROUPS = 8
_MOST_CHUNKS = 65535
_MOST_BLOCKS = 2**31 - 1
_ENOUGH_BLOCKS = 264
"""Two a multiprocessor of the largest devices: with fewer, channels are split among blocks."""


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_longlong),
        ("channel", ctypes.c_longlong),
        ("row", ctypes.c_longlong),
        ("column", ctypes.c_longlong),
        ("vectors", ctypes.c_int),
    )


class Arguments(ctypes.Structure):
    """The one argument of both kernels, laid out as `struct Arguments` of correlation.cu."""

    _fields_ = (
        ("inputs", _Map * 2),
        ("grad", _Map),
        ("volume", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p * 2),
        ("channels", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("tile_rows", ctypes.c_int),
        ("tile_columns", ctypes.c_int),
        ("first", ctypes.c_int),
        ("chunk", ctypes.c_int),
    )


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: its name, blocks, threads of a block, and argument."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    arguments: Arguments


def defines(dtype: torch.dtype, max_displacement: int) -> dict[str, int]:
    """Return what correlation.cu must be compiled with."""
    return {"ELEMENT": ELEMENTS[dtype], "REACH": max_displacement}


def volume_launch(x1: Tensor, x2: Tensor, volume: Tensor, max_displacement: int) -> Launch:
    """Return the launch that fills `volume`; shapes as in `correlation`, `volume` contiguous."""
    arguments, blocks = _arguments(x1, x2, max_displacement)
    arguments.volume = volume.data_ptr()
    return Launch(KERNELS[0], (blocks, 1, 1), _threads(max_displacement), arguments)


def gradients_launch(
    grad: Tensor, x1: Tensor, x2: Tensor, gradients: Sequence[Tensor | None], max_displacement: int
) -> Launch:
    """Return the launch that fills one or both of `gradients`, contiguous, of x1 and x2."""
    arguments, blocks = _arguments(x1, x2, max_displacement)
    arguments.grad = _map(grad)
    wanted = [i for i, gradient in enumerate(gradients) if gradient is not None]
    for i, gradient in enumerate(gradients):
        arguments.gradients[i] = None if gradient is None else gradient.data_ptr()
    arguments.first = wanted[0]
    stage = 4 if max_displacement <= 4 else 2
    stages = -(-x1.shape[1] // stage)
    chunks = min(stages, _MOST_CHUNKS, max(1, _ENOUGH_BLOCKS // (blocks * len(wanted))))
    arguments.chunk = stage * -(-stages // chunks)
    grid = (blocks, len(wanted), -(-x1.shape[1] // arguments.chunk))
    return Launch(KERNELS[1], grid, _threads(max_displacement), arguments)


def _arguments(x1: Tensor, x2: Tensor, max_displacement: int) -> tuple[Arguments, int]:
    batch, channels, height, width = x1.shape
    rows = -(-height // _tile_height(max_displacement))
    columns = -(-width // _TILE_COLUMNS)
    arguments = Arguments(
        inputs=(_map(x1), _map(x2)),
        channels=channels,
        height=height,
        width=width,
        tile_rows=rows,
        tile_columns=columns,
    )
    return arguments, batch * rows * columns


def _map(x: Tensor) -> _Map:
    """Describe a map of any strides; whole 16-byte fetches where none crosses the frame's edge."""
    step = 16 // x.element_size()
    batch, channel, row, column = x.stride()
    aligned = x.data_ptr() % 16 == 0 and not any(s % step for s in (batch, channel, row))
    vectors = column == 1 and aligned and x.shape[3] % step == 0
    return _Map(x.data_ptr(), batch, channel, row, column, vectors)


def _tile_height(max_displacement: int) -> int:
    return 4 if max_displacement <= 4 else 2


def _threads(max_displacement: int) -> int:
    return _tile_height(max_displacement) * (2 * max_displacement + 1) * _GROUPS


# ---- which path, and running it --------------------------------------------------------------


def kernels_for(x: Tensor, max_displacement: int) -> cuda_build.Module | None:
    """Return the compiled kernels for `x`, or None where the plain path is to be taken.

    The environment variable AMD_SEG_CORRELATION chooses: "plain" takes the plain path, "cuda"
    the kernels or an error, "auto" (the default) the kernels where they can be had; where they
    cannot, it logs one warning with the reason.

    Raises:
        ConfigError: the variable has another value.
        DeviceError: it is "cuda" and the kernels cannot be had; or it is not "plain", they are
            not loaded yet, and a CUDA graph is being captured.
    """
    path = os.environ.get(VARIABLE, "auto")
    if path not in PATHS:
        raise ConfigError(f"{VARIABLE}={path!r} is unknown. Set it to one of {', '.join(PATHS)}.")
    if path == "plain":
        return None
    if x.device.type != "cuda" or x.dtype not in ELEMENTS:
        if path == "auto":
            return None
        raise DeviceError(
            f"{VARIABLE}=cuda cannot compute a correlation of {x.dtype} on {x.device}. Give "
            "float32, float16 or bfloat16 on a CUDA device, or set it to auto."
        )
    built = _build(x.device.index, x.dtype, max_displacement)
    if isinstance(built, cuda_build.Module):
        return built
    if path == "auto":
        return None
    raise DeviceError(f"{VARIABLE}=cuda: {built} Set it to auto for the plain path.")


def path_in_words(device: torch.device) -> str:
    """Return the path that a correlation of float32 features takes on `device`."""
    try:
        kernels = kernels_for(torch.empty(0, device=device), max_displacement=4)
    except (ConfigError, DeviceError) as fault:
        return f"none: {fault}"
    return "plain PyTorch" if kernels is None else "CUDA kernels"


@functools.cache
def _build(index: int, dtype: torch.dtype, max_displacement: int) -> cuda_build.Module | str:
    """Compile and load the kernels once; where that fails, warn once and remember why."""
    # Loading would spoil the graph, and its failure would be remembered: so this is raised.
    if torch.version.cuda is not None and torch.cuda.is_current_stream_capturing():
        raise DeviceError(
            f"The correlation of {dtype} on cuda:{index} with max_displacement={max_displacement} "
            "cannot load its kernels while a CUDA graph is captured. Call it once before."
        )
    try:
        if torch.version.cuda is None:
            raise DeviceError(f"torch {torch.__version__} is not built for CUDA.")
        return cuda_build.load(SOURCE, defines(dtype, max_displacement), KERNELS, index)
    except DeviceError as failure:
        logger.warning("Correlation takes its slower plain path on cuda:%d: %s", index, failure)
        return str(failure)


def volume_cuda(module: cuda_build.Module, x1: Tensor, x2: Tensor, reach: int) -> Tensor:
    """Return the cost volume; arguments as in `correlation`."""
    batch, _, height, width = x1.shape
    volume = x1.new_empty(batch, (2 * reach + 1) ** 2, height, width)
    if volume.numel():
        _run(module, volume_launch(x1, x2, volume, reach), x1.device)
    return volume


def gradients_cuda(
    module: cuda_build.Module,
    grad: Tensor,
    x1: Tensor,
    x2: Tensor,
    reach: int,
    needs_x1: bool,
    needs_x2: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x1` and `x2`, an empty tensor where one is not needed."""
    first = x1.new_empty(x1.shape if needs_x1 else (0,))
    second = x2.new_empty(x2.shape if needs_x2 else (0,))
    if x1.numel() and (needs_x1 or needs_x2):
        wanted = (first if needs_x1 else None, second if needs_x2 else None)
        _run(module, gradients_launch(grad, x1, x2, wanted, reach), x1.device)
    return first, second


def _run(module: cuda_build.Module, launch: Launch, device: torch.device) -> None:
    if launch.grid[0] > _MOST_BLOCKS:
        raise DeviceError(
            f"correlation needs {launch.grid[0]} blocks of the device's {_MOST_BLOCKS}. "
            "Give a smaller batch."
        )
    stream = torch.cuda.current_stream(device).cuda_stream
    module.launch(launch.kernel, launch.grid, launch.threads, launch.arguments, stream)
