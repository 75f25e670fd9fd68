"""Compile a CUDA source when it is first used, keep the result on disk, load and launch it.

Needs no compiler and no CUDA toolkit: NVRTC and the driver are called through `cuda.bindings`,
which comes with torch's CUDA builds for Linux from 2.10 on. Devices are numbered as torch numbers
them, and their primary context is the one that torch uses. Nothing here runs at import.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amd_seg.errors import DeviceError

CACHE_VARIABLE = "AMD_SEG_CACHE"

_DIGEST_BYTES = 32


class Module:
    """Kernels that are loaded on one CUDA device."""

    def __init__(self, image: bytes, names: Sequence[str], index: int) -> None:
        driver, _ = _bindings()
        self._context = _primary_context(index)
        with _current(self._context):
            module = _call(driver.cuModuleLoadData, image)
            # The driver unloads a module with its context, so this keeps only the functions.
            self._functions = {
                name: _call(driver.cuModuleGetFunction, module, name.encode()) for name in names
            }

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        arguments: ctypes.Structure,
        stream: int,
    ) -> None:
        """Start a kernel that takes one structure, on a stream of the module's device.

        Raises:
            DeviceError: the driver refused the launch.
        """
        driver, _ = _bindings()
        # The driver reads the structure before this returns: it need not outlive the call.
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        shared_bytes, extra = 0, 0
        with _current(self._context):
            _call(
                driver.cuLaunchKernel,
                self._functions[name],
                *grid,
                *(threads, 1, 1),
                shared_bytes,
                stream,
                ctypes.addressof(pointers),
                extra,
            )


def load(source: Path, defines: Mapping[str, int], names: Sequence[str], index: int) -> Module:
    """Return the kernels `names` of `source`, compiled for CUDA device `index` or read from disk.

    Raises:
        DeviceError: there is no NVRTC, it cannot compile for this device, or it cannot be loaded.
    """
    capability = _capability(index)
    key = _key(source, defines, capability)
    with contextlib.suppress(OSError, DeviceError):  # absent, damaged, or refused by the driver
        return Module(_read_kept(key), names, index)
    image, _ = compile_source(source, defines, capability)
    _keep(key, image)
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
    program = _call(nvrtc.nvrtcCreateProgram, source.read_bytes(), source.name.encode(), 0, [], [])
    try:
        (status,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        log = _filled(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        text = log.decode(errors="replace").rstrip("\0")
        if int(status) != 0:
            raise DeviceError(
                f"NVRTC cannot compile {source.name} for {target} ({status.name}). Please report "
                f"it, with what `amd-seg env` prints: {text}"
            )
        if is_native:
            image = _filled(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        else:
            image = _filled(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    finally:
        _call(nvrtc.nvrtcDestroyProgram, program)
    return image, text


def _target(capability: tuple[int, int]) -> tuple[str, bool]:
    """Return the architecture to compile for, and whether it is the device's own."""
    _, nvrtc = _bindings()
    known = list(_call(nvrtc.nvrtcGetSupportedArchs))
    wanted = 10 * capability[0] + capability[1]
    older = [architecture for architecture in known if architecture <= wanted]
    if not older:
        raise DeviceError(
            f"NVRTC compiles for compute capability {min(known) / 10} and newer, this device has "
            f"{wanted / 10}. Install a torch of an older CUDA, which brings an older NVRTC."
        )
    native = wanted in older
    return (f"sm_{wanted}" if native else f"compute_{max(older)}"), native


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


def _filled(size_of: Any, fill: Any, program: Any) -> bytes:
    """Return what `fill` writes into a buffer as large as `size_of` says."""
    buffer = bytes(_call(size_of, program))
    _call(fill, program, buffer)
    return buffer


@functools.cache
def _primary_context(index: int) -> Any:
    """Return the context that torch, too, uses on a device; it is kept to the process's end."""
    driver, _ = _bindings()
    _call(driver.cuInit, 0)
    return _call(driver.cuDevicePrimaryCtxRetain, _call(driver.cuDeviceGet, index))


@contextlib.contextmanager
def _current(context: Any) -> Iterator[None]:
    """Make a context this thread's, whichever was: torch's own device may be another, or none."""
    driver, _ = _bindings()
    _call(driver.cuCtxPushCurrent, context)
    try:
        yield
    finally:
        _call(driver.cuCtxPopCurrent)


def _capability(index: int) -> tuple[int, int]:
    """Return a device's compute capability, as (9, 0)."""
    driver, _ = _bindings()
    _call(driver.cuInit, 0)
    device = _call(driver.cuDeviceGet, index)
    kinds = driver.CUdevice_attribute
    return (
        _call(
            driver.cuDeviceGetAttribute,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            device,
        ),
        _call(
            driver.cuDeviceGetAttribute,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            device,
        ),
    )


def _key(source: Path, defines: Mapping[str, int], capability: tuple[int, int]) -> str:
    """Name a file after all that its content depends on."""
    _, nvrtc = _bindings()
    parts = (
        source.read_text(),
        sorted(defines.items()),
        capability,
        _call(nvrtc.nvrtcVersion),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest() + ".kernels"


def _cache_folder() -> Path:
    """Return where images are kept.

    Raises:
        OSError: the user has no home folder.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as cause:
        raise OSError(str(cause)) from cause
    return Path(base) / "amd_seg" / "kernels"


def _read_kept(key: str) -> bytes:
    """Return what `_keep` wrote.

    Raises:
        OSError: there is no such file, or it was damaged since: the driver would trust it.
    """
    content = (_cache_folder() / key).read_bytes()
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(image).digest() != digest:
        raise OSError(f"{key} is damaged")
    return image


def _keep(key: str, image: bytes) -> None:
    """Write the file whole or not at all; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        folder = _cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            whole = Path(beside) / key
            whole.write_bytes(hashlib.sha256(image).digest() + image)
            os.replace(whole, folder / key)
