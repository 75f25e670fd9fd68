"""Superpixels: a photo as a few hundred patches of even colour, and who touches whom."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPACTNESS = 20.0
"""Lab units that a distance of one grid step weighs: higher makes the patches squarer."""
ROUNDS = 6
"""Rounds of assignment and means; the patches hardly move after five."""
BORDER = 2
"""Pixels at the edge of the photo by which a patch counts as touching it."""


@dataclass(frozen=True)
class Superpixels:
    """The patches of one photo.

    Attributes:
        labels: (height, width), int64, the patch of each pixel, 0 to patch - 1.
        colours: (patch, 3), float, mean Lab colour.
        places: (patch, 2), float, mean row and column, as shares of height and width, 0..1.
        touching: (patch, patch), bool, symmetric: which patches share an edge or a corner.
        on_border: (patch,), bool: which patches touch the edge of the photo.
    """

    labels: NDArray[np.int64]
    colours: NDArray[np.float64]
    places: NDArray[np.float64]
    touching: NDArray[np.bool_]
    on_border: NDArray[np.bool_]


def superpixels(lab: NDArray[np.float32], count: int) -> Superpixels:
    """Cut a photo into about `count` patches, by k-means of colour and place around a grid.

    Args:
        lab: (height, width, 3), Lab colours, L in 0..100.
        count: how many patches are wanted.

    Source: Achanta et al., SLIC Superpixels, PAMI 2012; without its repair of stray pixels.
    """
    labels = _assign(lab, count)
    height, width = labels.shape
    flat, patches = labels.ravel(), int(labels.max()) + 1
    rows, columns = np.mgrid[:height, :width]
    edge = np.concatenate(
        [part.ravel() for part in (labels[:BORDER], labels[-BORDER:])]
        + [part.ravel() for part in (labels[:, :BORDER], labels[:, -BORDER:])]
    )
    on_border = np.zeros(patches, dtype=np.bool_)
    on_border[edge] = True
    return Superpixels(
        labels=labels,
        colours=_means(flat, lab.reshape(-1, 3)),
        places=_means(flat, np.stack((rows / height, columns / width), -1).reshape(-1, 2)),
        touching=_touching(labels, patches),
        on_border=on_border,
    )


def _assign(lab: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Give the patch of each pixel, (height, width); patches that lost all pixels are left out."""
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
    labels = (row * grid[1] + column).ravel()
    for _ in range(ROUNDS):
        centres = _means(labels, features, grid[0] * grid[1]).astype(np.float32)
        distances = ((features - centres[candidates]) ** 2).sum(axis=-1)  # (9, pixel)
        labels = np.take_along_axis(candidates, distances.argmin(axis=0)[None], axis=0)[0]
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def _means(
    labels: NDArray[np.int64], values: NDArray[np.floating], patches: int = 0
) -> NDArray[np.float64]:
    """Means of values (pixel, channel) over each patch; far away for a patch without pixels."""
    counts = np.bincount(labels, minlength=patches)
    sums = [np.bincount(labels, column, minlength=patches) for column in values.T]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    means[counts == 0] = 1e6
    return means


def _touching(labels: NDArray[np.int64], patches: int) -> NDArray[np.bool_]:
    touching = np.zeros((patches, patches), dtype=np.bool_)
    pairs = (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[1:, :-1], labels[:-1, 1:]),
    )
    for first, second in pairs:
        touching[first.ravel(), second.ravel()] = True
    touching |= touching.T
    np.fill_diagonal(touching, val=False)
    return touching
