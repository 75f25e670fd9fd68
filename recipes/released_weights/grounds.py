"""Pictures without an object: parts of photos that their masks leave free, and drawn surfaces.

A network that has only seen pictures with an object finds one in every sky.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from amd_seg.training.masked_images import FoundMask, load_masked_images, write_mask_folder

GROUND = 26
"""Value of a mask, of 255, under which a pixel is ground."""
LEAST_EDGE = 0.4
"""Height of a part, as a share of its photo's."""
TRIES = 60
"""Parts that are looked at in a photo; the largest is taken."""


def write_grounds(photos: Path, folder: Path, *, short_edge: int, parts: float, drawn: int) -> None:
    """Add empty masks to a folder of masks.

    Args:
        photos: folder of photos with masks.
        folder: where the pictures and their masks go.
        short_edge: of the pictures, in pixels.
        parts: how many are cut out of photos, as a share of these; fewer where they are full.
        drawn: how many surfaces are drawn.
    """
    stills = list(load_masked_images(photos, short_edge=short_edge).values())
    chosen = np.random.default_rng(0).permutation(len(stills))[: round(parts * len(stills))]
    jobs = {}
    for row in chosen:
        name, frame, mask, _ = stills[row][0]
        photo = frame.permute(1, 2, 0).numpy()
        find = partial(_cut, photo, mask[0].numpy(), short_edge, int(row))
        jobs[f"ground_{name}"] = find, f"{GROUND}, {short_edge}"
    for seed in range(drawn):
        jobs[f"surface_{seed:04d}"] = partial(_draw, short_edge, seed), f"{short_edge}"
    write_mask_folder(jobs, folder)


def _cut(
    photo: NDArray[np.uint8], mask: NDArray[np.uint8], short_edge: int, seed: int
) -> Iterator[FoundMask]:
    """Yield the largest part of a photo that is all ground, if one is found."""
    generator = np.random.default_rng(seed)
    height, width = mask.shape
    taken = cv2.integral((mask >= GROUND).astype(np.uint8))
    best = (0, 0, 0, 0)
    for _ in range(TRIES):
        high = int(generator.integers(max(1, int(LEAST_EDGE * height)), height + 1))
        wide = min(width, int(high * generator.uniform(0.9, 1.5)))
        y, x = (int(generator.integers(0, room + 1)) for room in (height - high, width - wide))
        corners = taken[[y + high, y, y + high, y], [x + wide, x, x, x + wide]].astype(int)
        if corners @ (1, 1, -1, -1) == 0:
            best = max(best, (high, wide, y, x))
    high, wide, y, x = best
    if high:
        yield _without_object(photo[y : y + high, x : x + wide], short_edge)


def _draw(short_edge: int, seed: int) -> Iterator[FoundMask]:
    """Yield a surface: a colour or a fall of one, clouds or grain on it, stripes on some."""
    generator = np.random.default_rng(seed)
    height, width = short_edge, int(short_edge * generator.uniform(1, 1.5))
    above, below = generator.uniform(0, 255, (2, 3))
    down = np.linspace(0, 1, height)[:, None, None] * generator.integers(0, 2)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    waves = generator.normal(size=(2, *frequency.shape)) / frequency ** generator.uniform(0.3, 2.4)
    clouds = np.fft.irfft2(waves[0] + 1j * waves[1], (height, width))[..., None]
    clouds = generator.uniform(0, 45) * (clouds - clouds.mean()) / clouds.std()
    surface = above + (below - above) * down + clouds * generator.uniform(0.3, 1, 3)
    if seed % 4 == 0:
        rows, columns = np.mgrid[:height, :width]
        angle, period = generator.uniform(0, np.pi), generator.uniform(3, 25)
        wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) / period)
        surface = surface + generator.uniform(10, 90) * np.sign(wave)[..., None]
    yield _without_object(np.clip(surface, 0, 255).astype(np.uint8), short_edge)


def _without_object(picture: NDArray[np.uint8], short_edge: int) -> FoundMask:
    factor = short_edge / min(picture.shape[:2])
    height, width = (max(1, round(factor * edge)) for edge in picture.shape[:2])
    pixels = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    return "", pixels, np.zeros((height, width), np.uint8), 1.0
