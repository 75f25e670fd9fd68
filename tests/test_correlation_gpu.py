"""The CUDA kernels of the correlation on a CUDA device."""

import pytest
import torch
from torch import Tensor

from amd_seg.model.correlation import correlation
from amd_seg.model.correlation_cuda import ELEMENTS, VARIABLE
from tests import test_correlation as cpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPES = ((1, 1, 1, 1), (2, 192, 6, 10), (3, 7, 5, 33), (1, 96, 24, 40), (2, 32, 96, 160))


@pytest.fixture(autouse=True)
def kernels_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")


def features(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return cpu.features(*shape, dtype=dtype, seed=seed).cuda()


def gradients(x1: Tensor, x2: Tensor, grad: Tensor, reach: int = 4) -> tuple[Tensor, ...]:
    left, right = x1.detach().requires_grad_(), x2.detach().requires_grad_()
    volume = correlation(left, right, reach)
    return volume.detach(), *torch.autograd.grad(volume, (left, right), grad)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_equals_the_plain_path_in_float64(
    dtype: torch.dtype, shape: tuple[int, int, int, int], layout: torch.memory_format
) -> None:
    x1, x2 = (features(*shape, dtype=dtype, seed=s).to(memory_format=layout) for s in (1, 2))
    for reach in range(1, 9):
        grad = features(shape[0], (2 * reach + 1) ** 2, *shape[2:], dtype=dtype, seed=3)
        cpu.assert_near_plain(gradients(x1, x2, grad, reach), x1, x2, grad)


@pytest.mark.parametrize("dtype", ELEMENTS)
@pytest.mark.parametrize("batch", [0, 2])
def test_reads_parts_of_maps_and_an_expanded_gradient(batch: int, dtype: torch.dtype) -> None:
    maps = features(batch, 12, 9, 42, dtype=dtype)
    grad = features(1, 1, 1, 1, dtype=dtype, seed=3).expand(batch, 81, 7, 40)
    parts = maps[:, :6, 2:, 1:41], maps[:, 6:, :7, 2:]
    cpu.assert_near_plain(gradients(*parts, grad), *parts, grad)


def test_reaches_beyond_two_to_the_31_elements() -> None:
    shape = (26, 1, 1024, 1024)
    x1, x2 = (features(*shape, dtype=torch.float16, seed=seed) for seed in (1, 2))
    assert torch.equal(correlation(x1, x2)[-1:], correlation(x1[-1:], x2[-1:]))


def test_ten_thousand_runs_give_equal_bits() -> None:
    x1, x2, grad = features(2, 32, 24, 40), features(2, 32, 24, 40, seed=1), features(2, 81, 24, 40)
    first = gradients(x1, x2, grad)
    differing = torch.zeros((), device="cuda", dtype=torch.int64)
    for _ in range(10_000):
        for ours, expected in zip(gradients(x1, x2, grad), first, strict=True):
            differing += (ours != expected).sum()
    assert differing.item() == 0


def test_runs_on_the_current_stream() -> None:
    x1, x2 = features(4, 64, 96, 160), features(4, 64, 96, 160, seed=1)
    expected = correlation(x1, x2 * 3)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    volumes = []
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            volumes.append(correlation(x1, x2 * 3))
    torch.cuda.synchronize()
    assert all(torch.equal(volume, expected) for volume in volumes)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_runs_on_the_device_of_its_inputs() -> None:
    x1, x2 = features(1, 8, 9, 17), features(1, 8, 9, 17, seed=1)
    expected = correlation(x1, x2)
    other = correlation(x1.to("cuda:1"), x2.to("cuda:1"))
    assert other.device.index == 1
    assert torch.equal(other.to("cuda:0"), expected)
    assert torch.cuda.current_device() == 0


def test_is_captured_by_a_cuda_graph() -> None:
    x1, x2, grad = (features(2, c, 12, 20, seed=seed) for c, seed in ((16, 0), (16, 1), (81, 3)))
    gradients(x1, x2, grad)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(x1, x2, grad)
    x1.copy_(features(2, 16, 12, 20, seed=2))
    graph.replay()
    for ours, expected in zip(captured, gradients(x1, x2, grad), strict=True):
        assert torch.equal(ours, expected)


def test_autocast_takes_the_kernels() -> None:
    x1, x2 = features(2, 16, 12, 20).requires_grad_(), features(2, 16, 12, 20, seed=1)
    exact = correlation(x1.bfloat16().float(), x2)
    with torch.autocast("cuda", torch.bfloat16):
        volume = correlation(x1.bfloat16(), x2)
    assert torch.equal(volume, exact)
    torch.testing.assert_close(
        torch.autograd.grad(volume.sum(), x1), torch.autograd.grad(exact.sum(), x1)
    )


def test_float64_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    x1, x2 = (features(2, 2, 3, 4, dtype=torch.float64, seed=s).requires_grad_() for s in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, 1), (x1, x2))
