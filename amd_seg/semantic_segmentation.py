"""What a semantic segmenter returns for one photo: labels, and pictures of them."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amd_seg.choices import SEMANTIC_OUTPUTS
from amd_seg.classes import Classes
from amd_seg.errors import InputError
from amd_seg.media.images import Photo, save_image, write_image
from amd_seg.media.labels import (
    Labels,
    indexed_image,
    png_options,
    render_labels_overlay,
    save_labels,
)


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
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {
            self.classes.names[label]: float(counts[label] / self.labels.size)
            for label in order.tolist()
            if counts[label]
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What `amd-seg image --json` tells of a photo, as JSON-able values."""
        height, width = self.labels.shape
        shares = {name: round(share, 4) for name, share in self.shares.items()}
        return {"width": width, "height": height, "classes": shares}

    def overlay(self) -> Image.Image:
        """Return the photo as RGB, tinted in the classes' colours, with a legend of their names."""
        return render_labels_overlay(self.photo.pixels, self.labels, self.classes)

    def render(self, output: str = "labels") -> Image.Image:
        """Return a picture: "labels" (indexed, in the classes' colours) or "overlay" (RGB).

        Raises:
            InputError: `output` is neither.
        """
        if output == "labels":
            return indexed_image(self.labels, self.classes)
        if output == "overlay":
            return self.overlay()
        raise InputError(f"Unknown output {output!r}. Use one of {', '.join(SEMANTIC_OUTPUTS)}.")

    def encode(self, output: str = "labels") -> bytes:
        """Return the bytes of a PNG of what `render` gives.

        Raises:
            InputError: `output` is unknown.
        """
        file, picture = io.BytesIO(), self.render(output)
        if output == "labels":
            picture.save(file, "PNG", **png_options(self.classes))
        else:
            write_image(picture, file, ".png", **self._metadata)
        return file.getvalue()

    def save(self, path: str | os.PathLike[str], output: str = "labels") -> Path:
        """Write a picture and return the path; labels as .png, the overlay as its suffix says.

        The file is written beside its place and moved: it is there whole or not at all.

        Raises:
            InputError: `output` is unknown.
            MediaError: the suffix cannot hold it, or the file cannot be written.
        """
        path = Path(path)
        if output == "labels":
            save_labels(self.labels, path, self.classes)
        else:
            save_image(self.render(output), path, **self._metadata)
        return path

    @property
    def _metadata(self) -> dict[str, Any]:
        """What of the photo goes with an overlay."""
        return {"icc_profile": self.photo.icc_profile, "resolution": self.photo.resolution}
