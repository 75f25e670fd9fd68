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

from amd_seg.training.superpixels import Superpixels, superpixels

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
