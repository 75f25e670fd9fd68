"""Compiling, keeping, loading and launching kernels, by a CUDA driver that runs on the CPU."""

import ctypes
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from amd_seg.errors import DeviceError
from amd_seg.model import correlation_cuda, cuda_build
from amd_seg.model.correlation import correlation, gradients_plain, volume_plain
from amd_seg.model.correlation_cuda import (
    KERNELS,
    SOURCE,
    Arguments,
    defines,
    gradients_launch,
    volume_launch,
)
from tests import cuda_cpu

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")
pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None, reason="the driver of this machine is in its place"
)

WANTED = defines(torch.float32, 2)
HOPPER = (9, 0)
NEWER_THAN_ANY = (99, 0)


@pytest.fixture(scope="module")
def driver_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda_cpu.driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(driver_path: Path) -> ctypes.CDLL:
    """The CPU's driver, found by its name from here on, as one that is loaded already."""
    loaded = ctypes.CDLL(str(driver_path))
    loaded.last_stream.restype = ctypes.c_size_t
    return loaded


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return cuda_cpu.kernels(torch.float32, 2, tmp_path_factory.mktemp("kernels")).read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(cuda_build.CACHE_VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def features(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- launching -------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_launches_what_the_plain_path_computes(
    driver: ctypes.CDLL, image: bytes, index: int
) -> None:
    module = cuda_build.Module(image, KERNELS, index)
    x1, x2 = features(2, 7, 5, 33, seed=1), features(2, 7, 5, 33, seed=2)
    volume, grad = torch.empty(2, 25, 5, 33), features(2, 25, 5, 33, seed=3)
    gradients = torch.empty_like(x1), torch.empty_like(x2)
    launches = (
        volume_launch(x1, x2, volume, 2),
        gradients_launch(grad, x1, x2, gradients, 2),
    )
    for stream, launch in enumerate(launches, start=2**40):
        module.launch(launch.kernel, launch.grid, launch.threads, launch.arguments, stream)
        assert driver.last_stream() == stream
        assert driver.last_device() == index
        assert driver.contexts_left() == 0
    torch.testing.assert_close(volume, volume_plain(x1, x2, 2))
    torch.testing.assert_close(gradients, gradients_plain(grad, x1, x2, 2, True, True))


@pytest.mark.parametrize(
    ("grid", "threads"), [((1, 65536, 1), 160), ((0, 1, 1), 160), ((1, 1, 1), 1025)]
)
def test_a_refused_launch_is_an_error_that_names_the_call(
    driver: ctypes.CDLL, image: bytes, grid: tuple[int, int, int], threads: int
) -> None:
    module = cuda_build.Module(image, KERNELS, 0)
    fault = r"cuLaunchKernel failed with CUDA_ERROR_INVALID_VALUE\. Unless an earlier error"
    with pytest.raises(DeviceError, match=fault):
        module.launch(KERNELS[0], grid, threads, Arguments(), 0)
    assert driver.contexts_left() == 0


@pytest.mark.parametrize(
    ("is_code", "names", "index", "fault"),
    [
        (False, KERNELS, 0, "cuModuleLoadData failed with CUDA_ERROR_INVALID_IMAGE"),
        (True, ("another",), 0, "cuModuleGetFunction failed with CUDA_ERROR_NOT_FOUND"),
        (True, KERNELS, 2, "cuDeviceGet failed with CUDA_ERROR_INVALID_DEVICE"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_that_names_the_call(
    driver: ctypes.CDLL, image: bytes, is_code: bool, names: tuple[str, ...], index: int, fault: str
) -> None:
    with pytest.raises(DeviceError, match=fault):
        cuda_build.Module(image if is_code else b"no machine code", names, index)
    assert driver.contexts_left() == 0


@pytest.mark.parametrize("reach", [4, 8])
def test_compiled_kernels_take_what_is_launched(reach: int) -> None:
    text = cuda_build.compile_source(SOURCE, defines(torch.float32, reach), NEWER_THAN_ANY)[0]
    found = re.findall(
        r"\.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]\s*\)\s*\.maxntid (\d+)",
        text.decode(),
    )
    x, grad = torch.zeros(1, 3, 4, 5), torch.zeros(1, (2 * reach + 1) ** 2, 4, 5)
    launches = (volume_launch(x, x, grad, reach), gradients_launch(grad, x, x, (x, x), reach))
    assert sorted(found) == sorted(
        (launch.kernel, str(ctypes.sizeof(launch.arguments)), str(launch.threads))
        for launch in launches
    )


# ---- the operator on the kernels -------------------------------------------------------------


@pytest.fixture
def on_kernels(driver: ctypes.CDLL, image: bytes, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Let float32 on the CPU take the kernels, and float64 the plain path, as on a device."""
    module = cuda_build.Module(image, KERNELS, 1)
    stream = SimpleNamespace(cuda_stream=2**41)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(
        correlation_cuda,
        "kernels_for",
        lambda x, reach: module if x.dtype == torch.float32 else None,
    )
    return driver


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operator_has_its_gradients_from_the_kernels(
    on_kernels: ctypes.CDLL, needs: tuple[bool, bool], layout: torch.memory_format
) -> None:
    def volume_and_gradients(dtype: torch.dtype) -> list[Tensor]:
        x1, x2 = (
            features(2, 5, 4, 12, seed=seed).to(dtype, memory_format=layout).requires_grad_(need)
            for seed, need in zip((1, 2), needs, strict=True)
        )
        grad = features(2, 25, 4, 12, seed=3).to(dtype).requires_grad_()
        volume = correlation(x1, x2, 2)
        inputs = [x for x in (x1, x2) if x.requires_grad]
        first = torch.autograd.grad(volume, inputs, grad, create_graph=True)
        second = torch.autograd.grad(
            sum(x.square().sum() for x in first), [grad, *inputs], allow_unused=True
        )
        return [x for x in (volume, *first, *second) if x is not None]

    ours = volume_and_gradients(torch.float32)
    assert on_kernels.last_stream() == 2**41
    exact = volume_and_gradients(torch.float64)
    torch.testing.assert_close(ours, exact, check_dtype=False)


def test_operator_reads_a_sum_s_gradient_and_parts_of_maps(on_kernels: ctypes.CDLL) -> None:
    whole = features(2, 6, 7, 19, seed=1)

    def volume_and_gradient(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        maps = whole.to(dtype, copy=True).requires_grad_()
        volume = correlation(maps[:, :3, 2:, 1:17], maps[:, 3:, :5, 3:], 2)
        # Of a sum: one number, expanded.
        return volume, torch.autograd.grad(volume.sum(), maps)[0]

    torch.testing.assert_close(
        volume_and_gradient(torch.float32), volume_and_gradient(torch.float64), check_dtype=False
    )


def test_operator_launches_nothing_for_no_frames(on_kernels: ctypes.CDLL) -> None:
    x1, x2 = (torch.zeros(0, 3, 4, 5, requires_grad=True) for _ in "12")
    volume = correlation(x1, x2, 2)
    volume.sum().backward()
    assert volume.shape == (0, 25, 4, 5)
    assert x1.grad is not None
    assert x1.grad.shape == x1.shape


def test_kernels_are_not_loaded_while_a_graph_is_captured(
    driver: ctypes.CDLL, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeTensorMode():
        x = torch.empty(1, 2, 3, 4, device="cuda:0")
    capturing = [True, True, False]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing.pop(0))
    for path in ("auto", "cuda"):
        monkeypatch.setenv(correlation_cuda.VARIABLE, path)
        with pytest.raises(DeviceError, match=r"captured\. Call it once before"):
            correlation_cuda.kernels_for(x, 6)
    assert not cache.exists()
    loaded = correlation_cuda.kernels_for(x, 6)
    assert isinstance(loaded, cuda_build.Module)
    assert correlation_cuda.kernels_for(x, 6) is loaded


# ---- compiling and keeping -------------------------------------------------------------------


def test_compiles_once_and_reads_what_it_kept(driver: ctypes.CDLL, cache: Path) -> None:
    cuda_build.load(SOURCE, WANTED, KERNELS, 0)
    (kept,) = cache.iterdir()
    image, _ = cuda_build.compile_source(SOURCE, WANTED, HOPPER)
    assert kept.read_bytes() == hashlib.sha256(image).digest() + image
    before = kept.stat()
    cuda_build.load(SOURCE, WANTED, KERNELS, 0)
    assert list(cache.iterdir()) == [kept]
    assert kept.stat() == before


def test_another_source_or_define_is_another_file(
    driver: ctypes.CDLL, cache: Path, tmp_path: Path
) -> None:
    changed = tmp_path / SOURCE.name
    changed.write_text(SOURCE.read_text() + "\n")
    for source, wanted in ((SOURCE, WANTED), (changed, WANTED), (SOURCE, defines(torch.half, 2))):
        cuda_build.load(source, wanted, KERNELS, 0)
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_file_is_replaced(driver: ctypes.CDLL, cache: Path) -> None:
    cuda_build.load(SOURCE, WANTED, KERNELS, 0)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:1000], whole[:-1] + b"?"):
        kept.write_bytes(damaged)
        cuda_build.load(SOURCE, WANTED, KERNELS, 0)
        assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(
    driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cuda_build.CACHE_VARIABLE, str(tmp_path / "file" / "kept"))
    cuda_build.load(SOURCE, WANTED, KERNELS, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_processes_at_once_keep_one_whole_file(driver_path: Path, cache: Path) -> None:
    code = (
        "import pathlib, sys; from amd_seg.model import cuda_build\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"cuda_build.load(pathlib.Path({str(SOURCE)!r}), {WANTED}, {KERNELS}, 0)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "LD_LIBRARY_PATH": str(driver_path.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.communicate("go\n")
    assert [process.returncode for process in started] == [0, 0, 0]
    (kept,) = cache.iterdir()
    image, _ = cuda_build.compile_source(SOURCE, WANTED, HOPPER)
    assert kept.read_bytes() == hashlib.sha256(image).digest() + image


def test_a_device_older_than_nvrtc_is_an_error_that_says_so() -> None:
    with pytest.raises(DeviceError, match=r"and newer, this device has 3\.5"):
        cuda_build.compile_source(SOURCE, WANTED, (3, 5))


def test_what_does_not_compile_is_an_error_with_the_compiler_s_words(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void wrong() { undeclared = 1; }")
    with pytest.raises(DeviceError, match=r"wrong\.cu for sm_90(?s:.*)\"undeclared\" is undefined"):
        cuda_build.compile_source(source, {}, HOPPER)


@pytest.mark.parametrize(
    ("hidden", "advice"),
    [("cuda.bindings", "pip install cuda-bindings"), (None, "Install the NVIDIA driver")],
)
def test_what_is_missing_is_named(hidden: str | None, advice: str) -> None:
    code = (
        "import sys; hidden = sys.argv[1]\n"
        "if hidden: sys.modules[hidden] = None\n"
        "from amd_seg.errors import DeviceError\n"
        "from amd_seg.model import cuda_build\n"
        "try: cuda_build.Module(b'', (), 0)\n"
        "except DeviceError as error: assert sys.argv[2] in str(error), str(error)\n"
        "else: raise SystemExit('nothing is missing')"
    )
    subprocess.run([sys.executable, "-c", code, hidden or "", advice], check=True)
