"""SemanticSegmenter: photos in, label maps out, with a network that was fine-tuned on classes."""

import io
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from amd_seg.annotations import Thing
from amd_seg.choices import ANNOTATIONS, MAX_PIXELS, OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.classes import Classes
from amd_seg.device import own_numerics, resolve_device, resolve_precision
from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.images import Photo, save_image, write_image
from amd_seg.media.labels import (
    Labels,
    indexed_image,
    render_labels_overlay,
    save_labels,
    write_labels,
)
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticWeightsConfig
from amd_seg.segmenter import ImageLike, PlacedNetwork, Prepared, Segmenter, one_or_all
from amd_seg.weights import load_any_weights, load_semantic_weights

__all__ = ["SemanticSegmentation", "SemanticSegmenter", "open_segmenter"]


@dataclass(frozen=True, eq=False)
class SemanticSegmentation:
    """The classes of one photo."""

    photo: Photo = field(repr=False)
    """The photo as it was read: RGB pixels, upright."""
    labels: Labels = field(repr=False)
    """(height, width), uint8, the photo's own size: label k is the k-th class."""
    classes: Classes = field(repr=False)
    """Names and colours."""

    @property
    def source(self) -> str:
        """How messages name the photo: its path, or what it was given as."""
        return self.photo.source

    @property
    def shares(self) -> dict[str, float]:
        """Share of the photo that each class covers, 0..1, the largest first; no zeros."""
        shares = np.bincount(self.labels.ravel(), minlength=len(self.classes)) / self.labels.size
        order = np.argsort(-shares, kind="stable").tolist()
        return {self.classes.names[k]: float(shares[k]) for k in order if shares[k]}

    @property
    def facts(self) -> dict[str, Any]:
        """What `amd-seg image --json` tells of a photo, as JSON-able values."""
        height, width = self.labels.shape
        shares = {name: round(share, 4) for name, share in self.shares.items()}
        return {"width": width, "height": height, "classes": shares}

    @property
    def things(self) -> list[Thing]:
        """A mask for each class in the photo but the first, the background."""
        present = np.unique(self.labels).tolist()
        return [Thing(label, self.labels == label) for label in present if label]

    def overlay(self) -> Image.Image:
        """Return the photo as RGB, tinted in the classes' colours, with a legend of their names."""
        return render_labels_overlay(self.photo.pixels, self.labels, self.classes)

    def render(self, output: str = "labels") -> Image.Image:
        """Return a picture: "labels" (indexed, in the classes' colours) or "overlay" (RGB)."""
        if output == "labels":
            return indexed_image(self.labels, self.classes)
        if output == "overlay":
            return self.overlay()
        raise InputError(f"Unknown output {output!r}. Use one of {', '.join(SEMANTIC_OUTPUTS)}.")

    def encode(self, output: str = "labels") -> bytes:
        """Return the bytes of a PNG of what `render` gives."""
        file = io.BytesIO()
        if output == "labels":
            write_labels(self.labels, file, self.classes)
        else:
            write_image(self.render(output), file, ".png", **self._metadata)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str], output: str = "labels") -> Path:
        """Write what `render` gives, whole or not at all; labels as .png only."""
        path = Path(path)
        if output == "labels":
            save_labels(self.labels, path, self.classes)
        else:
            save_image(self.render(output), path, **self._metadata)
        return path

    @property
    def _metadata(self) -> dict[str, Any]:
        return {"icc_profile": self.photo.icc_profile, "resolution": self.photo.resolution}


class SemanticSegmenter(PlacedNetwork[SemanticNetwork, SemanticWeightsConfig]):
    """Tells what is where in photos: it holds a fine-tuned model, its settings, and a device.

    Example:
        segmenter = SemanticSegmenter.from_pretrained("run")
        segmenter("photo.jpg").save("labels.png")
    """

    _load = staticmethod(load_semantic_weights)

    @property
    def classes(self) -> Classes:
        """Names and colours of what it tells apart."""
        return self.config.classes

    @overload
    def __call__(self, image: ImageLike, **options: Any) -> SemanticSegmentation: ...

    @overload
    def __call__(
        self, image: Iterable[ImageLike], **options: Any
    ) -> Iterator[SemanticSegmentation]: ...

    def __call__(
        self, image: ImageLike | Iterable[ImageLike], **options: Any
    ) -> SemanticSegmentation | Iterator[SemanticSegmentation]:
        """Segment what `Segmenter` takes, with the options of `stream`; errors are raised."""
        return one_or_all(image, lambda images: self.stream(images, **options))

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        slide: bool = False,
        flip: bool = False,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[SemanticSegmentation | AmdSegError, None, None]:
        """Segment images as a call does, with the error itself in the place of a bad image.

        Args:
            slide: let a square window of the weights' size slide over the photo, by two thirds of
                its side, and take the mean where windows overlap; else the network sees it whole.
            flip: take the mean with the mirrored photo.
            batch_size: windows that share a pass of the network; photos that are read ahead.
            size, max_pixels: see `CallOptions`.
        """
        edge = self._checked(size, batch_size)
        window = self.config.input_size if slide else None

        def segment(photos: list[Prepared]) -> Iterator[SemanticSegmentation | AmdSegError]:
            for photo, frame in photos:
                with self._computing(frame):
                    frame = frame.to(self.device)
                    scores = class_probabilities(self.model, frame, window, flip, batch_size).cpu()
                if torch.isfinite(scores).all():
                    labels = strongest_classes(scores, photo.size)
                    yield SemanticSegmentation(photo, labels, self.classes)
                else:
                    yield self._damaged(photo)

        return self._results(images, segment, edge, batch_size, max_pixels)


def open_segmenter(
    source: str | os.PathLike[str] | None,
    output: str,
    *,
    device: str | torch.device = "auto",
    precision: str = "float32",
) -> Segmenter | SemanticSegmenter:
    """Return the segmenter that weights are for, by `from_pretrained`, if it gives `output`."""
    resolve_precision(precision, resolve_device(device))  # Before a download, not after it.
    found = load_any_weights(source)
    is_semantic = isinstance(found.model, SemanticNetwork)
    outputs = SEMANTIC_OUTPUTS if is_semantic else OUTPUTS
    if output not in (*outputs, *ANNOTATIONS):
        what = "tell classes" if is_semantic else "find the object and know no classes"
        raise InputError(
            f"The weights {found.source} {what}: they give no {output}. "
            f"Use --output {' or '.join(outputs)}, or other --weights."
        )
    kind = SemanticSegmenter if is_semantic else Segmenter
    return kind(found.model, found.config, device=device, precision=precision)


# From a frame to its classes


@torch.inference_mode()
def class_probabilities(
    model: SemanticNetwork,
    frame: Tensor,
    window: int | None = None,
    flip: bool = False,
    batch_size: int = 8,
) -> Tensor:
    """Return the probability of each class at each pixel, (class, height, width), float32.

    The frame is (3, height, width), RGB, uint8 or 0..255, on the model's device. A square window of
    some pixels slides over it by two thirds of its side, and the logits of overlapping ones are
    averaged; None shows it whole. `flip` takes the mean with the mirrored frame.

    Source: mmsegmentation, whole and slide inference.
    """
    scores = _logits(model, frame, window, batch_size).softmax(dim=0)
    if not flip:
        return scores
    mirrored = _logits(model, frame.flip(-1), window, batch_size).softmax(dim=0)
    return (scores + mirrored.flip(-1)) / 2


def _logits(model: SemanticNetwork, frame: Tensor, window: int | None, batch_size: int) -> Tensor:
    """Return logits (class, height, width) of a frame, whole or from windows."""
    height, width = frame.shape[-2:]
    if window is None:
        return _resized(model.logits(frame[None])[0], (height, width))
    side = (min(window, height), min(window, width))
    step = max(1, 2 * window // 3)
    tops, lefts = ([*range(0, end, step), end] for end in (height - side[0], width - side[1]))
    corners = list(product(tops, lefts))
    total = torch.zeros(model.config.classes, height, width, device=frame.device)
    count = torch.zeros(height, width, device=frame.device)
    for first in range(0, len(corners), batch_size):
        group = corners[first : first + batch_size]
        parts = torch.stack([frame[:, y : y + side[0], x : x + side[1]] for y, x in group])
        for (y, x), logits in zip(group, model.logits(parts), strict=True):
            total[:, y : y + side[0], x : x + side[1]] += _resized(logits, side)
            count[y : y + side[0], x : x + side[1]] += 1
    return total / count


def strongest_classes(scores: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the class whose bilinearly resized score (class, h, w) is highest at each pixel."""
    height, width = size
    labels = np.empty((height, width), np.uint8)
    with own_numerics():
        wide = _resized(scores, (scores.shape[1], width))
        # Centres of the rows in rows of the scores; beyond the outer ones nothing changes.
        places = (torch.arange(height) + 0.5) * (scores.shape[1] / height) - 0.5
        places = places.clamp(0, scores.shape[1] - 1)
        above = places.floor().long()
        below = (above + 1).clamp(max=scores.shape[1] - 1)
        share = (places - above)[:, None]
        # By strips: all classes of a large photo take gigabytes.
        for rows in torch.split(torch.arange(height), 64):
            strip = torch.lerp(wide[:, above[rows]], wide[:, below[rows]], share[rows])
            labels[rows] = strip.argmax(dim=0).byte().numpy()
    return labels


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
