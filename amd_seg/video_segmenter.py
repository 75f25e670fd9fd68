"""VideoSegmenter: a clip in, its object out, frame by frame."""

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.errors import AmdSegError
from amd_seg.media.frames import FrameReader
from amd_seg.media.images import Photo
from amd_seg.media.video import open_video
from amd_seg.network_input import resize_for_network
from amd_seg.overlap import read_ahead
from amd_seg.segmentation import FrameSegmentation, Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.temporal import TemporalSmoother
from amd_seg.video_output import (
    OnFrame,
    VideoReport,
    check_output,
    frames_waiting,
    write_twin,
)

__all__ = ["ClipLike", "FrameSegmentation", "VideoReport", "VideoSegmenter"]

ClipLike: TypeAlias = str | os.PathLike[str] | FrameReader
"""A video file, a folder of frames, an animated image, a glob; or what `open_video` made of one,
which takes a part of it."""


class VideoSegmenter:
    """Finds the object in clips, in constant memory however long they are.

    Example:
        video = VideoSegmenter.from_pretrained()
        for frame in video("clip.mp4"):
            print(frame.index, frame.time, frame.mask.mean())
        video.write("clip.mp4", "clip.cutout.webm", output="cutout")
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> "VideoSegmenter":
        """Return a segmenter of clips with trained weights; see `Segmenter.from_pretrained`."""
        return cls(
            Segmenter.from_pretrained(source, revision=revision, device=device, precision=precision)
        )

    def __call__(
        self,
        source: ClipLike,
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        smooth: bool = False,
        batch_size: int = 8,
    ) -> Iterator[FrameSegmentation]:
        """Segment the frames of a clip, one after the other.

        The next frames are decoded meanwhile.

        Args:
            source: the clip. Of a file that is cut short the frames that it has are given, and a
                warning is logged.
            size: short edge, in pixels, that the network sees; None takes that of the weights.
            threshold: saliency above which a pixel is in the mask, between 0 and 1, or "otsu";
                None takes that of the weights.
            smooth: mix each mask with the one before, moved along the model's segment flow: they
                flicker less, in about three times the time (see `TemporalSmoother`).
            batch_size: frames that share a pass of the network.

        Raises:
            InputError: an argument cannot be used.
            MediaError: there is no such clip, or it cannot be read.
            DeviceError: the device ran out of memory.
        """
        return self._segment(_opened(source), size, threshold, smooth, batch_size)

    def write(
        self,
        source: ClipLike,
        target: str | os.PathLike[str],
        *,
        output: str = "mask",
        background: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        size: int | None = None,
        threshold: float | str | None = None,
        smooth: bool = False,
        batch_size: int = 8,
        on_frame: OnFrame = lambda done, total: None,
    ) -> VideoReport:
        """Segment a clip and draw its twin, with the clip's timestamps, sound and subtitles.

        Decoding, network, drawing and encoding overlap. The twin is written beside its place and
        moved there at the end: it is there whole or not at all.

        Args:
            source: the clip. Of a file that is cut short the frames that it has are written.
            target: a .mp4, .mov, .mkv, .webm, .gif or .npz file, or a folder for PNG frames.
            output: "mask", "saliency", "cutout", "overlay" or "regions".
            background: behind a cutout: "blur", a colour, or the path of a picture. None leaves
                it transparent, which .webm, .mov, .gif, .npz and folders can hold.
            overwrite: replace a file, or a folder of frames, that is there.
            size, threshold, smooth, batch_size: as for a call.
            on_frame: called after each frame.

        Raises:
            InputError: an argument cannot be used, `target` exists, or no frame is in the span.
            MediaError: the clip cannot be read, or the twin cannot be written.
            DeviceError: the device ran out of memory.
        """
        target, clip = Path(target), _opened(source)
        check_output(clip, target, output=output, background=background, overwrite=overwrite)
        frames = self._segment(clip, size, threshold, smooth, batch_size)
        with closing(read_ahead(frames, ahead=frames_waiting(clip))) as segmentations:
            return write_twin(
                segmentations,
                clip,
                target,
                output=output,
                background=background,
                on_frame=on_frame,
            )

    def _segment(
        self,
        clip: FrameReader,
        size: int | None,
        threshold: float | str | None,
        smooth: bool,
        batch_size: int,
    ) -> Generator[FrameSegmentation, None, None]:
        frames = read_ahead(clip, ahead=frames_waiting(clip))
        photos = (
            _FramePhoto(f.pixels, None, f"{clip.source}, frame {f.index}", f.index, f.time)
            for f in frames
        )
        results = self.segmenter.stream(
            photos, size=size, threshold=threshold, batch_size=batch_size
        )
        smoother = TemporalSmoother(self.segmenter.model) if smooth else None
        seen = self.segmenter.config.input_size if size is None else size

        def segmentations() -> Generator[FrameSegmentation, None, None]:
            with closing(frames), closing(results):
                for result in results:
                    if isinstance(result, AmdSegError):
                        raise result
                    masks = result.region_masks
                    if smoother is not None:
                        masks = smoother(resize_for_network(result.photo.pixels, seen), masks)
                    yield _of_frame(result, masks)

        return segmentations()


@dataclass(frozen=True, eq=False)
class _FramePhoto(Photo):
    """A frame on its way through the network, which knows whose it is."""

    index: int
    time: float


def _of_frame(result: Segmentation, masks: NDArray[np.float32]) -> FrameSegmentation:
    photo = result.photo
    assert isinstance(photo, _FramePhoto)
    return FrameSegmentation(
        photo,
        masks,
        result.object_channel,
        result.threshold_rule,
        index=photo.index,
        time=photo.time,
    )


def _opened(source: ClipLike) -> FrameReader:
    return open_video(source) if isinstance(source, str | os.PathLike) else source
