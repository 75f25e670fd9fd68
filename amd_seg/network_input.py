"""From whatever a user calls an image to the frame that the network sees."""

import os
from collections.abc import Iterable, Iterator
from math import floor
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.images import Photo, photo_from_array, read_image
from amd_seg.resampling import resize_pixels

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic] | Tensor | Photo
)
SINGLE_IMAGES = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, Tensor, Photo)

LONGEST_ASPECT = 4
"""The long edge, in short edges, that the network sees at most: its cost stays bounded."""


PIXELS_HELD = 64_000_000
"""Pixels of photos that one batch, or the photos read ahead, may hold: 192 MB."""


class NetworkInput(NamedTuple):
    """A photo, and what the network sees of it."""

    photo: Photo
    frame: Tensor
    """(3, h, w), RGB, uint8, at the `network_size` of the size asked for."""


Prepared: TypeAlias = NetworkInput | AmdSegError


def prepare(image: ImageLike, size: int, max_pixels: int) -> NetworkInput:
    """Read one image and resize it for the network, antialiased where it is reduced.

    The released code resizes without antialiasing: the same where a photo is enlarged, but a
    reduced one gets patterns that are not in the scene.

    Args:
        image: what `Segmenter` takes as one image.
        size: the short edge, in pixels, that the network sees.
        max_pixels: a file that claims more is refused before it is decoded.

    Raises:
        InputError: an array or a tensor cannot be an image.
        MediaError: a file cannot be read.
    """
    photo = _read(image, max_pixels)
    return NetworkInput(photo, resize_for_network(photo.pixels, size))


def batches(items: Iterable[Prepared], batch_size: int) -> Iterator[list[Prepared]]:
    """Yield lists of up to `batch_size` items; large photos fill a batch sooner."""
    batch: list[Prepared] = []
    held = 0
    for item in items:
        batch.append(item)
        held += pixel_count(item)
        if len(batch) == batch_size or held >= PIXELS_HELD:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def pixel_count(item: Prepared) -> int:
    """Return the pixels of an item's photo; 1 for an error."""
    return item.photo.pixels.size // 3 if isinstance(item, NetworkInput) else 1


def resize_for_network(pixels: NDArray[np.uint8], size: int) -> Tensor:
    """Return pixels (height, width, 3) as the frame (3, h, w), uint8, that the network sees."""
    return resize_pixels(pixels, network_size(pixels.shape[0], pixels.shape[1], size))


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
