"""Random parts of frames, mirrored, brought to one size, and with other colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Box(NamedTuple):
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


class Chances(NamedTuple):
    """What decides about the crop of a pair; each in [0, 1)."""

    zoom: float
    top: float
    left: float
    flip: float


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Which part of a pair is seen, at which size.

    Both frames of a pair have the same box, as in the released code.

    Attributes:
        size: (height, width) of what the network sees, in pixels.
        scale: least and largest side of the box, as a share of the largest box of this aspect
            in the frame; (0.96, 1.0) is the published crop of 384 from a short edge of 384..400.
        flip: mirror half of the pairs left to right.
    """

    size: tuple[int, int] = (384, 384)
    scale: tuple[float, float] = (0.96, 1.0)
    flip: bool = False

    def box(self, chances: Chances, height: int, width: int) -> Box:
        """Return the drawn part of a frame of the given size."""
        low, high = self.scale
        scale = 1 / (1 / high + chances.zoom * (1 / low - 1 / high))
        factor = scale * min(height / self.size[0], width / self.size[1])
        box_height = min(height, max(1, round(self.size[0] * factor)))
        box_width = min(width, max(1, round(self.size[1] * factor)))
        top = int(chances.top * (height - box_height + 1))
        left = int(chances.left * (width - box_width + 1))
        return Box(top, left, box_height, box_width, self.flip and chances.flip < 0.5)

    def __call__(self, pairs: Sequence[Tensor], chances: Sequence[Chances]) -> Tensor:
        """Return the drawn part of each pair at `size`, antialiased, mirrored where that is drawn.

        Args:
            pairs: each (2, 3, height, width), uint8, on one device.
            chances: of each pair.

        Returns:
            (pair, 2, 3, *size), uint8.
        """
        boxes = [self.box(own, *pair.shape[-2:]) for pair, own in zip(pairs, chances, strict=True)]
        parts = [box.part_of(pair) for pair, box in zip(pairs, boxes, strict=True)]
        return resize_parts(parts, self.size, [box.is_mirrored for box in boxes])


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
    top, left = round((size[0] - height) * y), round((size[1] - width) * x)
    return Box(top, left, height, width, flip and mirror < 0.5)


def resize_parts(
    parts: Sequence[Tensor], size: tuple[int, int], mirrored: Sequence[bool]
) -> Tensor:
    """Resize parts of frames, bilinearly and antialiased, and mirror some left to right.

    Args:
        parts: each (frame, channel, height, width), uint8, of any height and width, on one device.
        size: height and width, in pixels, of the result.
        mirrored: which of them are mirrored.

    Returns:
        (part, frame, channel, *size), uint8.
    """
    # Only the CPU has a kernel for bytes: 20 times as fast there as the matrix products.
    if parts[0].device.type == "cpu":
        return resize_each(parts, size, mirrored)
    return resize_together(parts, size, mirrored)


def resize_each(parts: Sequence[Tensor], size: tuple[int, int], mirrored: Sequence[bool]) -> Tensor:
    """Do what `resize_parts` says by one call a part, on the CPU."""
    resized = parts[0].new_empty(len(parts), *parts[0].shape[:2], *size)
    for place, part, is_mirrored in zip(resized, parts, mirrored, strict=True):
        frames = part
        if frames.shape[-2:] != size:
            frames = F.interpolate(frames.contiguous(), size, mode="bilinear", antialias=True)
        place.copy_(frames.flip(-1) if is_mirrored else frames)
    return resized


def resize_together(
    parts: Sequence[Tensor], size: tuple[int, int], mirrored: Sequence[bool]
) -> Tensor:
    """Do what `resize_parts` says by two matrix products for all, on any device.

    Each part has a matrix for its rows and one for its columns. Values are within one of
    `resize_each`'s, which rounds between the two directions.
    """
    device = parts[0].device
    heights, widths = ([part.shape[axis] for part in parts] for axis in (-2, -1))
    canvas = parts[0].new_zeros(len(parts), *parts[0].shape[:2], max(heights), max(widths))
    for place, part, height, width in zip(canvas, parts, heights, widths, strict=True):
        place[..., :height, :width].copy_(part)
    down, across = _weights(heights, size[0], device), _weights(widths, size[1], device)
    turned = torch.tensor(mirrored, device=device).view(-1, 1, 1)
    across = torch.where(turned, across.flip(1), across)
    with torch.autocast(device.type, enabled=False):
        rows = down[:, None, None] @ canvas.float()  # (part, frame, channel, height', width)
        resized = rows @ across.mT[:, None, None]
    return resized.round_().clamp_(0, 255).byte()


def _weights(lengths: Sequence[int], target: int, device: torch.device) -> Tensor:
    """Return the share of each source pixel in each target pixel, (part, target, longest).

    A triangle over the target pixel's place, one target or source pixel to each side.
    """
    ends = torch.tensor(lengths, device=device).view(-1, 1, 1)
    scale = ends / target
    centres = (torch.arange(target, device=device).view(-1, 1) + 0.5) * scale
    pixels = torch.arange(max(lengths), device=device) + 0.5
    weights = (1 - (pixels - centres).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * (pixels < ends)
    return weights / weights.sum(dim=-1, keepdim=True)


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
