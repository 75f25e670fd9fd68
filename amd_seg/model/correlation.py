"""The cost volume of two feature maps, as the operator `amd_seg::correlation`.

The plain path, of ordinary tensor operations, serves every device and dtype. CUDA devices have
kernels of their own: correlation_cuda.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from amd_seg.errors import InputError
from amd_seg.model import correlation_cuda

MAX_DISPLACEMENT = 8
DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}

_VOLUME_TILE = 8
_GRADIENTS_TILE = 16  # pixels of a row that share one matrix product; the fastest on a CPU


def correlation(x1: Tensor, x2: Tensor, max_displacement: int = 4) -> Tensor:
    """Return the similarity of each pixel of `x1` with the pixels around it in `x2`.

    `volume[b, (dy + d) * (2d + 1) + (dx + d), y, x]` is the mean over channels of
    `x1[b, :, y, x] * x2[b, :, y + dy, x + dx]`, where `x2` is 0 outside its frame and dy and dx
    run over -d..d. Sums are float32 or wider; the volume is contiguous, has the dtype of the
    inputs, and under autocast the wider dtype of the two.

    Args:
        x1, x2: (batch, channel, height, width), float, features of the two frames.
        max_displacement: the reach d, in pixels of this grid, 1 to 8.

    Source: the cost volume inside the motion pathway of eq. 2, as the released code has it.
    """
    if not (
        x1.dim() == 4
        and x1.shape == x2.shape
        and x1.shape[1] > 0
        and x1.device == x2.device
        and {x1.dtype, x2.dtype} <= DTYPES
        and (x1.dtype == x2.dtype or torch.is_autocast_enabled(x1.device.type))
        and 1 <= max_displacement <= MAX_DISPLACEMENT
    ):
        given = (f"{tuple(x.shape)} of {x.dtype} on {x.device}" for x in (x1, x2))
        raise InputError(
            f"correlation cannot compare {' with '.join(given)} up to {max_displacement!r} away. "
            "Give two float maps of one shape (batch, channel, height, width), with a channel, of "
            f"one dtype and device, and a max_displacement of 1 to {MAX_DISPLACEMENT}."
        )
    return cast(Tensor, torch.ops.amd_seg.correlation(x1, x2, max_displacement))


# ---- the plain path: any device, any dtype -------------------------------------------------


def volume_plain(x1: Tensor, x2: Tensor, max_displacement: int) -> Tensor:
    """Return the cost volume by banded matrix products; arguments as in `correlation`.

    The product of a tile of neighbouring pixels of `x1` with the wider band of pixels of `x2`
    around them, in one row, holds their similarities for one dy on its diagonals.
    """
    channels, height, width = x1.shape[1:]
    side = 2 * max_displacement + 1
    volume = _empty_volume(x1, x2, max_displacement)
    if volume.numel() == 0:
        return volume
    tiles, bands = _cut(x1, x2, max_displacement, _VOLUME_TILE)
    products = tiles.new_empty(*tiles.shape[:3], _VOLUME_TILE, bands.shape[4])
    shifted = _diagonals(products, side).permute(1, 4, 0, 2, 3)  # (batch, dx, height, tile, pixel)
    for dy in range(side):
        right = bands[dy : dy + height].flatten(0, 2)
        torch.bmm(tiles.flatten(0, 2).mT, right, out=products.view(-1, *products.shape[3:]))
        volume[:, dy * side : (dy + 1) * side] = shifted.flatten(3)[..., :width] / channels
    return volume


def gradients_plain(
    grad: Tensor, x1: Tensor, x2: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `x1` and `x2` for `grad`, that of the volume.

    The products of `volume_plain` run backwards: the gradient is laid on the diagonals. A NaN
    therefore reaches the gradients of its whole tile of 16 pixels.
    """
    channels, height, width = x1.shape[1:]
    reach, side = max_displacement, 2 * max_displacement + 1
    if x1.numel() == 0:
        return _empty_gradients(grad, x1, x2, reach)
    tiles, bands = _cut(x1, x2, reach, _GRADIENTS_TILE)
    grad = functional.pad(grad.to(tiles.dtype), (0, -width % _GRADIENTS_TILE))
    grad = grad.unfold(3, _GRADIENTS_TILE, _GRADIENTS_TILE).permute(2, 0, 3, 4, 1)
    products = tiles.new_zeros(*tiles.shape[:3], _GRADIENTS_TILE, bands.shape[4])
    diagonals, factors = _diagonals(products, side), products.flatten(0, 2)
    grad_tiles, grad_bands = torch.zeros_like(tiles), torch.zeros_like(bands)
    for dy in range(side):
        torch.div(grad[..., dy * side : (dy + 1) * side], channels, out=diagonals)
        rows = slice(dy, dy + height)
        grad_tiles.flatten(0, 2).baddbmm_(bands[rows].flatten(0, 2), factors.mT)
        grad_bands[rows].flatten(0, 2).baddbmm_(tiles.flatten(0, 2), factors)
    grad_x1 = _join(grad_tiles, 0, width).to(x1.dtype)
    return grad_x1, _join(grad_bands[reach:][:height], reach, width).to(x2.dtype)


def _cut(x1: Tensor, x2: Tensor, reach: int, size: int) -> tuple[Tensor, Tensor]:
    """Cut the rows of `x1` into tiles of `size` pixels, those of `x2` into bands around them.

    Tiles are (height, batch, tile, channel, size), bands larger by `reach` on all sides, 0 outside
    the frame. Height comes first: then a shift by dy is a contiguous slice, and no product copies.
    """
    wide = torch.promote_types(x1.dtype, torch.float32)
    spare = -x1.shape[3] % size
    tiles = functional.pad(x1.to(wide), (0, spare)).unfold(3, size, size)
    bands = functional.pad(x2.to(wide), (reach, reach + spare, reach, reach))
    bands = bands.unfold(3, size + 2 * reach, size)
    return tiles.permute(2, 0, 3, 1, 4).contiguous(), bands.permute(2, 0, 3, 1, 4).contiguous()


def _diagonals(products: Tensor, side: int) -> Tensor:
    """View `products[..., i, i + dx]` as `[..., i, dx]` for dx in 0..side-1."""
    *outer, _ = products.stride()
    return products.as_strided((*products.shape[:4], side), (*outer[:3], outer[3] + 1, 1))


def _join(pieces: Tensor, reach: int, width: int) -> Tensor:
    """Sum what `_cut` cut, without its `reach` pixels left and right, into contiguous maps."""
    height, batch, count, channels, band = pieces.shape
    size = band - 2 * reach
    joined = pieces.new_zeros(batch, channels, height, count * size + 2 * reach)
    for tile in range(count):
        joined[..., tile * size : tile * size + band] += pieces[:, :, tile].permute(1, 2, 0, 3)
    return joined[..., reach : reach + width].contiguous()


# ---- registration: names, shapes, gradients, casts; no device is asked, nothing is compiled ----


def _volume(x1: Tensor, x2: Tensor, max_displacement: int) -> Tensor:
    kernels = correlation_cuda.kernels_for(x1, max_displacement)
    if kernels is None:
        return volume_plain(x1, x2, max_displacement)
    volume = _empty_volume(x1, x2, max_displacement)
    if volume.numel():
        launch = correlation_cuda.volume_launch(x1, x2, volume, max_displacement)
        kernels.launch(launch, torch.cuda.current_stream(x1.device).cuda_stream)
    return volume


def _gradients(
    grad: Tensor, x1: Tensor, x2: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor]:
    kernels = correlation_cuda.kernels_for(x1, max_displacement)
    if kernels is None:
        return gradients_plain(grad, x1, x2, max_displacement)
    gradients = _empty_gradients(grad, x1, x2, max_displacement)
    if x1.numel():
        launch = correlation_cuda.gradients_launch(grad, x1, x2, gradients, max_displacement)
        kernels.launch(launch, torch.cuda.current_stream(x1.device).cuda_stream)
    return gradients


def _empty_volume(x1: Tensor, x2: Tensor, max_displacement: int) -> Tensor:
    batch, _, height, width = x1.shape
    return x1.new_empty(batch, (2 * max_displacement + 1) ** 2, height, width)


def _empty_gradients(
    grad: Tensor, x1: Tensor, x2: Tensor, max_displacement: int
) -> tuple[Tensor, Tensor]:
    return x1.new_empty(x1.shape), x2.new_empty(x2.shape)


def _volume_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    x1, x2, ctx.max_displacement = inputs
    ctx.save_for_backward(x1, x2)


@once_differentiable  # no loss asks for a second derivative
def _volume_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    backward = torch.ops.amd_seg.correlation_backward
    return *backward(grad, *ctx.saved_tensors, ctx.max_displacement), None


def _volume_autocast(x1: Tensor, x2: Tensor, max_displacement: int) -> Tensor:
    # As torch does for dot and grid_sample: features of a convolution are half, warped ones float.
    wide = torch.promote_types(x1.dtype, x2.dtype)
    with torch.autocast(x1.device.type, enabled=False):
        return correlation(x1.to(wide), x2.to(wide), max_displacement)


# define and impl cost less of each call than torch.library.custom_op does.
_TAGS = (torch.Tag.pt2_compliant_tag,)
_VOLUME, _BACKWARD = "amd_seg::correlation", "amd_seg::correlation_backward"
_INPUTS = "Tensor x1, Tensor x2, int max_displacement"
torch.library.define(_VOLUME, f"({_INPUTS}) -> Tensor", tags=_TAGS)
torch.library.define(_BACKWARD, f"(Tensor grad, {_INPUTS}) -> (Tensor, Tensor)", tags=_TAGS)
torch.library.impl(_VOLUME, "default", _volume)
torch.library.impl(_BACKWARD, "default", _gradients)
torch.library.register_fake(_VOLUME, _empty_volume)
torch.library.register_fake(_BACKWARD, _empty_gradients)
torch.library.register_autograd(_VOLUME, _volume_backward, setup_context=_volume_context)
torch.library.impl(_VOLUME, "AutocastCPU", _volume_autocast)
torch.library.impl(_VOLUME, "AutocastCUDA", _volume_autocast)
