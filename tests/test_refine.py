"""From the coarse map to the photo's edges: each way, and all of them on whole photos."""

import numpy as np
import pytest
import torch

from amd_seg import refine
from amd_seg.choices import REFINEMENTS
from amd_seg.colour_model import iou
from amd_seg.refine import guided_coefficients, redraw_by_densities, refine_map


def slow_guided_filter(
    guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float
) -> np.ndarray:
    """Fit each window by least squares (eqs. 5 and 6), average what they say (eq. 8).

    The fit is the ridge regression of eq. 4 itself, solved as stacked linear equations: no means,
    no covariances, no box filters.
    """
    height, width = values.shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            window = tuple(slice(max(0, place - radius), place + radius + 1) for place in (y, x))
            colours = guide[window].reshape(-1, 3)
            ridge = np.sqrt(epsilon * len(colours)) * np.eye(3, 4)
            equations = np.vstack([np.c_[colours, np.ones(len(colours))], ridge])
            wanted = np.r_[values[window].ravel(), np.zeros(3)]
            *slope, offset = np.linalg.lstsq(equations, wanted, rcond=None)[0]
            total[window] += guide[window] @ slope + offset
            count[window] += 1
    return total / count


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("epsilon", [1e-4, 1e-2])
def test_it_is_what_the_paper_defines(radius: int, epsilon: float) -> None:
    generator = np.random.default_rng(radius)
    guide, values = generator.random((9, 13, 3)) / 2, generator.random((9, 13))
    guide[:, 6:] += 0.5  # An edge, and colours of which one nearly follows from the others.
    guide[..., 2] = 0.5 * guide[..., 0] + 0.5 * guide[..., 1]
    expected = slow_guided_filter(guide, values, radius, epsilon)
    # Slopes reach 1 / sqrt(epsilon) = 100, and variances lose digits to those of the mean.
    for dtype, atol in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
        colours = torch.from_numpy(guide).permute(2, 0, 1).to(dtype)
        found = guided_coefficients(colours, torch.from_numpy(values).to(dtype), radius, epsilon)
        filtered = (found[:3] * colours).sum(dim=0) + found[3]
        np.testing.assert_allclose(filtered, expected, atol=atol)


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc on a textured ground, and where it is."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    radius = 0.3 * min(height, width)
    disc = np.hypot(rows - 0.45 * height, columns - 0.55 * width) < radius
    pixels = np.where(disc[..., None], (210, 120, 60), (70, 110, 90))
    return np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8), disc


@pytest.mark.parametrize("how", ["guided", "colour", "grabcut"])
def test_masks_find_the_edges_of_the_photo(how: str) -> None:
    pixels, disc = scene(360, 480)
    # The share of the disc in each cell, near what a network that is right gives.
    shares = disc.reshape(9, 40, 12, 40).mean(axis=(1, 3))
    cells = (0.05 + 0.9 * shares).astype(np.float32)
    assert iou(refine_map(pixels, cells, "none") > 0.5, disc) < 0.93
    refined = refine_map(pixels, cells, how)
    assert iou(refined > 0.5, disc) > 0.97
    assert refined.dtype == np.float32
    assert 0 <= refined.min() <= refined.max() <= 1
    np.testing.assert_array_equal(refine_map(pixels, cells, how), refined)


def test_grabcut_counts_only_where_it_agrees() -> None:
    pixels, _ = scene(120, 160)
    pixels[20:, 20:] = (210, 120, 60)  # One surface, of which the network found a corner.
    cells = np.full((6, 8), 0.2, np.float32)
    cells[3, 4] = 0.9
    network = refine_map(pixels, cells, "none")
    assert ((network > 0.5).sum() / (100 * 140)) < refine.AGREEMENT
    np.testing.assert_array_equal(refine_map(pixels, cells, "grabcut"), network)


@pytest.mark.parametrize("how", REFINEMENTS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (9, 700), (40, 8), (50, 70)])
def test_nothing_and_everything_stay_so(how: str, level: float, size: tuple[int, int]) -> None:
    cells = np.full((5, 7), level, np.float32)
    for pixels in (np.full((*size, 3), 77, np.uint8), scene(*size)[0]):
        refined = refine_map(pixels, cells, how)
        assert refined.shape == size
        np.testing.assert_allclose(refined, level, atol=1e-4)


def slow_densities(guide: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Write the formula out in double precision; every pixel is a sample."""
    odds = np.log(probability / (1 - probability))
    decided = odds + refine.DENSITY_WEIGHT * log_ratio(guide, probability)
    decided = 1 / (1 + np.exp(-refine.DECISION * decided))
    return 1 / (1 + np.exp(-(odds + refine.DENSITY_WEIGHT * log_ratio(guide, decided))))


def log_ratio(guide: np.ndarray, belief: np.ndarray) -> np.ndarray:
    height, width = belief.shape
    places = np.mgrid[:height, :width] / (refine.PLACE_SPREAD * min(height, width))
    densities = np.zeros((2, height, width))
    for y, x in np.ndindex(height, width):
        colour = ((guide - guide[:, y, x, None, None]) / refine.COLOUR_SPREAD) ** 2
        place = (places - places[:, y, x, None, None]) ** 2
        likeness = np.exp(-(colour.sum(axis=0) + place.sum(axis=0)) / 2)
        for side, share in zip(densities, (belief, 1 - belief), strict=True):
            side[y, x] = (likeness * share).sum() / share.sum()
    densities += refine.FLOOR * densities.sum(axis=0).mean()
    return np.log(densities[0] / densities[1])


def few_colours(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Few colours, so that many pixels are alike, and a map that knows nothing of them."""
    generator = np.random.default_rng(seed)
    colours = generator.random((3, 4))[:, generator.integers(0, 4, (height, width))]
    colours = np.clip(colours + generator.normal(0, 0.02, colours.shape), 0, 1)
    probability = generator.uniform(0.02, 0.98, (height, width))
    return torch.from_numpy(colours), torch.from_numpy(probability)


@pytest.mark.parametrize(("height", "width", "seed"), [(7, 9, 0), (1, 12, 1), (13, 1, 2)])
def test_it_is_the_formula(height: int, width: int, seed: int) -> None:
    guide, probability = few_colours(height, width, seed)
    # Object and ground are alike to it.
    swapped = 1 - redraw_by_densities(guide, 1 - probability)
    torch.testing.assert_close(redraw_by_densities(guide, probability), swapped)
    expected = slow_densities(guide.numpy(), probability.numpy())
    np.testing.assert_allclose(redraw_by_densities(guide, probability), expected, atol=1e-9)
    single = redraw_by_densities(guide.float(), probability.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, atol=1e-4)


def test_a_small_object_is_found_whole_by_its_colour() -> None:
    size = 60, 90
    assert size[0] * size[1] > refine.SAMPLES
    guide = torch.full((3, *size), 0.3)
    thing = torch.zeros(size, dtype=torch.bool)
    thing[6:18, 20:44] = True
    guide[:, thing] = torch.tensor([0.8, 0.6, 0.2])[:, None]
    # The network saw most of it, and some of the ground beside it.
    probability = torch.full(size, 0.02)
    probability[4:20, 16:36] = 0.6
    probability[thing] = 0.4
    probability[6:18, 20:36] = 0.9
    redrawn = redraw_by_densities(guide, probability)
    assert iou((probability > 0.5).numpy(), thing.numpy()) < 0.6
    assert iou((redrawn > 0.5).numpy(), thing.numpy()) > 0.95


@pytest.mark.parametrize("how", ["guided", "colour"])
def test_a_fine_map_keeps_its_detail(how: str) -> None:
    # A bar of two of the map's cells: less than one on the grid of the colours' densities.
    cells = np.full((120, 160), 0.02, np.float32)
    cells[20:100, 70:72] = 0.98
    bar = np.kron(cells > 0.5, np.ones((4, 4), bool))
    photo = np.where(bar[..., None], (200, 40, 40), (40, 160, 60)).astype(np.uint8)
    found = refine_map(photo, cells, how) > 0.5
    assert iou(found, bar) > 0.9
