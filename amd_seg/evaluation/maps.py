"""Pictures as ground truth and as predictions: any file in, one map of the object out."""

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.images import load, opened

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

CENTRE_SIGMA = 0.4
"""Width of the centre prior, in half-sides of the picture."""

VOID = 255
"""The label of pixels that do not count, in an indexed PNG."""

FAINT = 32
"""Grey values that all lie below this one are labels, or nothing that can be told from them."""

# A coloured mask is told from a grey one that lossy compression tinted by this difference.
_TINT = 48


@dataclass(frozen=True)
class TruthRule:
    """Which grey values of a ground truth are the object."""

    level: float = 0.5
    """Share of the range from which on a value counts."""
    is_exclusive: bool = False
    """A value must be above the level, not at it."""
    is_white_background: bool = False
    """Values above 0.99 are background; colours are read as grey."""

    def __call__(self, grey: Bytes) -> Mask:
        """Return where the object is, for values of 0..255."""
        values = grey / 255.0
        chosen: Mask = values > self.level if self.is_exclusive else values >= self.level
        return chosen & (values <= 0.99) if self.is_white_background else chosen


GREY = TruthRule()
"""The usual rule: from half of the range on."""


@dataclass(frozen=True)
class Packed:
    """A mask or a label map in a kilobyte or two: those of a whole data set are kept."""

    data: bytes = field(repr=False)
    shape: tuple[int, ...]
    is_mask: bool
    """Its values are bits."""

    @classmethod
    def of(cls, values: Mask | Bytes) -> Self:
        """Pack (height, width), bool or uint8."""
        is_mask = values.dtype == np.bool_
        flat = np.packbits(values) if is_mask else values
        # A higher level takes twice the time for four fifths of the bytes.
        return cls(zlib.compress(flat.tobytes(), level=1), values.shape, is_mask)

    def unpack(self) -> NDArray[Any]:
        """Return what was packed."""
        values = np.frombuffer(zlib.decompress(self.data), np.uint8)
        if self.is_mask:
            values = np.unpackbits(values, count=math.prod(self.shape)).astype(np.bool_)
        return values.reshape(self.shape)


def centre_prior(height: int, width: int) -> NDArray[np.float32]:
    """Return a Gaussian at the picture's centre, (height, width), 0..1: the photographer's habit.

    It is the floor of every table: who is not above it has not seen the object.
    """
    down = _half_sides(height)[:, None]
    right = _half_sides(width)[None]
    prior = np.exp(-(down**2 + right**2) / (2 * CENTRE_SIGMA**2))
    return prior.astype(np.float32)


def read_truth(path: Path, rule: TruthRule = GREY) -> tuple[Mask, Mask | None]:
    """Read a ground truth: where the object is, and which pixels do not count.

    Of labels (an indexed PNG, or values 0 and 1) all but 0 are the object, and 255 in an indexed
    PNG is void; grey values are judged by the rule.

    Returns:
        (height, width), bool; and the void pixels likewise, None where there are none.

    Raises:
        MediaError: the file cannot be read.
        InputError: its values are neither grey nor labels.
    """
    values, is_indexed = _read_values(path, may_be_coloured=rule.is_white_background)
    if is_indexed or int(values.max()) == 1:
        void = values == VOID
        return (values > 0) & ~void, void if void.any() else None
    if rule == GREY:
        _require_range(values, path)
    return rule(values), None


def read_prediction(path: Path, *, is_binary: bool = False) -> Bytes:
    """Read a predicted map or mask as (height, width), uint8; labels become 0 and 255.

    Args:
        path: a grey image, or labels as an indexed PNG.
        is_binary: grey values are labels too, 0 and 1. A file cannot tell by itself: a map that
            is nowhere above 1 of 255 looks the same.

    Raises:
        MediaError: the file cannot be read.
        InputError: its values are neither grey nor labels.
    """
    values, is_indexed = _read_values(path)
    is_labels = is_indexed or is_binary
    return (values > 0).astype(np.uint8) * np.uint8(255) if is_labels else values


def highest_grey(path: Path) -> int:
    """Return the highest value of a grey prediction, 0..255; 0 of labels in an indexed PNG.

    Raises:
        MediaError: the file cannot be read.
        InputError: its values are neither grey nor labels.
    """
    values, is_indexed = _read_values(path)
    return 0 if is_indexed else int(values.max())


def read_size(path: Path) -> tuple[int, int]:
    """Return the (width, height) that an image's header tells.

    Raises:
        MediaError: the file cannot be read.
    """
    with opened(path) as image:
        size: tuple[int, int] = image.size
    return size


def resize_map(values: Bytes, size: tuple[int, int]) -> Bytes:
    """Return a grey map resized bilinearly to (height, width)."""
    height, width = size
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def to_bytes(saliency: NDArray[np.floating[Any]]) -> Bytes:
    """Return saliency in 0..1 as 0..255, rounded: what a written map holds."""
    levels: Bytes = np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8)
    return levels


def _read_values(path: Path, *, may_be_coloured: bool = False) -> tuple[Bytes, bool]:
    """Return (height, width) uint8 and whether it is labels of an indexed PNG, not grey."""
    with opened(path) as image:
        load(image, str(path))
    if image.mode == "P" and not _has_grey_palette(image):
        return np.asarray(image), True
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bits(np.asarray(image), path), False
    if image.mode == "F":
        raise MediaError(f"Cannot read {path} as a mask: it holds floats. Save it with 8 bits.")
    if not may_be_coloured:
        _require_grey(image, path)
    return np.asarray(image.convert("L")), False


def _from_16_bits(values: NDArray[Any], path: Path) -> Bytes:
    highest = int(values.max())
    if highest <= 1:
        return values.astype(np.uint8)
    if highest < 256 or highest > 65535 or values.min() < 0:
        raise InputError(
            f"Cannot tell what the values of {path} mean: its 16 bits hold {values.min()} to "
            f"{highest}. Save it with 8 bits."
        )
    grey: Bytes = (values >> 8).astype(np.uint8)
    return grey


def _require_grey(image: Image.Image, path: Path) -> None:
    if image.mode in ("1", "L", "LA", "P"):
        return
    channels = np.asarray(image.convert("RGB")).astype(np.int16)
    if int(np.ptp(channels, axis=2).max()) > _TINT:
        raise InputError(
            f"{path} is coloured, so it cannot be read as a mask. Give a grey image, or labels "
            "as an indexed PNG."
        )


def _require_range(grey: Bytes, path: Path) -> None:
    """Raise for labels in a grey file, which would pass for an empty ground truth."""
    highest = int(grey.max())
    if 0 < highest < FAINT:
        raise InputError(
            f"Cannot tell what the values of {path} mean: they run from 0 to {highest}. Save "
            "grey from 0 to 255, 0 and 1, or an indexed PNG."
        )


def _has_grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    used = colours[np.unique(np.asarray(image)).clip(max=len(colours) - 1)]
    return bool((used == used[:, :1]).all() and used.max() > 1)


def _half_sides(length: int) -> NDArray[np.float64]:
    """Return the places of pixel centres along an edge: -1 and 1 are the picture's borders."""
    return (np.arange(length) + 0.5) / length * 2 - 1
