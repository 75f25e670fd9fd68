"""Random parts of frames, mirrored, brought to one size, and with other colours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_seg.training.config import RunConfig

ASPECT_JITTER = 0.25  # largest change of a crop's aspect, as a factor beside 1
GREY_SHARE = 0.1  # of the frames that lose their colours
BLURRED_SHARE = 0.5  # of the frames that `blur` changes
BLUR_SIGMAS = (0.1, 2.0)  # range of its Gaussians, in pixels: MoCo v2's


class Box(NamedTuple):
    """A part of a frame, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    is_mirrored: bool

    def cut(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Return this part of bytes (image, channel, height, width) at a size, antialiased."""
        rows = slice(self.top, self.top + self.height)
        part = images[..., rows, self.left : self.left + self.width]
        if part.shape[-2:] != size:
            # The CPU has a kernel for bytes, CUDA one for floats; others have none.
            is_cuda = part.device.type == "cuda"
            source = part.float() if is_cuda else part.cpu().contiguous()
            part = F.interpolate(source, size, mode="bilinear", antialias=True)
            if is_cuda:
                part = part.round().clamp(0, 255).byte()
            part = part.to(images.device)
        return part.flip(-1) if self.is_mirrored else part


def pair_box(size: Sequence[int], chances: Sequence[float], config: RunConfig) -> Box:
    """Return the part of a frame (height, width) that both of a pair show, as the published code.

    `chances` are numbers in [0, 1): zoom, top, left, mirroring.
    """
    (height, width), (low, high), (zoom, down, right, mirror) = size, config.scale, chances
    scale = 1 / (1 / high + zoom * (1 / low - 1 / high))
    factor = scale * min(height / config.crop[0], width / config.crop[1])
    rows = min(height, max(1, round(config.crop[0] * factor)))
    columns = min(width, max(1, round(config.crop[1] * factor)))
    top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
    return Box(top, left, rows, columns, config.flip and mirror < 0.5)


def crop_pairs(
    pairs: Sequence[Tensor], chances: Sequence[Sequence[float]], config: RunConfig
) -> Tensor:
    """Return the drawn parts, (pair, 2, 3, *crop), of pairs (2, 3, height, width), uint8."""
    drawn = zip(pairs, chances, strict=True)
    return torch.stack([pair_box(p.shape[-2:], c, config).cut(p, config.crop) for p, c in drawn])


def random_box(size: Sequence[int], config: RunConfig, generator: torch.Generator) -> Box:
    """Draw a part of a frame (height, width), with about the aspect of the crop."""
    zoom, jitter, x, y, mirror = torch.rand(5, generator=generator).tolist()
    (low, high), crop = config.scale, config.crop
    aspect = crop[1] / crop[0] * (1 + ASPECT_JITTER) ** (2 * jitter - 1)
    side = min(size[0], size[1] / aspect) * (low + (high - low) * zoom)
    height = max(8, min(size[0], round(side)))
    width = max(8, min(size[1], round(side * aspect)))
    top, left = round((size[0] - height) * y), round((size[1] - width) * x)
    return Box(top, left, height, width, config.flip and mirror < 0.5)


def jitter_colours(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and tint of each frame; some become grey.

    Frames are (batch, 3, height, width), float, 0..255; the result is clipped to that.
    """
    draws = torch.rand(len(frames), 7, generator=generator).to(frames.device)
    brightness, contrast, saturation, grey_chance, *tint = draws[..., None, None, None].unbind(1)
    saturation = torch.where(grey_chance < GREY_SHARE, 0.0, 0.4 + 1.2 * saturation)
    mean = frames.mean(dim=(1, 2, 3), keepdim=True)
    frames = (frames - mean) * (0.6 + 0.8 * contrast) + mean * (0.6 + 0.8 * brightness)
    grey = frames.mean(dim=1, keepdim=True)
    tints = 0.85 + 0.3 * torch.cat(tint, dim=1)
    return ((frames - grey) * saturation + grey).mul(tints).clamp(0, 255)


def blur(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some of the frames (batch, 3, height, width), float, by a Gaussian of random width."""
    draws = torch.rand(len(frames), 2, generator=generator).to(frames.device)
    sigmas = BLUR_SIGMAS[0] + (BLUR_SIGMAS[1] - BLUR_SIGMAS[0]) * draws[:, 1:]
    reach = math.ceil(3 * BLUR_SIGMAS[1])
    places = torch.arange(-reach, reach + 1, device=frames.device)
    kernels = torch.exp(-(places**2) / (2 * sigmas**2))  # (batch, tap)
    kernels /= kernels.sum(dim=1, keepdim=True)
    kernels = kernels.repeat_interleave(frames.shape[1], dim=0)
    planes = F.pad(frames, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    both = F.conv2d(rows, kernels[:, None, None, :], groups=len(kernels))
    is_blurred = draws[:, 0].view(-1, 1, 1, 1) < BLURRED_SHARE
    return torch.where(is_blurred, both.view_as(frames), frames)
