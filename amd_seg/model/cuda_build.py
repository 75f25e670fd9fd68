"""Compile a CUDA source when it is first used, keep the result on disk, load and launch it.

Needs no compiler and no CUDA toolkit: NVRTC and the driver are called through `cuda.bindings`,
which comes with torch's CUDA builds for Linux from 2.10 on. Nothing here runs at import.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from amd_seg.errors import DeviceError

CACHE_VARIABLE = "AMD_SEG_CACHE"


class Module:
    """Kernels that are loaded on one CUDA device."""

    def __init__(self, image: bytes, names: Sequence[str], index: int) -> None:
        driver, _ = _bindings()
        self._index = index
        _bind_context(index)
        module = _check(driver.cuModuleLoadData(image))
        # The driver unloads a module with its context, so this object keeps only the functions.
        self._functions = {
            name: _check(driver.cuModuleGetFunction(module, name.encode())) for name in names
        }

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        arguments: ctypes.Structure,
    ) -> None:
        """Start a kernel that takes one structure, on the device's current stream.

        Raises:
            DeviceError: the driver refused the launch.
        """
        driver, _ = _bindings()
        # The driver reads the structure before this returns: it need not outlive the call.
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self._index):
            _bind_context(self._index)
            stream = torch.cuda.current_stream(self._index).cuda_stream
            _check(
                driver.cuLaunchKernel(
                    self._functions[name],
                    *grid,
                    *(threads, 1, 1),
                    0,
                    stream,
                    ctypes.addressof(pointers),
                    0,
                )
            )


def load(source: Path, defines: Mapping[str, int], names: Sequence[str], index: int) -> Module:
    """Return the kernels `names` of `source`, compiled for CUDA device `index` or read from disk.

    Raises:
        DeviceError: there is no NVRTC, it cannot compile for this device, or it cannot be loaded.
    """
    if torch.version.cuda is None:
        raise DeviceError(f"torch {torch.__version__} is built without CUDA. Install one with it.")
    major, minor = torch.cuda.get_device_capability(index)
    path = _cache_folder() / _key(source, defines, (major, minor))
    with contextlib.suppress(OSError, DeviceError):
        # A file that the driver refuses is compiled again and replaced.
        return Module(path.read_bytes(), names, index)
    image, _ = compile_source(source, defines, (major, minor))
    _keep(path, image)
    return Module(image, names, index)


def compile_source(
    source: Path, defines: Mapping[str, int], capability: tuple[int, int]
) -> tuple[bytes, str]:
    """Compile `source` for a compute capability, as (9, 0), with NVRTC; no device is needed.

    Returns:
        The image (machine code, or PTX where the device is newer than NVRTC) and the log, which
        names registers and spills.

    Raises:
        DeviceError: there is no NVRTC, or it does not compile.
    """
    _, nvrtc = _bindings()
    target, is_native = _target(capability)
    options = [f"--gpu-architecture={target}", "--std=c++17", "--ptxas-options=-v"]
    options += [f"-D{name}={value}" for name, value in defines.items()]
    program = _check(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        log = _filled(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        text = log.decode(errors="replace").rstrip("\0")
        if int(result[0]) != 0:
            raise DeviceError(f"NVRTC cannot compile {source.name} for {target}: {text}")
        if is_native:
            image = _filled(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        else:
            image = _filled(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return image, text


def _target(capability: tuple[int, int]) -> tuple[str, bool]:
    """Return the architecture to compile for, and whether it is the device's own."""
    _, nvrtc = _bindings()
    known = list(_check(nvrtc.nvrtcGetSupportedArchs()))
    wanted = 10 * capability[0] + capability[1]
    older = [architecture for architecture in known if architecture <= wanted]
    if not older:
        raise DeviceError(
            f"NVRTC compiles for compute capability {min(known) / 10} and newer, this device has "
            f"{wanted / 10}."
        )
    native = wanted in older
    return (f"sm_{wanted}" if native else f"compute_{max(older)}"), native


@functools.cache
def _bindings() -> tuple[Any, Any]:
    """Return the modules of the driver and of NVRTC."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        return driver, importlib.import_module("cuda.bindings.nvrtc")
    except (ImportError, OSError, RuntimeError) as cause:
        raise DeviceError(
            f"cuda.bindings cannot be used ({cause}). Install a CUDA build of torch 2.10 or "
            "newer, or `pip install cuda-bindings nvidia-cuda-nvrtc`."
        ) from cause


def _check(result: Sequence[Any]) -> Any:
    """Return what a call gave besides its status; one value alone, several as a tuple."""
    status, *values = result
    if int(status) != 0:
        raise DeviceError(f"CUDA call failed: {status.name}.")
    return values[0] if len(values) == 1 else tuple(values)


def _filled(size_of: Any, fill: Any, program: Any) -> bytes:
    """Return what `fill` writes into a buffer as large as `size_of` says."""
    buffer = bytes(_check(size_of(program)))
    _check(fill(program, buffer))
    return buffer


def _bind_context(index: int) -> None:
    """Make torch's context current in this thread: a new thread of autograd may have none."""
    driver, _ = _bindings()
    if int(_check(driver.cuCtxGetCurrent())) == 0:
        device = _check(driver.cuDeviceGet(index))
        _check(driver.cuCtxSetCurrent(_check(driver.cuDevicePrimaryCtxRetain(device))))


def _key(source: Path, defines: Mapping[str, int], capability: tuple[int, int]) -> str:
    """Name a file after all that its content depends on."""
    _, nvrtc = _bindings()
    parts = (
        source.read_text(),
        sorted(defines.items()),
        capability,
        _check(nvrtc.nvrtcVersion()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest() + ".cubin"


def _cache_folder() -> Path:
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "amd_seg" / "kernels"


def _keep(path: Path, image: bytes) -> None:
    """Write the file whole or not at all; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            whole.write_bytes(image)
            os.replace(whole, path)
