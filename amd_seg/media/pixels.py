"""Any pixel type in, RGB uint8 out: depths scaled, alpha composited, orientation applied."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from amd_seg.errors import InputError

Pixels = NDArray[np.uint8]
Values = NDArray[Any]

BACKDROP = 128
"""Grey that shows through transparent pixels: near the middle, so that neither a black nor a
white object vanishes on it, and near the mean colour that the network subtracts, so that an
empty area reads as nothing much."""

MIN_EDGE = 8
"""Shortest edge, in pixels, of a photo: below it there is nothing to segment."""

BLOCK_PIXELS = 1 << 22
"""Pixels worked on at a time: what a 100-megapixel photo needs on top of itself stays small."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations of files whose rows are the columns of the upright photo."""

# From an upright array to a view of it in the order of the file, by EXIF orientation.
_FILE_ORDER: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows, of about `BLOCK_PIXELS` pixels each, that cover the image once."""
    step = max(1, BLOCK_PIXELS // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def require_edges(height: int, width: int) -> None:
    """Raise InputError for an image that is under `MIN_EDGE` pixels high or wide."""
    if min(height, width) < MIN_EDGE:
        raise InputError(
            f"it is {width}x{height} pixels. Give an image of at least {MIN_EDGE}x{MIN_EDGE}."
        )


def exif_orientation(image: Image.Image) -> int:
    """Return the orientation that is left to apply: decoding turns a TIFF upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged metadata is no reason to refuse a photo.
        return 1
    return value if isinstance(value, int) else 1


def rgb_from_image(image: Image.Image, orientation: int = 1) -> Pixels:
    """Return a decoded image of any Pillow mode as RGB, turned upright.

    16-bit values are scaled to 8 bits, never clipped; CMYK is converted without its ink profile;
    alpha is composited on `BACKDROP`.

    Args:
        image: decoded already.
        orientation: EXIF orientation, 1 to 8; any other value counts as 1.

    Returns:
        (height, width, 3), uint8.

    Raises:
        InputError: 32-bit values are outside 0..65535, or floats outside 0..1.
        ValueError: Pillow cannot convert the mode.
    """
    stored = _stored_grey(image)
    width, height = image.size
    pixels = np.empty((width, height, 3) if orientation in TURNED else (height, width, 3), np.uint8)
    in_file_order = _FILE_ORDER.get(orientation, np.asarray)(pixels)
    for rows in row_blocks(height, width):
        in_file_order[rows] = _rgb_block(image.crop((0, rows.start, width, rows.stop)), stored)
    return pixels


def rgb_from_array(array: Values) -> Pixels:
    """Return an array of grey, RGB or RGBA values as a new RGB array.

    Args:
        array: (height, width) or (height, width, 1|3|4), uint8, or float in 0..1.

    Returns:
        (height, width, 3), uint8; alpha composited on `BACKDROP`.

    Raises:
        InputError: another shape, dtype or range, or an edge under 8 pixels.
    """
    _require_layout(array)
    values = array[..., np.newaxis] if array.ndim == 2 else array
    height, width, channels = values.shape
    require_edges(height, width)
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in row_blocks(height, width):
        block = values[rows]
        if block.dtype != np.uint8:
            block = _bytes_from_unit(block)
        # One grey channel is broadcast into three.
        pixels[rows] = _composite(Image.fromarray(block)) if channels == 4 else block
    return pixels


class _StoredGrey(NamedTuple):
    """What a file's grey values of more than 8 bits mean."""

    highest: int
    is_negative: bool
    """The highest is black."""


def _stored_grey(image: Image.Image) -> _StoredGrey:
    """Read off a TIFF what Pillow does not apply to such values; others need nothing."""
    tags = getattr(image, "tag_v2", {})
    has_12_bits = tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,)
    is_negative = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return _StoredGrey(4095 if has_12_bits else 65535, is_negative)


def _rgb_block(block: Image.Image, stored: _StoredGrey) -> Pixels:
    """Convert some rows of an image; what Pillow would clip is scaled here."""
    if block.mode == "F":
        return _from_grey(_bytes_from_unit(np.asarray(block)), stored)
    if block.mode == "I" or block.mode.startswith("I;16"):
        return _from_16_bits(np.asarray(block), block.info.get("transparency"), stored)
    if block.has_transparency_data:
        return _composite(block.convert("RGBA"))
    return np.asarray(block.convert("RGB"))


def _composite(rgba: Image.Image) -> Pixels:
    ground = Image.new("RGB", rgba.size, (BACKDROP, BACKDROP, BACKDROP))
    ground.paste(rgba, mask=rgba)
    return np.asarray(ground)


def _from_16_bits(values: Values, transparent: int | None, stored: _StoredGrey) -> Pixels:
    """Scale to 0..255; `transparent` is the one value that a PNG declares to be clear."""
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise InputError(
            f"its 32-bit values run from {low} to {high}, outside 0..65535. "
            "Scale them to 8 or 16 bits first."
        )
    highest = stored.highest
    grey = ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
    if transparent is not None:
        grey[values == transparent] = BACKDROP
    return _from_grey(grey, stored)


def _bytes_from_unit(values: Values) -> Pixels:
    """Scale floats in 0..1 to 0..255, rounded."""
    low, high = values.min(), values.max()
    # Written so that a NaN, which is no number, fails it too.
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"its float values run from {low:g} to {high:g}, outside 0..1. "
            "Scale them to 0..1 first."
        )
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _from_grey(grey: Pixels, stored: _StoredGrey) -> Pixels:
    if stored.is_negative:
        grey = 255 - grey
    return np.broadcast_to(grey[..., np.newaxis], (*grey.shape, 3))


def _require_layout(array: Values) -> None:
    is_grey = array.ndim == 2
    has_channels = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    has_values = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    if (is_grey or has_channels) and has_values:
        return
    is_channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and not has_channels
    hint = " Its channels come first: give array.transpose(1, 2, 0)." if is_channels_first else ""
    raise InputError(
        f"its shape is {array.shape} and its dtype {array.dtype}. Give (height, width) or "
        f"(height, width, 1|3|4), as uint8 or as float in 0..1.{hint}"
    )
