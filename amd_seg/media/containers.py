"""What readers and writers of video files share: opening, seeking, what FFmpeg says of a fault."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from amd_seg.errors import MediaError
from amd_seg.media.images import MAX_FRAME_PIXELS, require_at_most

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

DEMUXERS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v"),
    *("flv", "ogg", "asf", "mxf", "nut", "ivf", "dv", "rm", "wtv", "gxf", "nsv", "swf"),
    *("h264", "hevc", "vvc", "av1", "obu", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
)
"""FFmpeg's readers that are used. Others follow what a file says to further files and addresses
(playlists, lists of parts), whatever its ending, or show a text as a terminal does."""

# The element of a Matroska file that holds all but the header before it.
_SEGMENT = b"\x18\x53\x80\x67"


def open_container(source: str | os.PathLike[str]) -> InputContainer:
    """Open a file of FFmpeg's.

    Raises:
        MediaError: there is no such file, it is empty, or of no format that FFmpeg knows.
    """
    path = Path(source)
    if not path.is_file():
        raise MediaError(f"Cannot read {path}: no such file. Check the path.")
    if path.stat().st_size == 0:
        raise MediaError(f"Cannot read {path}: the file is empty. Give a video file.")
    try:
        allowed = {"format_whitelist": ",".join(DEMUXERS)}
        # Whole, for FFmpeg takes what stands before a colon, as in 12:30.mp4, for a protocol.
        return av.open(os.path.abspath(source), mode="r", options=allowed)
    except (FFmpegError, UnicodeDecodeError) as cause:
        raise MediaError(
            f"Cannot read {path}: it is not a video that FFmpeg knows ({fault(cause)}). "
            "Give a video file or a folder of frames."
        ) from cause


def video_stream(container: InputContainer, source: str) -> VideoStream:
    """Return the first video stream that is no cover picture.

    Raises:
        MediaError: there is none, or its frames are larger than `MAX_FRAME_PIXELS`.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            _bound_frames(stream, source)
            return stream
    raise MediaError(
        f"Cannot read {source}: no video stream. Give a video file or a folder of frames."
    )


def _bound_frames(stream: VideoStream, source: str) -> None:
    # PyAV's types say otherwise, but of a codec that FFmpeg does not know there is no context.
    context = cast("VideoCodecContext | None", stream.codec_context)
    if context is None:
        return
    require_at_most(MAX_FRAME_PIXELS, (context.width, context.height), source)
    # Frames may grow on the way, whatever the header says.
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}


def seek(container: InputContainer, timestamp: float, stream: VideoStream | None = None) -> None:
    """Go to a packet before a timestamp, in seconds of the file's own clock.

    A file that cannot be sought in stays where it is, at its beginning.
    """
    base = 1 / av.time_base if stream is None else stream.time_base
    assert base is not None
    with suppress(FFmpegError):
        container.seek(int(timestamp / base), stream=stream)


def is_cut_short(source: str | os.PathLike[str]) -> bool:
    """Tell whether a Matroska, WebM or AVI file ends before it says; False where it does not say.

    Source: RFC 9559, section 5.1 (Segment), and RFC 8794, section 4 (sizes of variable length);
    of an AVI, the size of its first RIFF chunk.
    """
    with open(source, "rb") as file:
        head = file.read(1024)
        total = file.seek(0, os.SEEK_END)
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return size < 0xFFFFFFFF and 8 + size > total
    start = head.find(_SEGMENT) + len(_SEGMENT)
    length = 9 - head[start].bit_length() if start < len(head) else 9
    if start < len(_SEGMENT) or length > 8:
        return False
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(head[start : start + length]) & unknown
    return size != unknown and start + length + size > total


def fault(error: Exception) -> str:
    """Return what FFmpeg says of an error, in its own words."""
    return str(getattr(error, "strerror", None) or error)
