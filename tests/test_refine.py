"""From the coarse map to the photo's edges: each way, and all of them on whole photos."""

import numpy as np
import pytest
import torch

from amd_seg import refine
from amd_seg.choices import REFINEMENTS
from amd_seg.colour_model import iou
from amd_seg.refine import guided_coefficients, refine_map
from amd_seg.superpixels import manifold_ranking, superpixels


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


@pytest.mark.parametrize("how", ["guided", "ranking", "grabcut"])
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
    cells = np.full((6, 8), 0.06, np.float32)
    cells[3, 4] = 0.95
    ranked = refine_map(pixels, cells, "ranking")
    assert ((ranked > 0.5).sum() / (100 * 140)) < refine.AGREEMENT
    np.testing.assert_array_equal(refine_map(pixels, cells, "grabcut"), ranked)


@pytest.mark.parametrize("how", REFINEMENTS)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(8, 8), (9, 700), (40, 8), (50, 70)])
def test_nothing_and_everything_stay_so(how: str, level: float, size: tuple[int, int]) -> None:
    cells = np.full((5, 7), level, np.float32)
    for pixels in (np.full((*size, 3), 77, np.uint8), scene(*size)[0]):
        refined = refine_map(pixels, cells, how)
        assert refined.shape == size
        if how in ("none", "guided") or level < 1:
            np.testing.assert_allclose(refined, level, atol=1e-4)
        else:  # The ranking leaves some doubt.
            assert (refined > 0.5).all()


def slow_ranking(photo: np.ndarray, saliency: np.ndarray, count: int) -> np.ndarray:
    """Rank patch by patch, each query as a system of equations of its own."""
    parts = superpixels(photo, count)
    colours = parts.colours - parts.colours.min(axis=0)
    colours = colours / colours.max(axis=0)
    labels, n = parts.labels, len(colours)
    sides = [set(side.tolist()) for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1])]
    border = set.union(*sides)
    beside = [{j for j in range(n) if parts.touching[i, j]} for i in range(n)]
    apart = np.array([[np.linalg.norm(a - b) for a in colours] for b in colours])
    apart = (apart - apart.min()) / (apart.max() - apart.min())
    affinity = np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        is_near = j in beside[i] or beside[i] & beside[j] or {i, j} <= border
        affinity[i, j] = np.exp(-apart[i, j] / 0.1) if i != j and is_near else 0
    system = np.diag(affinity.sum(axis=1)) - 0.99 * affinity
    own = np.diag(np.linalg.inv(system))

    def rank(queries: set[int]) -> np.ndarray:
        asked = np.array([float(i in queries) for i in range(n)])
        found = np.linalg.solve(system, asked) - own * asked  # A query does not answer itself.
        return (found - found.min()) / (found.max() - found.min())

    unlike = np.prod([1 - rank(side) for side in sides], axis=0)
    unlike = (unlike - unlike.min()) / (unlike.max() - unlike.min())
    return rank({i for i in range(n) if unlike[i] + saliency[labels == i].mean() > 1})[labels]


def test_the_ranking_is_what_its_paper_defines() -> None:
    photo, disc = scene(48, 64)
    seen = np.where(np.arange(64) < 32, 0.6, 0.4).astype(np.float32) * np.ones((48, 1), np.float32)
    found = manifold_ranking(photo, seen, 40)
    np.testing.assert_allclose(found, slow_ranking(photo, seen, 40), atol=1e-5)
    assert found[disc].mean() > 0.8 > 0.2 > found[~disc].mean()
    photo[36:] = (210, 200, 60)  # As striking as the disc, but it reaches the border.
    assert manifold_ranking(photo, seen, 40)[40:].mean() < 0.2


def test_the_ranking_moves_what_the_network_doubts() -> None:
    photo, disc = scene(120, 160)
    for level in (0.51, 0.7):
        doubtful = np.full((60, 80), level, np.float32)
        assert iou(refine_map(photo, doubtful, "ranking") > 0.5, disc) > 0.9
    unseen = np.full((60, 80), 0.49, np.float32)
    assert not (refine_map(photo, unseen, "ranking") > 0.5).any()


@pytest.mark.parametrize("how", ["guided", "ranking"])
def test_a_fine_map_keeps_its_detail(how: str) -> None:
    # A bar of two of the map's cells: about one where the filter is fitted.
    cells = np.full((120, 160), 0.02, np.float32)
    cells[20:100, 70:72] = 0.98
    bar = np.kron(cells > 0.5, np.ones((4, 4), bool))
    photo = np.where(bar[..., None], (200, 40, 40), (40, 160, 60)).astype(np.uint8)
    found = refine_map(photo, cells, how) > 0.5
    assert iou(found, bar) > 0.9
