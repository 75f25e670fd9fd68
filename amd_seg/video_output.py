"""A clip's segmentations, drawn into its twin."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amd_seg.choices import OUTPUTS
from amd_seg.errors import InputError, MediaError
from amd_seg.media.render import open_background, render_on
from amd_seg.media.video import FrameReader
from amd_seg.media.writers import FrameWriter, check_target, open_writer
from amd_seg.prefetch import map_ahead
from amd_seg.segmentation import FrameSegmentation

OnFrame = Callable[[int, int | None], None]
"""Called with the number of frames done and of all; None where only reading tells."""

# Frames that may wait for the next stage, and their pixels: at 1080p seven, some 100 MB.
_FRAMES_WAITING = 8
_PIXELS_WAITING = 16_000_000


@dataclass(frozen=True)
class VideoReport:
    """What was written of a clip."""

    path: Path
    frames: int
    width: int
    """Of the clip's frames, upright, in pixels."""
    height: int
    mask_share: float
    """Share of the pixels that are in the mask, 0..1, mean over the frames."""
    confidence: float
    """`Segmentation.confidence`, 0..1, mean over the frames."""
    is_truncated: bool
    """The clip's end is missing; what it has was written."""


class _Drawn(NamedTuple):
    prepared: Any
    number: int
    time: float
    mask_share: float
    confidence: float


def frames_waiting(clip: FrameReader) -> int:
    """Return how many of a clip's frames may wait between two stages, 1 or more."""
    return max(1, min(_FRAMES_WAITING, _PIXELS_WAITING // (clip.width * clip.height)))


def check_output(
    clip: FrameReader,
    target: Path,
    *,
    output: str,
    background: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Raise where `write_twin` could not do what is asked for, before any work is done.

    Raises:
        InputError: an argument cannot be used, or `target` exists and `overwrite` is not set.
        MediaError: the background's picture cannot be read.
    """
    if output not in OUTPUTS:
        raise InputError(f"Unknown output {output!r}. Use one of {', '.join(OUTPUTS)}.")
    if background is not None and output != "cutout":
        raise InputError(f"A background goes behind a cutout, not behind {output!r}. Drop one.")
    has_alpha = output == "cutout" and background is None
    check_target(target, clip.source, has_alpha=has_alpha, overwrite=overwrite)
    if background is not None:
        open_background(background, clip.width, clip.height)


def write_twin(
    segmentations: Iterator[FrameSegmentation],
    clip: FrameReader,
    target: Path,
    *,
    output: str,
    background: str | os.PathLike[str] | None,
    on_frame: OnFrame | None,
) -> VideoReport:
    """Draw the segmentations of a clip's frames into `target`.

    Args:
        segmentations: of the frames of the clip's span, in order; one is held at a time.
        clip: whose twin it is.
        target: as `check_output` allows it.
        output: what to draw, one of `OUTPUTS`.
        background: behind a cutout, as `open_background` takes it; None leaves it transparent.
        on_frame: called after each frame.

    Raises:
        InputError: the span has no frame.
        MediaError: the twin cannot be written, or no frame of a damaged clip can be read.
    """
    first = next(segmentations, None)
    if first is None and clip.is_truncated:
        raise MediaError(
            f"Cannot read {clip.source}: it is damaged, and none of its frames can be decoded. "
            "Give an intact file."
        )
    if first is None:
        raise InputError(
            f"No frame of {clip.source} is shown from {clip.span.start or 0} s to "
            f"{'the end' if clip.span.end is None else f'{clip.span.end} s'}. Choose other times."
        )
    picture_of = _picture_maker(clip, output, background)
    has_alpha = output == "cutout" and background is None
    origin = 0.0 if clip.span.start is None else first.time
    totals = np.zeros(2)
    with open_writer(target, clip, has_alpha=has_alpha, origin=origin) as writer:
        drawn = map_ahead(
            lambda frame: _draw(frame, writer, picture_of),
            chain([first], segmentations),
            ahead=frames_waiting(clip),
        )
        with closing(drawn):
            for count, item in enumerate(drawn, start=1):
                writer.write(item.prepared, item.number, item.time)
                totals += item.mask_share, item.confidence
                if on_frame is not None:
                    on_frame(count, clip.frame_count)
    share, confidence = (totals / count).tolist()
    return VideoReport(target, count, clip.width, clip.height, share, confidence, clip.is_truncated)


def _draw(
    frame: FrameSegmentation,
    writer: FrameWriter,
    picture_of: Callable[[FrameSegmentation], NDArray[Any]],
) -> _Drawn:
    prepared = writer.prepare(picture_of(frame))
    return _Drawn(prepared, frame.index, frame.time, float(frame.mask.mean()), frame.confidence)


def _picture_maker(
    clip: FrameReader, output: str, background: str | os.PathLike[str] | None
) -> Callable[[FrameSegmentation], NDArray[Any]]:
    if background is None:
        return lambda frame: np.asarray(frame.render(output))
    behind = open_background(background, clip.width, clip.height)
    return lambda frame: np.asarray(render_on(frame.photo.pixels, frame.cutout(), behind))
