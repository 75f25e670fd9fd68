"""How pictures become frames of a video file: the codecs of each container."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from amd_seg.media.images import Pixels

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
    longest_edge: int = 16_384
    """Of a frame, in pixels, that the encoder takes."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of the frames for pictures of a size."""
        if not self.needs_even_size:
            return width, height
        return width + width % 2, height + height % 2

    def frame_of(self, picture: Pixels) -> VideoFrame:
        """Return a picture as the codec takes it; safe to call from several threads.

        Args:
            picture: (height, width), (height, width, 3) RGB, or (height, width, 4) RGBA.
        """
        if self.pixel_format == "pal8":
            return _palette_frame(picture)
        if self.needs_even_size:
            picture = _evened(picture)
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


def _evened(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    margins = [(0, height % 2), (0, width % 2), (0, 0)]
    return np.pad(picture, margins[: picture.ndim], mode="edge")


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
