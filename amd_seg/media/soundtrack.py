"""The sound and the subtitles of a clip, carried over into its twin in step with the frames."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeAlias, cast

from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from amd_seg.media.video import VideoReader, open_container, seek

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext
    from av.subtitles.codeccontext import SubtitleCodecContext

logger = logging.getLogger(__name__)

AnyPacket: TypeAlias = "Packet[Stream]"

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

# The streams of a file lie side by side to within seconds: past this, nothing is waited for.
_INTERLEAVING = 10.0


class Soundtrack:
    """The audio and the subtitles of a clip, on their way into an output.

    What the container holds is copied packet by packet, to the bit. Other audio is encoded anew,
    other subtitles are left out; both are logged.

    Args:
        clip: where they come from; what lies outside its span is left out.
        out: an output that has no packet yet.
        suffix: that of its name: .mp4, .mov, .mkv or .webm.
        origin: the time in the clip, in seconds, at which the output begins.
    """

    def __init__(
        self, clip: VideoReader, out: OutputContainer, suffix: str, *, origin: float
    ) -> None:
        self._container = open_container(clip.source)
        self._out, self._is_trimmed = out, clip.span.start is not None
        self._shift = clip.start_time + origin
        self._end = None if clip.span.end is None else clip.span.end - origin
        self._twins: dict[int, _Copy | _Encoding] = {}
        for stream in self._container.streams:
            twin = _twin(stream, out, suffix, clip.source)
            if twin is not None:
                self._twins[stream.index] = twin
        self._packets = self._read()
        self._next = next(self._packets, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def mux_until(self, time: float) -> None:
        """Write what begins before `time`, in seconds of the output."""
        while self._next is not None and self._next[0] < time:
            packet = self._next[1]
            self._out.mux(self._twins[packet.stream_index].convert(packet, self._shift))
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Write what is left."""
        self.mux_until(float("inf"))
        for twin in self._twins.values():
            self._out.mux(twin.flush())

    def _read(self) -> Iterator[tuple[float, AnyPacket]]:
        """Yield the packets that the output gets, each with its time there, in seconds."""
        if not self._twins:
            return
        if self._is_trimmed:
            seek(self._container, self._shift)
        streams = [self._container.streams[index] for index in self._twins]
        end = float("inf") if self._end is None else self._end
        # Of a damaged file we take what can be had: who reads its frames tells of the damage.
        with suppress(FFmpegError):
            for packet in self._container.demux(*streams):
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is None:  # It marks the end.
                    continue
                time = float(stamp * packet.time_base) - self._shift
                if time >= end + _INTERLEAVING:
                    return
                # Of a whole clip we keep what lies before 0: a decoder's run-up.
                if time < end and (time >= 0 or not self._is_trimmed):
                    yield time, packet


class _Copy:
    """A stream whose packets stay what they are."""

    def __init__(self, stream: Stream, out: OutputContainer) -> None:
        self._twin = out.add_stream_from_template(stream)
        self._twin.metadata.update(stream.metadata)

    def convert(self, packet: AnyPacket, shift: float) -> list[AnyPacket]:
        """Return the packet for the output, `shift` seconds earlier."""
        ticks = round(shift / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - ticks
        packet.dts = None if packet.dts is None else packet.dts - ticks
        packet.stream = self._twin
        return [packet]

    def flush(self) -> list[AnyPacket]:
        """Return what is left at the end: nothing."""
        return []


class _Encoding:
    """An audio stream that the container does not hold, encoded anew in mono or stereo."""

    def __init__(self, stream: AudioStream, out: OutputContainer, encoder: str) -> None:
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        twin = out.add_stream(encoder, rate=SAMPLE_RATE, layout=layout)
        assert isinstance(twin, AudioStream)
        twin.metadata.update(stream.metadata)
        context = twin.codec_context
        context.bit_rate = BIT_RATE
        context.open()
        self._twin = twin
        self._resampler = AudioResampler(
            context.format, context.layout, context.sample_rate, context.frame_size
        )

    def convert(self, packet: AnyPacket, shift: float) -> list[AnyPacket]:
        """Return packets for the output, `shift` seconds earlier."""
        packets: list[AnyPacket] = []
        for frame in self._decode(packet):
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(shift / frame.time_base)
            for part in self._resampler.resample(frame):
                packets += self._twin.encode(part)
        return packets

    def flush(self) -> list[AnyPacket]:
        """Return what is left at the end."""
        parts = [*self._resampler.resample(None), None]
        return [packet for part in parts for packet in self._twin.encode(part)]

    def _decode(self, packet: AnyPacket) -> list[AudioFrame]:
        with suppress(FFmpegError):
            return cast(list[AudioFrame], packet.decode())
        return []  # A damaged packet is a gap.


def _twin(
    stream: Stream, out: OutputContainer, suffix: str, source: str
) -> "_Copy | _Encoding | None":
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
    if codec in _HELD[suffix]:
        return _Copy(stream, out)
    if isinstance(stream, AudioStream):
        encoder = _ENCODERS[suffix]
        logger.info("%s holds no %s: the sound is encoded anew by %s.", suffix, codec, encoder)
        return _Encoding(stream, out, encoder)
    logger.warning("%s holds no %s: subtitles of %s are left out.", suffix, codec, source)
    return None
