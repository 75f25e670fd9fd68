"""Superpixels of a photo, and how far each stands out from the photo's border.

Nothing here is learned: it is what classical methods know of a picture beside the network.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.device import one_thread

COMPACTNESS = 20.0  # Lab units of one step of the grid: higher makes the patches squarer
SLIC_ROUNDS = 6  # the patches hardly move after five

# Of manifold ranking, as published
REACH = 0.1  # difference of colours, of the photo's largest, at which patches pass on 1/e (eq. 4)
PASSED_ON = 0.99  # share of a patch's rank that comes from others (alpha of eq. 3)


class Superpixels(NamedTuple):
    """The patches of one photo."""

    labels: NDArray[np.int64]  # (height, width): the patch of each pixel, 0 to patch - 1
    colours: NDArray[np.float64]  # (patch, 3): mean Lab colour, L in 0..100
    places: NDArray[np.float64]  # (patch, 2): mean row and column, 0..1 of height and width
    touching: NDArray[np.bool_]  # (patch, patch): which share an edge or a corner


def superpixels(photo: NDArray[np.uint8], count: int) -> Superpixels:
    """Cut a photo (height, width, 3), RGB, into about `count` patches: k-means from a grid.

    Source: Achanta et al., SLIC Superpixels, PAMI 2012; without its repair of stray pixels.
    """
    import cv2

    lab = cv2.cvtColor(photo.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    height, width = lab.shape[:2]
    step = np.sqrt(height * width / count)
    grid = max(2, round(height / step)), max(2, round(width / step))
    rows, columns = np.mgrid[:height, :width]
    row, column = rows * grid[0] // height, columns * grid[1] // width
    weight = COMPACTNESS / step
    features = np.dstack((lab, rows * weight, columns * weight)).reshape(-1, 5).astype(np.float32)
    # A pixel can only belong to the patches that began in its cell of the grid or beside it.
    candidates = np.stack(
        [
            np.clip(row + y, 0, grid[0] - 1) * grid[1] + np.clip(column + x, 0, grid[1] - 1)
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        ]
    ).reshape(9, -1)
    found = (row * grid[1] + column).ravel()
    for _ in range(SLIC_ROUNDS):
        centres = patch_means(found, features, grid[0] * grid[1]).astype(np.float32)
        distances = np.zeros(candidates.shape, np.float32)
        # Channel by channel: a quarter of the time of vectors of five.
        for values, means in zip(features.T.copy(), centres.T.copy(), strict=True):
            distances += (means[candidates] - values) ** 2
        found = np.take_along_axis(candidates, distances.argmin(axis=0)[None], axis=0)[0]
    # Patches that lost all pixels are left out.
    flat = np.unique(found, return_inverse=True)[1].ravel()
    labels = flat.reshape(height, width)
    touching = np.zeros((flat.max() + 1,) * 2, dtype=np.bool_)
    padded = np.pad(labels, 1, mode="edge")
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        touching[labels, padded[1 + down :, 1 + right :][:height, :width]] = True
    touching |= touching.T
    np.fill_diagonal(touching, val=False)
    places = np.stack((rows / height, columns / width), -1).reshape(-1, 2)
    return Superpixels(
        labels, patch_means(flat, lab.reshape(-1, 3)), patch_means(flat, places), touching
    )


def patch_means(
    labels: NDArray[np.int64], values: NDArray[np.floating], patches: int = 0
) -> NDArray[np.float64]:
    """Means of values (pixel, channel) over each patch; far away for a patch without pixels."""
    counts = np.bincount(labels, minlength=patches)
    sums = [np.bincount(labels, column, minlength=patches) for column in values.T]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    means[counts == 0] = 1e6
    return means


def manifold_ranking(
    photo: NDArray[np.uint8], saliency: NDArray[np.float32], patches: int
) -> NDArray[np.float32]:
    """Rank what is unlike each of the four borders of a photo (height, width, 3), RGB.

    Patches pass their rank on to those beside them that have their colour, so that a surface has
    one rank. Where they start from is told by the borders and a map (height, width), 0..1, alike.
    The result is (height, width), 0..1.

    Source: Yang et al., Saliency Detection via Graph-Based Manifold Ranking, CVPR 2013, whose
    second stage starts from what the borders alone put above the mean.
    """
    parts = superpixels(photo, patches)
    colours = parts.colours - parts.colours.min(axis=0)
    colours /= np.maximum(colours.max(axis=0), 1e-6)
    distance = _spread(np.linalg.norm(colours[:, None] - colours, axis=-1))
    # Patches are linked to their neighbours, to those of these, and along the photo's border.
    labels = parts.labels
    edges = [np.unique(edge) for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1])]
    at_border = np.isin(np.arange(len(colours)), np.concatenate(edges))
    linked = parts.touching | np.logical_and.outer(at_border, at_border)
    with one_thread():  # By torch: numpy's matrix products have no such switch.
        once = torch.from_numpy(parts.touching).float()
        linked |= (once @ once > 0).numpy()
        np.fill_diagonal(linked, val=False)
        affinity = np.where(linked, np.exp(-distance / REACH), 0)  # eq. 4
        degree = np.diag(affinity.sum(axis=1) + 1e-9)
        passed = torch.linalg.inv(torch.from_numpy(degree - PASSED_ON * affinity)).numpy()  # eq. 3
    np.fill_diagonal(passed, 0)  # No patch speaks for itself.
    unlike = np.prod([1 - _spread(passed[:, edge].sum(axis=1)) for edge in edges], axis=0)  # eq. 6
    rank = _spread(unlike)
    starts = rank + patch_means(labels.ravel(), saliency.reshape(-1, 1))[:, 0] > 1
    if starts.any():
        rank = _spread(passed[:, starts].sum(axis=1))  # eq. 7
    return rank[labels].astype(np.float32)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring values to 0..1; all 0 where they are all the same."""
    spread: NDArray[np.float64] = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return spread
