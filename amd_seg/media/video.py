"""Clips in: video files, folders of frames, animated GIF and WebP, as one stream of frames.

    with open_video("clip.mp4", start=1.0, every=2) as clip:
        for frame in clip:
            frame.index, frame.time, frame.pixels

A reader opens its file anew for every pass and holds one frame at a time, so memory does not grow
with the length of a clip.
"""

import glob
import logging
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from fractions import Fraction
from functools import partial
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from amd_seg.errors import MediaError
from amd_seg.media.containers import fault, is_cut_short, open_container, seek, video_stream
from amd_seg.media.files import natural_key
from amd_seg.media.frames import (
    CLIP_IMAGE_SUFFIXES,
    EVERY_FRAME,
    AnimatedImage,
    Frame,
    FrameFolder,
    FrameReader,
    Moment,
    Pixels,
    Span,
    list_frames,
    shrunk_size,
)

__all__ = ["Frame", "FrameReader", "VideoReader", "open_video"]

logger = logging.getLogger(__name__)


def open_video(
    source: str | PathLike[str],
    *,
    start: float | None = None,
    end: float | None = None,
    every: int = 1,
    frame_rate: Fraction | float = 24,
    short_edge: int | None = None,
) -> FrameReader:
    """Return a reader of the clip at `source`, whatever form it has.

    Args:
        source: a video file, a folder of frames, an animated GIF, WebP or PNG, or a glob of frames.
        start: leave out frames before this time, in seconds from the beginning of the clip.
        end: leave out frames at or after this time, in seconds.
        every: keep every n-th of those.
        frame_rate: of a folder of frames, which has no times of its own.
        short_edge: shrink frames to this shorter side, in pixels, antialiased; never enlarges.

    Raises:
        MediaError: there is no such clip, or nothing in it can be decoded.
        InputError: start, end, every or frame_rate is not a possible value.
    """
    span = Span(start=start, end=end, every=every)
    path = Path(source)
    if not path.exists():
        return _open_glob(fspath(source), span, frame_rate, short_edge)
    if path.is_dir():
        return FrameFolder(
            list_frames(path),
            source=fspath(source),
            frame_rate=frame_rate,
            span=span,
            short_edge=short_edge,
        )
    if path.suffix.lower() in CLIP_IMAGE_SUFFIXES:
        return AnimatedImage(path, span=span, short_edge=short_edge)
    return VideoReader(path, span=span, short_edge=short_edge)


class VideoReader:
    """A video file, decoded by FFmpeg: upright frames with their own timestamps.

    Args:
        path: any file with a video stream.
        span: which frames are wanted.
        short_edge: shrink frames to this shorter side, in pixels, antialiased; never enlarges.
        threads: decoding threads; None lets FFmpeg choose.

    Attributes:
        start_time: what the file's own clock shows at the beginning of the clip, in seconds:
            `frame.time + start_time` is the timestamp in the file.
        end: when its last frame is over, in seconds; None until a pass has come to it, and where
            the file does not tell.
        rotation: how far frames were turned to stand upright, in degrees, counter-clockwise.

    Raises:
        MediaError: there is no such file, no video stream in it, or no frame can be decoded.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        span: Span = EVERY_FRAME,
        short_edge: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.source = fspath(path)
        self.is_truncated = False
        self.end: float | None = None
        self.span, self._threads = span, threads
        with open_container(self.source) as container:
            stream = video_stream(container, self.source)
            self.start_time = max(0.0, (container.start_time or 0) / av.time_base)
            self.frame_rate: Fraction | None = stream.average_rate or stream.guessed_rate
            self.time_base = stream.time_base or Fraction(1, av.time_base)
            self.frame_count = span.count(stream.frames or None)
            self.duration = _duration(container, stream)
            self._tells_a_loss = _tells_a_loss(container, stream, self.source)
            first = self._first_frame(container, stream)
            self.rotation = round(first.rotation / 90) * 90 % 360
            upright = (first.width, first.height)
            if self.rotation % 180:
                upright = upright[::-1]
            self.pixel_aspect = _pixel_aspect(stream, self.rotation)
        self.width, self.height = shrunk_size(*upright, short_edge)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Each pass opens the file and closes it, also when it is left early.
        return None

    def __iter__(self) -> Iterator[Frame]:
        return self.read(self.span)

    def read(self, span: Span) -> Iterator[Frame]:
        """Yield the frames of `span`, whatever span the reader was made for."""
        with closing(self._moments(seek_to=span.start or 0.0)) as moments:
            first = next(moments, None)
            if not span.start or (first is not None and first[0] <= span.start):
                yield from span.pick(chain([first] if first else [], moments))
                return
        # Some formats land behind the time that was sought: then all is read.
        with closing(self._moments()) as moments:
            yield from span.pick(moments)

    def timestamps(self) -> list[float]:
        """Return the time of each frame of the clip, in seconds, without decoding any.

        Of a damaged file these are the frames before the damage.

        Raises:
            MediaError: the file has no timestamps.
        """
        times: list[float] = []
        with open_container(self.source) as container, suppress(FFmpegError):
            stream = video_stream(container, self.source)
            base = float(stream.time_base or 0)
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    raise MediaError(
                        f"Cannot seek in {self.source}: it has no timestamps. Remux it."
                    )
                times.append(packet.pts * base - self.start_time)
        return sorted(times)

    def _first_frame(self, container: InputContainer, stream: VideoStream) -> VideoFrame:
        # One thread: the others would decode frames that nobody looks at.
        stream.thread_type = "NONE"
        damage: FFmpegError | None = None
        try:
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        return frame
                except FFmpegError as cause:
                    damage = damage or cause
        except FFmpegError as cause:
            damage = damage or cause
        reason = fault(damage) if damage else "it holds none"
        raise MediaError(
            f"Cannot read {self.source}: no frame can be decoded ({reason}). Give an intact file."
        ) from damage

    def _moments(self, seek_to: float = 0.0) -> Generator[Moment]:
        with open_container(self.source) as container:
            stream = video_stream(container, self.source)
            stream.thread_type = "NONE" if self._threads == 1 else "AUTO"
            stream.codec_context.thread_count = self._threads or 0
            if seek_to:
                seek(container, seek_to + self.start_time, stream)
            period = float(1 / self.frame_rate) if self.frame_rate else 0.0
            time, shown, reformatter = -period, period, VideoReformatter()
            for frame in self._decode(container, stream):
                # Some old files have no timestamps: then frames follow each other at the rate.
                timed = frame.pts is not None and frame.time_base is not None
                time = frame.time - self.start_time if timed else time + period
                # The last picture of a slide show stays for longer than a frame does on average.
                shown = float((frame.duration or 0) * (frame.time_base or 0)) or period
                yield time, partial(self._pixels, frame, reformatter)
        # Of a file with B-frames, what a frame shows of its own duration may be that of another.
        self.end = None if self.duration is None else min(time + shown, self.duration)
        if self.duration is not None and self._tells_a_loss and time >= 0:
            missing = self.duration - (time + max(shown, period))
            if missing > max(2 * period, 0.1):
                self._truncate(f"{missing:.2f} s of {self.duration:.2f} s are missing")

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        try:
            for packet in container.demux(stream):
                try:
                    yield from packet.decode()
                except FFmpegError as cause:
                    # What follows a broken packet can often be decoded again.
                    self._truncate(fault(cause))
        except FFmpegError as cause:
            self._truncate(fault(cause))

    def _truncate(self, reason: str) -> None:
        if not self.is_truncated:
            logger.warning("%s is damaged: %s. The frames it has are used.", self.source, reason)
        self.is_truncated = True

    def _pixels(self, frame: VideoFrame, reformatter: VideoReformatter) -> Pixels:
        width, height = self.width, self.height
        if self.rotation % 180:
            width, height = height, width
        # FFmpeg widens this kernel when it shrinks: stripes of one pixel come out even, as they do
        # not with its AREA. One thread: more of them cost three times what they save.
        rgb = reformatter.reformat(
            frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
        )
        pixels = rgb.to_ndarray().astype(np.uint8, copy=False)
        return np.ascontiguousarray(np.rot90(pixels, self.rotation // 90))


def _open_glob(
    pattern: str, span: Span, frame_rate: Fraction | float, short_edge: int | None
) -> FrameReader:
    matches = sorted(map(Path, glob.glob(pattern)), key=natural_key)
    if not matches:
        raise MediaError(f"Cannot read {pattern}: no such file. Check the path.")
    others = [path for path in matches if path.suffix.lower() not in CLIP_IMAGE_SUFFIXES]
    if others:
        raise MediaError(
            f"Cannot read {pattern} as one clip: {others[0]} among its {len(matches)} matches is "
            "no image. Give a glob of frames, or one video at a time."
        )
    return FrameFolder(
        matches, source=pattern, frame_rate=frame_rate, span=span, short_edge=short_edge
    )


def _pixel_aspect(stream: VideoStream, rotation: int) -> Fraction:
    # A file that does not know its aspect says 0.
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return 1 / aspect if rotation % 180 else aspect


def _tells_a_loss(container: InputContainer, stream: VideoStream, source: str) -> bool:
    """Tell whether frames that end before the clip's duration mean that some are lost."""
    if container.format.name in ("matroska,webm", "avi"):
        # Their frames need not tell how long they stay; in Matroska sound may outlast them too.
        return is_cut_short(source)
    # Else the longest stream sets the duration, and sound may outlast the picture.
    return stream.duration is not None or len(container.streams) == 1


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else None
