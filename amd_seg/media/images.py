"""Photos: read any file as upright RGB, find files, write images whole or not at all."""

import logging
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import IMAGE_SUFFIXES, find_images, write_atomically
from amd_seg.media.formats import (
    FORMATS_WITHOUT_ALPHA,
    MAX_PIXELS,
    WRITERS,
    damaged,
    open_image,
    opened,
    require_at_most,
)
from amd_seg.media.pixels import (
    TURNED,
    exif_orientation,
    require_edges,
    rgb_from_array,
    rgb_from_image,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageSource",
    "Photo",
    "find_images",
    "photo_from_array",
    "read_image",
    "read_photo_size",
    "save_image",
    "write_atomically",
    "write_image",
]

logger = logging.getLogger(__name__)

ImageSource = str | os.PathLike[str] | bytes | Image.Image

LARGE_IMAGE = 50_000_000
"""Pixels above which images are decoded one at a time, whatever the number of threads."""

MAX_RESOLUTION = 100_000.0
"""Pixels an inch above which a file's claim is no resolution, and some formats hold none."""

_large_images = threading.Lock()


@dataclass(frozen=True, eq=False)
class Photo:
    """An image as the network takes it."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB, upright: the EXIF orientation is applied."""
    icc_profile: bytes | None
    """The colour profile of `pixels`; None where the file has none, or none for RGB."""
    source: str
    """How messages name it."""
    resolution: tuple[float, float] | None = None
    """Pixels an inch to the right and down, as the file tells them; None where it does not."""


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo as upright RGB; safe to call from several threads.

    Every pixel type that Pillow reads is brought to 8-bit RGB: 16-bit values are scaled, floats
    must lie in 0..1, of an animation the first frame is taken, which is logged, and transparent
    pixels are laid over mid grey (128), on which neither a black nor a white object vanishes.

    Args:
        source: a path, the bytes of an image file, or a PIL image.
        max_pixels: an image whose header claims more is refused before it is decoded.

    Raises:
        MediaError: the file cannot be read, is damaged, too large, or under 8 pixels on an edge.
        InputError: `source` is of another type.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "PIL image", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        name = f"image of {len(source)} bytes"
        return _decode(open_image(BytesIO(source), name), name, max_pixels)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"Cannot read an image from {type(source).__name__}. "
            "Give a path, the bytes of a file, a PIL image, or an array."
        )
    path = os.fsdecode(source)
    # A name may hold line breaks or bytes that are no text: a message stays one line.
    name = path if path.isprintable() else repr(path)
    with _open_file(path, name) as file:
        return _decode(open_image(file, name), name, max_pixels)


def read_photo_size(path: Path) -> tuple[int, int]:
    """Return the height and width that a photo has upright, from its header alone.

    Raises:
        MediaError: the file cannot be opened, or is no image.
    """
    with opened(path) as image:
        width, height = image.size
        is_turned = exif_orientation(image) in TURNED
    return (width, height) if is_turned else (height, width)


def photo_from_array(array: NDArray[Any], *, source: str = "array") -> Photo:
    """Take an array as a photo; its values are copied.

    Args:
        array: (height, width) or (height, width, 1|3|4), uint8, or float in 0..1; alpha is laid
            over mid grey, as `read_image` does.
        source: how messages name it.

    Raises:
        InputError: another type, shape, dtype or range, or under 8 pixels on an edge.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"Cannot use {source}: it is a {type(array).__name__}, no numpy array.")
    try:
        return Photo(rgb_from_array(array), None, source)
    except InputError as cause:
        raise InputError(f"Cannot use {source}: {cause}") from cause


def save_image(
    image: Image.Image,
    path: Path,
    *,
    icc_profile: bytes | None = None,
    resolution: tuple[float, float] | None = None,
) -> None:
    """Write an image in the format that the path's ending names, whole or not at all.

    PNG, WebP, TIFF and BMP keep every value; JPEG and AVIF are written at quality 95.

    Args:
        image: of mode "L", "RGB" or "RGBA".
        path: ends in .png, .jpg, .jpeg, .webp, .tif, .tiff, .avif or .bmp.
        icc_profile: a profile for RGB, stored with a colour image.
        resolution: pixels an inch to the right and down, stored by PNG, JPEG, TIFF and BMP.

    Raises:
        MediaError: the ending is unknown, the format holds no alpha or no image of this size, or
            the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise MediaError(
            f"Cannot write {path}: unknown ending {path.suffix!r}. Use one of {', '.join(WRITERS)}."
        )
    format_name, _ = WRITERS[path.suffix.lower()]
    if image.mode == "RGBA" and format_name in FORMATS_WITHOUT_ALPHA:
        raise MediaError(f"Cannot write {path}: {format_name} holds no transparency. Use .png.")

    def write(stream: BinaryIO) -> None:
        write_image(image, stream, path.suffix, icc_profile=icc_profile, resolution=resolution)

    try:
        write_atomically(path, write)
    except (ValueError, RuntimeError, struct.error) as cause:  # What encoders refuse.
        raise MediaError(f"Cannot write {path}: {cause}. Use .png.") from cause


def write_image(
    image: Image.Image,
    stream: BinaryIO,
    ending: str,
    *,
    icc_profile: bytes | None = None,
    resolution: tuple[float, float] | None = None,
) -> None:
    """Write an image to a stream, in the format and with the options of a known ending.

    Errors are those of Pillow and of the stream; `save_image` documents the arguments.
    """
    format_name, options = WRITERS[ending.lower()]
    if icc_profile is not None and image.mode in ("RGB", "RGBA"):
        options = {**options, "icc_profile": icc_profile}
    if resolution is not None:
        options = {**options, "dpi": resolution}
    image.save(stream, format_name, **options)


@contextmanager
def _open_file(path: str, name: str) -> Iterator[BinaryIO]:
    """Open a regular file; every failure is one line that names it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            kind = "a folder" if os.path.isdir(path) else "no regular file"
            raise MediaError(f"Cannot read {name}: it is {kind}. Give an image file.")
        file = open(path, "rb")  # noqa: SIM115 -- closed below, its failure reported here
    except FileNotFoundError as cause:
        raise MediaError(f"Cannot read {name}: no such file. Check the name.") from cause
    except MediaError:
        raise
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the name.
        reason = getattr(cause, "strerror", None) or cause
        raise MediaError(f"Cannot read {name}: {reason}. Check the file.") from cause
    with file:
        yield file


def _decode(image: Image.Image, name: str, max_pixels: int) -> Photo:
    """Check the size that the header claims, then decode, convert and turn upright."""
    advice = "If you trust the file, raise max_pixels (--max-pixels)."
    require_at_most(max_pixels, image.size, name, advice)
    try:
        require_edges(image.height, image.width)
        if _has_more_frames(image):
            logger.info("Of %s, which has several frames, the first is taken.", name)
        # Loading turns a TIFF, and finds what a PNG tells behind its pixels.
        before = exif_orientation(image)
        _load(image, name)
        orientation = exif_orientation(image)
        pixels = rgb_from_image(image, orientation)
    except ValueError as cause:
        raise MediaError(f"Cannot read {name}: {cause}") from cause
    profile = image.info.get("icc_profile")
    # A profile for CMYK or grey does not describe the RGB values that came out.
    is_for_rgb = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    resolution = _resolution(image, is_turned=max(before, orientation) in TURNED)
    return Photo(pixels, profile if is_for_rgb else None, name, resolution)


def _load(image: Image.Image, name: str) -> None:
    """Decode the pixels in place; large images one at a time, which bounds the memory."""
    try:
        if image.width * image.height <= LARGE_IMAGE:
            image.load()
            return
        # Pillow's TIFF reader holds the size against a global limit of its own, and would warn
        # of what `max_pixels` allows.
        with _large_images:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image.load()
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except Exception as cause:  # Hostile bytes make a decoder raise errors of any kind.
        raise damaged(name, cause) from cause


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # To tell, a reader may parse what is damaged.
        return False


def _resolution(image: Image.Image, *, is_turned: bool) -> tuple[float, float] | None:
    """Return the pixels an inch of the upright photo; None where the file tells nothing of use."""
    try:
        right, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(1 <= value <= MAX_RESOLUTION for value in (right, down)):
        return None
    return (down, right) if is_turned else (right, down)
