"""Photos: any image file in, upright RGB of 8 bits out; pictures written whole or not at all."""

import logging
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.QoiImagePlugin import QoiImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from amd_seg.choices import MAX_PIXELS
from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import write_atomically

logger = logging.getLogger(__name__)

Pixels: TypeAlias = NDArray[np.uint8]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | memoryview | BinaryIO | Image.Image

MAX_FRAME_PIXELS = 36_000_000
"""Pixels of the largest frame of a clip, just above 8192x4320: a decoder holds several of them."""

LARGE_IMAGE = 50_000_000
"""Pixels above which images are decoded one at a time, whatever the number of threads."""

BLOCK_PIXELS = 1 << 22
"""Pixels worked on at a time: what a 100-megapixel photo needs on top of itself stays small."""

MIN_EDGE = 8
"""Shortest edge, in pixels, of a photo: below it there is nothing to segment."""

BACKDROP = 128
"""Grey that shows through clear pixels of photos, animations and clips. Neither a black nor a white
object vanishes on it, and it is near the mean colour that the network subtracts."""

MAX_RESOLUTION = 100_000.0
"""Pixels an inch above which a file's claim is no resolution, and some formats hold none."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations of files whose rows are the columns of the upright photo."""

_large_images = threading.Lock()


@dataclass(frozen=True, eq=False)
class Photo:
    """An image as the network takes it."""

    pixels: Pixels
    """(height, width, 3), RGB, upright: the EXIF orientation is applied."""
    icc_profile: bytes | None
    """The colour profile of `pixels`; None where the file has none, or none for RGB."""
    source: str
    """How messages name it."""
    resolution: tuple[float, float] | None = None
    """Pixels an inch to the right and down, as the file tells them; None where it does not."""


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo as upright RGB; safe to call from several threads.

    Every pixel type that Pillow reads becomes 8-bit RGB. 16-bit values are scaled, floats must lie
    in 0..1, and transparent pixels are laid over mid grey (128). HDR of AVIF, HEIC and PNG files is
    tone-mapped to BT.709. Of an animation the first frame is taken. The last two are logged.

    Args:
        source: a path, the bytes of an image file, a file open in binary mode, or a PIL image.
        max_pixels: an image whose header claims more is refused before it is decoded.

    Raises:
        MediaError: the file cannot be read, is damaged, too large, or under 8 pixels on an edge.
        InputError: `source` is of another type.
    """
    advice = "If you trust the file, raise max_pixels (--max-pixels)."
    if isinstance(source, str | os.PathLike):
        with opened(source, max_pixels=max_pixels, advice=advice) as image:
            return _decode(image, _printable(source))
    if isinstance(source, Image.Image):
        require_at_most(max_pixels, source.size, "PIL image", advice)
        return _decode(source, "PIL image")
    data = _bytes_of(source)
    name = f"image of {len(data)} bytes"
    image = open_image(BytesIO(data), name)
    require_at_most(max_pixels, image.size, name, advice)
    return _decode(image, name)


def read_photo_size(path: Path) -> tuple[int, int]:
    """Return the height and width that a photo has upright, from its header alone.

    Raises:
        MediaError: the file cannot be opened, or is no image.
    """
    with opened(path) as image:
        width, height = upright_size(image)
    return height, width


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
        return Photo(_rgb_from_array(array), None, source)
    except InputError as cause:
        raise InputError(f"Cannot use {source}: {cause}") from cause


def _bytes_of(source: Any) -> bytes:
    if hasattr(source, "read"):
        if hasattr(source, "seek"):
            source.seek(0)
        source = source.read()
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    raise InputError(
        f"Cannot read an image from {type(source).__name__}. Give a path, the bytes of a file, a "
        "file open in binary mode, a PIL image, or an array."
    )


def _decode(image: Image.Image, name: str) -> Photo:
    try:
        _require_edges(image.height, image.width)
        if _has_more_frames(image):
            logger.info("Of %s, which has several frames, the first is taken.", name)
        # Decoding turns a TIFF, and finds what a PNG tells behind its pixels.
        before = exif_orientation(image) if isinstance(image, TiffImageFile) else 1
        pixels = decode_upright(image, name)
    except InputError as cause:
        raise MediaError(f"Cannot read {name}: {cause}") from cause
    profile = image.info.get("icc_profile")
    # A profile for CMYK or grey does not describe the RGB values that came out.
    is_for_rgb = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    # Nor does one for HDR describe what was tone-mapped.
    if "hdr" in image.info:
        logger.info("%s is HDR (%s): it is tone-mapped to BT.709.", name, image.info["hdr"][0])
        is_for_rgb = False
    is_turned = max(before, exif_orientation(image)) in TURNED
    return Photo(pixels, profile if is_for_rgb else None, name, _resolution(image, is_turned))


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # To tell, a reader may parse what is damaged.
        return False


def _resolution(image: Image.Image, is_turned: bool) -> tuple[float, float] | None:
    """Return the pixels an inch of the upright photo; None where the file tells nothing of use."""
    try:
        right, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(1 <= value <= MAX_RESOLUTION for value in (right, down)):
        return None
    return (down, right) if is_turned else (right, down)


# Files in

# What begins a file, and its reader. Pillow's other readers start programs (EPS), know no signature
# (TGA), or hold images whose size the header does not tell (ICO).
_READERS: dict[str, tuple[bytes, type[ImageFile] | None]] = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "JPEG": (rb"\xff\xd8\xff", JpegImageFile),
    "WEBP": (rb"RIFF....WEBP", WebPImageFile),
    "TIFF": (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", TiffImageFile),
    "AVIF": (rb"....ftyp(avi[fs]|mif1|msf1)", AvifImageFile),
    "HEIC": (rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", None),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "JPEG2000": (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImageFile),
    "PPM": (rb"P[1-6f]\s", PpmImageFile),
    "QOI": (rb"qoif", QoiImageFile),
}

# Where a file tells its primaries and its transfer function, and how far from its beginning.
_NCLX = rb"colrnclx(..)(..)"
_COLOURS = {"AVIF": _NCLX, "HEIC": _NCLX, "PNG": rb"\0\0\0\x04cICP(.)(.)"}
_HEAD_BYTES = 1 << 16


def open_image(stream: BinaryIO, name: str) -> ImageFile:
    """Read the header of an image; its pixels are not decoded yet.

    `PIL.Image.open` is passed by. Its size limit is a global that warns, and of a camera's MPO
    file, of which only the first picture is wanted, it parses the often malformed index.

    Args:
        stream: the file from its first byte, seekable.
        name: how messages call it.

    Raises:
        MediaError: empty, of no known format, or its header is damaged.
    """
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise MediaError(f"Cannot read {name}: it is empty. Copy or download it again.")
    formats = [key for key, (begin, _) in _READERS.items() if re.match(begin, head, re.S)]
    if not formats:
        known = ", ".join(_READERS)
        raise MediaError(f"Cannot read {name}: it is no image of a known format ({known}).")
    failure: Exception | None = None
    for key in formats:
        stream.seek(0)
        reader = _READERS[key][1] or _heic_reader(name)
        try:
            image = reader(stream)
            hdr = _hdr_of(head, key, image)
            if hdr is not None:
                image.info["hdr"] = hdr
            return image
        except Exception as cause:  # Hostile bytes make a reader raise errors of any kind.
            failure = cause
    raise damaged(name, failure) from failure


def _hdr_of(head: bytes, key: str, image: Image.Image) -> tuple[str, bool] | None:
    """Return whether an image is "PQ" or "HLG", and whether its primaries are BT.2020's.

    Source: ISO/IEC 14496-12, 12.1.5 (nclx), and PNG, third edition, 11.3.2.6 (cICP).
    """
    found = re.search(_COLOURS[key], head, re.S) if key in _COLOURS else None
    # "tmap" tells how a picture that is no HDR itself would become HDR, by colours of its own.
    if found is None or (key != "PNG" and ("icc_profile" in image.info or b"tmap" in head)):
        return None
    primaries, transfer = (int.from_bytes(value) for value in found.groups())
    return (HDR[transfer], primaries == BT2020) if transfer in HDR else None


def _heic_reader(name: str) -> type[ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as cause:
        raise MediaError(
            f'Cannot read {name}: HEIC needs pillow-heif. Run: pip install "amd-seg[heic]"'
        ) from cause
    reader: type[ImageFile] = HeifImageFile
    return reader


@contextmanager
def opened(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    advice: str = "Make it smaller first.",
) -> Iterator[ImageFile]:
    """Open an image file whose header is read, its pixels not yet; it is closed at the end.

    Raises:
        MediaError: it cannot be opened, claims more than `max_pixels`, or `open_image` refuses it.
    """
    name = _printable(path)
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
        image = open_image(file, name)
        require_at_most(max_pixels, image.size, name, advice)
        yield image


def _printable(path: str | os.PathLike[str]) -> str:
    # A name may hold line breaks or bytes that are no text: a message stays one line.
    name = os.fsdecode(path)
    return name if name.isprintable() else repr(name)


def require_at_most(
    max_pixels: int, size: tuple[int, int], name: str, advice: str = "Make it smaller first."
) -> None:
    """Raise MediaError for a picture, or a frame of a clip, whose (width, height) is too large."""
    width, height = size
    if width * height > max_pixels:
        raise MediaError(
            f"Cannot read {name}: it claims {width}x{height} = {width * height / 1e6:,.1f} million "
            f"pixels, more than the {max_pixels / 1e6:,.1f} allowed. {advice}"
        )


def load(image: Image.Image, name: str) -> None:
    """Decode the pixels in place; large images one at a time, which bounds the memory.

    Raises:
        MediaError: the file is damaged.
    """
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


def damaged(name: str, cause: BaseException | None) -> MediaError:
    """Return the error for a file whose bytes a decoder could not follow."""
    reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    if reason == "unknown pixel mode":  # A TIFF that is whole, but of three floats or five bands.
        return MediaError(
            f"Cannot read {name}: its kind of pixels is not known here. Save it as RGB or grey, of "
            "8 or 16 bits."
        )
    return MediaError(
        f"Cannot read {name}: {reason}. It is damaged or cut short: copy or download it again."
    )


# Orientation


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, that is left to apply: decoding turns a TIFF upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged metadata is no reason to refuse a photo.
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) that an image has upright."""
    return image.size[::-1] if exif_orientation(image) in TURNED else image.size


def turned(stored: Pixels, orientation: int) -> Pixels:
    """Return a view of an array (height, width, ...) that stands as its orientation says.

    Args:
        stored: as a file keeps it.
        orientation: 1 to 8, as EXIF counts them.
    """
    upright = stored.swapaxes(0, 1) if orientation in TURNED else stored
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return upright[rows, columns]


# Pixels


def decode_upright(image: Image.Image, name: str) -> Pixels:
    """Decode an image of any Pillow mode as upright RGB.

    16-bit values are scaled to 8 bits, never clipped; CMYK is converted without its ink profile;
    alpha is laid over `BACKDROP`.

    Returns:
        (height, width, 3), uint8.

    Raises:
        MediaError: the file is damaged.
        InputError: 32-bit values are outside 0..65535, or floats outside 0..1.
    """
    clear, opacity = _clear_colour(image, name)
    load(image, name)
    orientation = exif_orientation(image)
    width, height = image.size
    shape = (width, height, 3) if orientation in TURNED else (height, width, 3)
    upright = np.empty(shape, np.uint8)
    # All but two orientations undo themselves.
    in_file_order = turned(upright, {6: 8, 8: 6}.get(orientation, orientation))
    tags = getattr(image, "tag_v2", {})
    hdr = image.info.get("hdr")
    for rows in row_blocks(height, width):
        box = (0, rows.start, width, rows.stop)
        block = image.crop(box)
        if opacity is not None:
            block.putalpha(opacity.crop(box))
        try:
            in_file_order[rows] = (
                _tone_mapped(block, *hdr) if hdr is not None else _rgb(block, clear, tags)
            )
        except InputError:
            raise
        except ValueError as cause:  # Pillow cannot convert the mode.
            raise MediaError(f"Cannot read {name}: {cause}") from cause
    return upright


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows, of about `BLOCK_PIXELS` pixels each, that cover the image once."""
    step = max(1, BLOCK_PIXELS // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _clear_colour(image: Image.Image, name: str) -> tuple[Any, Image.Image | None]:
    """Return an image's one clear value, as it is decoded, or where 16-bit colours are clear.

    The tRNS chunk of a PNG is in the depth of the file, and Pillow decodes to 8 bits. To be called
    before an image is decoded.
    """
    clear = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or not isinstance(clear, int | tuple):
        return clear, None
    raw_mode = image.tile[0][3] if image.tile else image.mode
    if isinstance(clear, tuple):
        if raw_mode == "RGB;16B" and image.fp is not None:
            return None, _opacity_of_16_bits(image.fp, clear, name)
        shift = 8 if max(clear) > 255 else 0
        return tuple(value >> shift & 255 for value in clear), None
    bits, step = {"1": (1, 255), "L;2": (3, 85), "L;4": (15, 17), "L": (255, 1)}.get(
        str(raw_mode), (65535, 1)
    )
    return (clear & bits) * step, None


def _opacity_of_16_bits(stream: IO[bytes], clear: tuple[int, ...], name: str) -> Image.Image:
    """Return 0 where the 16-bit colour is the clear one, 255 elsewhere, as an image of mode "L"."""
    is_clear: Any = True
    # Pillow keeps the first byte of a value, which it takes for the other one in the wrong order.
    for raw_mode, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        stream.seek(0)
        again = PngImageFile(stream)
        again.tile = [again.tile[0]._replace(args=raw_mode)]
        load(again, name)
        for channel, value in zip(again.split(), clear, strict=True):
            is_clear = is_clear & (np.asarray(channel) == value >> shift & 255)
    return Image.fromarray(np.where(is_clear, np.uint8(0), np.uint8(255)))


def _rgb(block: Image.Image, clear: Any, tags: Mapping[int, Any]) -> Pixels:
    """Convert some rows of an image; what Pillow would clip or not apply is done here.

    Args:
        block: the rows.
        clear: the value that is clear, or None.
        tags: of a TIFF.
    """
    if block.mode == "F":
        grey = _bytes_from_unit(np.asarray(block))
    elif block.mode == "I" or block.mode.startswith("I;16"):
        has_12_bits = tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,)
        grey = _grey_from_16_bits(np.asarray(block), 4095 if has_12_bits else 65535, clear)
    else:
        if clear is not None:
            block.info["transparency"] = clear
        if block.has_transparency_data:
            return composite(block.convert("RGBA"))
        return np.asarray(block.convert("RGB"))
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # White is 0.
        grey = 255 - grey
    return np.broadcast_to(grey[..., np.newaxis], (*grey.shape, 3))


def _tone_mapped(block: Image.Image, hdr: str, is_bt2020: bool) -> Pixels:
    rgba = block.convert("RGBA")
    values = np.asarray(rgba.convert("RGB")).astype(np.uint16) * 257
    shown = Image.fromarray(to_bt709(values, hdr, is_bt2020))
    shown.putalpha(rgba.getchannel("A"))
    return composite(shown)


def composite(rgba: Image.Image) -> Pixels:
    """Return an image of mode "RGBA" laid over `BACKDROP`."""
    ground = Image.new("RGB", rgba.size, (BACKDROP, BACKDROP, BACKDROP))
    ground.paste(rgba, mask=rgba)
    return np.asarray(ground)


def _grey_from_16_bits(values: NDArray[Any], highest: int, clear: int | None) -> Pixels:
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise InputError(
            f"its 32-bit values run from {low} to {high}, outside 0..65535. "
            "Scale them to 8 or 16 bits first."
        )
    grey = ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
    if clear is not None:
        grey[values == clear] = BACKDROP
    return grey


def _bytes_from_unit(values: NDArray[Any]) -> Pixels:
    """Scale floats in 0..1 to 0..255, rounded."""
    low, high = values.min(), values.max()
    # Written so that a NaN, which is no number, fails it too.
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"its float values run from {low:g} to {high:g}, outside 0..1. "
            "Scale them to 0..1 first."
        )
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _rgb_from_array(array: NDArray[Any]) -> Pixels:
    is_grey = array.ndim == 2
    has_channels = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    has_values = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    if not ((is_grey or has_channels) and has_values):
        comes_first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and not has_channels
        hint = " Its channels come first: give array.transpose(1, 2, 0)." if comes_first else ""
        raise InputError(
            f"its shape is {array.shape} and its dtype {array.dtype}. Give (height, width) or "
            f"(height, width, 1|3|4), as uint8 or as float in 0..1.{hint}"
        )
    values = array[..., np.newaxis] if is_grey else array
    height, width, channels = values.shape
    _require_edges(height, width)
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in row_blocks(height, width):
        block = values[rows]
        if block.dtype != np.uint8:
            block = _bytes_from_unit(block)
        # One grey channel is broadcast into three.
        pixels[rows] = composite(Image.fromarray(block)) if channels == 4 else block
    return pixels


def _require_edges(height: int, width: int) -> None:
    if min(height, width) < MIN_EDGE:
        raise InputError(
            f"it is {width}x{height} pixels. Give an image of at least {MIN_EDGE}x{MIN_EDGE}."
        )


# Colours

BT2020 = 9
HDR: dict[int, str] = {16: "PQ", 18: "HLG"}
"""FFmpeg's number of a transfer function -> its name."""

WHITE = 203.0
"""Nits of HDR's reference white, which becomes white in BT.709. Source: BT.2408."""

KNEE = 0.75
"""Light, as a share of `WHITE`, up to which nothing is compressed."""


def to_bt709(pixels: NDArray[np.uint16], hdr: str | None, is_bt2020: bool) -> Pixels:
    """Tone-map RGB of 16 bits to what a BT.709 screen shows.

    Light is brought to BT.709's primaries and divided by `WHITE`. Up to `KNEE` it stays, and above
    that it is x = KNEE + (1 - KNEE) u / (1 + u) with u = (x - KNEE) / (1 - KNEE), which comes
    near 1 without reaching it. It is encoded by the power 1 / 2.4 (BT.1886).

    Args:
        pixels: (height, width, 3), in the file's own transfer function.
        hdr: "HLG" (shown at 1000 nits), "PQ", or None for a power of 2.4.
        is_bt2020: the primaries are BT.2020's; else they are taken for BT.709's.

    Source: BT.2100 (HLG, PQ), BT.2087 (primaries).
    """
    shown = np.empty(pixels.shape, np.uint8)
    light_of, shown_of = _light_table(hdr), _shown_table(hdr)
    brightest = _BRIGHTEST * light_of[-1]
    for rows in row_blocks(*pixels.shape[:2]):
        light = light_of[pixels[rows]]
        if is_bt2020:
            light = light @ _BT2020_TO_BT709.T
        # By the root, for the table to be fine where it is dark; powers take eight times as long.
        places = 65535 * np.sqrt(np.clip(light / brightest, 0, 1))
        shown[rows] = shown_of[places.astype(np.uint16)]
    return shown


# Above what the change of primaries makes of the brightest light.
_BRIGHTEST = 1.7

_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


@cache
def _light_table(hdr: str | None) -> NDArray[np.float32]:
    """Return the light of each value of 16 bits, in shares of `WHITE`."""
    value = np.arange(65536) / 65535
    if hdr == "HLG":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
        # BT.2100 takes the power of the luminance; of each channel it keeps more of the colour.
        light = 1000 / WHITE * scene**1.2
    elif hdr == "PQ":
        m1, m2 = 2610 / 16384, 2523 / 32
        c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
        power = value ** (1 / m2)
        light = 10_000 / WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        light = value**2.4
    return light.astype(np.float32)


@cache
def _shown_table(hdr: str | None) -> Pixels:
    """Return what is shown of light, by 65536 roots of its share of the brightest."""
    light = (np.arange(65536) / 65535) ** 2 * _BRIGHTEST * float(_light_table(hdr)[-1])
    if hdr is not None:
        above = np.maximum(light - KNEE, 0) / (1 - KNEE)
        light = np.where(light > KNEE, KNEE + (1 - KNEE) * above / (1 + above), light)
    return np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.4)).astype(np.uint8)


# Files out

WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 3}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "method": 1, "quality": 0}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", {"compression": "tiff_lzw"}),
    ".avif": ("AVIF", {"quality": 95}),
    ".bmp": ("BMP", {}),
}
"""Ending -> Pillow's format and options: lossless where the format can be, for masks are data.

Writing costs a batch more time than the network, so the efforts of PNG and WebP are low: half the
time of Pillow's defaults for an eighth to a quarter more bytes (12-megapixel cutout)."""

FORMATS_WITHOUT_ALPHA = frozenset({"JPEG", "BMP"})


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
