"""Pictures without an object: skies, and surfaces that go on beyond the frame."""

from collections.abc import Callable, Iterator

import numpy as np

Scene = Callable[[np.random.Generator, int, int], np.ndarray]


def clouds(generator: np.random.Generator, height: int, width: int, power: float) -> np.ndarray:
    """Noise whose amplitude falls with frequency, mean 0 and deviation 1: (height, width, 1)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    waves = generator.normal(size=frequency.shape) + 1j * generator.normal(size=frequency.shape)
    values = np.fft.irfft2(waves / frequency**power, (height, width))[..., None]
    return (values - values.mean()) / values.std()


def clear_sky(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    above, below = generator.integers(60, 200, 3), generator.integers(150, 255, 3)
    down = np.linspace(0, 1, height)[:, None, None]
    return np.broadcast_to(above + (below - above) * down, (height, width, 3))


def cloudy_sky(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    return clear_sky(generator, height, width) + 25 * clouds(generator, height, width, 1.8)


def grass(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.array([60, 120, 40]) + 30 * clouds(generator, height, width, 0.6)


def stone(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    return 128 + 40 * clouds(generator, height, width, 1.0) * generator.uniform(0.6, 1, 3)


def bricks(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    high, wide = generator.integers(12, 30), generator.integers(30, 60)
    shifted = columns + rows // high % 2 * wide // 2
    is_mortar = (rows % high < 3) | (shifted % wide < 3)
    wall = np.where(is_mortar[..., None], 190, np.array([150, 80, 60]))
    return wall + 8 * generator.normal(size=(height, width, 3))


def stripes(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    angle, period = generator.uniform(0, np.pi), generator.uniform(5, 20)
    wave = np.sin((columns * np.cos(angle) + rows * np.sin(angle)) / period)
    return np.repeat(128 + 80 * wave[..., None], 3, axis=2)


SCENES: dict[str, Scene] = {
    **{
        scene.__name__.replace("_", " "): scene
        for scene in (clear_sky, cloudy_sky, grass, stone, bricks, stripes)
    },
    "noise": lambda generator, height, width: generator.integers(0, 255, (height, width, 3)),
    "one colour": lambda generator, height, width: np.broadcast_to(
        generator.integers(0, 255, 3), (height, width, 3)
    ),
}


def scenes(count: int, *, height: int = 300, width: int = 400) -> Iterator[tuple[str, np.ndarray]]:
    """Give `count` pictures of each scene: its name, and (height, width, 3), uint8."""
    for seed in range(count):
        for name, scene in SCENES.items():
            values = scene(np.random.default_rng(seed), height, width)
            yield name, np.clip(values, 0, 255).astype(np.uint8)
