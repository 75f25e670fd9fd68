"""Random crops, mirrors and colours, drawn from one generator so that a seed repeats a run."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ASPECT_JITTER = 0.25
"""Largest change of a crop's aspect, as a factor beside 1."""
GREY_SHARE = 0.1
"""Share of the frames that lose their colours."""
BLURRED_SHARE = 0.5
"""Share of the frames that `blur` changes."""
BLUR_SIGMAS = (0.1, 2.0)
"""Range of its Gaussians, in pixels: MoCo v2's."""


@dataclass(frozen=True)
class Box:
    """A part of a frame, in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    is_mirrored: bool

    def part_of(self, images: Tensor) -> Tensor:
        """Return this part of images (..., height, width), without a copy, not mirrored."""
        rows = slice(self.top, self.top + self.height)
        return images[..., rows, self.left : self.left + self.width]


def random_box(
    size: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    generator: torch.Generator,
    *,
    flip: bool = True,
) -> Box:
    """Draw a part of a frame of random size and place, with about the crop's aspect.

    Args:
        size: height and width of the frame.
        crop: height and width of what is made of it: gives the aspect.
        scale: range of its side, as a share of the largest such box.
        generator: where the numbers come from.
        flip: mirror half of the parts.
    """
    zoom, jitter, x, y, mirror = torch.rand(5, generator=generator).tolist()
    aspect = crop[1] / crop[0] * (1 + ASPECT_JITTER) ** (2 * jitter - 1)
    largest = min(size[0], size[1] / aspect)
    side = largest * (scale[0] + (scale[1] - scale[0]) * zoom)
    height = max(8, min(size[0], round(side)))
    width = max(8, min(size[1], round(side * aspect)))
    return Box(
        top=round((size[0] - height) * y),
        left=round((size[1] - width) * x),
        height=height,
        width=width,
        is_mirrored=flip and mirror < 0.5,
    )


def jitter_colours(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation and tint of each frame; some become grey.

    Args:
        frames: (batch, 3, height, width), float, 0..255.
        generator: where the numbers come from.

    Returns:
        The same shape, clipped to 0..255.
    """
    batch = frames.shape[0]
    draws = torch.rand(batch, 7, generator=generator).to(frames.device)
    brightness, contrast = (0.6 + 0.8 * draws[:, i].view(-1, 1, 1, 1) for i in (0, 1))
    saturation = 0.4 + 1.2 * draws[:, 2].view(-1, 1, 1, 1)
    saturation = torch.where(draws[:, 3].view(-1, 1, 1, 1) < GREY_SHARE, 0.0, saturation)
    tint = 0.85 + 0.3 * draws[:, 4:7].view(batch, 3, 1, 1)
    mean = frames.mean(dim=(1, 2, 3), keepdim=True)
    frames = (frames - mean) * contrast + mean * brightness
    grey = frames.mean(dim=1, keepdim=True)
    return ((frames - grey) * saturation + grey).mul(tint).clamp(0, 255)


def blur(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some of the frames by a Gaussian of random width.

    Args:
        frames: (batch, 3, height, width), float, of 7 pixels or more on each side.
        generator: where the numbers come from.
    """
    batch, channels = frames.shape[:2]
    draws = torch.rand(batch, 2, generator=generator).to(frames.device)
    sigmas = BLUR_SIGMAS[0] + (BLUR_SIGMAS[1] - BLUR_SIGMAS[0]) * draws[:, 1:]
    reach = math.ceil(3 * BLUR_SIGMAS[1])
    places = torch.arange(-reach, reach + 1, device=frames.device)
    kernels = torch.exp(-(places**2) / (2 * sigmas**2))  # (batch, tap)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = F.pad(frames, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = F.conv2d(planes, kernels[:, None, :, None], groups=len(kernels))
    both = F.conv2d(rows, kernels[:, None, None, :], groups=len(kernels))
    is_blurred = draws[:, 0].view(-1, 1, 1, 1) < BLURRED_SHARE
    return torch.where(is_blurred, both.view_as(frames), frames)
