"""Agreement over a clip: patches that look alike, in whichever frames, get alike probabilities.

What one frame's motion misses or invents is outvoted by the same surface in other frames.

Source: the idea of Faktor and Irani, Video Segmentation by Non-Local Consensus Voting, BMVC 2014;
features, weights and rounds are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

PATCHES = 500  # that a frame is cut into, about
NEIGHBOURS = 20  # patches that each patch listens to
PLACE_WEIGHT = 60.0  # Lab units of the frame's height or width: a patch listens to its own place
SURROUNDINGS_WEIGHT = 0.3  # of the mean colour of the patches around, beside the patch's own
LIKENESS = 8.0  # distance of the features, in Lab units, at which a voice counts exp(-1/2)
ROUNDS = 8  # of voting
OWN_SHARE = 0.4  # what stays of a patch's own evidence in each round
ROWS = 256  # patches whose neighbours are looked for at a time
COMPACTNESS = 20.0  # Lab units of one step of the grid: higher makes the patches squarer
SLIC_ROUNDS = 6  # the patches hardly move after five


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
        centres = _means(found, features, grid[0] * grid[1]).astype(np.float32)
        distances = np.zeros(candidates.shape, np.float32)
        # Channel by channel: a quarter of the time of vectors of five.
        for values, means in zip(features.T.copy(), centres.T.copy(), strict=True):
            distances += (means[candidates] - values) ** 2
        found = np.take_along_axis(candidates, distances.argmin(axis=0)[None], axis=0)[0]
    # Patches that lost all pixels are left out.
    flat = np.unique(found, return_inverse=True)[1].ravel()
    labels = flat.reshape(height, width)
    touching = np.zeros((flat.max() + 1,) * 2, dtype=np.bool_)
    for first, second in (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ):
        touching[first.ravel(), second.ravel()] = True
    touching |= touching.T
    np.fill_diagonal(touching, val=False)
    places = np.stack((rows / height, columns / width), -1).reshape(-1, 2)
    return Superpixels(labels, _means(flat, lab.reshape(-1, 3)), _means(flat, places), touching)


def _means(
    labels: NDArray[np.int64], values: NDArray[np.floating], patches: int = 0
) -> NDArray[np.float64]:
    """Means of values (pixel, channel) over each patch; far away for a patch without pixels."""
    counts = np.bincount(labels, minlength=patches)
    sums = [np.bincount(labels, column, minlength=patches) for column in values.T]
    means = np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]
    means[counts == 0] = 1e6
    return means


def vote(
    frames: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]], trust: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Let the frames of a clip (frame, height, width, 3), RGB uint8, agree on what patches are.

    The maps of each frame, (height, width), 0..1, come back constant over each patch. The trust in
    a frame, above 0, is how much its patches' voices count.
    """
    cuts = [superpixels(frame, PATCHES) for frame in frames]
    looks, means = [], []
    for cut, values in zip(cuts, maps, strict=True):
        means.append(_means(cut.labels.ravel(), values.reshape(-1, 1))[:, 0])
        # What a patch looks like, (patch, 8): its colour, that around it, its place; Lab units.
        touching = cut.touching.astype(np.float32)
        degree = np.maximum(touching.sum(axis=1, keepdims=True), 1)
        around = touching @ cut.colours.astype(np.float32) / degree
        features = (cut.colours, SURROUNDINGS_WEIGHT * around, PLACE_WEIGHT * cut.places)
        looks.append(np.concatenate(features, axis=1).astype(np.float32))

    # Whom each patch listens to, itself included; by rows, for all distances would be gigabytes.
    everyone = torch.from_numpy(np.concatenate(looks))
    count = min(NEIGHBOURS, len(everyone))
    nearest = [
        torch.cdist(rows, everyone).topk(count, largest=False, sorted=False)
        for rows in torch.split(everyone, ROWS)
    ]
    distances = torch.cat([part.values for part in nearest])  # (patch, neighbour)
    neighbours = torch.cat([part.indices for part in nearest]).numpy()
    likeness = torch.exp(-distances.square() / (2 * LIKENESS**2)).numpy()

    counts = [len(cut.colours) for cut in cuts]
    voices = likeness * np.repeat(trust, counts)[neighbours]
    voices /= np.maximum(voices.sum(axis=1, keepdims=True), 1e-9)
    votes = evidence = np.concatenate(means)
    for _ in range(ROUNDS):
        heard = (voices * votes[neighbours]).sum(axis=1)
        votes = OWN_SHARE * evidence + (1 - OWN_SHARE) * heard
    parts = np.split(votes, np.cumsum(counts)[:-1])
    return [p[cut.labels].astype(np.float32) for p, cut in zip(parts, cuts, strict=True)]
