"""Photos: any image file in, upright RGB of 8 bits out; pictures written whole or not at all."""

import logging
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from amd_seg.choices import MAX_PIXELS
from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import replacing

logger = logging.getLogger(__name__)

Pixels: TypeAlias = NDArray[np.uint8]
MAX_FRAME_PIXELS = 36_000_000  # just above 8192x4320: a decoder holds several frames of a clip
LARGE_IMAGE = 50_000_000  # pixels above which images are decoded one at a time
BLOCK_PIXELS = 1 << 22  # worked on at a time: a large photo needs little on top of itself
MIN_EDGE = 8  # pixels, below which there is nothing to segment
BACKDROP = 128  # grey behind clear pixels, near the mean colour that the network subtracts
MAX_RESOLUTION = 100_000  # pixels an inch, above which some formats hold none
TURNED = (5, 6, 7, 8)  # EXIF orientations whose stored rows are the upright photo's columns

_large_images = threading.Lock()


@dataclass(frozen=True, eq=False)
class Photo:
    """An image as the network takes it."""

    decoded: Pixels  # (height, width, 3), RGB, upright; of a large JPEG perhaps fewer
    icc_profile: bytes | None  # None where the file has none, or none for RGB
    source: str  # how messages name it
    resolution: tuple[float, float] | None = None  # pixels an inch to the right and down
    jpeg: bytes | None = None  # the file of which `decoded` has fewer pixels

    @cached_property
    def pixels(self) -> Pixels:
        """(height, width, 3), RGB, upright: the EXIF orientation is applied."""
        if self.jpeg is None:
            return self.decoded
        return decode_upright(open_image(BytesIO(self.jpeg), self.source), self.source)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of `pixels`."""
        if self.jpeg is None:
            return self.decoded.shape[:2]
        return upright_size(open_image(BytesIO(self.jpeg), self.source))[::-1]


def read_image(
    source: str | os.PathLike[str] | bytes | memoryview | BinaryIO | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    least: int | None = None,
) -> Photo:
    """Read a photo as upright RGB; safe to call from several threads.

    Every pixel type that Pillow reads becomes 8-bit RGB. 16-bit values are scaled, floats must lie
    in 0..1, and transparent pixels are laid over mid grey (128). HDR of AVIF, HEIC and PNG files is
    tone-mapped to BT.709. Of an animation the first frame is taken. The last two are logged.

    Args:
        source: a path, the bytes of an image file, a file open in binary mode, or a PIL image.
        max_pixels: an image whose header claims more is refused before it is decoded.
        least: a JPEG file may be decoded to no less than twice this short edge at first, and whole
            when its pixels are asked for.

    Raises:
        MediaError: the file cannot be read, is damaged, too large, or under 8 pixels on an edge.
        InputError: `source` is of another type.
    """
    advice = "If you trust the file, raise max_pixels (--max-pixels)."
    if isinstance(source, str | os.PathLike):
        with opened(source, max_pixels=max_pixels, advice=advice) as image:
            return _photo(image, _printable(source), least)
    if isinstance(source, Image.Image):
        require_at_most(max_pixels, source.size, "PIL image", advice)
        return _photo(source, "PIL image", None)
    data: Any = source
    if hasattr(data, "read"):
        if getattr(data, "seekable", bool)():
            data.seek(0)
        data = data.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(
            f"Cannot read an image from {type(data).__name__}. Give a path, the bytes of a "
            "file, a file open in binary mode, a PIL image, or an array."
        )
    name = f"image of {len(data)} bytes"
    image = open_image(BytesIO(data), name)
    require_at_most(max_pixels, image.size, name, advice)
    return _photo(image, name, least)


def _photo(image: Any, name: str, least: int | None) -> Photo:
    """Decode an image with what goes with its pixels: a profile for RGB, and the resolution."""
    if min(image.size) < MIN_EDGE:
        raise MediaError(f"Cannot read {name}: {_too_small(*image.size)}")
    with suppress(Exception):  # To tell, a reader may parse what is damaged.
        if getattr(image, "is_animated", False):
            logger.info("Of %s, which has several frames, the first is taken.", name)
    # Asked before decoding, which turns a TIFF; but a PNG may tell it behind its pixels.
    is_turned_tiff = image.format == "TIFF" and exif_orientation(image) in TURNED
    jpeg = None
    is_plain_jpeg = image.format == "JPEG" and image.mode in ("L", "RGB")
    if is_plain_jpeg and least is not None and min(image.size) >= 4 * least:
        # The decoder halves on its way, in a fraction of the time; damage shows all the same.
        image.fp.seek(0)
        jpeg = image.fp.read()
        image.draft(image.mode, (2 * least, 2 * least))
    pixels = decode_upright(image, name)
    profile = image.info.get("icc_profile")
    if "hdr" in image.info:
        logger.info("%s is HDR (%s): it is tone-mapped to BT.709.", name, image.info["hdr"][0])
        profile = None
    # A profile for CMYK or grey does not describe the RGB values that came out.
    is_for_rgb = isinstance(profile, bytes) and profile[16:20] == b"RGB "
    resolution = None
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        right, down = (float(value) for value in image.info["dpi"])
        if all(1 <= value <= MAX_RESOLUTION for value in (right, down)):  # A NaN is not.
            is_turned = is_turned_tiff or exif_orientation(image) in TURNED
            resolution = (down, right) if is_turned else (right, down)
    return Photo(pixels, profile if is_for_rgb else None, name, resolution, jpeg)


def _too_small(width: int, height: int) -> str:
    return f"it is {width}x{height} pixels. Give an image of at least {MIN_EDGE}x{MIN_EDGE}."


def photo_from_array(array: NDArray[Any], *, source: str = "array") -> Photo:
    """Copy an array (height, width) or (height, width, 1|3|4), uint8 or float in 0..1, as a photo.

    Alpha is laid over mid grey. InputError tells of another shape, dtype or range, or of a speck.
    """
    has_channels = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    has_values = array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)
    if not ((array.ndim == 2 or has_channels) and has_values):
        comes_first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and not has_channels
        hint = " Its channels come first: give array.transpose(1, 2, 0)." if comes_first else ""
        raise InputError(
            f"Cannot use {source}: its shape is {array.shape} and its dtype {array.dtype}. Give "
            f"(height, width) or (height, width, 1|3|4), as uint8 or as float in 0..1.{hint}"
        )
    height, width = array.shape[:2]
    if min(height, width) < MIN_EDGE:
        raise InputError(f"Cannot use {source}: {_too_small(width, height)}")
    values = array if has_channels else array[..., np.newaxis]
    if values.dtype != np.uint8:
        values = _bytes_from_unit(values, f"Cannot use {source}: ")
    if values.shape[2] == 4:
        values = composite(Image.fromarray(values))
    # One grey channel becomes three.
    pixels = np.array(np.broadcast_to(values, (height, width, 3)), order="C")
    return Photo(pixels, None, source)


# Files in

# What begins a file, and how Pillow calls its reader: PIL.PngImagePlugin.PngImageFile. Its other
# readers start programs (EPS), know no signature (TGA), or hold images whose size the header does
# not tell (ICO).
_READERS = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", "Png"),
    "JPEG": (rb"\xff\xd8\xff", "Jpeg"),
    "WEBP": (rb"RIFF....WEBP", "WebP"),
    "TIFF": (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "Tiff"),
    "AVIF": (rb"....ftyp(avi[fs]|mif1|msf1)", "Avif"),
    "HEIC": (rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", "Heif"),
    "GIF": (rb"GIF8[79]a", "Gif"),
    "BMP": (rb"BM", "Bmp"),
    "JPEG2000": (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2K"),
    "PPM": (rb"P[1-6f]\s", "Ppm"),
    "QOI": (rb"qoif", "Qoi"),
}

# Where a file tells its primaries and its transfer function, in its first 64 kB.
# Source: ISO/IEC 14496-12, 12.1.5 (nclx), and PNG, third edition, 11.3.2.6 (cICP).
_NCLX = rb"colrnclx(..)(..)"
_COLOURS = {"AVIF": _NCLX, "HEIC": _NCLX, "PNG": rb"\0\0\0\x04cICP(.)(.)"}


def open_image(stream: BinaryIO, name: str) -> Image.Image:
    """Read the header of an image; its pixels are not decoded yet."""
    # Not by `PIL.Image.open`: its size limit is a global that warns, and it parses the often
    # malformed index of a camera's MPO file, of which only the first picture is wanted.
    head = stream.read(1 << 16)
    if not head:
        raise MediaError(f"Cannot read {name}: it is empty. Copy or download it again.")
    formats = [key for key, (begin, _) in _READERS.items() if re.match(begin, head, re.S)]
    if not formats:
        known = ", ".join(_READERS)
        raise MediaError(f"Cannot read {name}: it is no image of a known format ({known}).")
    failure: Exception | None = None
    for key in formats:
        plugin = _READERS[key][1]
        stream.seek(0)
        try:
            module = import_module("pillow_heif" if key == "HEIC" else f"PIL.{plugin}ImagePlugin")
            image: Image.Image = getattr(module, f"{plugin}ImageFile")(stream)
        except ImportError as cause:
            raise MediaError(
                f'Cannot read {name}: HEIC needs pillow-heif. Run: pip install "amd-seg[heic]"'
            ) from cause
        except Exception as cause:  # Hostile bytes make a reader raise errors of any kind.
            failure = cause
            continue
        colours = re.search(_COLOURS[key], head, re.S) if key in _COLOURS else None
        # "tmap" tells how a picture that is no HDR itself would become HDR, by colours of its own.
        is_sdr = key != "PNG" and ("icc_profile" in image.info or b"tmap" in head)
        if colours is not None and not is_sdr:
            primaries, transfer = (int.from_bytes(value) for value in colours.groups())
            if transfer in HDR:
                image.info["hdr"] = HDR[transfer], primaries == BT2020
        return image
    raise damaged(name, failure) from failure


@contextmanager
def opened(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    advice: str = "Make it smaller first.",
) -> Iterator[Image.Image]:
    """Open an image file whose header is read, its pixels not yet; MediaError tells why not."""
    name = _printable(path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # A pipe would block.
            raise OSError("it is a folder or a pipe, no file")
        file = open(path, "rb")  # noqa: SIM115 -- closed below, its failure reported here
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the name.
        is_missing = isinstance(cause, FileNotFoundError)
        reason = "no such file" if is_missing else getattr(cause, "strerror", None) or cause
        raise MediaError(f"Cannot read {name}: {reason}. Check the name.") from cause
    with file:
        image = open_image(file, name)
        require_at_most(max_pixels, image.size, name, advice)
        yield image


def _printable(path: str | os.PathLike[str]) -> str:
    # A name may hold line breaks or bytes that are no text: a message stays one line.
    name = os.fsdecode(path)
    return name if name.isprintable() else repr(name)


def read_photo_size(path: Path) -> tuple[int, int]:
    """Return the height and width that a photo has upright, from its header alone."""
    with opened(path) as image:
        return upright_size(image)[::-1]


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
    """Decode the pixels in place, or raise MediaError; large images one at a time."""
    try:
        if image.width * image.height <= LARGE_IMAGE:
            image.load()
            return
        with _large_images:
            # Pillow's TIFF reader would warn of what `max_pixels` allows.
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
    advice = "It is damaged or cut short: copy or download it again."
    if reason == "unknown pixel mode":  # A TIFF that is whole, but of three floats or five bands.
        reason = "its kind of pixels is not known here"
        advice = "Save it as RGB or grey, of 8 or 16 bits."
    return MediaError(f"Cannot read {name}: {reason}. {advice}")


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
    """Return an array (height, width, ...) upright, given its EXIF orientation."""
    upright = stored.swapaxes(0, 1) if orientation in TURNED else stored
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(upright[rows, columns])


# Pixels


def decode_upright(image: Image.Image, name: str) -> Pixels:
    """Decode an image of any Pillow mode as `read_image` does; MediaError tells of damage."""
    clear = _clear_colour(image)
    load(image, name)
    width, height = image.size
    stored = np.empty((height, width, 3), np.uint8)
    for rows in row_blocks(height, width):
        block = image.crop((0, rows.start, width, rows.stop))
        try:
            if "hdr" in image.info:
                rgba = block.convert("RGBA")
                values = np.asarray(rgba.convert("RGB")).astype(np.uint16) * 257
                block = Image.fromarray(to_bt709(values, *image.info["hdr"]))
                block.putalpha(rgba.getchannel("A"))
            stored[rows] = _rgb(block, clear, getattr(image, "tag_v2", {}))
        except ValueError as cause:  # A value out of range, or a mode that Pillow cannot convert.
            raise MediaError(f"Cannot read {name}: {cause}") from cause
    return turned(stored, exif_orientation(image))


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows, of about `BLOCK_PIXELS` pixels each, that cover the image once."""
    step = max(1, BLOCK_PIXELS // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def _clear_colour(image: Any) -> Any:
    """Return the one clear value of an image that is not decoded yet, as it will be decoded."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or not isinstance(clear, int | tuple):
        return clear
    # The tRNS chunk of a PNG is in the depth of the file, and Pillow decodes colours to 8 bits.
    raw_mode = str(image.tile[0][3]) if image.tile else image.mode
    if isinstance(clear, int):
        depths = {"1": (1, 255), "L;2": (3, 85), "L;4": (15, 17), "L": (255, 1)}
        highest, step = depths.get(raw_mode, (65535, 1))
        return (clear & highest) * step
    shift = 8 if raw_mode == "RGB;16B" or max(clear) > 255 else 0
    return tuple(value >> shift & 255 for value in clear)


def _rgb(block: Image.Image, clear: Any, tags: Any) -> Pixels:
    """Convert some rows of an image, given the value that is clear and the tags of a TIFF."""
    if block.mode == "F":
        grey = _bytes_from_unit(np.asarray(block))
    elif block.mode == "I" or block.mode.startswith("I;16"):
        values = np.asarray(block)
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            raise InputError(
                f"its 32-bit values run from {low} to {high}, outside 0..65535. "
                "Scale them to 8 or 16 bits first."
            )
        highest = 4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535
        grey = ((values.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)
        if clear is not None:
            grey[values == clear] = BACKDROP
    else:
        if clear is not None:
            block.info["transparency"] = clear
        if block.has_transparency_data:
            return composite(block.convert("RGBA"))
        return np.asarray(block.convert("RGB"))
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # White is 0.
        grey = 255 - grey
    return np.broadcast_to(grey[..., np.newaxis], (*grey.shape, 3))


def _bytes_from_unit(values: NDArray[Any], failure: str = "") -> Pixels:
    """Scale floats in 0..1 to 0..255, rounded; `failure` begins the message of an InputError."""
    low, high = values.min(), values.max()
    # Written so that a NaN, which is no number, fails it too.
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"{failure}its float values run from {low:g} to {high:g}, outside 0..1. "
            "Scale them to 0..1 first."
        )
    return np.rint(values * np.float32(255)).astype(np.uint8)


def composite(rgba: Image.Image) -> Pixels:
    """Return an image of mode "RGBA" laid over `BACKDROP`."""
    ground = Image.new("RGB", rgba.size, (BACKDROP, BACKDROP, BACKDROP))
    ground.paste(rgba, mask=rgba)
    return np.asarray(ground)


# Colours

BT2020 = 9
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's number of a transfer function -> its name
WHITE = 203.0  # nits of HDR's reference white, which becomes white in BT.709 (BT.2408)
KNEE = 0.75  # light, as a share of WHITE, up to which nothing is compressed
_BRIGHTEST = 1.7  # above what the change of primaries makes of the brightest light
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_bt709(pixels: NDArray[np.uint16], hdr: str | None, is_bt2020: bool) -> Pixels:
    """Tone-map RGB of 16 bits, "HLG" (at 1000 nits), "PQ" or None (a power of 2.4), to BT.709.

    Light x, in shares of `WHITE` and BT.709's primaries, stays up to `KNEE`; above, it becomes
    KNEE + (1 - KNEE) u / (1 + u) with u = (x - KNEE) / (1 - KNEE). It is encoded by the power
    1 / 2.4 (BT.1886).
    """
    shown = np.empty(pixels.shape, np.uint8)
    light_of, shown_of, brightest = _tables(hdr)
    for rows in row_blocks(*pixels.shape[:2]):
        light = light_of[pixels[rows]]
        if is_bt2020:
            light = light @ _BT2020_TO_BT709.T
        # By the root, for the table to be fine where it is dark; powers take eight times as long.
        places = 65535 * np.sqrt(np.clip(light / brightest, 0, 1))
        shown[rows] = shown_of[places.astype(np.uint16)]
    return shown


@cache
def _tables(hdr: str | None) -> tuple[NDArray[np.float32], Pixels, np.float32]:
    """Return the light of each 16-bit value, what is shown of light, and the brightest light.

    What is shown is by 65536 roots of light's share of the brightest. Source: BT.2100, BT.2087.
    """
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
    light_of = light.astype(np.float32)
    brightest = _BRIGHTEST * light_of[-1]
    mapped = value**2 * float(brightest)
    if hdr is not None:
        above = np.maximum(mapped - KNEE, 0) / (1 - KNEE)
        mapped = np.where(mapped > KNEE, KNEE + (1 - KNEE) * above / (1 + above), mapped)
    shown = np.rint(255 * np.clip(mapped, 0, 1) ** (1 / 2.4)).astype(np.uint8)
    return light_of, shown, brightest


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
"""Suffix -> Pillow's format and options: lossless where the format can be, and fast."""

FORMATS_WITHOUT_ALPHA = frozenset({"JPEG", "BMP"})


def save_image(image: Image.Image, path: Path, **metadata: Any) -> None:
    """Write an image as `write_image` does, in the format of the path's ending, whole or not."""
    suffix = path.suffix
    if suffix.lower() not in WRITERS:
        raise MediaError(
            f"Cannot write {path}: unknown ending {suffix!r}. Use one of {', '.join(WRITERS)}."
        )
    format_name, _ = WRITERS[suffix.lower()]
    if image.mode == "RGBA" and format_name in FORMATS_WITHOUT_ALPHA:
        raise MediaError(f"Cannot write {path}: {format_name} holds no transparency. Use .png.")
    try:
        with replacing(path) as temporary:
            write_image(image, temporary, suffix, **metadata)
    except (ValueError, RuntimeError, struct.error) as cause:  # What encoders refuse.
        raise MediaError(f"Cannot write {path}: {cause}. Use .png.") from cause


def write_image(
    image: Image.Image,
    file: Path | BinaryIO,
    suffix: str,
    *,
    icc_profile: bytes | None = None,
    resolution: tuple[float, float] | None = None,
) -> None:
    """Write an image of mode "L", "RGB" or "RGBA" straight to a file or a stream.

    A profile goes with a colour image, and the resolution, in pixels an inch to the right and
    down, with PNG, JPEG, TIFF and BMP.
    """
    format_name, options = WRITERS[suffix.lower()]
    if icc_profile is not None and image.mode in ("RGB", "RGBA"):
        options = {**options, "icc_profile": icc_profile}
    if resolution is not None:
        options = {**options, "dpi": resolution}
    # Pillow would load all its formats to find one.
    import_module(f"PIL.{_READERS[format_name][1]}ImagePlugin")
    image.save(file, format_name, **options)
