"""Saliency maps and ground truths of many kinds, of which data/saliency_golden.json has the scores.

benchmarks/saliency_golden.py makes that file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "data" / "saliency_golden.json"


def cases() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield a name, a map (height, width) uint8, and a ground truth (height, width) bool."""
    generator = np.random.default_rng(7)

    def noise(height: int, width: int) -> np.ndarray:
        return generator.integers(0, 256, (height, width), np.uint8)

    box = np.zeros((40, 60), bool)
    box[8:25, 12:40] = True
    yield "noise over a box", noise(40, 60), box
    yield "bright box", np.where(box, noise(40, 60) // 2 + 128, noise(40, 60) // 2), box
    yield "shifted box", np.roll(box, (5, -7), (0, 1)) * np.uint8(255), box
    yield "perfect", box * np.uint8(255), box
    yield "inverted", ~box * np.uint8(255), box
    yield "black map", np.zeros((40, 60), np.uint8), box
    yield "white map", np.full((40, 60), 255, np.uint8), box
    yield "grey map", np.full((40, 60), 100, np.uint8), box
    yield "empty truth", noise(40, 60), np.zeros((40, 60), bool)
    yield "full truth", noise(40, 60), np.ones((40, 60), bool)
    yield "scattered truth", noise(33, 47), generator.random((33, 47)) < 0.3
    dot = np.zeros((21, 30), bool)
    dot[3, 4] = True
    yield "one pixel", noise(21, 30), dot
    rows, columns = np.mgrid[:50, :70]
    disk = (rows - 20) ** 2 + (columns - 45) ** 2 < 200
    ramp = np.clip(255 - 6 * np.hypot(rows - 24, columns - 40), 0, 255)
    yield "soft blob on a disk", ramp.astype(np.uint8), disk


def drawn() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield 200 maps and ground truths of any size: scattered, corners, disks, empty, full."""
    generator = np.random.default_rng(11)
    for index in range(200):
        height, width = generator.integers(3, 60, 2)
        rows, columns = np.mgrid[:height, :width]
        top, left, radius = generator.random(3) * (height, width, max(height, width))
        truth = (
            generator.random((height, width)) < generator.random(),
            (rows >= top) & (columns >= left),
            np.hypot(rows - top, columns - left) < radius,
            np.full((height, width), index % 8 == 3),
        )[index % 4]
        if index % 4 != 3:
            # PySODMetrics has no S-measure (NaN) where the object's centre is in the last line.
            truth[-1], truth[:, -1] = False, False
        values = generator.integers(0, 256, (height, width))
        if index % 3 == 0:
            values = (values + 2 * 255 * truth) // 3
        yield f"drawn {index}", values.astype(np.uint8), truth


def subset(shared: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield every tenth ground truth of the ECSSD subset with its picture's grey as the map."""
    for path in sorted((shared / "data" / "ecssd" / "masks").glob("*.png"))[::10]:
        picture = Image.open(shared / "data" / "ecssd" / "images" / f"{path.stem}.jpg")
        truth = np.asarray(Image.open(path).convert("L")) > 128
        # Its own ground truth brightens the map, so that the numbers are not those of chance.
        grey = np.asarray(picture.convert("L")).astype(np.uint8)
        yield path.stem, np.where(truth, grey // 2 + 128, grey), truth
