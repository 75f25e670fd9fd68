"""The correlation operator against a loop, in every size, dtype and layout."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from amd_seg.errors import InputError
from amd_seg.model.correlation import correlation, gradients_plain, volume_plain

SIZES = st.tuples(st.integers(0, 3), *(st.integers(1, most) for most in (5, 11, 37, 8)))
# Largest error relative to the largest value: sums in another order, in float32 or wider, and one
# rounding of the result to half or bfloat16.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.to(memory_format=torch.channels_last),
    "cropped": lambda x: torch.cat([x, x], 3)[..., 1 : 1 + x.shape[3]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "part of more channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "expanded": lambda x: x[:, :1].expand(x.shape),
}
MAP = torch.zeros(1, 2, 3, 4)


def loop(x1: Tensor, x2: Tensor, reach: int) -> Tensor:
    """Mean over channels of x1(p) * x2(p + d): one channel per d, its dy outer, its dx inner."""
    height, width = x1.shape[2:]
    padded = functional.pad(x2, (reach, reach, reach, reach))
    side = range(2 * reach + 1)
    shifted = [padded[:, :, y : y + height, x : x + width] for y in side for x in side]
    return torch.stack([(x1 * x).mean(1) for x in shifted], 1)


def features(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_near_plain(found: Sequence[Tensor], x1: Tensor, x2: Tensor, grad: Tensor) -> None:
    """Compare a volume and its gradients with the plain path in float64."""
    reach, wide = (math.isqrt(grad.shape[1]) - 1) // 2, (x1.double(), x2.double())
    exact = volume_plain(*wide, reach), *gradients_plain(grad.double(), *wide, reach)
    for ours, expected in zip(found, exact, strict=True):
        assert ours.shape == expected.shape
        largest = expected.abs().max() if len(expected) else 0.0
        assert ((ours - expected).abs() <= TOLERANCE[x1.dtype] * largest).all()


def assert_equals_the_loop(x1: Tensor, x2: Tensor, grad: Tensor, reach: int) -> None:
    x1.requires_grad_()
    x2.requires_grad_()
    volume, expected = correlation(x1, x2, reach), loop(x1, x2, reach)
    assert volume.is_contiguous()
    torch.testing.assert_close(volume, expected)
    gradients = (torch.autograd.grad(found, (x1, x2), grad) for found in (volume, expected))
    torch.testing.assert_close(*gradients)


@settings(max_examples=60, deadline=None)
@given(SIZES)
def test_equals_the_loop_with_its_gradients_at_any_size(sizes: tuple[int, ...]) -> None:
    *shape, reach = sizes
    grad = features(shape[0], (2 * reach + 1) ** 2, *shape[2:], seed=3)
    assert_equals_the_loop(features(*shape, seed=1), features(*shape, seed=2), grad, reach)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sums_in_float32_or_wider(dtype: torch.dtype) -> None:
    inputs = [features(2, 40, 7, 21, dtype=dtype, seed=s).requires_grad_() for s in (0, 1)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    volume, expected = correlation(*inputs), loop(*wide, 4)
    found = volume, *torch.autograd.grad(volume.sum(), inputs)
    exact = expected, *torch.autograd.grad(expected.sum(), wide)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_takes_any_layout(layout: Callable[[Tensor], Tensor]) -> None:
    x1, x2 = (layout(features(2, 6, 5, 18, seed=seed)) for seed in (0, 1))
    assert_equals_the_loop(x1, x2, features(2, 5, 18, 81, seed=2).permute(0, 3, 1, 2), 4)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_gradients_are_right_and_of_first_order(first: bool, second: bool) -> None:
    x1 = features(2, 2, 3, 4).requires_grad_(first)
    x2 = features(2, 2, 3, 4, seed=1).requires_grad_(second)
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, 1), (x1, x2))
    given = [x for x in (x1, x2) if x.requires_grad]
    grad, *_ = torch.autograd.grad(correlation(x1, x2, 1).square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# torch 2.14's own opcheck looks at gradients that are none.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("batch", [0, 2])
def test_operators_keep_the_rules_of_torch_library(batch: int) -> None:
    x1, x2 = features(batch, 2, 3, 4), features(batch, 2, 3, 4)
    grad = features(batch, 9, 3, 4)
    torch.library.opcheck(torch.ops.amd_seg.correlation_backward, (grad, x1, x2, 1))
    leaves = x1.requires_grad_(), x2.requires_grad_()
    torch.library.opcheck(torch.ops.amd_seg.correlation, (*leaves, 1))


def test_autocast_takes_the_wider_dtype_of_the_two() -> None:
    half, single = features(1, 2, 3, 4, dtype=torch.bfloat16), features(1, 2, 3, 4).float()
    single.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert correlation(half, half).dtype == torch.bfloat16
        mixed = correlation(half, single)
    torch.testing.assert_close(mixed, loop(half.float(), single, 4))
    mixed.sum().backward()
    assert single.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("x1", "x2", "reach"),
    [
        (MAP, torch.zeros(1, 2, 3, 5), 4),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 4),
        (torch.zeros(1, 0, 3, 4), torch.zeros(1, 0, 3, 4), 4),
        (MAP, MAP, 9),
        (MAP, MAP.half(), 4),
        (MAP.long(), MAP.long(), 4),
        (MAP, MAP.to("meta"), 4),
    ],
)
def test_refuses_what_cannot_be_compared(x1: Tensor, x2: Tensor, reach: int) -> None:
    with pytest.raises(InputError, match=rf"{reach} away. Give two float maps .* of 1 to 8"):
        correlation(x1, x2, reach)
