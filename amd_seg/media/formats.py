"""The image formats: by which bytes a file tells its own, and what opens and writes it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.QoiImagePlugin import QoiImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from amd_seg.errors import MediaError

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

The efforts of PNG and WebP are low ones, for writing costs a batch more time than the network:
half the time of Pillow's defaults for an eighth to a quarter more bytes (12-megapixel cutout)."""

MAX_PIXELS = 200_000_000
"""Pixels of the largest picture that is read by default: 600 MB as RGB."""

MAX_FRAME_PIXELS = 36_000_000
"""Pixels of the largest frame of a clip, just above 8192x4320: a decoder holds several of them."""

FORMATS_WITHOUT_ALPHA = frozenset({"JPEG", "BMP"})

# Only these are read: Pillow's other readers start programs (EPS), know no signature (TGA), or
# hold images whose size the header does not tell (ICO).
_SIGNATURES = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II\*\0|MM\0\*|II\+\0|MM\0\+",
    "AVIF": rb"....ftyp(avi[fs]|mif1|msf1)",
    "HEIC": rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PPM": rb"P[1-6f]\s",
    "QOI": rb"qoif",
}

# What Pillow says of a TIFF that is whole, but of three floats, say, or five bands.
_UNKNOWN_PIXELS = "unknown pixel mode"

_READERS: dict[str, type[ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "JPEG2000": Jpeg2KImageFile,
    "PPM": PpmImageFile,
    "QOI": QoiImageFile,
}


def open_image(stream: BinaryIO, name: str) -> ImageFile:
    """Read the header of an image; its pixels are not decoded yet.

    `PIL.Image.open` is passed by: its size limit is a global that warns, it tries readers that
    start programs, and it parses the often malformed index of a camera's MPO file, of which
    only the first picture is wanted.

    Args:
        stream: the file from its first byte, seekable.
        name: how messages call it.

    Raises:
        MediaError: empty, of no known format, or its header is damaged.
    """
    head = stream.read(16)
    if not head:
        raise MediaError(f"Cannot read {name}: it is empty. Copy or download it again.")
    formats = [key for key, signature in _SIGNATURES.items() if re.match(signature, head, re.S)]
    if not formats:
        known = ", ".join(_SIGNATURES)
        raise MediaError(f"Cannot read {name}: it is no image of a known format ({known}).")
    failure: Exception | None = None
    for key in formats:
        stream.seek(0)
        reader = _reader(key, name)
        try:
            return reader(stream)
        except Exception as cause:  # Hostile bytes make a reader raise errors of any kind.
            failure = cause
    raise damaged(name, failure) from failure


@contextmanager
def opened(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile]:
    """Open an image file whose header is read, its pixels not yet; it is closed at the end.

    Raises:
        MediaError: it cannot be opened, claims more than `max_pixels`, or `open_image` refuses it.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed below, its failure reported here
    except OSError as cause:
        raise MediaError(f"Cannot read {path}: {cause.strerror}. Check the file.") from cause
    with file:
        image = open_image(file, str(path))
        require_at_most(max_pixels, image.size, str(path))
        yield image


def require_at_most(
    max_pixels: int, size: tuple[int, int], name: str, advice: str = "Make it smaller first."
) -> None:
    """Raise MediaError for a picture, or a frame of a clip, that claims more pixels.

    Args:
        max_pixels: how many may be.
        size: (width, height).
        name: how messages call the file.
        advice: what to do about it, one sentence.
    """
    width, height = size
    if width * height > max_pixels:
        raise MediaError(
            f"Cannot read {name}: it claims {width}x{height} = {width * height / 1e6:,.1f} million "
            f"pixels, more than the {max_pixels / 1e6:,.1f} allowed. {advice}"
        )


def load(image: Image, name: str) -> None:
    """Decode the pixels in place.

    Raises:
        MediaError: the file is damaged.
    """
    try:
        image.load()
    except Exception as cause:  # Hostile bytes make a decoder raise errors of any kind.
        raise damaged(name, cause) from cause


def damaged(name: str, cause: BaseException | None) -> MediaError:
    """Return the error for a file whose bytes a decoder could not follow."""
    reason = " ".join(str(cause).split()).rstrip(".") or type(cause).__name__
    if reason == _UNKNOWN_PIXELS:
        return MediaError(
            f"Cannot read {name}: its kind of pixels is not known here. Save it as RGB or grey, of "
            "8 or 16 bits."
        )
    return MediaError(
        f"Cannot read {name}: {reason}. It is damaged or cut short: copy or download it again."
    )


def _reader(key: str, name: str) -> type[ImageFile]:
    if key != "HEIC":
        return _READERS[key]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as cause:
        raise MediaError(
            f'Cannot read {name}: HEIC needs pillow-heif. Run: pip install "amd-seg[heic]"'
        ) from cause
    reader: type[ImageFile] = HeifImageFile
    return reader
