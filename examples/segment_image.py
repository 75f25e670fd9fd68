"""Segment the object in photos: photo, saliency, mask and cutout side by side, a row each.

python examples/segment_image.py sheet.jpg photo.jpg ...
"""

import sys

import numpy as np
from PIL import Image, ImageOps

from amd_seg import Segmentation, Segmenter

TILE = (280, 200)


def main(sheet: str, *photos: str) -> None:
    """Write the sheet and say what was found."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    rows = []
    for photo, result in zip(photos, segmenter(photos), strict=True):
        # The saliency is a float map of the photo's own size; the mask is where it passes 0.5.
        share, confidence = result.mask.mean(), result.confidence
        print(f"{photo}: {share:.0%} of it is object, confidence {confidence:.2f}")
        rows.append(row_of(result))
    Image.fromarray(np.concatenate(rows)).save(sheet, quality=88)


def row_of(result: Segmentation) -> np.ndarray:
    """Return the four pictures of one result, (height, 4 * width, 3), uint8."""
    cutout = result.cutout()
    white = Image.new("RGBA", cutout.size, "white")
    pictures = (
        Image.fromarray(result.photo.pixels),
        result.render("saliency"),
        result.render("mask"),
        Image.alpha_composite(white, cutout),
    )
    tiles = [ImageOps.pad(picture.convert("RGB"), TILE, color="white") for picture in pictures]
    return np.concatenate([np.asarray(tile) for tile in tiles], axis=1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
