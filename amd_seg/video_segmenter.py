"""VideoSegmenter: a clip in, its object out, frame by frame, and the output video that shows it."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import numpy as np
import torch

from amd_seg import __version__
from amd_seg.annotations import ClipFile
from amd_seg.choices import ADAPTED_REFINEMENT, CLIP_REFINEMENT, OUTPUTS
from amd_seg.device import own_numerics
from amd_seg.errors import InputError, MediaError, raising
from amd_seg.media import files
from amd_seg.media.images import Photo
from amd_seg.media.render import Background, open_background, render_on
from amd_seg.media.video import Frame, FrameReader, open_video
from amd_seg.media.video_writer import check_target, open_writer
from amd_seg.prefetch import map_ahead, read_ahead
from amd_seg.refine import Point
from amd_seg.segmentation import FrameSegmentation, Segmentation
from amd_seg.segmenter import CallOptions, Segmenter
from amd_seg.training.config import AdaptationConfig
from amd_seg.weights import save_weights

if TYPE_CHECKING:
    from amd_seg.training.adaptation import AdaptationReport, CertainMask
    from amd_seg.training.loop import OnStep

__all__ = ["ClipLike", "FrameSegmentation", "VideoReport", "VideoSegmenter"]

ClipLike: TypeAlias = str | os.PathLike[str] | FrameReader
"""A video file, a folder of frames, an animated image, a glob; or what `open_video` made of one,
which takes a part of it."""

ClipPoint: TypeAlias = tuple[int | float, float, float]
"""A click in a clip: the frame, as its number (an int) or its time in seconds (a float), then x and
y in its pixels."""

OnFrame = Callable[[int, int | None], None]  # the frames done, and all, if that is known


@dataclass(frozen=True)
class VideoReport:
    """What was written of a clip."""

    path: Path
    frames: int
    width: int
    height: int
    """Of the clip's frames, upright, in pixels."""
    mask_share: float
    """Share of the pixels that are in the mask, 0..1, mean over the frames."""
    confidence: float
    """`Segmentation.confidence`, 0..1, mean over the frames."""
    is_truncated: bool
    """The clip's end is missing; what it has was written."""
    hdr: str | None = None
    """"HLG" or "PQ" where the clip was tone-mapped from it to BT.709."""


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

    @property
    def refinement(self) -> str:
        """How masks are refined by default: by "ranking", with adapted weights by "guided".

        What learned from the clip knows more of its object than the ranking.
        """
        is_adapted = "adapted" in self.segmenter.config.training
        return ADAPTED_REFINEMENT if is_adapted else CLIP_REFINEMENT

    def __call__(
        self, source: ClipLike, **options: Unpack[CallOptions]
    ) -> Iterator[FrameSegmentation]:
        """Segment the frames of a clip, one after the other, with the options of a `Segmenter`.

        Masks are refined by `refinement`, unless `refine` says otherwise.

        Of a file that is cut short the frames that it has are given, and a warning is logged.
        Arguments and memory raise what a `Segmenter` raises, a bad clip a MediaError.
        """
        options.setdefault("refine", self.refinement)
        clip = _opened(source)
        frames = read_ahead(clip, ahead=_frames_waiting(clip))
        under_way: deque[Frame] = deque()

        def photos() -> Iterator[Photo]:
            for frame in frames:
                under_way.append(frame)
                yield _photo_of(frame, clip)

        # Its arguments are checked now, not at the first frame.
        results = self.segmenter.stream(photos(), **options)

        def segmentations() -> Generator[FrameSegmentation, None, None]:
            with closing(frames), closing(results):
                for result in raising(results):
                    frame = under_way.popleft()
                    yield FrameSegmentation(**vars(result), index=frame.index, time=frame.time)

        return segmentations()

    def write(
        self,
        source: ClipLike,
        target: str | os.PathLike[str],
        *,
        output: str = "mask",
        background: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        on_frame: OnFrame | None = None,
        info: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> VideoReport:
        """Segment a clip and write the output video, with the clip's times, sound and subtitles.

        Decoding, network, drawing and encoding overlap. The output is there whole or not at all.

        Args:
            source: the clip. Of a file that is cut short the frames that it has are written.
            target: a .mp4, .mov, .mkv, .webm or .gif file, a folder for PNG frames, or a .json
                file for the masks as COCO annotations in the manner of YouTube-VIS.
            output: "mask", "saliency", "cutout", "overlay" or "regions".
            background: behind a cutout: "blur", a colour, or the path of a picture. None leaves
                it transparent, which .webm, .mov, .gif and folders can hold.
            overwrite: replace a file, or a folder of frames, that is there.
            on_frame: called after each frame.
            info: what a .json file says of its masks, such as the weights.

        Raises:
            InputError: an argument cannot be used, `target` exists, or no frame is in the span.
            MediaError: the clip cannot be read, or the output cannot be written.
        """
        target, clip = Path(target), _opened(source)
        behind = check_output(
            clip, target, output=output, background=background, overwrite=overwrite
        )
        is_annotation = target.suffix.lower() == ".json"
        totals = np.zeros(2)
        frames = read_ahead(self(clip, **options), ahead=_frames_waiting(clip))
        with closing(frames):
            first = next(frames, None)
            if first is None and clip.is_truncated:
                raise MediaError(
                    f"Cannot read {clip.source}: it is damaged, and none of its frames can be "
                    "decoded. Give an intact file."
                )
            if first is None:
                until = "the end" if clip.span.end is None else f"{clip.span.end} s"
                raise InputError(
                    f"No frame of {clip.source} is shown from {clip.span.start or 0} s to {until}. "
                    "Choose other times."
                )
            opened: AbstractContextManager[Any]
            if is_annotation:
                made_by = {"description": "Masks found by amd-seg"}
                made_by |= {"version": f"amd-seg {__version__}", **(info or {})}
                opened = ClipFile(target, Path(clip.source).stem, made_by)
            else:
                has_alpha = output == "cutout" and behind is None
                origin = 0.0 if clip.span.start is None else first.time
                opened = open_writer(target, clip, has_alpha=has_alpha, origin=origin)

            def draw(frame: FrameSegmentation) -> tuple[Any, int, float, tuple[float, float]]:
                picture: Any = frame
                if behind is not None:
                    picture = np.asarray(render_on(frame.photo.pixels, frame.cutout(), behind))
                elif not is_annotation:
                    picture = np.asarray(frame.render(output))
                facts = float(frame.mask.mean()), frame.confidence
                return writer.prepare(picture), frame.index, frame.time, facts

            drawn = map_ahead(draw, chain([first], frames), ahead=_frames_waiting(clip))
            with opened as writer, closing(drawn):
                for count, (prepared, index, time, facts) in enumerate(drawn, start=1):
                    writer.write(prepared, index, time)
                    totals += facts
                    if on_frame is not None:
                        on_frame(count, clip.frame_count)
        share, sure = (totals / count).tolist()
        size = clip.width, clip.height
        return VideoReport(target, writer.frames, *size, share, sure, clip.is_truncated, clip.hdr)

    def adapt(
        self,
        source: ClipLike,
        config: AdaptationConfig | None = None,
        *,
        steps: int | None = None,
        channel: int | None = None,
        include: Iterable[ClipPoint] = (),
        exclude: Iterable[ClipPoint] = (),
        on_step: "OnStep | None" = None,
    ) -> "AdaptationReport":
        """Let a copy of the released model learn from a clip, and use it until `reset`.

        Each call begins with the released weights: nothing of one clip is left in the next.

        Args:
            source: the clip; of a long one some frames are kept.
            steps: of the optimiser, in place of those of `config` (100).
            channel: the region that is the object; None chooses it.
            include: clicks on the object that is meant, see `ClipPoint`. The masks of these frames
                are learned as certain.
            exclude: clicks on what is not the object.
            on_step: called after each step; where it raises `StopTraining`, what has been learned
                so far is the result.

        Raises:
            InputError: nothing moves in the clip, there is no such region, or a click is outside.
            DeviceError: a step does not fit the memory.
            TrainingDivergedError: the loss is not finite.
        """
        from amd_seg.training.adaptation import adapt  # It loads OpenCV.

        config = config or AdaptationConfig()
        if steps is not None:
            config = replace(config, steps=steps)
        released = self._released
        clicks = tuple(include), tuple(exclude)
        # Points are those of the clip's own frames.
        small = None if any(clicks) else config.clip_size(released.config)
        clip = _opened(source, short_edge=small)
        with own_numerics(released.device, learning=True):
            adapted = adapt(
                released.model,
                released.config,
                clip,
                config,
                channel=channel,
                clicked=self._clicked(clip, *clicks) if any(clicks) else None,
                on_step=on_step,
            )
            self.segmenter = Segmenter(
                adapted.model, adapted.weights, device=released.device, precision=released.precision
            )
        return adapted.report

    def _clicked(
        self, clip: FrameReader, include: Sequence[ClipPoint], exclude: Sequence[ClipPoint]
    ) -> "dict[int, CertainMask]":
        """Of each frame that was clicked in, give what makes its mask."""
        from amd_seg.clicks import segment_by_clicks

        clicked: dict[int, tuple[Frame, tuple[list[Point], list[Point]]]] = {}
        points = [(0, *point) for point in include] + [(1, *point) for point in exclude]
        frames = frames_at(clip, [moment for _, moment, _, _ in points])
        for frame, (side, _, x, y) in zip(frames, points, strict=True):
            clicked.setdefault(frame.index, (frame, ([], [])))[1][side].append((x, y))

        def certain_mask(result: Segmentation, found: torch.Tensor | None) -> tuple[Any, Any]:
            pixels = result.photo.pixels
            if found is None:
                saliency = result.saliency
            else:
                # What moves in the clip is a better start than what stands out in one frame.
                cells = found[0].numpy().astype(np.float32) / np.float32(255)
                clicks = result.include, result.exclude
                saliency = segment_by_clicks(pixels, cells, "none", *clicks)
            mask = torch.from_numpy(np.rint(saliency * 255).astype(np.uint8))[None]
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1), mask

        return {
            index: partial(certain_mask, self._released(_photo_of(frame, clip)).clicked(*clicks))
            for index, (frame, clicks) in clicked.items()
        }

    def reset(self) -> None:
        """Go back to the released weights."""
        self.segmenter = self._released

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the weights in use, adapted or not, for `from_pretrained` and `--weights`."""
        return save_weights(folder, self.segmenter.model, self.segmenter.config)


def frames_at(clip: FrameReader, moments: Sequence[float]) -> list[Frame]:
    """Return the frames of a clip at some moments: numbers (int), or times in seconds (float)."""
    found: dict[int, Frame] = {}  # by the place of the moment
    shown, last = -math.inf, "missing"
    for frame, after in pairwise(chain(clip, (None,))):
        assert frame is not None
        end = math.nextafter(clip.duration or frame.time, math.inf) if after is None else after.time
        for place, moment in enumerate(moments):
            is_time = isinstance(moment, float)
            if shown <= moment < end if is_time else moment == frame.index:
                found[place] = frame
        if len(found) == len(moments):
            break
        shown, last = end, f"number {frame.index}, at {frame.time:g} s"
    if lost := [moment for place, moment in enumerate(moments) if place not in found]:
        named = " or ".join(f"{m:g} s" if isinstance(m, float) else f"number {m}" for m in lost)
        raise InputError(f"{clip.source} has no frame at {named}. Its last one is {last}.")
    return [found[place] for place in range(len(moments))]


def check_output(
    clip: FrameReader,
    target: Path,
    *,
    output: str,
    background: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Background | None:
    """Raise where `write` could not do what is asked for; return what goes behind a cutout."""
    if output not in OUTPUTS:
        raise InputError(f"Unknown output {output!r}. Use one of {', '.join(OUTPUTS)}.")
    if background is not None and output != "cutout":
        raise InputError(f"A background goes behind a cutout, not behind {output!r}. Drop one.")
    if target.suffix.lower() == ".json":
        if output != "mask":
            raise InputError(f"{target} holds masks. Drop the output {output}, or write a video.")
        files.check_target(target, overwrite=overwrite)
        return None
    has_alpha = output == "cutout" and background is None
    check_target(target, clip.source, has_alpha=has_alpha, overwrite=overwrite)
    if background is None:
        return None
    return open_background(background, clip.width, clip.height)


def _photo_of(frame: Frame, clip: FrameReader) -> Photo:
    return Photo(frame.pixels, None, f"{clip.source}, frame {frame.index}")


def _frames_waiting(clip: FrameReader) -> int:
    """Return how many frames may wait between two stages: 8, or some 50 MB."""
    return max(1, min(8, 16_000_000 // (clip.width * clip.height)))


def _opened(source: ClipLike, short_edge: int | None = None) -> FrameReader:
    if isinstance(source, str | os.PathLike):
        return open_video(source, short_edge=short_edge)
    return source
