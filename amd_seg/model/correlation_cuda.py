"""The CUDA path of the cost volume: when it is taken, how its kernels are built and launched.

The kernels are compiled when they are first used, by NVRTC, and kept on disk. That needs no
compiler and no CUDA toolkit: NVRTC and the driver are called through `cuda.bindings`, which comes
with torch's CUDA builds for Linux from 2.10 on. Devices are numbered as torch numbers them, and
their primary context is the one that torch uses. Nothing here runs at import.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amd_seg.errors import ConfigError, DeviceError

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("correlation.cu")
ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
KERNELS = ("correlation_volume", "correlation_gradients")
PATHS = ("auto", "plain", "cuda")
VARIABLE = "AMD_SEG_CORRELATION"
CACHE_VARIABLE = "AMD_SEG_CACHE"

# As in correlation.cu.
_TILE_COLUMNS = 32
_GROUPS = 8
_ENOUGH_BLOCKS = 264  # two a multiprocessor; with fewer, channels are split among blocks
_DIGEST_BYTES = 32


# ---- which path ------------------------------------------------------------------------------


def kernels_for(x: Tensor, max_displacement: int) -> "Module | None":
    """Return the compiled kernels for `x`, or None where AMD_SEG_CORRELATION or `x` wants none."""
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
    if isinstance(built, str) and path == "cuda":
        raise DeviceError(f"{VARIABLE}=cuda: {built} Set it to auto for the plain path.")
    return built if isinstance(built, Module) else None


def path_in_words(device: torch.device) -> str:
    """Return the path that a correlation of float32 features takes on `device`."""
    try:
        kernels = kernels_for(torch.empty(0, device=device), max_displacement=4)
    except (ConfigError, DeviceError) as fault:
        return f"none: {fault}"
    return "plain PyTorch" if kernels is None else "CUDA kernels"


@functools.cache
def _build(index: int, dtype: torch.dtype, max_displacement: int) -> "Module | str":
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
        return load(SOURCE, defines(dtype, max_displacement), KERNELS, index)
    except DeviceError as failure:
        logger.warning("Correlation takes its slower plain path on cuda:%d: %s", index, failure)
        return str(failure)


# ---- what is launched ------------------------------------------------------------------------


class _Map(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_longlong) for name in ("batch", "channel", "row", "column")),
        ("vectors", ctypes.c_int),
    )


class Arguments(ctypes.Structure):
    """The one argument of both kernels, laid out as `struct Arguments` of correlation.cu."""

    _fields_ = (
        ("inputs", _Map * 2),
        ("grad", _Map),
        ("volume", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p * 2),
        *((name, ctypes.c_int) for name in ("channels", "height", "width")),
        *((name, ctypes.c_int) for name in ("tile_rows", "tile_columns", "first", "chunk")),
    )


class Launch(NamedTuple):
    """One launch of a kernel: its name, blocks, threads of a block, and argument."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    arguments: ctypes.Structure


def defines(dtype: torch.dtype, max_displacement: int) -> dict[str, int]:
    """Return what correlation.cu must be compiled with."""
    return {"ELEMENT": ELEMENTS[dtype], "REACH": max_displacement}


def volume_launch(x1: Tensor, x2: Tensor, volume: Tensor, max_displacement: int) -> Launch:
    """Return the launch that fills a contiguous `volume`; shapes as in `correlation`."""
    arguments, blocks, threads = _arguments(x1, x2, max_displacement)
    arguments.volume = volume.data_ptr()
    return Launch(KERNELS[0], (blocks, 1, 1), threads, arguments)


def gradients_launch(
    grad: Tensor, x1: Tensor, x2: Tensor, gradients: Sequence[Tensor], max_displacement: int
) -> Launch:
    """Return the launch that fills `gradients`, contiguous, of x1 and x2."""
    arguments, blocks, threads = _arguments(x1, x2, max_displacement)
    arguments.grad = _map(grad)
    arguments.gradients[:] = [gradient.data_ptr() for gradient in gradients]
    stage = 4 if max_displacement <= 4 else 2
    stages = -(-x1.shape[1] // stage)
    chunks = min(stages, max(1, _ENOUGH_BLOCKS // (2 * blocks)))
    arguments.chunk = stage * -(-stages // chunks)
    grid = (blocks, 2, -(-x1.shape[1] // arguments.chunk))
    return Launch(KERNELS[1], grid, threads, arguments)


def _arguments(x1: Tensor, x2: Tensor, max_displacement: int) -> tuple[Arguments, int, int]:
    """Return what both kernels need, the number of tiles, and of threads that share one."""
    batch, channels, height, width = x1.shape
    tile_height = 4 if max_displacement <= 4 else 2
    rows, columns = -(-height // tile_height), -(-width // _TILE_COLUMNS)
    blocks = batch * rows * columns
    sizes = {"channels": channels, "height": height, "width": width}
    tiles = {"tile_rows": rows, "tile_columns": columns}
    arguments = Arguments(inputs=(_map(x1), _map(x2)), **sizes, **tiles)
    return arguments, blocks, tile_height * (2 * max_displacement + 1) * _GROUPS


def _map(x: Tensor) -> _Map:
    """Describe a map of any strides; whole 16-byte fetches where none crosses the frame's edge."""
    step = 16 // x.element_size()
    batch, channel, row, column = x.stride()
    aligned = x.data_ptr() % 16 == 0 and not any(s % step for s in (batch, channel, row))
    vectors = column == 1 and aligned and x.shape[3] % step == 0
    return _Map(x.data_ptr(), batch, channel, row, column, vectors)


# ---- loading, compiling, keeping ---------------------------------------------------------------


class Module:
    """Kernels that are loaded on one CUDA device."""

    def __init__(self, image: bytes, names: Sequence[str], index: int) -> None:
        driver, _ = _bindings()
        _call(driver.cuInit, 0)
        # The one that torch uses too; it is kept to the process's end.
        self._context = _call(driver.cuDevicePrimaryCtxRetain, _call(driver.cuDeviceGet, index))
        with _current(self._context):
            module = _call(driver.cuModuleLoadData, image)
            # The driver unloads a module with its context, so this keeps only the functions.
            self._functions = {
                name: _call(driver.cuModuleGetFunction, module, name.encode()) for name in names
            }

    def launch(self, launch: Launch, stream: int) -> None:
        """Start a kernel on a stream of the module's device, `torch.cuda.Stream.cuda_stream`."""
        driver, _ = _bindings()
        # The driver reads the structure before this returns: it need not outlive the call.
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(launch.arguments))
        block, shared_bytes = (launch.threads, 1, 1), 0
        rest = (*block, shared_bytes, stream, ctypes.addressof(pointers), 0)
        with _current(self._context):
            _call(driver.cuLaunchKernel, self._functions[launch.kernel], *launch.grid, *rest)


def load(source: Path, defines: Mapping[str, int], names: Sequence[str], index: int) -> Module:
    """Return the kernels `names` of `source`, compiled for CUDA device `index` or read from disk.

    A kept file begins with the digest of the rest: the driver would trust what was damaged since.
    """
    driver, nvrtc = _bindings()
    _call(driver.cuInit, 0)
    device, kinds = _call(driver.cuDeviceGet, index), driver.CUdevice_attribute
    major = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    capability = tuple(_call(driver.cuDeviceGetAttribute, kind, device) for kind in (major, minor))
    parts = (source.read_text(), sorted(defines.items()), capability, _call(nvrtc.nvrtcVersion))
    name = hashlib.sha256(repr(parts).encode()).hexdigest() + ".kernels"
    # RuntimeError: the user has no home folder. DeviceError: the driver refuses what was kept.
    with contextlib.suppress(OSError, RuntimeError):
        content = (_cache_folder() / name).read_bytes()
        digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(image).digest() == digest:
            return Module(image, names, index)
    image, _ = compile_source(source, defines, capability)
    with contextlib.suppress(OSError, RuntimeError):
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            whole = Path(beside, name)
            whole.write_bytes(hashlib.sha256(image).digest() + image)
            whole.replace(folder / name)
    return Module(image, names, index)


def _cache_folder() -> Path:
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "amd_seg", "kernels")


def compile_source(
    source: Path, defines: Mapping[str, int], capability: tuple[int, ...]
) -> tuple[bytes, str]:
    """Compile for a compute capability, as (9, 0), by NVRTC: the image, and a log of spills.

    The image is machine code, or PTX where the device is newer than NVRTC.
    """
    _, nvrtc = _bindings()
    known = list(_call(nvrtc.nvrtcGetSupportedArchs))
    wanted = 10 * capability[0] + capability[1]
    # Of a device that is older than NVRTC, the driver refuses what comes of this.
    nearest = max((one for one in known if one <= wanted), default=min(known))
    target = f"{'sm' if nearest == wanted else 'compute'}_{nearest}"
    options = [f"--gpu-architecture={target}", "--std=c++17", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in defines.items()]
    program = _call(nvrtc.nvrtcCreateProgram, source.read_bytes(), source.name.encode(), 0, [], [])

    def filled(what: str) -> bytes:
        buffer = bytes(_call(getattr(nvrtc, f"nvrtcGet{what}Size"), program))
        _call(getattr(nvrtc, f"nvrtcGet{what}"), program, buffer)
        return buffer

    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
        log = filled("ProgramLog").decode(errors="replace").rstrip("\0")
        if int(status) != 0:
            raise DeviceError(
                f"NVRTC cannot compile {source.name} for {target} ({status.name}). Please report "
                f"it, with what `amd-seg env` prints: {log}"
            )
        return filled("CUBIN" if nearest == wanted else "PTX"), log
    finally:
        _call(nvrtc.nvrtcDestroyProgram, program)


# ---- the driver and NVRTC ----------------------------------------------------------------------


@functools.cache
def _bindings() -> tuple[Any, Any]:
    """Return the modules of the driver and of NVRTC."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        return driver, importlib.import_module("cuda.bindings.nvrtc")
    except ImportError as cause:
        raise DeviceError(
            f"cuda.bindings cannot be used ({cause}). Install a CUDA build of torch 2.10 or "
            "newer, or `pip install cuda-bindings` in the major version of torch's CUDA."
        ) from cause


def _call(function: Callable[..., Sequence[Any]], *arguments: Any) -> Any:
    """Return what a call gave besides its status; one value alone, several as a tuple."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as cause:  # so cuda.bindings says that a library or a function is missing
        raise DeviceError(
            f"{function.__name__} cannot be called ({' '.join(str(cause).split())}). Install the "
            "NVIDIA driver, and `pip install nvidia-cuda-nvrtc` in the major version of torch's "
            "CUDA."
        ) from cause
    if int(status) != 0:
        raise DeviceError(
            f"{function.__name__} failed with {status.name}. Unless an earlier error on the "
            "device shows here (CUDA_LAUNCH_BLOCKING=1 tells), update the NVIDIA driver, or give "
            "a device that it supports."
        )
    return values[0] if len(values) == 1 else tuple(values)


@contextlib.contextmanager
def _current(context: Any) -> Iterator[None]:
    """Make a context this thread's, whichever was: torch's own device may be another, or none."""
    driver, _ = _bindings()
    _call(driver.cuCtxPushCurrent, context)
    try:
        yield
    finally:
        _call(driver.cuCtxPopCurrent)
