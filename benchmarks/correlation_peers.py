"""How others compute the cost volume, as operators that `benchmarks/correlation.py` times."""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from amd_seg.model.correlation_cuda import KERNELS, Launch, Module, load

WARP_PER_PIXEL = Path(__file__).with_name("warp_per_pixel.cu")
REACH = 4
SIDE = 2 * REACH + 1


def naive_loop(x1: Tensor, x2: Tensor) -> Tensor:
    height, width = x1.shape[2:]
    padded = functional.pad(x2, (REACH,) * 4)
    return torch.stack(
        [
            (x1 * padded[:, :, y : y + height, x : x + width]).mean(1)
            for y in range(SIDE)
            for x in range(SIDE)
        ],
        1,
    )


def unfolded(x1: Tensor, x2: Tensor) -> Tensor:
    batch, channels, height, width = x1.shape
    windows = functional.unfold(x2, SIDE, padding=REACH)
    windows = windows.view(batch, channels, SIDE * SIDE, height, width)
    return torch.einsum("bchw,bckhw->bkhw", x1, windows) / channels


def strided_matmul(x1: Tensor, x2: Tensor) -> Tensor:
    """What a grouped convolution with x1 as its filters computes: (1 x C)(C x 81) a pixel."""
    batch, channels, height, width = x1.shape
    windows = functional.pad(x2, (REACH,) * 4).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    windows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, SIDE * SIDE)
    left = x1.permute(0, 2, 3, 1).reshape(-1, 1, channels)
    volume = torch.bmm(left, windows).view(batch, height, width, SIDE * SIDE)
    return volume.permute(0, 3, 1, 2) / channels


def correlation_sampler(x1: Tensor, x2: Tensor) -> Tensor:
    """The package spatial-correlation-sampler, which must be installed: it sums over channels."""
    from spatial_correlation_sampler import spatial_correlation_sample

    volume = spatial_correlation_sample(x1, x2, kernel_size=1, patch_size=SIDE)
    return volume.flatten(1, 2) / x1.shape[1]


class _Arguments(ctypes.Structure):
    """As `struct Arguments` of warp_per_pixel.cu."""

    _fields_ = (
        ("padded", ctypes.c_void_p * 2),
        ("grad", ctypes.c_void_p),
        ("volume", ctypes.c_void_p),
        ("gradients", ctypes.c_void_p * 2),
        ("channels", ctypes.c_int),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("batch", ctypes.c_int),
    )


def warp_arguments(
    padded: tuple[Tensor, ...], grad: Tensor | None, outputs: tuple[Tensor, ...]
) -> _Arguments:
    """Return the argument of either kernel; `outputs` are the volume, or both gradients."""
    batch, tall, wide, channels = padded[0].shape
    arguments = _Arguments(
        channels=channels, height=tall - 2 * REACH, width=wide - 2 * REACH, batch=batch
    )
    arguments.padded[:] = [x.data_ptr() for x in padded]
    if grad is None:
        arguments.volume = outputs[0].data_ptr()
    else:
        arguments.grad = grad.data_ptr()
        arguments.gradients[:] = [x.data_ptr() for x in outputs]
    return arguments


def with_border(x: Tensor) -> Tensor:
    """Copy (batch, channel, height, width) to channels-last with REACH zeros around."""
    return functional.pad(x.permute(0, 2, 3, 1), (0, 0, *(REACH,) * 4)).contiguous()


class WarpPerPixel(torch.autograd.Function):
    """The algorithm of the flownet2-style kernels, float32 on a CUDA device."""

    @staticmethod
    def forward(ctx, x1: Tensor, x2: Tensor) -> Tensor:  # noqa: D102 -- torch's own protocol
        ctx.save_for_backward(x1, x2)
        batch, _, height, width = x1.shape
        volume = x1.new_empty(batch, SIDE * SIDE, height, width)
        padded = with_border(x1), with_border(x2)
        arguments = warp_arguments(padded, None, (volume,))
        _launch(KERNELS[0], (width, height, batch), arguments, x1.device)
        return volume

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: D102 -- torch's own protocol
        x1, x2 = ctx.saved_tensors
        batch, channels, height, width = x1.shape
        gradients = torch.empty_like(x1), torch.empty_like(x2)
        # The features are copied anew, as the public kernels do.
        padded, grad = (with_border(x1), with_border(x2)), grad.contiguous()
        arguments = warp_arguments(padded, grad, gradients)
        _launch(KERNELS[1], (width, height, 2 * batch * channels), arguments, x1.device)
        return gradients


def _launch(
    kernel: str, grid: tuple[int, int, int], arguments: _Arguments, device: torch.device
) -> None:
    stream = torch.cuda.current_stream(device).cuda_stream
    _module(device.index).launch(Launch(kernel, grid, 32, arguments), stream)


@functools.cache
def _module(index: int) -> Module:
    return load(WARP_PER_PIXEL, {"REACH": REACH}, KERNELS, index)
