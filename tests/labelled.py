"""Tiny labelled photos: what a class looks like is its colour, so that a tiny network can learn."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.classes import VOC2012, VOID
from amd_seg.media.labels import save_labels

HEIGHT, WIDTH = 40, 56
SHADES = {1: (220, 40, 40), 2: (40, 200, 60), 3: (60, 60, 230)}
"""Label -> what its squares look like; the background is grey noise."""


def scene(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels and labels of a photo with one square of each of two classes, with a void border."""
    random = np.random.default_rng(number)
    pixels = random.integers(110, 146, (HEIGHT, WIDTH, 3), np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, label in enumerate((1 + number % 3, 1 + (number + 1) % 3)):
        top, left = int(random.integers(2, 14)), 2 + 28 * place + int(random.integers(0, 6))
        labels[top - 1 : top + 21, left - 1 : left + 19] = VOID
        labels[top : top + 20, left : left + 18] = label
        pixels[top : top + 20, left : left + 18] = SHADES[label]
    return pixels, labels


def make_voc2012(root: Path, *, train: int = 6, val: int = 3) -> Path:
    """Write scenes in the layout of PASCAL VOC 2012, and return the folder."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    names = [f"2007_{number:06}" for number in range(train + val)]
    for number, name in enumerate(names):
        pixels, labels = scene(number)
        Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=95)
        save_labels(labels, root / f"SegmentationClass/{name}.png", VOC2012)
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("".join(f"{name}\n" for name in names[:train]))
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in names[train:]))
    return root
