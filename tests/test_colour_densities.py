"""Densities of colour and place on a map's two sides: the formula, and what follows from it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amd_seg.colour_densities import (
    COLOUR_SPREAD,
    DECISION,
    DENSITY_WEIGHT,
    FLOOR,
    PLACE_SPREAD,
    SAMPLES,
    redraw_by_densities,
)
from amd_seg.colour_model import iou


def slow(guide: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Write the formula out, pixel by pixel, in double precision; every pixel is a sample."""
    height, width = probability.shape
    odds = np.log(probability / (1 - probability))
    decided = 1 / (1 + np.exp(-DECISION * (odds + DENSITY_WEIGHT * log_ratio(guide, probability))))
    result = odds + DENSITY_WEIGHT * log_ratio(guide, decided)
    return (1 / (1 + np.exp(-result))).reshape(height, width)


def log_ratio(guide: np.ndarray, belief: np.ndarray) -> np.ndarray:
    height, width = belief.shape
    unit = PLACE_SPREAD * min(height, width)
    densities = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            for b in range(height):
                for a in range(width):
                    colour = np.sum((guide[:, y, x] - guide[:, b, a]) ** 2) / COLOUR_SPREAD**2
                    place = ((y - b) ** 2 + (x - a) ** 2) / unit**2
                    likeness = np.exp(-(colour + place) / 2)
                    densities[0, y, x] += likeness * belief[b, a] / belief.sum()
                    densities[1, y, x] += likeness * (1 - belief[b, a]) / (1 - belief).sum()
    densities += FLOOR * densities.sum(axis=0).mean()
    return np.log(densities[0] / densities[1])


def picture(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Few colours, so that many pixels are alike, and a map that knows nothing of them."""
    generator = np.random.default_rng(seed)
    colours = generator.random((3, 4))[:, generator.integers(0, 4, (height, width))]
    colours = np.clip(colours + generator.normal(0, 0.02, colours.shape), 0, 1)
    probability = generator.uniform(0.02, 0.98, (height, width))
    return torch.from_numpy(colours), torch.from_numpy(probability)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_formula(seed: int) -> None:
    guide, probability = picture(7, 9, seed)
    expected = slow(guide.numpy(), probability.numpy())
    np.testing.assert_allclose(redraw_by_densities(guide, probability), expected, atol=1e-9)
    single = redraw_by_densities(guide.float(), probability.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 9))
def test_object_and_ground_are_alike_to_it(height: int, width: int, seed: int) -> None:
    guide, probability = picture(height, width, seed)
    redrawn = redraw_by_densities(guide, probability)
    assert redrawn.shape == probability.shape
    assert redrawn.min() >= 0
    assert redrawn.max() <= 1
    torch.testing.assert_close(redraw_by_densities(guide, 1 - probability), 1 - redrawn)


@pytest.mark.parametrize("size", [(40, 60), (60, 90)])
def test_a_small_object_is_found_whole_by_its_colour(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > SAMPLES
    guide = torch.full((3, *size), 0.3)
    thing = torch.zeros(size, dtype=torch.bool)
    thing[6:18, 20:44] = True
    guide[:, thing] = torch.tensor([0.8, 0.6, 0.2])[:, None]
    # The network saw most of it, and some of the ground beside it.
    probability = torch.full(size, 0.02)
    probability[4:20, 16:36] = 0.6
    probability[thing] = 0.4
    probability[6:18, 20:36] = 0.9
    before, after = (
        iou(np.asarray(p > 0.5), thing.numpy())
        for p in (probability, redraw_by_densities(guide, probability))
    )
    assert before < 0.6
    assert after > 0.95


def test_what_has_one_colour_keeps_its_map() -> None:
    _, probability = picture(20, 30)
    redrawn = redraw_by_densities(torch.full((3, 20, 30), 0.4), torch.full((20, 30), 0.7))
    torch.testing.assert_close(redrawn, torch.full((20, 30), 0.7))
    flat = redraw_by_densities(torch.full((3, 20, 30), 0.4), probability.float())
    assert (flat - probability).abs().max() < 0.1
