"""What a segmenter returns for one photo: saliency, mask, regions, and pictures of them."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError
from amd_seg.media.images import Photo, save_image
from amd_seg.media.render import (
    render_cutout,
    render_mask,
    render_overlay,
    render_regions,
    render_saliency,
)

OUTPUTS = ("mask", "saliency", "cutout", "overlay", "regions")

# Rows that are resized at a time: a strip of a wide photo still fits a CPU's cache.
_STRIP_ROWS = 64


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The object of one photo, found without labels.

    Maps are made when first asked for, at the photo's own size, and then kept.
    """

    photo: Photo = field(repr=False)
    """The photo as it was read: RGB pixels, upright."""
    region_masks: NDArray[np.float32] = field(repr=False)
    """(region, ceil(h/8), ceil(w/8)) for the h x w that the network saw; sums to 1 over region."""
    object_channel: int
    """The region that is the object, counted from 0."""
    threshold_rule: float | str = 0.5
    """A number between 0 and 1, or "otsu"."""

    @property
    def source(self) -> str:
        """How messages name the photo: its path, or what it was given as."""
        return self.photo.source

    @cached_property
    def saliency(self) -> NDArray[np.float32]:
        """(height, width), float32, 0..1: the object's region, never stretched to fill 0..1."""
        channel = self.region_masks[self.object_channel : self.object_channel + 1]
        saliency: NDArray[np.float32] = upsample(channel, self.photo.pixels.shape[:2])[0]
        return saliency

    @cached_property
    def threshold(self) -> float:
        """The saliency above which a pixel is in the mask; Otsu's where that was asked for."""
        if self.threshold_rule == "otsu":
            return otsu_threshold(self.saliency)
        return float(self.threshold_rule)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width), bool: where the saliency is above the threshold."""
        return self.saliency > self.threshold

    @cached_property
    def regions(self) -> NDArray[np.float32]:
        """(region, height, width), float32, sums to 1 over region."""
        return upsample(self.region_masks, self.photo.pixels.shape[:2])

    @cached_property
    def confidence(self) -> float:
        """How far the object stands out, 0..1: mean saliency inside the mask minus outside it.

        1 is a map of pure black and white; 0 means that nothing stands out: the mask is empty
        or covers everything. It is no probability that the mask is right.
        """
        inside = int(np.count_nonzero(self.mask))
        outside = self.mask.size - inside
        if not inside or not outside:
            return 0.0
        total = float(self.saliency.sum(dtype=np.float64))
        within = float(self.saliency.sum(dtype=np.float64, where=self.mask))
        return min(max(within / inside - (total - within) / outside, 0.0), 1.0)

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
        }

    def cutout(self) -> Image.Image:
        """Return the object as RGBA, its alpha the saliency; RGB is 0 where alpha is 0."""
        return render_cutout(self.photo.pixels, self.saliency)

    def overlay(self) -> Image.Image:
        """Return the photo as RGB with the mask drawn over it."""
        return render_overlay(self.photo.pixels, self.mask)

    def render(self, output: str = "mask") -> Image.Image:
        """Return a picture: "mask", "saliency" (L), "overlay", "regions" (RGB) or "cutout" (RGBA).

        Raises:
            InputError: `output` is none of these.
        """
        if output == "mask":
            return render_mask(self.mask)
        if output == "saliency":
            return render_saliency(self.saliency)
        if output == "cutout":
            return self.cutout()
        if output == "overlay":
            return self.overlay()
        if output == "regions":
            return self._render_regions()
        raise InputError(f"Unknown output {output!r}. Use one of {', '.join(OUTPUTS)}.")

    def encode(self, output: str = "mask") -> bytes:
        """Return the bytes of a PNG of what `render` gives.

        Raises:
            InputError: `output` is unknown.
        """
        file = io.BytesIO()
        self.render(output).save(file, "PNG", icc_profile=self._profile(output))
        return file.getvalue()

    def save(self, path: str | os.PathLike[str], output: str = "mask") -> Path:
        """Write a picture, in the format of the suffix of `path`, and return the path.

        The file is written beside its place and moved: it is there whole or not at all.

        Raises:
            InputError: `output` is unknown.
            MediaError: the suffix is unknown, or the file cannot be written.
        """
        path = Path(path)
        save_image(self.render(output), path, icc_profile=self._profile(output))
        return path

    def _profile(self, output: str) -> bytes | None:
        return self.photo.icc_profile if output in ("cutout", "overlay") else None

    def _render_regions(self) -> Image.Image:
        # By strips, because all regions of a large photo at once take gigabytes.
        height, width = self.photo.pixels.shape[:2]
        picture = Image.new("RGB", (width, height))
        for start, strip in _upsampled_strips(self.region_masks, (height, width)):
            pixels = self.photo.pixels[start : start + strip.shape[1]]
            picture.paste(render_regions(pixels, strip), (0, start))
        return picture


@dataclass(frozen=True, eq=False)
class FrameSegmentation(Segmentation):
    """The object of one frame of a clip."""

    index: int = field(kw_only=True)
    """Number of the frame, counted from the first one at or after the start asked for."""
    time: float = field(kw_only=True)
    """When it is shown, in seconds from the beginning of the clip."""


def upsample(masks: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Resize masks bilinearly with aligned corners, as the published evaluation does.

    Args:
        masks: (region, h, w), float32, 0..1.
        size: height and width, in pixels, of the result.

    Returns:
        (region, height, width), float32, 0..1; a sum of 1 over region stays 1.

    Source: the released code resizes probabilities with align_corners=True.
    """
    resized = np.empty((masks.shape[0], *size), np.float32)
    for start, strip in _upsampled_strips(masks, size):
        resized[:, start : start + strip.shape[1]] = strip
    return resized


def otsu_threshold(saliency: NDArray[np.float32]) -> float:
    """Return the level that splits the histogram of `saliency` best, by Otsu's rule.

    Args:
        saliency: any shape, 0..1.

    Returns:
        An edge between two of 256 equal bins over 0..1; 0.5 where all values share one bin.

    Source: N. Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    counts, edges = np.histogram(saliency, bins=256, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = saliency.size - below
    mass_below = np.cumsum(counts * centres)[:-1]
    mass_above = (counts * centres).sum() - mass_below
    gap = mass_below / np.maximum(below, 1) - mass_above / np.maximum(above, 1)
    # As float64: the product of two counts of a large photo does not fit an int64's square.
    between = below.astype(np.float64) * above * gap**2
    best = np.flatnonzero(between == between.max())
    # Every edge of an empty stretch splits alike: its middle is the fair one.
    return float(edges[best[len(best) // 2] + 1]) if between.max() > 0 else 0.5


def _upsampled_strips(
    masks: NDArray[np.float32], size: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield strip by strip: its first row, and the resized masks (region, rows, width)."""
    height, width = size
    left, right, share = _neighbours(masks.shape[2], width)
    wide = _blend(masks[:, :, left], masks[:, :, right], share)  # (region, h, width)
    top, bottom, share = _neighbours(masks.shape[1], height)
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        yield start, _blend(wide[:, top[rows]], wide[:, bottom[rows]], share[rows, None])


def _neighbours(
    cells: int, pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each pixel, the cells before and after it and the second one's share."""
    positions = np.linspace(0.0, cells - 1.0, pixels)
    before = np.minimum(positions.astype(np.intp), max(cells - 2, 0))
    after = np.minimum(before + 1, cells - 1)
    return before, after, (positions - before).astype(np.float32)


def _blend(
    first: NDArray[np.float32], second: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return first + share * (second - first), within 0..1; both arrays are used up."""
    second -= first
    second *= share
    first += second
    return np.clip(first, 0.0, 1.0, out=first)
