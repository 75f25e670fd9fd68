"""Builds what stands for a GPU on a CPU: the kernels as a library, and a driver that runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amd_seg.model.correlation_cuda import SOURCE, defines

HERE = Path(__file__).parent


def kernels(dtype: torch.dtype, reach: int, folder: Path, source: Path = SOURCE) -> Path:
    """The kernels of `source` as a library for this CPU; see cuda_shim.cpp."""
    flags = [f"-D{name}={value}" for name, value in defines(dtype, reach).items()]
    compiled, library = folder / "kernels.o", folder / "kernels.so"
    _compile(
        *("-fsanitize=thread", "-c", HERE / "cuda_shim.cpp", "-o", compiled),
        *(*flags, f'-DSOURCE="{source}"'),
    )
    # Linked without the sanitizer's library: the shim has functions of its own in its place.
    _compile("-shared", compiled, "-o", library)
    return library


def driver(folder: Path) -> Path:
    """A driver that runs such libraries, under the name by which the real one is found."""
    library = folder / "libcuda.so.1"
    _compile("-shared", HERE / "cuda_driver.cpp", f"-Wl,-soname,{library.name}", "-o", library)
    return library


def _compile(*arguments: str | Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and g++ to run the kernels' source on the CPU")
    subprocess.run([compiler, "-std=c++17", "-O1", "-fPIC", *arguments], check=True)
