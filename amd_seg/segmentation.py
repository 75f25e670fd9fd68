"""What a segmenter returns for one photo: saliency, mask, regions, and pictures of them."""

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.annotations import Thing
from amd_seg.choices import OUTPUTS
from amd_seg.errors import InputError
from amd_seg.media.images import Photo, save_image, write_image
from amd_seg.media.render import (
    opacity,
    otsu_threshold,
    render_cutout,
    render_mask,
    render_overlay,
    render_regions,
    render_saliency,
)
from amd_seg.refine import Point, refine_map, upsample, upsampled_strips


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The object of one photo, found without labels.

    Maps are made when first asked for, at the photo's own size, and then kept.
    """

    photo: Photo = field(repr=False)
    """The photo as it was read: RGB pixels, upright."""
    region_masks: NDArray[np.float32] = field(repr=False)
    """(region, rows, columns), sums to 1 over region; the grid is that of `AMD.segment`."""
    object_channel: int
    """The region that is the object, counted from 0."""
    threshold_rule: float | str = 0.5
    """A number between 0 and 1, or "otsu"."""
    refine: str = "none"
    """How the saliency gets its edges: one of `choices.REFINEMENTS`."""
    min_confidence: float = 0.0
    """The confidence, 0..1, below which the photo counts as one without an object."""
    include: tuple[Point, ...] = ()
    """Clicks on the object, in pixels of the photo, x first; see `clicked`."""
    exclude: tuple[Point, ...] = ()
    """Clicks on what is not the object."""

    @property
    def source(self) -> str:
        """How messages name the photo: its path, or what it was given as."""
        return self.photo.source

    @cached_property
    def saliency(self) -> NDArray[np.float32]:
        """(height, width), float32, 0..1: the object's region, never stretched to fill 0..1.

        With clicks, the object that they choose.
        """
        cells, has_clicks = self.region_masks[self.object_channel], self.include or self.exclude
        if self.refine == "none" and not has_clicks:  # No pixel of the photo is needed.
            plain: NDArray[np.float32] = upsample(cells[np.newaxis], self.photo.size)[0]
            return plain
        pixels = self.photo.pixels
        if not has_clicks:
            return refine_map(pixels, cells, self.refine)
        # It loads OpenCV.
        from amd_seg.clicks import segment_by_clicks

        return segment_by_clicks(pixels, cells, self.refine, self.include, self.exclude)

    def clicked(self, include: Iterable[Point] = (), exclude: Iterable[Point] = ()) -> Self:
        """Return the object that clicks choose, in place of what stands out; no network runs.

        Args:
            include: points of the object: pixels of the photo as it is shown, x first.
            exclude: points that are not of it. Both replace earlier clicks.
        """
        clicks = tuple(include), tuple(exclude)
        height, width = self.photo.size
        # Not "x < 0 or x >= width": what is no number is outside too.
        wrong = [(x, y) for x, y in sum(clicks, ()) if not (0 <= x < width and 0 <= y < height)]
        if wrong:
            points = " and ".join(f"{x:g},{y:g}" for x, y in wrong)
            raise InputError(
                f"Click outside of {self.source}: {points}. As it is shown it has {width}x{height} "
                f"pixels: give x from 0 to {width - 1} and y from 0 to {height - 1}."
            )
        return replace(self, include=clicks[0], exclude=clicks[1])

    @cached_property
    def threshold(self) -> float:
        """The saliency above which a pixel is in the mask; Otsu's where that was asked for."""
        if self.threshold_rule == "otsu":
            return otsu_threshold(self.saliency)
        return float(self.threshold_rule)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width), bool: saliency above the threshold; empty for too little confidence."""
        if self.confidence < self.min_confidence:
            return np.zeros(self.photo.size, np.bool_)
        return self.saliency > self.threshold

    @cached_property
    def regions(self) -> NDArray[np.float32]:
        """(region, height, width), float32, sums to 1 over region; without refinement."""
        return upsample(self.region_masks, self.photo.size)

    @cached_property
    def confidence(self) -> float:
        """The IoU of the mask with the true one, 0..1, as the saliency expects it.

        It is taken as a probability: its sum inside the mask is right, and its sum outside is
        missed. It orders photos, but is not calibrated (docs/benchmarks.md).
        """
        inside = self.saliency > self.threshold
        right, missed = (
            float(self.saliency.sum(where=w, dtype=np.float64)) for w in (inside, ~inside)
        )
        return right / (int(inside.sum()) + missed) if right else 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """What `amd-seg image --json` tells of a photo, as JSON-able values."""
        height, width = self.mask.shape
        return {
            "width": width,
            "height": height,
            "threshold": round(self.threshold, 4),
            "mask_share": round(float(self.mask.mean()), 4),
            "confidence": round(self.confidence, 4),
            "object": bool(self.mask.any()),
        }

    @property
    def things(self) -> list[Thing]:
        """The object for an annotation file; none where the mask is empty."""
        return [Thing(1, self.mask, self.confidence)] if self.mask.any() else []

    @property
    def alpha(self) -> NDArray[np.uint8]:
        """(height, width), uint8: how much of each pixel a cutout shows, 0 to 255.

        2 * saliency - threshold, clipped to 0..1; nothing for too little confidence.
        """
        if self.confidence < self.min_confidence:
            return np.zeros(self.photo.size, np.uint8)
        return opacity(self.saliency, self.threshold)

    def cutout(self) -> Image.Image:
        """Return the object as RGBA: no colour of the background along its soft edge."""
        return render_cutout(self.photo.pixels, self.alpha)

    def overlay(self) -> Image.Image:
        """Return the photo as RGB with the mask drawn over it."""
        return render_overlay(self.photo.pixels, self.mask)

    def render(self, output: str = "mask") -> Image.Image:
        """Return a picture: mask or saliency (L), overlay or regions (RGB), or cutout (RGBA)."""
        if output == "mask":
            return render_mask(self.mask)
        if output == "saliency":
            return render_saliency(self.saliency)
        if output in ("cutout", "overlay"):
            return self.cutout() if output == "cutout" else self.overlay()
        if output != "regions":
            raise InputError(f"Unknown output {output!r}. Use one of {', '.join(OUTPUTS)}.")
        # By strips, because all regions of a large photo at once take gigabytes.
        height, width = self.photo.size
        picture = Image.new("RGB", (width, height))
        for start, strip in upsampled_strips(self.region_masks, (height, width)):
            pixels = self.photo.pixels[start : start + strip.shape[1]]
            picture.paste(render_regions(pixels, strip), (0, start))
        return picture

    def encode(self, output: str = "mask") -> bytes:
        """Return the bytes of a PNG of what `render` gives."""
        file = io.BytesIO()
        write_image(self.render(output), file, ".png", **self._metadata(output))
        return file.getvalue()

    def save(self, path: str | os.PathLike[str], output: str = "mask") -> Path:
        """Write what `render` gives, whole or not at all, in the format of the path's suffix."""
        path = Path(path)
        save_image(self.render(output), path, **self._metadata(output))
        return path

    def _metadata(self, output: str) -> dict[str, Any]:
        if output not in ("cutout", "overlay"):
            return {}
        return {"icc_profile": self.photo.icc_profile, "resolution": self.photo.resolution}


@dataclass(frozen=True, eq=False)
class FrameSegmentation(Segmentation):
    """The object of one frame of a clip."""

    index: int = field(kw_only=True)
    """Number of the frame, counted from the first one at or after the start asked for."""
    time: float = field(kw_only=True)
    """When it is shown, in seconds from the beginning of the clip."""
