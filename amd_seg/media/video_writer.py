"""A clip's twin as a video file: the frames' timestamps kept, the sound carried over."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from amd_seg.errors import MediaError
from amd_seg.media.encodings import Encoding
from amd_seg.media.files import unwritable
from amd_seg.media.images import Pixels
from amd_seg.media.soundtrack import Soundtrack
from amd_seg.media.video import FrameReader, VideoReader

# What `Encoding.frame_of` converts to, in FFmpeg's numbers.
_BT709, _LIMITED_RANGE = 1, 1

_USUAL_RATE = Fraction(24)


class VideoWriter:
    """Encodes pictures into a file, each at the time of its frame in the clip.

    Leaving the context ends the file; leaving it by an error leaves a file of no use.

    Args:
        path: the file to make.
        target: how messages name it; its ending is that of the container.
        clip: whose twin it is.
        encoding: how the container keeps pictures.
        origin: the time in the clip, in seconds, at which the file begins.

    Raises:
        MediaError: the file cannot be written; so do all the methods.
    """

    def __init__(
        self, path: Path, target: Path, clip: FrameReader, encoding: Encoding, *, origin: float
    ) -> None:
        _require_edges(clip, target, encoding)
        self._target, self._clip = target, clip
        self._encoding, self._origin = encoding, origin
        self._base = encoding.time_base or clip.time_base
        self._held: tuple[VideoFrame, int] | None = None
        rate = (clip.frame_rate or _USUAL_RATE) / clip.span.every
        self._gap = max(1, round(1 / (rate * self._base)))
        with self._errors_named(), ExitStack() as opened:
            self._out = opened.enter_context(_open(path, encoding))
            self._stream = _add_stream(self._out, clip, encoding, rate, self._base)
            self._soundtrack: Soundtrack | None = None
            if isinstance(clip, VideoReader) and encoding.has_sound:
                suffix = target.suffix.lower()
                self._soundtrack = opened.enter_context(
                    Soundtrack(clip, self._out, suffix, origin=origin)
                )
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with self._errors_named(), self._opened:
                self._finish()
        else:
            with suppress(FFmpegError):
                self._opened.close()

    def prepare(self, picture: Pixels) -> VideoFrame:
        """Convert a picture for `write`; safe to call from several threads."""
        return self._encoding.frame_of(picture)

    def write(self, prepared: VideoFrame, index: int, time: float) -> None:
        """Encode the picture of the frame that the clip shows at `time`, in seconds."""
        ticks = round((time - self._origin) / self._base)
        if self._held is not None:
            gap = ticks - self._held[1]
            if gap < self._encoding.least_ticks:
                return
            self._gap = gap
            self._encode_held()
        self._held = prepared, ticks

    def _encode_held(self) -> None:
        """Encode the frame that waits for the next one, which tells how long it is shown."""
        assert self._held is not None
        frame, ticks = self._held
        frame.pts, frame.duration, frame.time_base = ticks, self._gap, self._base
        with self._errors_named():
            if self._soundtrack is not None:
                self._soundtrack.mux_until(float(ticks * self._base))
            self._out.mux(self._stream.encode(frame))

    def _finish(self) -> None:
        if self._held is not None:
            # It stays for as long as in the clip, where that is known and is not cut off.
            clip = self._clip
            if isinstance(clip, VideoReader) and clip.end is not None and clip.span.end is None:
                ticks = round((clip.end - self._origin) / self._base)
                self._gap = max(self._gap, ticks - self._held[1])
            self._encode_held()
        self._out.mux(self._stream.encode())
        if self._soundtrack is not None:
            self._soundtrack.finish()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except FFmpegError as cause:
            raise unwritable(self._target, cause) from cause


def _require_edges(clip: FrameReader, target: Path, encoding: Encoding) -> None:
    if max(clip.width, clip.height) > encoding.longest_edge:
        raise MediaError(
            f"Cannot write {target}: frames of {clip.source} have {clip.width}x{clip.height} "
            f"pixels, and such a file holds {encoding.longest_edge} on an edge. Give -o a folder."
        )


def _open(path: Path, encoding: Encoding) -> OutputContainer:
    return av.open(
        str(path),
        "w",
        format=encoding.container,
        container_options=encoding.container_options,
    )


def _add_stream(
    out: OutputContainer,
    clip: FrameReader,
    encoding: Encoding,
    rate: Fraction,
    time_base: Fraction,
) -> VideoStream:
    stream = out.add_stream(encoding.codec, rate=rate, options=encoding.options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = encoding.size(clip.width, clip.height)
    stream.pix_fmt = encoding.pixel_format
    stream.time_base = time_base
    context = stream.codec_context
    context.time_base = time_base
    context.sample_aspect_ratio = clip.pixel_aspect
    context.thread_count = 0  # as many as the codec sees fit
    context.flags |= Flags.frame_duration
    if encoding.codec != "gif":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
    return stream
