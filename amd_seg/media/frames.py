"""Clips that are images: a folder of frames, an animated GIF or WebP; what all readers share."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import natural_key
from amd_seg.media.images import (
    MAX_FRAME_PIXELS,
    damaged,
    decode_upright,
    opened,
    upright_size,
)

logger = logging.getLogger(__name__)

FRAME_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CLIP_IMAGE_SUFFIXES = FRAME_SUFFIXES | {".apng", ".gif"}
"""Endings of images that are a clip or, by a glob, a frame of one; not all that are photos."""

Pixels = NDArray[np.uint8]
# When a frame is shown, in seconds, and how to make its pixels, which is not always wanted.
Moment = tuple[float, Callable[[], Pixels]]


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Attributes:
        index: number of the frame, counted from the first frame at or after `start`.
        time: when it is shown, in seconds from the beginning of the clip.
        pixels: (height, width, 3), uint8, RGB, upright.
    """

    index: int
    time: float
    pixels: Pixels


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which frames of a clip are wanted: `start <= time < end`, in seconds, every n-th of them."""

    start: float | None = None
    end: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.start is not None and not self.start >= 0:
            raise InputError(f"start is {self.start} s. Give a time of 0 or more.")
        if self.end is not None and not self.end > (self.start or 0):
            raise InputError(
                f"end is {self.end} s, start {self.start or 0} s. End after the start."
            )
        if self.every < 1:
            raise InputError(f"every is {self.every}. Give 1 for all frames, 2 for every second.")

    def pick(self, moments: Iterable[Moment]) -> Iterator[Frame]:
        """Yield the wanted ones of `moments`; the pixels of others are never made."""
        index = -1
        for time, pixels in moments:
            if self.start is not None and time < self.start:
                continue
            if self.end is not None and time >= self.end:
                return
            index += 1
            if index % self.every == 0:
                yield Frame(index, time, pixels())

    def count(self, frames: int | None) -> int | None:
        """Return how many of a clip's `frames` are wanted, or None where times decide that."""
        if frames is None or self.start or self.end is not None:
            return None
        return -(-frames // self.every)


EVERY_FRAME = Span()


class FrameReader(Protocol):
    """What every reader of a clip offers.

    Attributes:
        source: how messages name the clip.
        width, height: of the frames as they are given, upright, in pixels.
        frame_rate: frames per second, on average where the rate varies; None when unknown.
        time_base: times of frames are whole multiples of it, in seconds.
        frame_count: frames that iteration gives; None when only reading tells.
        duration: of the whole clip, in seconds, as the file tells it; None when it does not.
        span: the frames that iteration gives.
        pixel_aspect: width of a pixel, in its heights: 1 unless the clip is anamorphic.
        is_truncated: True once a pass has found that the end of the clip is missing.
    """

    source: str
    width: int
    height: int
    frame_rate: Fraction | None
    time_base: Fraction
    frame_count: int | None
    duration: float | None
    span: Span
    pixel_aspect: Fraction
    is_truncated: bool

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def list_frames(folder: Path) -> list[Path]:
    """Return the images directly in `folder`, in natural order."""
    images = (p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES)
    return sorted((p for p in images if not p.name.startswith(".")), key=natural_key)


def count_frames(path: Path) -> int:
    """Return how many frames an image holds, none of them decoded: 1 unless it is animated.

    Raises:
        MediaError: the file cannot be read.
    """
    with opened(path) as image:
        try:
            return int(getattr(image, "n_frames", 1))
        except Exception as cause:  # To tell, a reader may parse what is damaged.
            raise damaged(str(path), cause) from cause


def shrunk_size(width: int, height: int, short_edge: int | None) -> tuple[int, int]:
    """Return (width, height) with the shorter side at most `short_edge`, the aspect kept."""
    if short_edge is None or min(width, height) <= short_edge:
        return width, height
    factor = short_edge / min(width, height)
    return round(width * factor), round(height * factor)


class _ImageReader:
    """A clip whose files are open only while they are read, so leaving it closes nothing."""

    pixel_aspect = Fraction(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FrameFolder(_ImageReader):
    """A clip kept as one image a frame.

    Args:
        images: the frames in their order, all of one size.
        source: how messages name the clip.
        frame_rate: frames per second, which gives each frame its time.
        span: which frames are wanted.
        short_edge: shrink frames to this shorter side, in pixels, antialiased; never enlarges.

    Raises:
        MediaError: there is no image, or the first cannot be read. While iterating: another
            cannot be read or has another size.
    """

    def __init__(
        self,
        images: Sequence[Path],
        *,
        source: str,
        frame_rate: Fraction | float = 24,
        span: Span = EVERY_FRAME,
        short_edge: int | None = None,
    ) -> None:
        if not images:
            raise MediaError(f"Cannot read {source}: no image in it. Give a folder of frames.")
        if not frame_rate > 0:
            raise InputError(f"frame_rate is {frame_rate}. Give the frames per second, above 0.")
        self.source = source
        self.frame_rate: Fraction | None = Fraction(frame_rate).limit_denominator(100_000)
        self.frame_count = span.count(len(images))
        self.duration: float | None = float(len(images) / self.frame_rate)
        self.is_truncated = False
        self.time_base = 1 / self.frame_rate
        self.span, self._images, self._short_edge = span, images, short_edge
        self._stored_size, upright = _image_sizes(images[0])
        self.width, self.height = shrunk_size(*upright, short_edge)

    def __iter__(self) -> Iterator[Frame]:
        return self.read(self.span)

    def read(self, span: Span) -> Iterator[Frame]:
        """Yield the frames of `span`, whatever span the reader was made for."""
        moments = zip(self.timestamps(), self._images, strict=True)
        return span.pick((time, partial(self._pixels, path)) for time, path in moments)

    def timestamps(self) -> list[float]:
        """Return the time of each frame of the clip, in seconds."""
        assert self.frame_rate is not None
        return [float(number / self.frame_rate) for number in range(len(self._images))]

    def _pixels(self, path: Path) -> Pixels:
        with opened(path, max_pixels=MAX_FRAME_PIXELS) as image:
            if image.size != self._stored_size:
                first = "x".join(map(str, self._stored_size))
                raise MediaError(
                    f"Cannot read {self.source}: {path.name} is {image.width}x{image.height}, "
                    f"its first frame {first}. Give frames of one size."
                )
            if self._short_edge is not None:
                # A JPEG decoder halves on its way, in a fraction of the time.
                image.draft("RGB", (2 * self._short_edge, 2 * self._short_edge))
            try:
                upright = decode_upright(image, str(path))
            except InputError as cause:
                raise MediaError(f"Cannot read {path}: {cause}") from cause
        return _shrink(Image.fromarray(upright), self.width, self.height)


class AnimatedImage(_ImageReader):
    """A clip kept as an animated GIF, WebP or PNG; clear parts are shown on grey.

    Args:
        path: the file.
        span: which frames are wanted.
        short_edge: shrink frames to this shorter side, in pixels, antialiased; never enlarges.

    Raises:
        MediaError: the file cannot be read or holds a single image.
    """

    def __init__(
        self, path: Path, *, span: Span = EVERY_FRAME, short_edge: int | None = None
    ) -> None:
        _, size = _image_sizes(path)
        self._frames = count_frames(path)
        if self._frames < 2:
            raise MediaError(
                f"Cannot read {path} as a clip: it is a single image. "
                "Give a video, a folder of frames or an animated image."
            )
        self.source, self._path, self.span = str(path), path, span
        self.frame_rate: Fraction | None = None
        self.frame_count = span.count(self._frames)
        self.duration: float | None = None
        self.is_truncated = False
        self.width, self.height = shrunk_size(*size, short_edge)
        self.time_base = Fraction(1, 1000)

    def __iter__(self) -> Iterator[Frame]:
        with opened(self._path, max_pixels=MAX_FRAME_PIXELS) as image:
            yield from self.span.pick(self._moments(image))

    def _moments(self, image: Image.Image) -> Iterator[Moment]:
        milliseconds = 0.0
        for number in range(self._frames):
            try:
                image.seek(number)
                image.load()
            except Exception as cause:
                if number == 0:
                    raise damaged(self.source, cause) from cause
                self.is_truncated = True
                logger.warning(
                    "%s ends after %d of %d frames: %s. The frames before are used.",
                    self.source, number, self._frames, cause,
                )  # fmt: skip
                return
            yield milliseconds / 1000, partial(self._pixels, image)
            duration = image.info.get("duration") or 0
            # Browsers and FFmpeg show one that asks for 10 ms or less for a tenth of a second.
            milliseconds += duration if duration > 10 else 100

    def _pixels(self, image: Image.Image) -> Pixels:
        upright = Image.fromarray(decode_upright(image, self.source))
        return _shrink(upright, self.width, self.height)


def _image_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) of an image as stored and as shown, from its header."""
    with opened(path, max_pixels=MAX_FRAME_PIXELS) as image:
        return image.size, upright_size(image)


def _shrink(image: Image.Image, width: int, height: int) -> Pixels:
    if image.size != (width, height):
        # Pillow widens the bilinear kernel by the factor, so nothing aliases.
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
