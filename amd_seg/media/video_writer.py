"""Output videos: a video file, a GIF, or a folder of PNG frames, each with the clip's own times.

Every form is written beside its target and moved there at the end.
"""

import glob
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from itertools import islice
from math import ceil, inf
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import AudioStream, FFmpegError, VideoFrame
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media import files
from amd_seg.media.files import name_beside, replacing, require_possible_name, write_errors
from amd_seg.media.images import Pixels, write_image
from amd_seg.media.video import (
    AnyPacket,
    FrameReader,
    VideoReader,
    open_container,
    packets_in_time,
    seek,
    shift,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoding:
    """How one container keeps pictures, in FFmpeg's words."""

    container: str
    codec: str
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


# Without B-frames an MP4 tells how long its last frame is shown.
_X264 = "libx264", "yuv420p", {"preset": "veryfast", "crf": "16", "bf": "0"}
_VP9_OPTIONS = {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
_INDEX_FIRST = {"movflags": "faststart"}
_GIF = Encoding("gif", "gif", "pal8")

OPAQUE = {
    ".mp4": Encoding("mp4", *_X264, _INDEX_FIRST),
    ".mov": Encoding("mov", *_X264, _INDEX_FIRST),
    # Sound may begin with a decoder's run-up, before 0: without this all frames would come later.
    ".mkv": Encoding("matroska", *_X264, {"avoid_negative_ts": "disabled"}),
    ".webm": Encoding("webm", "libvpx-vp9", "yuv420p", _VP9_OPTIONS),
    ".gif": _GIF,
}
"""Ending in lower case -> how such a file keeps pictures without alpha."""

WITH_ALPHA = {
    ".webm": Encoding("webm", "libvpx-vp9", "yuva420p", _VP9_OPTIONS),
    ".mov": Encoding("mov", "prores_ks", "yuva444p10le", {"profile": "4444"}, _INDEX_FIRST),
    ".gif": _GIF,
}
"""The same for pictures with alpha; in a GIF a pixel is clear or not, nothing between."""

_FRAME_NAME, _FRAME_NAMES = "{:05d}.png", re.compile(r"\d{5,}\.png")  # as DAVIS calls its frames


def check_target(
    target: Path, source: str, *, has_alpha: bool = False, overwrite: bool = False
) -> None:
    """Raise where an output video of the clip `source` could not be written, before any work."""
    suffix = target.suffix.lower()
    require_possible_name(target)
    if not _is_folder(target) and suffix not in OPAQUE:
        raise InputError(
            f"Cannot write {target}: unknown ending {suffix!r}. Use one of {', '.join(OPAQUE)}, "
            "or a folder's name."
        )
    if has_alpha and suffix in OPAQUE.keys() - WITH_ALPHA.keys():
        raise InputError(
            f"Cannot write {target}: {suffix} holds no transparency. Use .webm or .mov, or give a "
            "background."
        )
    # A glob stands for the folder of its frames.
    clip = source if os.path.exists(source) else Path(glob.glob(source)[0]).parent
    if os.path.exists(target) and target.samefile(clip):
        raise InputError(f"Cannot write {target}: it is the clip itself. Give another name.")
    if not _is_folder(target):
        files.check_target(target, overwrite=overwrite)
        return
    if os.path.exists(target) and not target.is_dir():
        raise InputError(f"Cannot write frames to {target}: it is no folder. Give another name.")
    names = [path.name for path in target.iterdir()] if target.is_dir() else []
    if names and not overwrite:
        raise InputError(f"{target} exists. Give another name, or overwrite it (--overwrite).")
    # A folder is replaced as a whole, or frames of an older, longer run would stay among ours.
    if others := [name for name in names if not _FRAME_NAMES.fullmatch(name)]:
        raise InputError(
            f"Cannot replace the folder {target}: it holds more than frames, such as {others[0]}. "
            "Give another name."
        )


def _is_folder(target: Path) -> bool:
    return target.is_dir() or not target.suffix


@contextmanager
def open_writer(
    target: Path, clip: FrameReader, *, has_alpha: bool = False, origin: float = 0.0
) -> Iterator["FolderWriter | VideoWriter"]:
    """Give a writer of an output video of a clip; an error within leaves what was there before.

    Pictures (height, width), (height, width, 3) or, with alpha, (height, width, 4) go through its
    `prepare`, in any thread and in any order, and then, in order, to `write` with the index and
    the time, in seconds, of their frame. Its `frames` counts those that are in the file, which
    begins at `origin` seconds of the clip.
    """
    if _is_folder(target):
        with _replacing_folder(target) as folder:
            yield FolderWriter(folder)
        return
    suffix = target.suffix.lower()
    encoding = (WITH_ALPHA if has_alpha else OPAQUE)[suffix]
    if max(clip.width, clip.height) > (65_535 if encoding is _GIF else 16_384):
        raise MediaError(
            f"Cannot write {target}: its encoder takes no frames of {clip.width}x{clip.height} "
            f"pixels, as {clip.source} has. Give -o a folder."
        )
    how: Any = {"format": encoding.container, "container_options": encoding.container_options}
    has_sound = isinstance(clip, VideoReader) and encoding is not _GIF
    with (
        replacing(target) as path,
        write_errors(target, FFmpegError),
        open_container(clip.source) if has_sound else nullcontext() as source,
        av.open(str(path), "w", **how) as out,
    ):
        writer = VideoWriter(out, clip, encoding, origin)
        if source is not None and isinstance(clip, VideoReader):
            writer.soundtrack = Soundtrack(clip, source, out, suffix, origin)
        yield writer
        writer.finish()
    if writer.left_out:
        logger.warning(
            "%s leaves out %d of %d frames: browsers show no more than 50 a second.",
            target, writer.left_out, writer.left_out + writer.frames,
        )  # fmt: skip


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to write to; it takes the place of `path` when all went well."""
    target = Path(os.path.realpath(path))
    temporary, old = name_beside(target), name_beside(target)
    with write_errors(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if target.exists():
                os.replace(target, old)
            try:
                os.replace(temporary, target)
            except OSError:
                os.replace(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class FolderWriter:
    """Writes PNG frames into a folder, called as DAVIS does: 00000.png, 00001.png, ..."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.frames = 0

    def prepare(self, picture: Pixels) -> bytes:
        """Return a picture (height, width[, 3|4]) as the bytes of a PNG."""
        file = BytesIO()
        write_image(Image.fromarray(picture), file, ".png")
        return file.getvalue()

    def write(self, prepared: bytes, index: int, time: float) -> None:
        """Write the file of the frame `index`."""
        (self._folder / _FRAME_NAME.format(index)).write_bytes(prepared)
        self.frames += 1


# Pictures of a video file


class VideoWriter:
    """Encodes pictures of a clip's frames into `out`; `origin` seconds of the clip are its 0."""

    def __init__(
        self, out: OutputContainer, clip: FrameReader, encoding: Encoding, origin: float
    ) -> None:
        self.frames = self.left_out = 0
        self.soundtrack: Soundtrack | None = None
        self._out, self._clip, self._encoding, self._origin = out, clip, encoding, origin
        self._base = Fraction(1, 100) if encoding is _GIF else clip.time_base
        rate = (clip.frame_rate or Fraction(24)) / clip.span.every
        # The frame that waits for the next one to tell how long it is shown, and its own tick.
        self._held: tuple[VideoFrame, int] | None = None
        self._gap = max(1, round(1 / (rate * self._base)))
        self._size, aspect = (clip.width, clip.height), clip.pixel_aspect
        if encoding.container in ("webm", "gif"):
            # They do not tell the shape of pixels: square ones, with none of the rows lost.
            wide, high = max(aspect, Fraction(1)), max(1 / aspect, Fraction(1))
            self._size, aspect = (round(clip.width * wide), round(clip.height * high)), Fraction(1)
        stream: Any = out.add_stream(encoding.codec, rate=rate, options=encoding.options)
        # Planes of colour have half the size: an odd frame gets its last row or column twice.
        self._step = 2 if encoding.codec == "libx264" else 1
        stream.width, stream.height = (edge + edge % self._step for edge in self._size)
        stream.pix_fmt, stream.time_base = encoding.pixel_format, self._base
        self._stream, context = stream, stream.codec_context
        context.time_base, context.sample_aspect_ratio = self._base, aspect
        context.thread_count = 0  # as many as the codec sees fit
        context.flags |= Flags.frame_duration
        if encoding is not _GIF:
            # Where the file does not tell, players guess the colours' matrix by the size.
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # limited

    def prepare(self, picture: Pixels) -> VideoFrame:
        """Convert (height, width[, 3|4]) for `write`; safe to call from several threads."""
        if self._size != (self._clip.width, self._clip.height):
            image = Image.fromarray(picture).resize(self._size, Image.Resampling.BILINEAR)
            picture = np.asarray(image)
        if self._encoding is _GIF:
            return _palette_frame(picture)
        layout = {(): "gray", (3,): "rgb24", (4,): "rgba"}[picture.shape[2:]]
        rows, columns = (edge % self._step for edge in picture.shape[:2])
        margins = [(0, rows), (0, columns), (0, 0)][: picture.ndim]
        picture = np.pad(picture, margins, mode="edge")
        # One thread, for several pictures are converted side by side.
        return VideoReformatter().reformat(
            VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout),
            format=self._encoding.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )

    def write(self, prepared: VideoFrame, index: int, time: float) -> None:
        """Encode the picture of the frame that the clip shows at `time`, in seconds."""
        tick = round((time - self._origin) / self._base)
        if self._held is not None:
            gap = tick - self._held[1]
            # Browsers show a frame of a GIF that asks for less than 0.02 s for 0.1 s.
            if self._encoding is _GIF and gap < 2:
                self.left_out += 1
                return
            self._gap = max(gap, 1)
            tick = self._held[1] + self._gap
            self._encode(*self._held)
        self._held = prepared, tick
        self.frames += 1

    def finish(self) -> None:
        """Write what is left."""
        if self._held is not None:
            # It stays for as long as in the clip, where that is known and is not cut off.
            clip = self._clip
            if isinstance(clip, VideoReader) and clip.end is not None and clip.span.end is None:
                end = round((clip.end - self._origin) / self._base)
                self._gap = max(self._gap, end - self._held[1])
            self._encode(*self._held)
        self._out.mux(self._stream.encode())
        if self.soundtrack is not None:
            self.soundtrack.mux_until(inf)

    def _encode(self, frame: VideoFrame, tick: int) -> None:
        frame.pts, frame.duration, frame.time_base = tick, self._gap, self._base
        if self.soundtrack is not None:
            self.soundtrack.mux_until(float(tick * self._base))
        self._out.mux(self._stream.encode(frame))


def _palette_frame(picture: Pixels) -> VideoFrame:
    """Return a picture in the 256 colours that fit it best; with alpha, the last one is clear."""
    has_alpha = picture.shape[2:] == (4,)
    image = Image.fromarray(picture[..., :3] if has_alpha else picture)
    # Forty times faster than the median cut, for a mean error of 3 grey levels in place of 2.
    indexed = image.convert("RGB").quantize(256 - has_alpha, method=Image.Quantize.FASTOCTREE)
    indices = np.array(indexed)
    colours = np.array(indexed.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)  # alpha, then RGB
    palette[: len(colours), 1:] = colours
    palette[:, 0] = 255
    if has_alpha:
        indices[picture[..., 3] < 128] = 255
        palette[255] = 0
    return VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]


# Sound and subtitles

_PCM = frozenset({f"pcm_{kind}" for kind in ("s16le", "s16be", "s24le", "s24be", "f32le")})
_MPEG = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
_TEXT = frozenset({"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"})

# What each container holds that players of it know, and what sound is encoded in else. FFmpeg's own
# list names more than its muxers then write (Opus in .mov).
_HELD = {
    ".mp4": ("aac", _MPEG | {"opus", "flac", "mov_text"}),
    ".mov": ("aac", _MPEG | _PCM | {"mov_text"}),
    ".mkv": ("libopus", _MPEG | _PCM | _TEXT | {"opus", "flac", "vorbis"}),
    ".webm": ("libopus", {"opus", "vorbis", "webvtt"}),
}

# Of two codes of ISO 639-2 for a language, QuickTime files know one: else FFmpeg drops it.
_QUICKTIME_LANGUAGES = {
    "sqi": "alb", "hye": "arm", "eus": "baq", "mya": "bur", "zho": "chi", "cze": "ces",
    "nld": "dut", "fre": "fra", "kat": "geo", "deu": "ger", "ell": "gre", "isl": "ice",
    "mkd": "mac", "msa": "may", "fas": "per", "rum": "ron", "slo": "slk", "bod": "tib",
    "cym": "wel",
}  # fmt: skip


class Soundtrack:
    """The audio and the subtitles of a clip, on their way into an output.

    What the container holds is copied to the bit. Other audio is encoded anew, other subtitles are
    left out; both are logged. A track that fails ends, with a warning, and costs no picture.
    """

    def __init__(
        self,
        clip: VideoReader,
        source: InputContainer,
        out: OutputContainer,
        suffix: str,
        origin: float,
    ) -> None:
        self._clip, self._source, self._out, self._origin = clip, source, out, origin
        tracks = {stream.index: self._track(stream, suffix) for stream in source.streams}
        self._tracks = {index: track for index, track in tracks.items() if track is not None}
        self._packets = self._read()
        self._next = next(self._packets, None)

    def _track(self, stream: Stream, suffix: str) -> "_Track | None":
        """Make the stream of the output for one of the clip, if it has a place there."""
        if not isinstance(stream, AudioStream | SubtitleStream):
            return None
        source, is_sound = self._clip.source, isinstance(stream, AudioStream)
        # PyAV's types say otherwise, but of a codec that FFmpeg does not know there is no context.
        context: Any = stream.codec_context
        if context is None or (is_sound and not context.sample_rate):
            # Broadcasts announce tracks that stay empty: no container takes one, nor the film.
            reason = "it is empty, or of an unknown codec"
            logger.warning("A stream of %s is left out: %s.", source, reason)
            return None
        encoder, held = _HELD[suffix]
        codec = context.codec.canonical_name
        refusal = f"{suffix} holds no {codec}"
        if codec in held:
            try:
                # Tried in memory, for in the output it would come up with a packet of the picture.
                form = self._out.format.name
                with (
                    open_container(source) as again,
                    av.open(BytesIO(), "w", format=form) as trial,
                ):
                    copy = _Track(again.streams[stream.index], trial)
                    trial.start_encoding()
                    for packet in islice(again.demux(), 100):
                        if packet.stream.index == stream.index and packet.size:
                            trial.mux(copy.convert(packet))
                return _Track(stream, self._out)
            except FFmpegError as cause:
                refusal = f"it cannot be copied ({cause.strerror})"
        if is_sound:
            logger.info("Sound of %s is encoded anew by %s: %s.", source, encoder, refusal)
            return _Track(stream, self._out, encoder)
        logger.warning("Subtitles of %s are left out: %s.", source, refusal)
        return None

    def _read(self) -> Iterator[tuple[float, AnyPacket]]:
        """Yield the packets that the output gets, each with its time there, in seconds."""
        if not self._tracks:
            return
        span, begin = self._clip.span, self._clip.start_time + self._origin
        end = inf if span.end is None else span.end - self._origin
        if span.start is not None and self._clip.can_seek:
            seek(self._source, begin)
        # Of a damaged file we take what can be had: who reads its frames tells of the damage.
        with suppress(FFmpegError):
            for packet in packets_in_time(self._source):
                shift(packet, -begin)
                stamp = packet.dts if packet.pts is None else packet.pts
                # Without one it marks the end.
                if stamp is None or packet.stream.index not in self._tracks:
                    continue
                time = float(stamp * packet.time_base)
                # The streams of a file lie side by side to within seconds.
                if time >= end + 10:
                    return
                # Of a whole clip we keep what lies before 0: a decoder's run-up.
                if time < end and (time >= 0 or span.start is None):
                    yield time, packet

    def mux_until(self, time: float) -> None:
        """Write what begins before `time`, in seconds of the output; infinity ends the tracks."""
        while self._next is not None and self._next[0] < time:
            self._mux(self._next[1].stream.index, self._next[1])
            self._next = next(self._packets, None)
        if time == inf:
            for index in list(self._tracks):
                self._mux(index, None)

    def _mux(self, index: int, packet: "AnyPacket | None") -> None:
        try:
            if index in self._tracks:
                self._out.mux(self._tracks[index].convert(packet))
        except FFmpegError as cause:
            if isinstance(cause, OSError):  # A fault of the disk is no fault of the track.
                raise
            del self._tracks[index]
            kind, source = self._source.streams[index].type, self._clip.source
            logger.warning("%s of %s ends too early: %s.", kind, source, cause.strerror)


class _Track:
    """A stream of the output, copied from one of the clip or, by an encoder, encoded anew."""

    def __init__(self, stream: Stream, out: OutputContainer, encoder: str | None = None) -> None:
        self._last: int | None = None  # When the last copied packet began, in ticks.
        self._end = -inf  # When the last sound that was encoded is over, in seconds.
        self._encoder = encoder
        if encoder is None:
            self._stream: Any = out.add_stream_from_template(stream)
        else:
            mono = stream.codec_context.channels == 1  # type: ignore[attr-defined]
            self._stream = out.add_stream(encoder, rate=48_000, layout="mono" if mono else "stereo")
            self._stream.codec_context.bit_rate = 160_000
        self._stream.metadata.update(stream.metadata)
        if out.format.name == "mov" and stream.language is not None:
            language = _QUICKTIME_LANGUAGES.get(stream.language, stream.language)
            self._stream.metadata["language"] = language
        self._stream.disposition = stream.disposition

    def convert(self, packet: "AnyPacket | None") -> list[AnyPacket]:
        """Return a packet as the output takes it; of None, what is left."""
        if self._encoder is not None:
            return self._encoded(packet)
        if packet is None:
            return []
        if packet.dts is not None:
            if self._last is not None and packet.dts <= self._last:
                # No container takes a time twice. What a player would not play is left out.
                if packet.is_discard:
                    return []
                tick = self._stream.time_base or packet.time_base
                packet.dts = self._last + max(1, ceil(tick / packet.time_base))
                packet.pts = max(packet.pts or packet.dts, packet.dts)
            self._last = packet.dts
        packet.stream = self._stream
        return [packet]

    def _encoded(self, packet: "AnyPacket | None") -> list[AnyPacket]:
        if packet is None:
            return list(self._stream.encode(None))
        frames: list[Any] = []
        with suppress(FFmpegError):  # A damaged packet is a gap.
            frames = packet.decode()
        encoded = []
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                # Where recordings were joined their sound may overlap.
                begin = max(float(frame.pts * frame.time_base), self._end)
                frame.pts = round(begin / frame.time_base)
                self._end = begin + frame.samples / frame.sample_rate
            encoded += self._stream.encode(frame)
        return encoded
