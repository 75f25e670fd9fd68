"""What one open page holds: its file, what the network said of it, and the pictures of that."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amd_seg.adaptation_report import loss_curve, verdict, write_adaptation_page
from amd_seg.choices import OUTPUTS
from amd_seg.demo.limits import MAX_PHOTO_PIXELS, MAX_SECONDS, check_clip, is_clip
from amd_seg.errors import InputError, MediaError
from amd_seg.media.images import Photo, read_image
from amd_seg.media.video import FrameReader, open_video
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from amd_seg.training.adaptation import OnStep
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.loop import StepReport, StopTraining
from amd_seg.video_segmenter import OnFrame, VideoSegmenter

CLIP_ENDINGS = {"cutout": ".webm"}
"""Outputs whose twin is no .mp4: only this one is transparent."""

# What an output is drawn from besides the network's maps.
_DEPENDS_ON = {"regions": (), "saliency": ("refine",)}


@dataclass(frozen=True)
class Controls:
    """What a user has set."""

    threshold: float
    """Saliency above which a pixel is in the mask, 0..1."""
    refine: str
    """One of `choices.REFINEMENTS`."""
    size: int
    """Short edge, in pixels, that the network sees."""
    time: float = 0.0
    """Of a clip: the frame shown at or after this time, in seconds."""


@dataclass(frozen=True)
class Shown:
    """The pictures of a photo or a frame."""

    pictures: dict[str, Path]
    """Output -> its file, as `amd-seg image` writes it."""
    facts: dict[str, Any]
    """As `Segmentation.facts`."""


@dataclass(frozen=True)
class Learned:
    """What an adaptation brought."""

    verdict: str
    curve: str
    """An SVG."""
    before: Path
    after: Path
    page: Path
    size: int
    """Short edge, in pixels, at which the weights that are used from now on see best."""


class Session:
    """One page: nothing of it is left when it is closed.

    Args:
        segmenter: shared by all pages; it is not changed.
        folder: this page's own, made here and removed at the end.

    Attributes:
        clip: the clip, where the file is one.
        last_time: about when the last frame of the clip is shown, in seconds; 0 of a photo.
        source: the file; None before there is one.
    """

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.clip: FrameReader | None = None
        self.last_time = 0.0
        self.source: Path | None = None
        self._folder = folder
        self._video = VideoSegmenter(segmenter)
        self._is_closed = False
        self._count = 0
        self._photo: tuple[float, Photo] | None = None
        self._seen: Segmentation | None = None
        self._seen_by: tuple[int, float] | None = None
        self._pictures: dict[str, tuple[tuple[object, ...], Path]] = {}

    def open(self, upload: Path) -> None:
        """Take a photo or a clip over into this page's folder, in place of the one before.

        Raises:
            InputError: it is too large or too long.
            MediaError: it cannot be read.
        """
        self._clear()
        source = self._new_file(upload.name)
        shutil.move(upload, source)
        clip = open_video(source, end=MAX_SECONDS) if is_clip(source) else None
        self.last_time = 0.0 if clip is None else check_clip(clip)
        self._photo = 0.0, _read(source, clip, 0.0)
        self.source, self.clip = source, clip

    def show(self, controls: Controls) -> Shown:
        """Draw what the controls ask for; only another size or frame runs the network.

        Raises:
            InputError: there is no file.
            MediaError: it cannot be read.
        """
        seen = self._segmentation(controls)
        pictures = {output: self._picture(seen, output, controls) for output in OUTPUTS}
        return Shown(pictures, seen.facts)

    def adapt(self, controls: Controls, config: AdaptationConfig, on_step: OnStep) -> Learned:
        """Let the weights learn from the clip; they are used until another file comes.

        What is drawn after it is drawn at the size that they see best.

        Raises:
            InputError: there is no clip, or nothing moves in it.
            ConfigError, DeviceError, MediaError, TrainingDivergedError: as `adapt`.
        """
        clip, source = self._require_clip()
        self._video.reset()
        self._forget()  # Of an adaptation before this one.
        before = self._overlay(controls)
        released = self._video.segmenter

        def after_step(step: StepReport) -> None:
            on_step(step)
            if self._is_closed:
                raise StopTraining("the page was closed")

        small = open_video(
            source, end=MAX_SECONDS, short_edge=config.frame_size(released.config.input_size)
        )
        report = self._video.adapt(small, config, on_step=after_step)
        self._forget()
        page = write_adaptation_page(
            self._new_file(f"{source.stem}.report.html"),
            clip,
            report,
            config,
            released=released,
            adapted=self._video.segmenter,
            threshold=controls.threshold,
            refine=controls.refine,
        )
        size = self._video.segmenter.config.input_size
        after = self._overlay(replace(controls, size=size))
        return Learned(verdict(report), loss_curve(report), before, after, page, size)

    def write(self, output: str, controls: Controls, on_frame: OnFrame) -> Path:
        """Write the clip's twin, by the weights in use.

        Raises:
            InputError: there is no clip.
            MediaError: it cannot be read, or the twin cannot be written.
        """
        clip, source = self._require_clip()

        def after_frame(done: int, total: int | None) -> None:
            on_frame(done, total)
            if self._is_closed:
                raise InputError("The page was closed.")

        ending = CLIP_ENDINGS.get(output, ".mp4")
        target = self._new_file(f"{source.stem}.{output}{ending}")
        self._video.write(
            clip,
            target,
            output=output,
            threshold=controls.threshold,
            refine=controls.refine,
            size=controls.size,
            on_frame=after_frame,
        )
        return target

    def stop(self) -> None:
        """Let what is under way in another thread end soon: its result is not wanted."""
        self._is_closed = True

    def close(self) -> None:
        """Remove every file of the page."""
        self._clear()
        self._folder.rmdir()

    def _clear(self) -> None:
        self.clip = self.source = self._photo = None
        self._forget()
        self._video.reset()
        for path in self._folder.iterdir():
            shutil.rmtree(path)

    def _forget(self) -> None:
        """Forget what the network said: it is another network, or another file."""
        self._seen = self._seen_by = None
        self._pictures.clear()

    def _require_clip(self) -> tuple[FrameReader, Path]:
        if self.clip is None or self.source is None:
            raise InputError("There is no clip. Drop one first.")
        return self.clip, self.source

    def _new_file(self, name: str) -> Path:
        """Return a place for a file of this name that no browser has seen before."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        return folder / name

    def _photo_at(self, time: float) -> Photo:
        if self.source is None:
            raise InputError("There is no file. Drop a photo or a clip first.")
        if self._photo is None or self._photo[0] != time:
            self._photo = time, _read(self.source, self.clip, time)
        return self._photo[1]

    def _segmentation(self, controls: Controls) -> Segmentation:
        by = (controls.size, controls.time)
        seen = self._seen
        if seen is None or by != self._seen_by:
            photo = self._photo_at(controls.time)
            seen = self._video.segmenter(photo, size=controls.size, refine=controls.refine)
            self._seen_by = by
        if seen.refine != controls.refine:
            seen = replace(seen, refine=controls.refine)
        self._seen = seen.thresholded(controls.threshold)
        return self._seen

    def _picture(self, seen: Segmentation, output: str, controls: Controls) -> Path:
        """Return the file of an output, written anew only where it is another picture."""
        names = _DEPENDS_ON.get(output, ("refine", "threshold"))
        drawn_by = (self._seen_by, *(getattr(controls, name) for name in names))
        known = self._pictures.get(output)
        if known is not None:
            if known[0] == drawn_by:
                return known[1]
            shutil.rmtree(known[1].parent)
        assert self.source is not None
        path = seen.save(self._new_file(f"{self.source.stem}.{output}.png"), output)
        self._pictures[output] = drawn_by, path
        return path

    def _overlay(self, controls: Controls) -> Path:
        """Write the overlay of the frame shown, as a file that stays until the next clip."""
        assert self.source is not None
        path = self._new_file(f"{self.source.stem}.overlay.png")
        return self._segmentation(controls).save(path, "overlay")


def _read(source: Path, clip: FrameReader | None, time: float) -> Photo:
    """Read a photo, or the frame of a clip that is shown at or after a time, in seconds."""
    if clip is None:
        return read_image(source, max_pixels=MAX_PHOTO_PIXELS)
    for start in (time, 0.0):  # No frame may follow so late.
        for frame in open_video(source, start=start, end=MAX_SECONDS):
            return Photo(frame.pixels, None, f"{source.name} at {frame.time:.2f} s")
    raise MediaError(f"Cannot read {source.name}: it has no frame. Give an intact file.")
