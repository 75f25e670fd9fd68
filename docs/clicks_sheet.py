"""python docs/clicks_sheet.py PHOTOS docs/clicks.jpg: six masks before and after clicks.

PHOTOS is the folder skimage/data of an installed scikit-image (pip install scikit-image). What is
not in a mask is dimmed; included points are green, excluded ones red.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from amd_seg import Segmenter

HEIGHT, GAP = 220, 6
Points = list[tuple[int, int]]
CASES: list[tuple[str, Points, Points]] = [
    ("astronaut.png", [(220, 110), (220, 35)], [(30, 250), (60, 60), (420, 30)]),
    (
        "astronaut.png",
        [(412, 60), (440, 170), (392, 170)],
        [(475, 60), (330, 60), (220, 120), (250, 300), (345, 150), (465, 170)],
    ),
    (
        "chelsea.png",
        [(225, 150), (100, 40), (60, 200), (330, 50), (290, 240)],
        [(420, 150)],
    ),
    (
        "coffee.png",
        [(265, 110), (275, 30), (230, 270)],
        [(120, 250), (380, 310), (250, 370), (420, 250), (180, 320), (330, 330)],
    ),
    ("coffee.png", [(120, 250), (400, 330)], [(480, 340)]),
    ("rocket.jpg", [(320, 250), (316, 190)], [(380, 290), (250, 330), (150, 390), (440, 390)]),
]


def main() -> None:
    """Write the sheet."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    rows = []
    for name, include, exclude in CASES:
        before = segmenter(Path(sys.argv[1]) / name)
        pixels = before.photo.pixels
        after = dimmed(pixels, before.clicked(include, exclude).mask)
        draw = ImageDraw.Draw(after)
        radius = pixels.shape[0] / 50
        for points, colour in ((include, (0, 220, 60)), (exclude, (255, 40, 40))):
            for x, y in points:
                draw.circle((x, y), radius, fill=colour, outline="white", width=2)
        rows.append(beside([Image.fromarray(pixels), dimmed(pixels, before.mask), after]))
    # Three rows of two cases.
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (2 * width + 4 * GAP, 3 * (HEIGHT + GAP) - GAP), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (place % 2 * (width + 4 * GAP), place // 2 * (HEIGHT + GAP)))
    sheet.save(sys.argv[2], quality=85)


def dimmed(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Return the photo, dark outside of the mask."""
    return Image.fromarray(np.where(mask[..., None], pixels, pixels // 3))


def beside(images: list[Image.Image]) -> Image.Image:
    """Return images side by side, of one height."""
    images = [
        image.resize((round(image.width * HEIGHT / image.height), HEIGHT)) for image in images
    ]
    row = Image.new("RGB", (sum(image.width + GAP for image in images) - GAP, HEIGHT), "white")
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + GAP
    return row


if __name__ == "__main__":
    main()
