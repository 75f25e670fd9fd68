"""VideoSegmenter: a clip in, its object out, frame by frame."""

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from amd_seg.choices import DEFAULT_REFINEMENT
from amd_seg.errors import raising
from amd_seg.media.images import Photo
from amd_seg.media.video import FrameReader, open_video
from amd_seg.prefetch import read_ahead
from amd_seg.segmentation import FrameSegmentation, Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.adaptation import AdaptationReport, OnStep, adapt
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.video_output import (
    OnFrame,
    VideoReport,
    check_output,
    frames_waiting,
    write_twin,
)
from amd_seg.weights import save_weights

__all__ = [
    "AdaptationConfig",
    "AdaptationReport",
    "ClipLike",
    "FrameSegmentation",
    "VideoReport",
    "VideoSegmenter",
]

ClipLike: TypeAlias = str | os.PathLike[str] | FrameReader
"""A video file, a folder of frames, an animated image, a glob; or what `open_video` made of one,
which takes a part of it."""


class VideoSegmenter:
    """Finds the object in clips, in constant memory however long they are.

    Example:
        video = VideoSegmenter.from_pretrained()
        video.adapt("clip.mp4")
        for frame in video("clip.mp4"):
            print(frame.index, frame.time, frame.mask.mean())
        video.write("clip.mp4", "clip.cutout.webm", output="cutout")

    Attributes:
        segmenter: what segments the frames now: the released model, or the adapted one.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = self._released = segmenter

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> "VideoSegmenter":
        """Return a segmenter of clips with trained weights; see `Segmenter.from_pretrained`."""
        return cls(Segmenter.from_pretrained(source, device=device, precision=precision))

    def __call__(
        self,
        source: ClipLike,
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        refine: str = DEFAULT_REFINEMENT,
        min_confidence: float = 0.0,
        batch_size: int = 8,
    ) -> Iterator[FrameSegmentation]:
        """Segment the frames of a clip, one after the other.

        The next frames are decoded meanwhile.

        Args:
            source: the clip. Of a file that is cut short the frames that it has are given, and a
                warning is logged.
            size, threshold, refine, min_confidence: as for `Segmenter`.
            batch_size: frames that share a pass of the network.

        Raises:
            InputError: an argument cannot be used.
            MediaError: there is no such clip, or it cannot be read.
            DeviceError: the device ran out of memory.
        """
        return self._segment(
            _opened(source),
            size=size,
            threshold=threshold,
            refine=refine,
            min_confidence=min_confidence,
            batch_size=batch_size,
        )

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
        refine: str = DEFAULT_REFINEMENT,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        on_frame: OnFrame | None = None,
    ) -> VideoReport:
        """Segment a clip and draw its twin, with the clip's timestamps, sound and subtitles.

        Decoding, network, drawing and encoding overlap. The twin is written beside its place and
        moved there at the end: it is there whole or not at all.

        Args:
            source: the clip. Of a file that is cut short the frames that it has are written.
            target: a .mp4, .mov, .mkv, .webm or .gif file, or a folder for PNG frames.
            output: "mask", "saliency", "cutout", "overlay" or "regions".
            background: behind a cutout: "blur", a colour, or the path of a picture. None leaves
                it transparent, which .webm, .mov, .gif and folders can hold.
            overwrite: replace a file, or a folder of frames, that is there.
            size, threshold, refine, min_confidence, batch_size: as for a call.
            on_frame: called after each frame.

        Raises:
            InputError: an argument cannot be used, `target` exists, or no frame is in the span.
            MediaError: the clip cannot be read, or the twin cannot be written.
            DeviceError: the device ran out of memory.
        """
        target, clip = Path(target), _opened(source)
        check_output(clip, target, output=output, background=background, overwrite=overwrite)
        frames = self._segment(
            clip,
            size=size,
            threshold=threshold,
            refine=refine,
            min_confidence=min_confidence,
            batch_size=batch_size,
        )
        with closing(read_ahead(frames, ahead=frames_waiting(clip))) as segmentations:
            return write_twin(
                segmentations,
                clip,
                target,
                output=output,
                background=background,
                on_frame=on_frame,
            )

    def adapt(
        self,
        source: ClipLike,
        config: AdaptationConfig | None = None,
        *,
        steps: int | None = None,
        channel: int | None = None,
        on_step: OnStep | None = None,
    ) -> AdaptationReport:
        """Let a copy of the released model learn from a clip, and use it from now on.

        Each call begins with the released weights: nothing of one clip is left in the next. The
        result serves further clips too, until `reset`.

        Args:
            source: the clip; it is read once, of a long one some frames are kept.
            config: how to adapt; None takes the default.
            steps: of the optimiser, in place of those of `config` (100).
            channel: the region that is the object; None chooses it.
            on_step: called after each step; where it raises `StopTraining`, what has been learned
                so far is the result.

        Raises:
            InputError: nothing moves in the clip, or there is no such region.
            MediaError: the clip cannot be read.
            ConfigError: a setting cannot be used.
            DeviceError: a step does not fit the memory.
            TrainingDivergedError: the loss is not finite.
        """
        config = config or AdaptationConfig()
        if steps is not None:
            config = replace(config, steps=steps)
        released = self._released
        adapted = adapt(
            released.model,
            released.config,
            _opened(source, short_edge=config.frame_size(released.config.input_size)),
            config,
            channel=channel,
            on_step=on_step,
        )
        self.segmenter = Segmenter(
            adapted.model, adapted.weights, device=released.device, precision=released.precision
        )
        return adapted.report

    def reset(self) -> None:
        """Go back to the released weights."""
        self.segmenter = self._released

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the weights in use, adapted or not, for `from_pretrained` and `--weights`.

        Raises:
            WeightsError: the folder cannot be written.
        """
        return save_weights(folder, self.segmenter.model, self.segmenter.config)

    def _segment(
        self, clip: FrameReader, **settings: Any
    ) -> Generator[FrameSegmentation, None, None]:
        frames = read_ahead(clip, ahead=frames_waiting(clip))
        photos = (
            _FramePhoto(
                f.pixels, None, f"{clip.source}, frame {f.index}", index=f.index, time=f.time
            )
            for f in frames
        )
        results = self.segmenter.stream(photos, **settings)

        def segmentations() -> Generator[FrameSegmentation, None, None]:
            with closing(frames), closing(results):
                for result in raising(results):
                    yield _of_frame(result)

        return segmentations()


@dataclass(frozen=True, eq=False, kw_only=True)
class _FramePhoto(Photo):
    """A frame on its way through the network, which knows whose it is."""

    index: int
    time: float


def _of_frame(result: Segmentation) -> FrameSegmentation:
    photo = result.photo
    assert isinstance(photo, _FramePhoto)
    return FrameSegmentation(
        photo,
        result.region_masks,
        result.object_channel,
        result.threshold_rule,
        refine=result.refine,
        min_confidence=result.min_confidence,
        index=photo.index,
        time=photo.time,
    )


def _opened(source: ClipLike, short_edge: int | None = None) -> FrameReader:
    if isinstance(source, str | os.PathLike):
        return open_video(source, short_edge=short_edge)
    return source
