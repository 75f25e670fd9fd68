"""Segment the object in a photo: saliency, mask, overlay and cutout side by side.

python examples/segment_image.py photo.jpg sheet.png
"""

import sys

import numpy as np
from PIL import Image

from amd_seg import Segmenter


def main(photo: str, sheet: str) -> None:
    """Write the sheet and say what was found."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    result = segmenter(photo)

    # The saliency is a float map of the photo's own size; the mask is where it passes 0.5.
    print(f"{result.mask.mean():.0%} of the photo is object, confidence {result.confidence:.2f}")

    white = Image.new("RGBA", result.photo.pixels.shape[1::-1], "white")
    pictures = (
        Image.fromarray(result.photo.pixels),
        result.render("saliency"),
        result.render("mask"),
        Image.alpha_composite(white, result.cutout()),
    )
    row = np.concatenate([np.asarray(picture.convert("RGB")) for picture in pictures], axis=1)
    Image.fromarray(row).save(sheet)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
