"""The CUDA kernels of the correlation, on a machine without a GPU, and on one where it is there."""

import ctypes
import functools
import itertools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from amd_seg.errors import ConfigError, DeviceError
from amd_seg.model import cuda_build
from amd_seg.model.correlation import correlation, gradients_plain, volume_plain
from amd_seg.model.correlation_cuda import (
    KERNELS,
    SOURCE,
    VARIABLE,
    Arguments,
    Launch,
    defines,
    gradients_launch,
    kernels_for,
    path_in_words,
    volume_launch,
)
from tests import cuda_cpu

ARCHITECTURES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
# Relative to the largest value: float32 sums in another order; one rounding to half or bfloat16.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.to(memory_format=torch.channels_last),
    "cropped": lambda x: torch.cat([x, x], 3)[..., 1 : 1 + x.shape[3]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "part of more channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
}


@functools.cache
def shim(dtype: torch.dtype, reach: int) -> ctypes.CDLL:
    """The kernels as a library for the CPU; each pair of arguments is compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        return loaded(cuda_cpu.kernels(dtype, reach, Path(folder)))


def loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    assert library.size_of_arguments() == ctypes.sizeof(Arguments)
    for kernel in KERNELS:
        getattr(library, f"run_{kernel}").restype = ctypes.c_char_p
    return library


def run(dtype: torch.dtype, reach: int, launch: Launch, order: int) -> None:
    library = shim(dtype, reach)
    assert library.threads_of_a_block() == launch.threads
    fault = run_on_cpu(library, launch, order)
    assert fault is None, fault


def run_on_cpu(library: ctypes.CDLL, launch: Launch, order: int) -> bytes | None:
    grid = (ctypes.c_uint * 3)(*launch.grid)
    kernel = getattr(library, f"run_{launch.kernel}")
    fault: bytes | None = kernel(ctypes.byref(launch.arguments), grid, launch.threads, order)
    return fault


def poisoned(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A map of NaN inside a longer buffer of NaN: what nobody writes, and what lies around it."""
    size = int(torch.Size(shape).numel())
    buffer = torch.full((size + 64,), float("nan"), dtype=dtype)
    return buffer[32 : 32 + size].view(shape), buffer


def features(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert (ours - exact).abs().max() <= TOLERANCE[dtype] * exact.abs().max()


def assert_untouched(buffer: Tensor) -> None:
    assert buffer[:32].isnan().all()
    assert buffer[-32:].isnan().all()


def check_against_plain(
    shape: tuple[int, int, int, int], reach: int, dtype: torch.dtype, layout: str, order: int
) -> None:
    batch, _, height, width = shape
    x1, x2 = (LAYOUTS[layout](features(*shape, dtype=dtype, seed=seed)) for seed in (1, 2))
    volume, around = poisoned(batch, (2 * reach + 1) ** 2, height, width, dtype=dtype)
    run(dtype, reach, volume_launch(x1, x2, volume, reach), order)
    assert_near(volume, volume_plain(x1.double(), x2.double(), reach), dtype)
    assert_untouched(around)

    grad = LAYOUTS[layout](features(*volume.shape, dtype=dtype, seed=3))
    exact = gradients_plain(grad.double(), x1.double(), x2.double(), reach, True, True)
    for needs in ((True, True), (True, False), (False, True)):
        buffers = [poisoned(*shape, dtype=dtype) for _ in needs]
        wanted = [b[0] if need else None for b, need in zip(buffers, needs, strict=True)]
        run(dtype, reach, gradients_launch(grad, x1, x2, wanted, reach), order)
        for (gradient, around), expected, need in zip(buffers, exact, needs, strict=True):
            assert_untouched(around)
            if need:
                assert_near(gradient, expected, dtype)
            else:
                assert gradient.isnan().all()


SIZES = st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))


# Sizes are small as they are: to shrink a failing one would take minutes.
@settings(max_examples=25, deadline=None, phases=(Phase.reuse, Phase.generate))
@given(SIZES, st.sampled_from([1, 3, 4, 8]), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 3))
def test_source_equals_the_plain_path_at_any_size(
    shape: tuple[int, int, int, int], reach: int, layout: str, order: int
) -> None:
    check_against_plain(shape, reach, torch.float32, layout, order)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [40, 13])
def test_source_rounds_once_to_half(dtype: torch.dtype, layout: str, width: int) -> None:
    check_against_plain((1, 7, 6, width), 4, dtype, layout, order=1)


@pytest.mark.parametrize("reach", [2, 5, 6, 7])
def test_source_serves_every_reach(reach: int) -> None:
    check_against_plain((1, 5, 5, 36), reach, torch.float32, "contiguous", order=1)


@pytest.mark.parametrize(
    ("needed", "instead", "place"),
    [
        *itertools.product(["__syncthreads();"], [""], range(3)),
        *itertools.product(["await_fetches();"], [""], range(2)),
        ("stage & 1", "0", None),  # one buffer for all stages
    ],
)
def test_emulation_sees_a_race(
    needed: str, instead: str, place: int | None, tmp_path: Path
) -> None:
    pieces = SOURCE.read_text().split(needed)
    assert place is None or place < len(pieces) - 1
    places = [instead if place in (None, i) else needed for i in range(len(pieces) - 1)]
    source = tmp_path / SOURCE.name
    source.write_text("".join(itertools.chain(*zip(pieces, [*places, ""], strict=True))))
    library = loaded(cuda_cpu.kernels(torch.float32, 1, tmp_path, source))
    x1, x2 = (features(1, 10, 6, 36, dtype=torch.float32, seed=seed) for seed in (1, 2))
    grad = features(1, 9, 6, 36, dtype=torch.float32, seed=3)
    written = [poisoned(*x.shape, dtype=torch.float32)[0] for x in (grad, x1, x2)]
    faults = (
        run_on_cpu(library, volume_launch(x1, x2, written[0], 1), 1),
        run_on_cpu(library, gradients_launch(grad, x1, x2, written[1:], 1), 1),
    )
    never_fetched = any(values.isnan().any() for values in written)
    assert never_fetched or any(fault and b"race" in fault for fault in faults)


def test_source_gives_equal_bits_in_any_order_of_threads() -> None:
    x1, x2 = (features(1, 10, 7, 36, dtype=torch.float32, seed=seed) for seed in (1, 2))
    grad = features(1, 81, 7, 36, dtype=torch.float32, seed=3)
    results = []
    for order in range(4):
        volume, _ = poisoned(1, 81, 7, 36, dtype=torch.float32)
        gradients = [poisoned(*x1.shape, dtype=torch.float32)[0] for _ in "12"]
        run(torch.float32, 4, volume_launch(x1, x2, volume, 4), order)
        run(torch.float32, 4, gradients_launch(grad, x1, x2, gradients, 4), order)
        results.append((volume, *gradients))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rounds_as_torch_does(dtype: torch.dtype) -> None:
    exact = torch.tensor([1.0, 1 + 2**-7, 1 + 3 * 2**-7, -3.1, 6e4, 3e38, 7e-8, 0.0])
    exact = torch.cat([exact, torch.tensor([float("inf"), float("nan")])])
    x1 = exact.to(dtype).view(1, 1, 1, -1)
    x2 = torch.full_like(x1, 1 + 2**-7)
    volume, _ = poisoned(1, 81, 1, x1.shape[3], dtype=dtype)
    run(dtype, 4, volume_launch(x1, x2, volume, 4), 0)
    torch.testing.assert_close(volume[:, 40:41], x1 * x2, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("architecture", "dtype", "reach"),
    [
        *itertools.product(ARCHITECTURES, [torch.float32], [4]),
        *itertools.product([(8, 0), (9, 0)], [torch.bfloat16], [4]),
        ((8, 0), torch.float16, 4),
        ((9, 0), torch.float32, 8),
    ],
)
def test_source_compiles_without_spills(
    architecture: tuple[int, int], dtype: torch.dtype, reach: int
) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")
    log = cuda_build.compile_source(SOURCE, defines(dtype, reach), architecture)[1]
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert len(spills) == 4, log
    assert set(spills) == {"0"}, log


# ---- the choice of a path --------------------------------------------------------------------


def test_plain_and_auto_are_the_plain_path_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x1, x2 = (features(1, 3, 4, 5, dtype=torch.float32, seed=seed) for seed in (1, 2))
    for path in ("auto", "plain"):
        monkeypatch.setenv(VARIABLE, path)
        assert torch.equal(correlation(x1, x2), volume_plain(x1, x2, 4))


def test_asking_for_kernels_where_there_are_none_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(DeviceError, match="set it to auto"):
        correlation(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


def test_an_unknown_path_is_named_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ConfigError, match="auto, plain, cuda"):
        correlation(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_where_there_are_no_kernels_auto_says_so_once_and_cuda_always(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeTensorMode():
        x = torch.empty(1, 2, 3, 4, device="cuda:1")
    monkeypatch.setenv(VARIABLE, "auto")
    assert [kernels_for(x, 7) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert "slower plain path on cuda:1: torch" in record.getMessage()
    monkeypatch.setenv(VARIABLE, "cuda")
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"not built for CUDA\. Set it to auto"):
            kernels_for(x, 7)
    assert len(caplog.records) == 1


def test_env_names_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (("auto", "plain PyTorch"), ("cuda", "none: AMD_SEG_CORRELATION=cuda")):
        monkeypatch.setenv(VARIABLE, path)
        assert path_in_words(torch.device("cpu")).startswith(words)
