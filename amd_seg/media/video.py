"""Clips in: video files, folders of frames and animated images, as one stream of upright frames.

A reader opens its file anew for every pass and holds one frame at a time.
"""

import glob
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av import FFmpegError, Packet, VideoFrame, VideoStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import natural_key
from amd_seg.media.images import (
    BT2020,
    HDR,
    MAX_FRAME_PIXELS,
    TURNED,
    Pixels,
    composite,
    damaged,
    decode_upright,
    opened,
    require_at_most,
    to_bt709,
    turned,
    upright_size,
)

logger = logging.getLogger(__name__)

AnyPacket: TypeAlias = "Packet[Stream]"

# Endings of frames in a folder, and of images that are a clip or, by a glob, a frame of one.
FRAME_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CLIP_IMAGE_SUFFIXES = FRAME_SUFFIXES | {".apng", ".avif", ".gif"}

# When a frame is shown, in seconds, and how to make its pixels, which is not always wanted.
Moment = tuple[float, Callable[[], Pixels]]


@dataclass(frozen=True)
class Frame:
    """One frame of a clip."""

    index: int  # counted from the first frame at or after `start`
    time: float  # when it is shown, in seconds from the beginning of the clip
    pixels: Pixels  # (height, width, 3), RGB, upright


@dataclass(frozen=True, kw_only=True)
class Span:
    """The frames of a clip that are wanted: `start <= time < end`, in seconds, every n-th."""

    start: float | None = None
    end: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        start, end = self.start or 0.0, inf if self.end is None else self.end
        # Not "start >= end": what is no number is no time.
        if not 0 <= start < end or self.every < 1:
            raise InputError(
                f"start={self.start}, end={self.end}, every={self.every} cannot be used. End after "
                "the start, which is 0 s or later; every is 1 for all frames, 2 for every second."
            )

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


class FrameReader(ABC):
    """A clip, whatever form it has. Its files are open only while they are read."""

    source: str  # how messages name the clip
    span: Span  # the frames that iteration gives
    width: int  # of the frames as they are given, upright, in pixels
    height: int
    time_base: Fraction  # seconds, of which the times of frames are whole multiples
    frame_rate: Fraction | None = None  # frames a second, on average where the rate varies
    frame_count: int | None = None  # frames that iteration gives; None when only reading tells
    duration: float | None = None  # of the whole clip, in seconds, as the file tells it
    pixel_aspect = Fraction(1)  # width of a pixel, in its heights
    hdr: str | None = None  # "HLG" or "PQ" where frames were tone-mapped from it to BT.709
    is_truncated = False  # True once a pass has found that the end of the clip is missing

    def __iter__(self) -> Iterator[Frame]:
        return self.read(self.span)

    def read(self, span: Span) -> Iterator[Frame]:
        """Yield the frames of `span`, whatever span the reader was made for."""
        with closing(self._moments()) as moments:
            yield from span.pick(moments)

    @abstractmethod
    def _moments(self) -> Generator[Moment]: ...

    def _tell_damage(self, fault: str) -> None:
        if not self.is_truncated:
            logger.warning("%s is damaged: %s. The frames it has are used.", self.source, fault)
        self.is_truncated = True


def open_video(
    source: str | os.PathLike[str],
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    frame_rate: Fraction | float = 24,
    short_edge: int | None = None,
) -> FrameReader:
    """Return a reader of a clip.

    Args:
        source: a video file, a folder or a glob of frames, or an animated GIF, WebP, PNG or AVIF.
        start: leave out frames before this time, in seconds from the beginning of the clip.
        end: leave out frames at or after this time, in seconds.
        every: keep every n-th of those.
        frame_rate: of a folder of frames, which has no times of its own.
        short_edge: shrink frames to this shorter side, in pixels, antialiased; never enlarges.

    Raises:
        MediaError: there is no such clip, or nothing in it can be decoded.
        InputError: start, end, every or frame_rate is not a possible value.
    """
    span, path, name = Span(start=start, end=end, every=every), Path(source), os.fspath(source)
    if os.path.isfile(name):
        reader = AnimatedImage if path.suffix.lower() in CLIP_IMAGE_SUFFIXES else VideoReader
        return reader(path, span=span, short_edge=short_edge)
    if os.path.isdir(name):
        images = list_frames(path)
    else:
        images = sorted(map(Path, glob.glob(name)), key=natural_key)
    if others := [path for path in images if path.suffix.lower() not in CLIP_IMAGE_SUFFIXES]:
        raise MediaError(
            f"Cannot read {name} as one clip: {others[0]} among its {len(images)} matches is no "
            "image. Give a glob of frames, or one video at a time."
        )
    return FrameFolder(images, source=name, frame_rate=frame_rate, span=span, short_edge=short_edge)


def list_frames(folder: Path) -> list[Path]:
    """Return the images directly in `folder`, in natural order."""
    try:
        images = [p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES]
    except OSError as cause:
        raise MediaError(f"Cannot read {folder}: {cause.strerror}. Check its rights.") from cause
    return sorted((p for p in images if not p.name.startswith(".")), key=natural_key)


def shrunk_size(width: int, height: int, short_edge: int | None) -> tuple[int, int]:
    """Return (width, height) with the shorter side at most `short_edge`, the aspect kept."""
    if short_edge is None or min(width, height) <= short_edge:
        return width, height
    factor = short_edge / min(width, height)
    return round(width * factor), round(height * factor)


# Clips that are images


class FrameFolder(FrameReader):
    """A clip kept as one image a frame, all of one size; arguments as for `open_video`."""

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
            raise MediaError(
                f"Cannot read {source}: no such file, or no image in the folder. Check the path."
            )
        if not 0.001 <= frame_rate <= 1000:
            raise InputError(f"frame_rate is {frame_rate}. Give frames a second, 0.001 to 1000.")
        self.frame_rate = rate = Fraction(frame_rate).limit_denominator(100_000)
        self.source, self.time_base = source, 1 / rate
        self.frame_count, self.duration = span.count(len(images)), float(len(images) / rate)
        self.span, self._images, self._short_edge = span, images, short_edge
        with opened(images[0], max_pixels=MAX_FRAME_PIXELS) as first:
            self._stored_size = first.size
            self.width, self.height = shrunk_size(*upright_size(first), short_edge)

    def timestamps(self) -> list[float]:
        """Return the time of each frame of the clip, in seconds."""
        return [float(number * self.time_base) for number in range(len(self._images))]

    def _moments(self) -> Generator[Moment]:
        for time, path in zip(self.timestamps(), self._images, strict=True):
            yield time, partial(self._pixels, path)

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
            return _shrunk(image, str(path), self)


class AnimatedImage(FrameReader):
    """A clip kept as an animated GIF, WebP, PNG or AVIF; arguments as for `open_video`."""

    def __init__(
        self, path: Path, *, span: Span = EVERY_FRAME, short_edge: int | None = None
    ) -> None:
        self.source, self._path, self.span = str(path), path, span
        self._frames, self.time_base = count_frames(path), Fraction(1, 1000)
        if self._frames < 2:
            raise MediaError(
                f"Cannot read {path} as a clip: it is a single image. "
                "Give a video, a folder of frames or an animated image."
            )
        self.frame_count = span.count(self._frames)
        with opened(path, max_pixels=MAX_FRAME_PIXELS) as image:
            self.width, self.height = shrunk_size(*upright_size(image), short_edge)
            self.hdr = image.info.get("hdr", (None,))[0]

    def _moments(self) -> Generator[Moment]:
        milliseconds = 0.0
        with opened(self._path, max_pixels=MAX_FRAME_PIXELS) as image:
            for number in range(self._frames):
                try:
                    image.seek(number)
                    image.load()
                except Exception as cause:
                    if number == 0:
                        raise damaged(self.source, cause) from cause
                    self._tell_damage(f"it ends after {number} of {self._frames} frames, {cause}")
                    return
                yield milliseconds / 1000, partial(_shrunk, image, self.source, self)
                duration = image.info.get("duration") or 0
                # Browsers and FFmpeg show one that asks for 10 ms or less for a tenth of a second.
                milliseconds += duration if duration > 10 else 100


def count_frames(path: Path) -> int:
    """Return how many frames an image holds, none of them decoded: 1 unless it is animated."""
    with opened(path) as image:
        try:
            return int(getattr(image, "n_frames", 1))
        except Exception as cause:  # To tell, a reader may parse what is damaged.
            raise damaged(str(path), cause) from cause


def _shrunk(image: Image.Image, name: str, clip: FrameReader) -> Pixels:
    upright = Image.fromarray(decode_upright(image, name))
    if upright.size != (clip.width, clip.height):
        # Pillow widens the bilinear kernel by the factor, so nothing aliases.
        upright = upright.resize((clip.width, clip.height), Image.Resampling.BILINEAR)
    return np.asarray(upright)


# Video files

# FFmpeg's readers that are used. Others follow what a file says to further files and addresses
# (playlists, lists of parts), whatever its ending, or show a text as a terminal does.
DEMUXERS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v"),
    *("flv", "ogg", "asf", "mxf", "nut", "ivf", "dv", "rm", "wtv", "gxf", "nsv", "swf"),
    *("h264", "hevc", "vvc", "av1", "obu", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
)

# Formats of broadcasts and recorders, whose clock may begin anew or jump in the midst of a file.
_RESTARTING = frozenset({"mpegts", "mpeg", "ogg", "nsv", "wtv"})

# FFmpeg's own decoders of these leave out the alpha.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class VideoReader(FrameReader):
    """A video file, decoded by FFmpeg; without a number of `threads` FFmpeg chooses."""

    start_time: float  # of the file's own clock, in seconds, at the beginning of the clip
    # When its last frame is over, in seconds; None before a pass, and where the file does not tell.
    end: float | None = None
    orientation: int  # how frames are stored, as EXIF counts it: 1 is upright

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        span: Span = EVERY_FRAME,
        short_edge: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.source, self.span, self._threads = os.fspath(path), span, threads
        with open_container(self.source) as container:
            stream, kind = video_stream(container, self.source), container.format.name
            self.start_time = max(0.0, (container.start_time or 0) / av.time_base)
            self.frame_rate = stream.average_rate or stream.guessed_rate
            self.time_base = stream.time_base or Fraction(1, av.time_base)
            self.frame_count = span.count(stream.frames or None)
            if stream.duration is not None:
                self.duration = float(stream.duration * self.time_base)
            elif container.duration is not None:
                self.duration = container.duration / av.time_base
            self._may_restart = kind in _RESTARTING
            # Frames that end before the duration mean a loss only where sound cannot outlast them.
            self._tells_a_loss = stream.duration is not None or len(container.streams) == 1
            if kind in ("matroska,webm", "avi"):
                # Their frames need not tell how long they stay; in Matroska sound may outlast them.
                self._tells_a_loss = _is_cut_short(self.source)
            # One thread: the others would decode frames that nobody looks at.
            decoder, damage = _decoder(stream, threads=1), ["it holds none"]
            packets = packets_in_time(container, stream)
            first = next(_decoded(packets, decoder, damage.append), None)
            if first is None:
                raise MediaError(
                    f"Cannot read {self.source}: no frame can be decoded ({damage[-1]}). "
                    "Give an intact file."
                )
            aspect = stream.sample_aspect_ratio
        # A file that does not know its aspect says 0; a damaged one says anything.
        aspect = aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)
        size, self.pixel_aspect = (first.width, first.height), aspect
        self.hdr, self.orientation = HDR.get(first.color_trc), _orientation(first)
        if self.orientation in TURNED:
            size, self.pixel_aspect = size[::-1], 1 / aspect
        self.width, self.height = shrunk_size(*size, short_edge)

    def read(self, span: Span) -> Iterator[Frame]:
        """Yield the frames of `span`, whatever span the reader was made for."""
        if span.start and self.can_seek:
            with closing(self._moments(seek_to=span.start)) as moments:
                first = next(moments, None)
                if first is not None and first[0] <= span.start:
                    yield from span.pick(chain([first], moments))
                    return
        # Some formats land behind the time that was sought: then all is read.
        yield from super().read(span)

    def timestamps(self) -> list[float]:
        """Return the time of each frame, in seconds, up to any damage, without decoding one."""
        times: list[float] = []
        with open_container(self.source) as container, suppress(FFmpegError):
            for packet in packets_in_time(container, video_stream(container, self.source)):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    raise MediaError(f"Cannot seek in {self.source}: no timestamps. Remux it.")
                times.append(float(packet.pts * packet.time_base) - self.start_time)
        return sorted(times)

    @cached_property
    def can_seek(self) -> bool:
        """Whether a time stands for one place in the file; to tell, some files are read through."""
        if not self._may_restart:
            return True
        steps: list[float] = []
        with open_container(self.source) as container, suppress(FFmpegError):
            for _ in packets_in_time(container, steps=steps):
                pass
        return not steps

    def _moments(self, seek_to: float = 0.0) -> Generator[Moment]:
        steps: list[float] = []
        with open_container(self.source) as container:
            stream = video_stream(container, self.source)
            if seek_to:
                seek(container, seek_to + self.start_time)
            period = float(1 / self.frame_rate) if self.frame_rate else 0.0
            time, shown = -inf, period
            packets = packets_in_time(container, stream, steps=steps)
            decoder, reformatter = _decoder(stream, self._threads), VideoReformatter()
            for frame in _decoded(packets, decoder, self._tell_damage):
                # Some old files have no timestamps: then frames follow each other at the rate.
                timed = frame.pts is not None and frame.time_base is not None
                stamp = frame.time - self.start_time if timed else max(time + period, 0.0)
                # Where stamps repeat, the frames that share one are shown one after the other.
                time = stamp if stamp > time else time + (period or 0.04) / 2
                # The last picture of a slide show stays for longer than a frame does on average.
                shown = float((frame.duration or 0) * (frame.time_base or 0)) or period
                yield time, partial(self._pixels, frame, reformatter)
        self.end = None
        if steps:  # Then its duration means nothing.
            self.end = time + shown
        elif self.duration is not None:
            # With B-frames, what a frame shows of its own duration may be that of another.
            self.end = min(time + shown, self.duration)
            missing = self.duration - (time + max(shown, period))
            if self._tells_a_loss and time >= 0 and missing > max(2 * period, 0.1):
                self._tell_damage(f"{missing:.2f} s of {self.duration:.2f} s are missing")

    def _pixels(self, frame: VideoFrame, reformatter: VideoReformatter) -> Pixels:
        width, height = self.width, self.height
        if self.orientation in TURNED:
            width, height = height, width
        is_wide = frame.color_trc in HDR or frame.color_primaries == BT2020
        kind = frame.format
        has_alpha = kind.has_palette or any(part.is_alpha for part in kind.components)
        layout = "rgb48le" if is_wide else "rgba" if has_alpha else "rgb24"
        # FFmpeg widens this kernel when it shrinks: stripes of one pixel come out even, as they do
        # not with its AREA. One thread: more of them cost three times what they save.
        pixels: NDArray[Any] = reformatter.reformat(
            frame,
            width,
            height,
            layout,
            interpolation="BILINEAR",
            src_color_range=ColorRange.JPEG if frame.color_range == ColorRange.JPEG else None,
            threads=1,
        ).to_ndarray()
        if is_wide:
            pixels = to_bt709(pixels, HDR.get(frame.color_trc), frame.color_primaries == BT2020)
        elif has_alpha:
            pixels = composite(Image.fromarray(pixels))
        return turned(pixels, self.orientation)


def packets_in_time(
    container: InputContainer, wanted: Stream | None = None, *, steps: list[float] | None = None
) -> Iterator[AnyPacket]:
    """Yield the packets of one stream, or of all, with times that go on where the clock jumps.

    Recordings that were joined repeat times. A step of one stream moves all that follow, as
    FFmpeg's command does; `steps` gets each, in seconds.
    """
    # Other formats may rest for as long as they like, and come in any order.
    is_restarting = container.format.name in _RESTARTING
    most_behind, most_ahead = (0.05, 10.0) if is_restarting else (1.0, inf)
    offset, latest = 0.0, inf
    seen: dict[int, tuple[float, float]] = {}  # a stream's last time, how long a packet lasts
    for packet in container.demux():
        if packet.dts is not None and packet.stream.type in ("video", "audio"):
            time = float(packet.dts * packet.time_base) + offset
            duration = float((packet.duration or 0) * packet.time_base)
            last, lasts = seen.get(packet.stream.index, (time, duration))
            # A stream may pause while others go on, but none goes back.
            if time < last - most_behind or time > latest + most_ahead:
                next_time = min(last + lasts, latest + lasts)
                if steps is not None:
                    steps.append(time - next_time)
                offset -= time - next_time
                time = next_time
            # What a packet tells of its duration is often missing or wrong.
            passed = time - last
            seen[packet.stream.index] = time, passed if 0 < passed < 1 else duration
            latest = max(time for time, _ in seen.values())
        if offset:
            shift(packet, offset)
        if wanted is None or packet.stream.index == wanted.index:
            yield packet


def shift(packet: AnyPacket, seconds: float) -> None:
    """Let a packet come later."""
    ticks = round(seconds / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks


def open_container(source: str) -> InputContainer:
    """Open a video file; MediaError tells why it cannot be."""
    if not os.path.isfile(source):
        raise MediaError(f"Cannot read {source}: no such file. Check the path.")
    try:
        # Whole, for FFmpeg takes what stands before a colon, as in 12:30.mp4, for a protocol.
        name = os.path.abspath(source)
        return av.open(name, mode="r", options={"format_whitelist": ",".join(DEMUXERS)})
    except (FFmpegError, UnicodeDecodeError) as cause:
        reason = getattr(cause, "strerror", cause)
        raise MediaError(
            f"Cannot read {source}: it is not a video that FFmpeg knows ({reason}). "
            "Give a video file or a folder of frames."
        ) from cause


def video_stream(container: InputContainer, source: str) -> VideoStream:
    """Return the video stream that FFmpeg thinks best; cover pictures do not count."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    # PyAV's types say otherwise, but of a codec that FFmpeg does not know there is no context.
    known = [
        stream
        for stream in container.streams.video
        if not stream.disposition & pictures and stream.codec_context is not None
    ]
    if not known:
        raise MediaError(
            f"Cannot read {source}: no video stream that FFmpeg can decode. Give a video file or a "
            "folder of frames."
        )
    best = container.streams.best("video")
    stream = next((s for s in known if s is best), known[0])
    require_at_most(MAX_FRAME_PIXELS, (stream.width, stream.height), source)
    return stream


def _decoder(stream: VideoStream, threads: int | None) -> Any:
    """Return the decoder of a stream, one that keeps alpha."""
    decoder: Any = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in _ALPHA_DECODERS:
        decoder = av.CodecContext.create(_ALPHA_DECODERS[decoder.name], "r")
    # Frames may grow on the way, whatever the header says.
    decoder.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    decoder.thread_type = "NONE" if threads == 1 else "AUTO"
    decoder.thread_count = threads or 0
    return decoder


def _decoded(
    packets: Iterable[AnyPacket], decoder: Any, tell: Callable[[str], None]
) -> Iterator[VideoFrame]:
    """Yield the frames that can be decoded, and `tell` what cannot."""
    try:
        for packet in packets:
            try:
                yield from decoder.decode(packet)
            except FFmpegError as cause:
                # What follows a broken packet can often be decoded again.
                tell(str(cause.strerror))
    except FFmpegError as cause:
        tell(str(cause.strerror))


def seek(container: InputContainer, timestamp: float) -> None:
    """Go to a packet before a timestamp, in seconds of the file's own clock, if the file can."""
    with suppress(FFmpegError):
        container.seek(int(timestamp * av.time_base))


def _is_cut_short(source: str) -> bool:
    """Tell whether a Matroska, WebM or AVI file ends before it says, if it does.

    Source: RFC 9559, section 5.1 (Segment), and RFC 8794, section 4 (sizes of variable length).
    """
    with open(source, "rb") as file:
        head = file.read(1024)
        total = file.seek(0, os.SEEK_END)
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return size < 0xFFFFFFFF and 8 + size > total
    segment = b"\x18\x53\x80\x67"  # It holds all but the header before it.
    start = head.find(segment) + len(segment)
    length = 9 - head[start].bit_length() if start < len(head) else 9
    if start < len(segment) or length > 8:
        return False
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length]) & unknown
    return size != unknown and start + length + size > total


def _orientation(frame: VideoFrame) -> int:
    """Return how a frame is stored, 1 to 8 as EXIF counts it, by its display matrix.

    Source: FFmpeg, libavutil/display.h: a point (x, y) is shown at (a x + c y, b x + d y).
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (1, 2, 4, 3)[(a < 0) + 2 * (d < 0)]
    return (5, 6, 8, 7)[(c < 0) + 2 * (b < 0)]
