"""What stands out in a still: what is unlike each of the photo's four borders, along its surfaces.

A classical method without any learned part: patches pass their relevance on to those beside them
that have their colour.

Source: Yang et al., Saliency Detection via Graph-Based Manifold Ranking, CVPR 2013; the numbers of
its equations are given below.
"""

import numpy as np
from numpy.typing import NDArray

from amd_seg.training.clip_masks import superpixels

PATCHES = 250
"""Superpixels that the photo is cut into, about."""
REACH = 0.1
"""Difference of colours, of the largest in the photo, at which patches pass on 1/e (eq. 4)."""
PASSED_ON = 0.99
"""Share of a patch's relevance that comes from others (alpha of eq. 3)."""


def manifold_ranking(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give the saliency of a photo (height, width, 3), RGB: (height, width), 0..1."""
    parts = superpixels(photo, PATCHES)
    colours = parts.colours - parts.colours.min(axis=0)
    colours /= np.maximum(colours.max(axis=0), 1e-6)
    distance = _spread(np.linalg.norm(colours[:, None] - colours, axis=-1))

    # Patches are linked to their neighbours, to those of these, and along the photo's border.
    labels = parts.labels
    edges = [np.unique(edge) for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1])]
    at_border = np.isin(np.arange(len(colours)), np.concatenate(edges))
    once = parts.touching.astype(np.uint8)
    linked = parts.touching | (once @ once > 0) | np.logical_and.outer(at_border, at_border)
    np.fill_diagonal(linked, val=False)

    affinity = np.where(linked, np.exp(-distance / REACH), 0)  # eq. 4
    degree = np.diag(affinity.sum(axis=1) + 1e-9)
    passed = np.linalg.inv(degree - PASSED_ON * affinity)  # eq. 3
    np.fill_diagonal(passed, 0)  # no patch speaks for itself

    unlike_border = np.ones(len(colours))
    for edge in edges:
        unlike_border *= 1 - _spread(passed[:, edge].sum(axis=1))  # eqs. 5 and 6
    seeds = _spread(unlike_border)
    saliency = _spread(passed[:, seeds > seeds.mean()].sum(axis=1))  # eq. 7
    return saliency[labels].astype(np.float32)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring values to 0..1; all 0 where they are all the same."""
    spread: NDArray[np.float64] = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
    return spread
