"""What --refine does to edges: a part of a photo at 1:1, and its cutout on white by each way.

python examples/compare_edges.py sheet.jpg photo.jpg LEFT TOP WIDTH HEIGHT
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

from amd_seg import Segmenter
from amd_seg.choices import REFINEMENTS

LABEL_HEIGHT = 16


def main(sheet: str, photo: str, *box: int) -> None:
    """Write the sheet: the part of the photo, then a tile for each way (grabcut: OpenCV)."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    left, top, width, height = box
    part = (left, top, left + width, top + height)
    results = {refine: segmenter(photo, refine=refine) for refine in REFINEMENTS}
    original = Image.fromarray(results["none"].photo.pixels).convert("RGBA")
    pictures = {"photo": original, **{way: result.cutout() for way, result in results.items()}}
    tiles = [labelled(picture.crop(part), label) for label, picture in pictures.items()]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(sheet, quality=90)


def labelled(picture: Image.Image, label: str) -> np.ndarray:
    """Return an RGBA picture on white, its label above: (height, width, 3), uint8."""
    tile = Image.new("RGB", (picture.width, LABEL_HEIGHT + picture.height), "white")
    ImageDraw.Draw(tile).text((4, 2), label, "black")
    tile.paste(picture, (0, LABEL_HEIGHT), picture)
    return np.asarray(tile)


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
