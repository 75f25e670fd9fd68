"""The CUDA kernels of the correlation, on a machine without a GPU, and on one where it is there."""

import ctypes
import functools
import hashlib
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from amd_seg.errors import ConfigError, DeviceError
from amd_seg.model import correlation_cuda as cuda
from amd_seg.model.correlation import correlation, gradients_plain, volume_plain
from tests.processes import python
from tests.test_correlation import LAYOUTS, assert_near_plain, features

HERE = Path(__file__).parent
ARCHITECTURES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))


# What stands for a GPU on a CPU: the kernels as a library, and a driver that runs it.


def compile_here(*arguments: str | Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and g++ to run the kernels' source on the CPU")
    subprocess.run([compiler, "-std=c++17", "-O1", "-fPIC", *arguments], check=True)


def compile_kernels(dtype: torch.dtype, reach: int, folder: Path, source: Path) -> Path:
    """The kernels of `source` as a library for this CPU; see cuda_shim.cpp."""
    flags = [f"-D{name}={value}" for name, value in cuda.defines(dtype, reach).items()]
    compiled, library = folder / "kernels.o", folder / "kernels.so"
    compile_here(
        *("-fsanitize=thread", "-c", HERE / "cuda_shim.cpp", "-o", compiled),
        *(*flags, f'-DSOURCE="{source}"'),
    )
    # Linked without the sanitizer's library: the shim has functions of its own in its place.
    compile_here("-shared", compiled, "-o", library)
    return library


@functools.cache
def shim(dtype: torch.dtype, reach: int, source: Path = cuda.SOURCE) -> ctypes.CDLL:
    """The kernels as a library for the CPU; each set of arguments is compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        library = ctypes.CDLL(str(compile_kernels(dtype, reach, Path(folder), source)))
    assert library.size_of_arguments() == ctypes.sizeof(cuda.Arguments)
    for kernel in cuda.KERNELS:
        getattr(library, f"run_{kernel}").restype = ctypes.c_char_p
    return library


def poisoned(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A map of NaN inside a longer buffer of NaN: what nobody writes, and what lies around it."""
    size = int(torch.Size(shape).numel())
    buffer = torch.full((size + 64,), float("nan"), dtype=dtype)
    return buffer[32 : 32 + size].view(shape), buffer


def run(
    x1: Tensor, x2: Tensor, grad: Tensor, reach: int, order: int, library: ctypes.CDLL | None = None
) -> tuple[tuple[Tensor, ...], list[bytes]]:
    """Run both kernels on the CPU; return the volume and the gradients, and what went wrong."""
    library = library or shim(x1.dtype, reach)
    found, buffers = zip(*(poisoned(*x.shape, dtype=x1.dtype) for x in (grad, x1, x2)), strict=True)
    faults: list[bytes] = []
    for launch in (
        cuda.volume_launch(x1, x2, found[0], reach),
        cuda.gradients_launch(grad, x1, x2, found[1:], reach),
    ):
        assert library.threads_of_a_block() == launch.threads
        grid, kernel = (ctypes.c_uint * 3)(*launch.grid), getattr(library, f"run_{launch.kernel}")
        fault = kernel(ctypes.byref(launch.arguments), grid, launch.threads, order)
        faults += [fault] if fault else []
    for buffer in buffers:
        assert torch.cat((buffer[:32], buffer[-32:])).isnan().all()
    return found, faults


def check_against_plain(
    shape: tuple[int, int, int, int], reach: int, dtype: torch.dtype, layout: str, order: int
) -> None:
    x1, x2 = (LAYOUTS[layout](features(*shape, dtype=dtype, seed=seed)) for seed in (1, 2))
    grad_shape = shape[0], (2 * reach + 1) ** 2, *shape[2:]
    grad = LAYOUTS[layout](features(*grad_shape, dtype=dtype, seed=3))
    found, faults = run(x1, x2, grad, reach, order)
    assert not faults
    assert_near_plain(found, x1, x2, grad)


SIZES = st.tuples(*(st.integers(1, most) for most in (2, 9, 9, 40)))


# Sizes are small as they are: to shrink a failing one would take minutes.
@pytest.mark.slow
@settings(max_examples=40, deadline=None, phases=(Phase.reuse, Phase.generate))
@given(SIZES, st.integers(1, 8), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 3))
def test_source_equals_the_plain_path_at_any_size(
    shape: tuple[int, int, int, int], reach: int, layout: str, order: int
) -> None:
    check_against_plain(shape, reach, torch.float32, layout, order)


@pytest.mark.parametrize("strides", [*itertools.permutations((2**31, 64, 16))])
def test_source_reaches_beyond_2_to_the_31(strides: tuple[int, int, int], tmp_path: Path) -> None:
    # A file with a hole: hardly any of it is ever in memory or on disk.
    hole = {"shared": True, "size": 2**31 + 256, "dtype": torch.float32}
    far = torch.from_file(str(tmp_path / "sparse"), **hole).as_strided((2, 2, 2, 8), (*strides, 1))
    far.copy_(features(2, 2, 2, 8, dtype=torch.float32, seed=1))
    near = features(2, 2, 2, 8, dtype=torch.float32, seed=2)
    grad = features(2, 9, 2, 8, dtype=torch.float32, seed=3)
    found, faults = run(far, near, grad, 1, 1)
    assert not faults
    expected = volume_plain(far, near, 1), *gradients_plain(grad, far, near, 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [40, 13])
def test_source_rounds_once_to_half(dtype: torch.dtype, layout: str, width: int) -> None:
    check_against_plain((1, 7, 6, width), 4, dtype, layout, order=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("needed", "instead"),
    # The last leaves one buffer for all stages.
    [("__syncthreads();", ""), ("await_fetches();", ""), ("stage & 1", "0")],
)
def test_emulation_sees_races(needed: str, instead: str, tmp_path: Path) -> None:
    source = tmp_path / cuda.SOURCE.name
    source.write_text(cuda.SOURCE.read_text().replace(needed, instead))
    library = shim(torch.float32, 1, source)
    x1, x2 = (features(1, 10, 6, 36, dtype=torch.float32, seed=seed) for seed in (1, 2))
    grad = features(1, 9, 6, 36, dtype=torch.float32, seed=3)
    written, faults = run(x1, x2, grad, 1, 1, library)
    never_fetched = any(values.isnan().any() for values in written)
    assert never_fetched or any(b"race" in fault for fault in faults)


def test_source_gives_equal_bits_in_any_order_of_threads() -> None:
    x1, x2 = (features(1, 10, 7, 36, dtype=torch.float32, seed=seed) for seed in (1, 2))
    grad = features(1, 81, 7, 36, dtype=torch.float32, seed=3)
    first, *others = (run(x1, x2, grad, 4, order)[0] for order in range(4))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rounds_as_torch_does(dtype: torch.dtype) -> None:
    extremes = 6e4, 3e38, 7e-8, 0.0, float("inf"), float("nan")
    exact = torch.tensor([1.0, 1 + 2**-7, 1 + 3 * 2**-7, -3.1, *extremes])
    x1 = exact.to(dtype).view(1, 1, 1, -1)
    x2 = torch.full_like(x1, 1 + 2**-7)
    grad = torch.zeros(1, 81, 1, x1.shape[3], dtype=dtype)
    (volume, _, _), _ = run(x1, x2, grad, 4, 0)
    torch.testing.assert_close(volume[:, 40:41], x1 * x2, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "dtype", "reach"),
    [
        *itertools.product(ARCHITECTURES, [torch.float32], [4]),
        *itertools.product([(8, 0), (9, 0)], [torch.bfloat16], [4]),
        ((8, 0), torch.float16, 4),
        ((9, 0), torch.float32, 8),
    ],
)
def test_source_never_spills(architecture: tuple[int, int], dtype: torch.dtype, reach: int) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")
    log = cuda.compile_source(cuda.SOURCE, cuda.defines(dtype, reach), architecture)[1]
    local = re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log)
    assert local == ["0"] * 6, log


def test_a_cpu_takes_the_plain_path_or_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    x1, x2 = (features(1, 3, 4, 5, dtype=torch.float32, seed=seed) for seed in (1, 2))
    for path in ("auto", "plain"):
        monkeypatch.setenv(cuda.VARIABLE, path)
        assert torch.equal(correlation(x1, x2), volume_plain(x1, x2, 4))
        assert cuda.path_in_words(x1.device) == "plain PyTorch"
    for path, error, words in (
        ("cuda", DeviceError, "set it to auto"),
        ("fast", ConfigError, "auto, plain, cuda"),
    ):
        monkeypatch.setenv(cuda.VARIABLE, path)
        with pytest.raises(error, match=words):
            correlation(x1, x2)
        assert cuda.path_in_words(x1.device).startswith("none: AMD_SEG_CORRELATION=")


# ---- compiling, keeping, loading, launching: by a CUDA driver that runs on the CPU ------------

needs_nvrtc = pytest.mark.skipif(
    torch.version.cuda is not None or importlib.util.find_spec("cuda.bindings") is None,
    reason="needs cuda-bindings and nvidia-cuda-nvrtc, and no driver of this machine's own",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CPU's driver, found by its name from here on, as one that is loaded already."""
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    compile_here("-shared", HERE / "cuda_driver.cpp", f"-Wl,-soname,{path.name}", "-o", path)
    library = ctypes.CDLL(str(path))
    library.last_stream.restype = ctypes.c_size_t
    return library


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("kernels")
    return compile_kernels(torch.float32, 2, folder, cuda.SOURCE).read_bytes()


@needs_nvrtc
@pytest.mark.parametrize("index", [0, 1])
def test_launches_compute_the_plain_path(driver: ctypes.CDLL, image: bytes, index: int) -> None:
    module = cuda.Module(image, cuda.KERNELS, index)
    x1, x2 = (features(2, 7, 5, 33, dtype=torch.float32, seed=seed) for seed in (1, 2))
    volume, grad = torch.empty(2, 25, 5, 33), features(2, 25, 5, 33, dtype=torch.float32, seed=3)
    gradients = torch.empty_like(x1), torch.empty_like(x2)
    forward = cuda.volume_launch(x1, x2, volume, 2)
    backward = cuda.gradients_launch(grad, x1, x2, gradients, 2)
    for stream, launch in enumerate((forward, backward), start=2**40):
        module.launch(launch, stream)
        assert (driver.last_stream(), driver.last_device()) == (stream, index)
        assert driver.contexts_left() == 0
    torch.testing.assert_close(volume, volume_plain(x1, x2, 2))
    torch.testing.assert_close(gradients, gradients_plain(grad, x1, x2, 2))


@needs_nvrtc
def test_what_the_driver_refuses_is_told_with_its_call(driver: ctypes.CDLL, image: bytes) -> None:
    module = cuda.Module(image, cuda.KERNELS, 0)
    with pytest.raises(DeviceError, match=r"cuLaunchKernel failed with CUDA_ERROR_INVALID_VALUE"):
        module.launch(cuda.Launch(cuda.KERNELS[0], (1, 65536, 1), 160, cuda.Arguments()), 0)
    for content, names, index, fault in (
        (b"no code", cuda.KERNELS, 0, "cuModuleLoadData failed with CUDA_ERROR_INVALID_IMAGE"),
        (image, ("another",), 0, "cuModuleGetFunction failed with CUDA_ERROR_NOT_FOUND"),
        (image, cuda.KERNELS, 2, "cuDeviceGet failed with CUDA_ERROR_INVALID_DEVICE"),
    ):
        with pytest.raises(DeviceError, match=fault):
            cuda.Module(content, names, index)
    assert driver.contexts_left() == 0


@pytest.mark.slow
@needs_nvrtc
def test_compiles_once_keeps_it_and_replaces_what_was_damaged(
    driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, wanted = tmp_path / "kept", cuda.defines(torch.float32, 2)
    monkeypatch.setenv(cuda.CACHE_VARIABLE, str(cache))
    cuda.load(cuda.SOURCE, wanted, cuda.KERNELS, 0)
    (kept,) = cache.iterdir()
    compiled, _ = cuda.compile_source(cuda.SOURCE, wanted, (9, 0))
    whole, before = kept.read_bytes(), kept.stat()
    assert whole == hashlib.sha256(compiled).digest() + compiled
    cuda.load(cuda.SOURCE, wanted, cuda.KERNELS, 0)
    assert kept.stat() == before
    for damaged in (b"", whole[:1000], whole[:-1] + b"?"):
        kept.write_bytes(damaged)
        cuda.load(cuda.SOURCE, wanted, cuda.KERNELS, 0)
        assert kept.read_bytes() == whole
    changed = tmp_path / cuda.SOURCE.name
    changed.write_text(cuda.SOURCE.read_text() + "\n")
    cuda.load(changed, wanted, cuda.KERNELS, 0)
    cuda.load(cuda.SOURCE, cuda.defines(torch.half, 2), cuda.KERNELS, 0)
    assert len(list(cache.iterdir())) == 3
    # One that cannot be written is done without.
    monkeypatch.setenv(cuda.CACHE_VARIABLE, str(changed / "kept"))
    cuda.load(cuda.SOURCE, wanted, cuda.KERNELS, 0)
    # A device newer than NVRTC gets PTX, which is text.
    assert b".version" in cuda.compile_source(cuda.SOURCE, wanted, (99, 0))[0]
    wrong = tmp_path / "wrong.cu"
    wrong.write_text("__global__ void wrong() { undeclared = 1; }")
    with pytest.raises(DeviceError, match=r"wrong\.cu for sm_90(?s:.*)\"undeclared\" is undefined"):
        cuda.compile_source(wrong, {}, (9, 0))


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize(
    ("hidden", "advice"),
    [("cuda.bindings", "pip install cuda-bindings"), (None, "Install the NVIDIA driver")],
)
def test_what_is_missing_is_named(hidden: str | None, advice: str) -> None:
    code = (
        "import sys; hidden = sys.argv[1]\n"
        "if hidden: sys.modules[hidden] = None\n"
        "from amd_seg.errors import DeviceError\n"
        "from amd_seg.model.correlation_cuda import Module\n"
        "try: Module(b'', (), 0)\n"
        "except DeviceError as error: assert sys.argv[2] in str(error), str(error)\n"
        "else: raise SystemExit('nothing is missing')"
    )
    python("-c", code, hidden or "", advice)
