"""Agreement over a clip: patches that look alike, in whichever frames, get alike probabilities.

What one frame's motion misses or invents is outvoted by the same surface in other frames.

Source: the idea of Faktor and Irani, Video Segmentation by Non-Local Consensus Voting, BMVC 2014;
features, weights and rounds are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

PATCHES = 500
"""Superpixels a frame is cut into, about."""
NEIGHBOURS = 20
"""Patches that each patch listens to."""
PLACE_WEIGHT = 60.0
"""Lab units that the height or the width of the frame counts: a patch listens to its own place."""
SURROUNDINGS_WEIGHT = 0.3
"""Weight of the mean colour of the patches around, beside the patch's own."""
LIKENESS = 8.0
"""Distance of the features, in Lab units, at which a voice counts exp(-1/2)."""
ROUNDS = 8
"""Rounds of voting."""
OWN_SHARE = 0.4
"""What stays of a patch's own evidence in each round."""
ROWS = 256
"""Patches whose neighbours are looked for at a time."""
COMPACTNESS = 20.0
"""Lab units that a distance of one grid step weighs: higher makes the patches squarer."""
SLIC_ROUNDS = 6
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
    for _ in range(SLIC_ROUNDS):
        centres = _means(labels, features, grid[0] * grid[1]).astype(np.float32)
        nearest = _squared_distances(features, centres, candidates).argmin(axis=0)
        labels = np.take_along_axis(candidates, nearest[None], axis=0)[0]
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def _squared_distances(
    features: NDArray[np.float32], centres: NDArray[np.float32], candidates: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Of each pixel to its candidates: (candidate, pixel) for candidates of that shape."""
    # Channel by channel: a quarter of the time of vectors of five.
    distances = np.zeros(candidates.shape, np.float32)
    for values, means in zip(features.T.copy(), centres.T.copy(), strict=True):
        gap = means[candidates]
        gap -= values
        gap *= gap
        distances += gap
    return distances


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


def vote(
    frames: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]], trust: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Let the frames of a clip agree on what their patches are.

    Args:
        frames: (frame, height, width, 3), RGB uint8.
        maps: of each frame, (height, width), float32, 0..1.
        trust: of each frame, above 0: how much its patches' voices count.

    Returns:
        The map of each frame after the vote, constant over each patch.
    """
    cuts = [_cut(frame) for frame in frames]
    graph = _Graph.of(np.concatenate([_features(cut) for cut in cuts]))
    evidence = np.concatenate([_patch_means(c, m) for c, m in zip(cuts, maps, strict=True)])
    counts = [len(cut.colours) for cut in cuts]
    voices = graph.likeness * np.repeat(trust, counts)[graph.neighbours]
    voices /= np.maximum(voices.sum(axis=1, keepdims=True), 1e-9)
    votes = evidence
    for _ in range(ROUNDS):
        heard = (voices * votes[graph.neighbours]).sum(axis=1)
        votes = OWN_SHARE * evidence + (1 - OWN_SHARE) * heard
    parts = np.split(votes, np.cumsum(counts)[:-1])
    return [p[cut.labels].astype(np.float32) for p, cut in zip(parts, cuts, strict=True)]


@dataclass(frozen=True)
class _Graph:
    """Who listens to whom: both (patch, neighbour), the patch itself among its neighbours."""

    neighbours: NDArray[np.int64]
    likeness: NDArray[np.float32]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> "_Graph":
        count = min(NEIGHBOURS, len(features))
        everyone = torch.from_numpy(features)
        # By rows: all distances at once would be gigabytes.
        found = [
            torch.cdist(rows, everyone).topk(count, largest=False, sorted=False)
            for rows in torch.split(everyone, ROWS)
        ]
        distances = torch.cat([part.values for part in found])
        likeness = torch.exp(-distances.square() / (2 * LIKENESS**2))
        return cls(torch.cat([part.indices for part in found]).numpy(), likeness.numpy())


def _cut(frame: NDArray[np.uint8]) -> Superpixels:
    import cv2

    lab = cv2.cvtColor(frame.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab)
    return superpixels(lab, PATCHES)


def _features(cut: Superpixels) -> NDArray[np.float32]:
    """What a patch looks like, (patch, 8): its colour, that around it, its place; Lab units."""
    touching = cut.touching.astype(np.float32)
    degree = np.maximum(touching.sum(axis=1, keepdims=True), 1)
    around = touching @ cut.colours.astype(np.float32) / degree
    features = (cut.colours, SURROUNDINGS_WEIGHT * around, PLACE_WEIGHT * cut.places)
    return np.concatenate(features, axis=1).astype(np.float32)


def _patch_means(cut: Superpixels, values: NDArray[np.float32]) -> NDArray[np.float64]:
    labels = cut.labels.ravel()
    means: NDArray[np.float64] = np.bincount(labels, values.ravel()) / np.bincount(labels)
    return means
