"""Output videos: a video file, a GIF, or a folder of PNG frames, each with the clip's own times.

    with open_writer(Path("clip.mask.mp4"), clip) as writer:
        for frame in clip:
            writer.write(writer.prepare(picture_of(frame)), frame.index, frame.time)

Every form is written beside its target and moved there at the end: whoever stops the process in
between leaves what was there before.
"""

import errno
import glob
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Stream
from av.subtitles.stream import SubtitleStream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from amd_seg.errors import AmdSegError, InputError, MediaError
from amd_seg.media.files import name_beside, replacing, require_possible_name, unwritable
from amd_seg.media.images import WRITERS, Pixels
from amd_seg.media.video import (
    AnyPacket,
    Clock,
    FrameReader,
    VideoReader,
    fault,
    open_container,
    seek,
)

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.subtitles.codeccontext import SubtitleCodecContext

logger = logging.getLogger(__name__)

# How pictures become frames of a file

_LAYOUTS = {(): "gray", (3,): "rgb24", (4,): "rgba"}

# The place in a GIF's palette that stands for clear pixels.
_CLEAR = 255


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one container keeps pictures."""

    container: str
    """FFmpeg's name of it."""
    codec: str
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    needs_even_size: bool = False
    """Its colour planes have half the size: a frame of odd size gets its last row or column
    twice."""
    time_base: Fraction | None = None
    """Of the frames, in seconds; None takes that of the clip."""
    least_ticks: int = 1
    """A frame that follows in fewer ticks of the time base is left out."""

    has_sound: bool = True
    has_aspect: bool = True
    """The file tells the shape of its pixels; where it does not, pictures are widened to square
    ones."""
    longest_edge: int = 16_384
    """Of a frame, in pixels, that the encoder takes."""

    def frame_of(self, picture: Pixels) -> VideoFrame:
        """Return a picture as the codec takes it; safe to call from several threads.

        Args:
            picture: (height, width), (height, width, 3) RGB, or (height, width, 4) RGBA.
        """
        if self.pixel_format == "pal8":
            return _palette_frame(picture)
        if self.needs_even_size:
            height, width = picture.shape[:2]
            margins = [(0, height % 2), (0, width % 2), (0, 0)]
            picture = np.pad(picture, margins[: picture.ndim], mode="edge")
        frame = VideoFrame.from_ndarray(
            np.ascontiguousarray(picture), format=_LAYOUTS[picture.shape[2:]]
        )
        # Said in the file too: where it is not, players guess the colours' matrix by the size.
        # One thread, for several pictures are converted side by side.
        return VideoReformatter().reformat(
            frame,
            format=self.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )


_H264 = Encoding(
    container="mp4",
    codec="libx264",
    pixel_format="yuv420p",
    # Without B-frames an MP4 tells how long its last frame is shown.
    options={"preset": "veryfast", "crf": "16", "bf": "0"},
    container_options={"movflags": "faststart"},
    needs_even_size=True,
)
_VP9 = Encoding(
    container="webm",
    codec="libvpx-vp9",
    pixel_format="yuv420p",
    options={"crf": "20", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    has_aspect=False,
)
_PRORES = Encoding(
    container="mov",
    codec="prores_ks",
    pixel_format="yuva444p10le",
    options={"profile": "4444"},
    container_options={"movflags": "faststart"},
)
_GIF = Encoding(
    container="gif",
    codec="gif",
    pixel_format="pal8",
    time_base=Fraction(1, 100),
    # Browsers show a frame that asks for less than 0.02 s for 0.1 s.
    least_ticks=2,
    has_sound=False,
    has_aspect=False,
    longest_edge=65_535,
)

OPAQUE = {
    ".mp4": _H264,
    ".mov": replace(_H264, container="mov"),
    # Sound may begin with a decoder's run-up, before 0: without this all frames would come later.
    ".mkv": replace(
        _H264, container="matroska", container_options={"avoid_negative_ts": "disabled"}
    ),
    ".webm": _VP9,
    ".gif": _GIF,
}
"""Ending in lower case -> how such a file keeps pictures without alpha."""

WITH_ALPHA = {".webm": replace(_VP9, pixel_format="yuva420p"), ".mov": _PRORES, ".gif": _GIF}
"""The same for pictures with alpha; in a GIF a pixel is clear or not, nothing between."""


def _palette_frame(picture: Pixels) -> VideoFrame:
    """Return a picture in the 256 colours that fit it best."""
    has_alpha = picture.ndim == 3 and picture.shape[2] == 4
    image = Image.fromarray(picture[..., :3] if has_alpha else picture)
    # Forty times faster than the median cut, for a mean error of 3 grey levels in place of 2.
    indexed = image.convert("RGB").quantize(
        _CLEAR if has_alpha else 256, method=Image.Quantize.FASTOCTREE
    )
    indices = np.array(indexed)
    colours = np.array(indexed.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)  # alpha, then RGB
    palette[: len(colours), 1:] = colours
    palette[:, 0] = 255
    if has_alpha:
        indices[picture[..., 3] < 128] = _CLEAR
        palette[_CLEAR] = 0
    return VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]


# Where pictures go

# As DAVIS calls its frames.
_FRAME_NAME = "{:05d}.png"
_FRAME_NAMES = re.compile(r"\d{5,}\.png")


def check_target(
    target: Path, source: str, *, has_alpha: bool = False, overwrite: bool = False
) -> None:
    """Raise where an output video could not be written, before any work is done.

    Args:
        target: the file, or the folder of frames, that is to be made.
        source: the clip, as its reader was told.
        has_alpha: the pictures have an alpha channel.
        overwrite: what is there may be replaced.

    Raises:
        InputError: the ending is unknown or holds no alpha, something is there already, or it is
            the clip itself.
        MediaError: there can be no file of this name.
    """
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
    if os.path.exists(target) and target.samefile(_place_of(source)):
        raise InputError(f"Cannot write {target}: it is the clip itself. Give another name.")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        if not overwrite:
            raise InputError(f"{target} exists. Give another name, or overwrite it (--overwrite).")
        _require_frames_only(target)


@contextmanager
def open_writer(
    target: Path, clip: FrameReader, *, has_alpha: bool = False, origin: float = 0.0
) -> Iterator["FolderWriter | VideoWriter"]:
    """Give a writer of an output video; an error within leaves what was there before.

    Pictures go through its `prepare`, in any thread and in any order, and then, in order, to
    `write` with the index and the time, in seconds, of their frame. Its `frames` counts those that
    are in the file.

    Args:
        target: as `check_target` allows it; what is there is replaced.
        clip: where the pictures come from. A video file gets its timestamps, sound and subtitles.
        has_alpha: pictures are (height, width, 4), RGBA.
        origin: the time in the clip, in seconds, at which a video file begins.

    Raises:
        MediaError: it cannot be written.
    """
    if _is_folder(target):
        with _replacing_folder(target) as folder:
            yield FolderWriter(folder)
        return
    encoding = (WITH_ALPHA if has_alpha else OPAQUE)[target.suffix.lower()]
    with (
        replacing(target) as path,
        VideoWriter(path, target, clip, encoding, origin=origin) as writer,
    ):
        yield writer


class FolderWriter:
    """Writes PNG frames into a folder, called as DAVIS does: 00000.png, 00001.png, ..."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.frames = 0

    def prepare(self, picture: Pixels) -> bytes:
        """Return a picture (height, width[, 3|4]) as the bytes of a PNG."""
        file = BytesIO()
        name, options = WRITERS[".png"]
        Image.fromarray(picture).save(file, name, **options)
        return file.getvalue()

    def write(self, prepared: bytes, index: int, time: float) -> None:
        """Write the file of the frame `index`."""
        (self._folder / _FRAME_NAME.format(index)).write_bytes(prepared)
        self.frames += 1


def _is_folder(target: Path) -> bool:
    return target.is_dir() or not target.suffix


def _place_of(source: str) -> Path:
    """Return where a clip lies: a file, or the folder of its frames."""
    path = Path(source)
    return path if os.path.exists(path) else Path(glob.glob(source)[0]).parent


def _require_frames_only(target: Path) -> None:
    # A folder is replaced as a whole, or frames of an older, longer run would stay among ours.
    names = [path.name for path in target.iterdir()] if target.is_dir() else []
    others = [name for name in names if not _FRAME_NAMES.fullmatch(name)]
    if others:
        raise InputError(
            f"Cannot replace the folder {target}: it holds more than frames, such as {others[0]}. "
            "Give another name."
        )


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to write to; it takes the place of `path` when all went well."""
    target = Path(os.path.realpath(path))
    temporary, old = name_beside(target), name_beside(target)
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
    except AmdSegError:
        raise
    except OSError as cause:
        raise unwritable(path, cause) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# Video files

# What `Encoding.frame_of` converts to, in FFmpeg's numbers.
_BT709, _LIMITED_RANGE = 1, 1

_USUAL_RATE = Fraction(24)

# Faults of the disk and of the name, which are no fault of a stream.
_FAULTS_OF_THE_FILE = frozenset(
    {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
    | {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
)


class VideoWriter:
    """Encodes pictures into a file, each at the time of its frame in the clip.

    Leaving the context ends the file; leaving it by an error leaves a file of no use.

    Args:
        path: the file to make.
        target: how messages name it; its ending is that of the container.
        clip: where the pictures come from.
        encoding: how the container keeps pictures.
        origin: the time in the clip, in seconds, at which the file begins.

    Raises:
        MediaError: the file cannot be written; so do all the methods.
    """

    def __init__(
        self, path: Path, target: Path, clip: FrameReader, encoding: Encoding, *, origin: float
    ) -> None:
        if max(clip.width, clip.height) > encoding.longest_edge:
            raise MediaError(
                f"Cannot write {target}: frames of {clip.source} have {clip.width}x{clip.height} "
                f"pixels, and such a file holds {encoding.longest_edge} on an edge. Give -o a "
                "folder."
            )
        self.frames = self._left_out = 0
        self._target, self._clip = target, clip
        self._encoding, self._origin = encoding, origin
        self._base = encoding.time_base or clip.time_base
        self._held: tuple[VideoFrame, int] | None = None
        rate = (clip.frame_rate or _USUAL_RATE) / clip.span.every
        self._gap = max(1, round(1 / (rate * self._base)))
        with self._errors_named(), ExitStack() as opened:
            self._out = opened.enter_context(_new_file(path, encoding))
            self._stream = _add_stream(self._out, clip, encoding, rate, self._base)
            self._soundtrack: Soundtrack | None = None
            if isinstance(clip, VideoReader) and encoding.has_sound:
                self._soundtrack = opened.enter_context(
                    Soundtrack(clip, self._out, target.suffix.lower(), encoding, origin=origin)
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
        if not self._encoding.has_aspect and self._clip.pixel_aspect != 1:
            size = _square_size(self._clip)
            picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
        return self._encoding.frame_of(picture)

    def write(self, prepared: VideoFrame, index: int, time: float) -> None:
        """Encode the picture of the frame that the clip shows at `time`, in seconds."""
        ticks = round((time - self._origin) / self._base)
        if self._held is not None:
            gap = ticks - self._held[1]
            if gap < self._encoding.least_ticks and self._encoding.least_ticks > 1:
                self._left_out += 1
                return
            self._gap = max(gap, 1)
            ticks = self._held[1] + self._gap
            self._encode_held()
        self._held = prepared, ticks
        self.frames += 1

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
        if self._left_out:
            logger.warning(
                "%s leaves out %d of %d frames: browsers show no more than 50 a second.",
                self._target, self._left_out, self._left_out + self.frames,
            )  # fmt: skip

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except FFmpegError as cause:
            raise unwritable(self._target, cause) from cause


def _new_file(place: Path | BytesIO, encoding: Encoding) -> OutputContainer:
    file = str(place) if isinstance(place, Path) else place
    return av.open(
        file, "w", format=encoding.container, container_options=encoding.container_options
    )


def _square_size(clip: FrameReader) -> tuple[int, int]:
    """Return (width, height) of a clip's frames in square pixels; none of their rows is lost."""
    wide, high = clip.pixel_aspect.numerator, clip.pixel_aspect.denominator
    least = min(wide, high)
    return round(clip.width * wide / least), round(clip.height * high / least)


def _add_stream(
    out: OutputContainer, clip: FrameReader, encoding: Encoding, rate: Fraction, time_base: Fraction
) -> VideoStream:
    stream = out.add_stream(encoding.codec, rate=rate, options=encoding.options)
    assert isinstance(stream, VideoStream)
    width, height = (clip.width, clip.height) if encoding.has_aspect else _square_size(clip)
    step = 2 if encoding.needs_even_size else 1
    stream.width, stream.height = width + width % step, height + height % step
    stream.pix_fmt = encoding.pixel_format
    stream.time_base = time_base
    context = stream.codec_context
    context.time_base = time_base
    context.sample_aspect_ratio = clip.pixel_aspect if encoding.has_aspect else Fraction(1)
    context.thread_count = 0  # as many as the codec sees fit
    context.flags |= Flags.frame_duration
    if encoding.codec != "gif":
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
    return stream


# Sound and subtitles

_PCM = frozenset({f"pcm_{kind}" for kind in ("s16le", "s16be", "s24le", "s24be", "f32le")})
_MPEG = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
_TEXT = frozenset({"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"})

# What each container holds that players of it know. FFmpeg's own list names more than its muxers
# then write (Opus in .mov).
_HELD = {
    ".mp4": _MPEG | {"opus", "flac", "mov_text"},
    ".mov": _MPEG | _PCM | {"mov_text"},
    ".mkv": _MPEG | _PCM | _TEXT | {"opus", "flac", "vorbis"},
    ".webm": frozenset({"opus", "vorbis", "webvtt"}),
}
_ENCODERS = {".mp4": "aac", ".mov": "aac", ".mkv": "libopus", ".webm": "libopus"}

SAMPLE_RATE = 48_000
BIT_RATE = 160_000

# Of two codes of ISO 639-2 for a language, QuickTime files know one: else FFmpeg drops it.
_QUICKTIME_LANGUAGES = {
    "sqi": "alb", "hye": "arm", "eus": "baq", "mya": "bur", "zho": "chi",
    "cze": "ces", "nld": "dut", "fre": "fra", "kat": "geo", "deu": "ger",
    "ell": "gre", "isl": "ice", "mkd": "mac", "msa": "may", "fas": "per",
    "rum": "ron", "slo": "slk", "bod": "tib", "cym": "wel",
}  # fmt: skip

# Packets of all streams, from the beginning of the file.
_PACKETS_TRIED = 100

# The streams of a file lie side by side to within seconds: past this, nothing is waited for.
_INTERLEAVING = 10.0


class Soundtrack:
    """The audio and the subtitles of a clip, on their way into an output.

    What the container holds is copied packet by packet, to the bit. Other audio is encoded anew,
    other subtitles are left out; both are logged. A track that the output does not take ends
    there, with a warning: it never costs the picture.

    Args:
        clip: where they come from; what lies outside its span is left out.
        out: an output that has no packet yet.
        suffix: that of its name: .mp4, .mov, .mkv or .webm.
        encoding: that of the output.
        origin: the time in the clip, in seconds, at which the output begins.
    """

    def __init__(
        self,
        clip: VideoReader,
        out: OutputContainer,
        suffix: str,
        encoding: Encoding,
        *,
        origin: float,
    ) -> None:
        self._container = open_container(clip.source)
        self._clip, self._out = clip, out
        self._is_trimmed = clip.span.start is not None
        self._shift = clip.start_time + origin
        self._end = float("inf") if clip.span.end is None else clip.span.end - origin
        self._tracks: dict[int, _Track] = {}
        for stream in self._container.streams:
            track = _track(stream, out, suffix, encoding, clip.source)
            if track is not None:
                self._tracks[stream.index] = track
        self._packets = self._read()
        self._next = next(self._packets, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def mux_until(self, time: float) -> None:
        """Write what begins before `time`, in seconds of the output."""
        while self._next is not None and self._next[0] < time:
            begin, packet = self._next
            self._mux(packet.stream.index, begin, packet)
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Write what is left."""
        self.mux_until(float("inf"))
        for index in list(self._tracks):
            self._mux(index, self._end, None)

    def _mux(self, index: int, time: float, packet: "AnyPacket | None") -> None:
        track = self._tracks.get(index)
        if track is None:
            return
        try:
            self._out.mux(track.flush() if packet is None else track.convert(packet, self._shift))
        except FFmpegError as cause:
            if cause.errno in _FAULTS_OF_THE_FILE:
                raise
            del self._tracks[index]
            kind, source = self._container.streams[index].type, self._clip.source
            logger.warning("%s of %s ends at %.2f s: %s.", kind, source, time, fault(cause))

    def _read(self) -> Iterator[tuple[float, AnyPacket]]:
        """Yield the packets that the output gets, each with its time there, in seconds."""
        if not self._tracks:
            return
        if self._is_trimmed and self._clip.can_seek:
            seek(self._container, self._shift)
        # Of a damaged file we take what can be had: who reads its frames tells of the damage.
        with suppress(FFmpegError):
            for packet in Clock(self._container).packets():
                stamp = packet.dts if packet.pts is None else packet.pts
                # Without one it marks the end.
                if stamp is None or packet.stream.index not in self._tracks:
                    continue
                time = float(stamp * packet.time_base) - self._shift
                if time >= self._end + _INTERLEAVING:
                    return
                # Of a whole clip we keep what lies before 0: a decoder's run-up.
                if time < self._end and (time >= 0 or not self._is_trimmed):
                    yield time, packet


class _Track:
    """A stream of the output, copied from one of the clip or, by an encoder, encoded anew.

    Sound is encoded in mono or stereo. The track's language and title are kept, and whether it
    plays by default or is forced.
    """

    def __init__(self, stream: Stream, out: OutputContainer, encoder: str | None = None) -> None:
        self._resampler: AudioResampler | None = None
        # When the last packet began, in ticks, and when the last sound was over, in seconds.
        self._last: int | None = None
        self._end = float("-inf")
        if encoder is None:
            self._stream = out.add_stream_from_template(stream)
        else:
            assert isinstance(stream, AudioStream)
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            added = out.add_stream(encoder, rate=SAMPLE_RATE, layout=layout)
            self._stream = added = cast(AudioStream, added)
            context = added.codec_context
            context.bit_rate = BIT_RATE
            context.open()
            self._resampler = AudioResampler(
                context.format, context.layout, context.sample_rate, context.frame_size
            )
        self._stream.metadata.update(stream.metadata)
        if out.format.name == "mov" and stream.language is not None:
            language = _QUICKTIME_LANGUAGES.get(stream.language, stream.language)
            self._stream.metadata["language"] = language
        self._stream.disposition = stream.disposition

    def convert(self, packet: AnyPacket, shift: float) -> list[AnyPacket]:
        """Return packets for the output, `shift` seconds earlier."""
        if self._resampler is not None:
            return self._encoded(packet, shift)
        ticks = round(shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
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

    def flush(self) -> list[AnyPacket]:
        """Return what is left at the end."""
        return [] if self._resampler is None else self._encode(None)

    def _encoded(self, packet: AnyPacket, shift: float) -> list[AnyPacket]:
        packets: list[AnyPacket] = []
        frames: list[AudioFrame] = []
        with suppress(FFmpegError):  # A damaged packet is a gap.
            frames = cast(list[AudioFrame], packet.decode())
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                # Where recordings were joined their sound may overlap.
                begin = max(float(frame.pts * frame.time_base) - shift, self._end)
                frame.pts = round(begin / frame.time_base)
                self._end = begin + frame.samples / frame.sample_rate
            packets += self._encode(frame)
        return packets

    def _encode(self, frame: AudioFrame | None) -> list[AnyPacket]:
        """Encode a frame, or what is left at the end."""
        assert self._resampler is not None
        assert isinstance(self._stream, AudioStream)
        parts = [*self._resampler.resample(frame), *([None] if frame is None else [])]
        return [packet for part in parts for packet in self._stream.encode(part)]


def _track(
    stream: Stream, out: OutputContainer, suffix: str, encoding: Encoding, source: str
) -> _Track | None:
    """Make the stream of the output for one of the clip; None where it has no place there."""
    if not isinstance(stream, AudioStream | SubtitleStream):
        return None
    # PyAV's types say otherwise, but of a codec that FFmpeg does not know there is no context.
    context = cast("AudioCodecContext | SubtitleCodecContext | None", stream.codec_context)
    if context is None:
        logger.warning("%s has a stream of an unknown codec: it is left out.", source)
        return None
    if isinstance(stream, AudioStream) and not stream.codec_context.sample_rate:
        # Broadcasts announce tracks that stay empty: no container takes one, nor the film with it.
        logger.warning("%s has a stream in which no sound is found: it is left out.", source)
        return None
    codec = context.codec.canonical_name
    refusal = f"{suffix} holds no {codec}"
    if codec in _HELD[suffix]:
        fault_of_copy = _fault_of_copy(stream, encoding, source)
        if fault_of_copy is None:
            return _Track(stream, out)
        refusal = f"it cannot be copied ({fault_of_copy})"
    if isinstance(stream, AudioStream):
        encoder = _ENCODERS[suffix]
        logger.info("Sound of %s is encoded anew by %s: %s.", source, encoder, refusal)
        return _Track(stream, out, encoder)
    logger.warning("Subtitles of %s are left out: %s.", source, refusal)
    return None


def _fault_of_copy(stream: Stream, encoding: Encoding, source: str) -> str | None:
    """Return what a container has against the first packets of a stream; None if it takes them.

    Tried in memory, for in the output its fault would come up with a packet of the picture.
    """
    try:
        with (
            open_container(source) as container,
            # Without options, of which "faststart" wants a file on disk.
            _new_file(BytesIO(), replace(encoding, container_options={})) as out,
        ):
            copy = _Track(container.streams[stream.index], out)
            out.start_encoding()
            for packet in islice(container.demux(), _PACKETS_TRIED):
                if packet.stream.index == stream.index and packet.size:
                    out.mux(copy.convert(packet, 0.0))
    except FFmpegError as cause:
        return fault(cause)
    return None
