"""From whatever a user calls an image to the frame that the network sees."""

import os
from math import floor
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from amd_seg.errors import InputError
from amd_seg.media.images import Photo, photo_from_array, read_image

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic] | Tensor | Photo
)
SINGLE_IMAGES = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, Tensor, Photo)

LONGEST_ASPECT = 4
"""The long edge, in short edges, that the network sees at most: its cost stays bounded."""


class NetworkInput(NamedTuple):
    """A photo, and what the network sees of it."""

    photo: Photo
    frame: Tensor
    """(3, h, w), RGB, uint8, at the size of `network_size`."""


def prepare(image: ImageLike, size: int, max_pixels: int) -> NetworkInput:
    """Read one image and resize it for the network, antialiased where it is reduced.

    The released code resizes without antialiasing: the same where a photo is enlarged, but a
    reduced one gets patterns that are not in the scene.

    Args:
        image: what `Segmenter` takes as one image.
        size: short edge, in pixels, that the network sees.
        max_pixels: a file that claims more is refused before it is decoded.

    Raises:
        InputError: an array or a tensor cannot be an image.
        MediaError: a file cannot be read.
    """
    photo = _read(image, max_pixels)
    frame = resize_for_network(photo.pixels, size)
    return NetworkInput(photo, frame)


def resize_for_network(pixels: NDArray[np.uint8], size: int) -> Tensor:
    """Return pixels (height, width, 3) as the frame (3, h, w), uint8, that the network sees."""
    # torch warns of memory that numpy may not write to.
    writeable = pixels if pixels.flags.writeable else pixels.copy()
    whole = torch.from_numpy(writeable).permute(2, 0, 1)[None]
    target = network_size(pixels.shape[0], pixels.shape[1], size)
    return interpolate(whole, target, mode="bilinear", align_corners=False, antialias=True)[0]


def network_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width, in pixels, at which the network sees a photo.

    The short edge becomes `size` and the aspect is kept, rounded as published, floor(x f + 0.5).
    The long edge is at most 4 `size`, however long the photo; then the short edge gets smaller,
    down to a quarter of `size`, where a photo beyond 1:16 is squeezed.
    """
    factor = min(size / min(height, width), LONGEST_ASPECT * size / max(height, width))
    least = size // LONGEST_ASPECT
    return max(floor(height * factor + 0.5), least), max(floor(width * factor + 0.5), least)


def _read(image: ImageLike, max_pixels: int) -> Photo:
    if isinstance(image, Photo):
        return image
    if isinstance(image, Tensor):
        return _photo_from_tensor(image)
    if isinstance(image, np.ndarray):
        return photo_from_array(image)
    return read_image(image, max_pixels=max_pixels)


def _photo_from_tensor(image: Tensor) -> Photo:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise InputError(
            f"Cannot use a tensor of shape {tuple(image.shape)} as an image. Give (3, height, "
            "width), uint8 or float in 0..1; a batch as a list of such tensors."
        )
    values = image.detach().cpu()
    # numpy knows no bfloat16.
    values = values.float() if values.is_floating_point() else values
    return photo_from_array(values.permute(1, 2, 0).numpy(), source="tensor")
