"""The object that clicks choose: the network's map corrected at the points that a person names."""

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.device import own_numerics
from amd_seg.refine import (
    FEATHER,
    Map,
    Pixels,
    Point,
    along_edges,
    refine_map,
    resize_pixels,
)

Mask = NDArray[np.bool_]
Places = list[tuple[int, int]]
"""Pixels of the small photo, x first."""

EDGES = (192, 768)
"""Longest short and long edge, in pixels, of the small photo in which clicks are worked out."""

COLOUR_REACH = 0.15
"""Standard deviation of a click's reach in colour: CIELAB, in hundreds."""

PLACE_REACH = 0.3
"""Standard deviation of a click's reach in place, in short edges of the photo."""

NEAR_SHARE = 0.5
"""Share of the kernel that reaches half as far: a click says most of what is close to it."""

BLUR = 5
"""Window, in pixels of the small photo, over which colours are averaged: a click means no pixel."""

CERTAINTY = 4.0
"""Log-odds of a clicked point."""

PRIOR = 3.0
"""Largest log-odds of the network's map: less than a click's."""

NOISE = 0.05
"""Variance of a click, of the kernel's 1: near clicks that disagree have a solution."""

DISC = 3
"""Radius, in pixels of the small photo, of what a click holds for certain."""

SURE_BACKGROUND, SURE_OBJECT = 0.05, 0.95
"""Probabilities below which the cut may not find the object, and above which it must."""

CUT_SHARE = 0.75
"""Share of the cut's mask in the result; the rest is the map before it, with its doubts."""

GAP = 11
"""Window, in pixels of the small photo, of the closing that joins parts of one object."""


def segment_by_clicks(
    pixels: Pixels, cells: Map, how: str, include: Iterable[Point], exclude: Iterable[Point]
) -> Map:
    """Find the object that is at some points, and not at others.

    1. The log-odds of the network's map are the mean of a Gaussian process, and the clicks are
       observations of it: they correct the map as far as colour and place are alike.
    2. GrabCut finds the outline, starting from the corrected map, with the clicks as certain.
    3. Of its parts those with an included point are kept. Where none is included, all are.

    Args:
        pixels: (height, width, 3), RGB.
        cells: (h, w), float32, 0..1, the network's map of what stands out.
        how: how that map gets its edges before the clicks, one of `choices.REFINEMENTS`.
        include: points of the object, inside the photo.
        exclude: points that are not of the object, likewise.

    Returns:
        (height, width), float32, 0..1; the order of the clicks makes no difference.

    Source: ours, from Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
    eq. 2.38, and Rother et al., GrabCut, SIGGRAPH 2004.
    """
    height, width = pixels.shape[:2]
    short, long = EDGES
    factor = min(1.0, short / min(height, width), long / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    guide = resize_pixels(pixels, size)  # (3, h, w)
    small = guide.permute(1, 2, 0).contiguous().numpy()
    scale = np.array((size[1] / width, size[0] / height))
    inside, outside = (
        [(int(x), int(y)) for x, y in np.array(list(points), float).reshape(-1, 2) * scale]
        for points in (include, exclude)
    )
    prior = log_odds(refine_map(small, cells, how))
    odds = corrected_odds(small, prior, inside, outside)
    corrected: Map = (1 / (1 + np.exp(-odds))).astype(np.float32)
    mask = cut(small, corrected, inside, outside)
    result = corrected + np.float32(CUT_SHARE) * (mask - corrected)
    if inside:
        result[mask & ~parts_at(mask, inside)] = 0
    with own_numerics():
        return along_edges(pixels, guide.float() / 255, torch.from_numpy(result), FEATHER)


def corrected_odds(small: Pixels, prior: Map, include: Places, exclude: Places) -> Map:
    """Put a map's log-odds right at clicks: the posterior mean of a Gaussian process.

    Args:
        small: (h, w, 3), RGB.
        prior: (h, w), float32, log-odds of the object.
        include, exclude: (x, y) of points where they should be `CERTAINTY`, and minus that.
    """
    height, width = prior.shape
    y, x = np.mgrid[:height, :width].astype(np.float32) / (PLACE_REACH * min(height, width))
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
    colours = cv2.blur(lab, (BLUR, BLUR)) / COLOUR_REACH
    features = np.dstack((colours, x, y)).astype(np.float32)
    columns, rows = np.array([*include, *exclude]).T
    # (click, h, w): how much each click says of each pixel.
    distances = np.stack([np.square(features - at).sum(2) for at in features[rows, columns]])
    kernel = (1 - NEAR_SHARE) * np.exp(distances / -2) + NEAR_SHARE * np.exp(distances * -2)
    wanted = np.repeat((CERTAINTY, -CERTAINTY), (len(include), len(exclude)))
    among_clicks = kernel[:, rows, columns] + NOISE * np.eye(len(rows))
    weights = np.linalg.solve(among_clicks, wanted - prior[rows, columns])
    corrected: Map = prior + np.tensordot(weights.astype(np.float32), kernel, 1)
    return corrected


def log_odds(probability: Map) -> Map:
    """Give the log-odds of a map, at most `PRIOR`."""
    least = 1 / (1 + np.exp(PRIOR))
    clipped = np.clip(probability, least, 1 - least)
    odds: Map = np.log(clipped / (1 - clipped)).astype(np.float32)
    return odds


def cut(small: Pixels, probability: Map, include: Places, exclude: Places) -> Mask:
    """Find the outline of the likely object by GrabCut, with the clicks as certain.

    Returns:
        (h, w), bool; where one side is all but empty, what is likely.
    """
    labels = np.where(probability > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[probability < SURE_BACKGROUND] = cv2.GC_BGD
    labels[probability > SURE_OBJECT] = cv2.GC_FGD
    for points, label in ((include, cv2.GC_FGD), (exclude, cv2.GC_BGD)):
        for point in points:
            cv2.circle(labels, point, DISC, int(label), thickness=-1)
    is_object: Mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    # Each side's model has five components, and cannot start from fewer pixels.
    if min(is_object.sum(), (~is_object).sum()) < 32:
        return is_object
    cv2.setRNGSeed(0)  # its clusters start at random: the same clicks shall give the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(small, labels, None, *models, 1, cv2.GC_INIT_WITH_MASK)
    found: Mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found


def parts_at(mask: Mask, points: Places) -> Mask:
    """Give the connected parts of a mask (h, w) that are at points (x, y)."""
    window = np.ones((GAP, GAP), np.uint8)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, window)
    _, parts = cv2.connectedComponents(closed, connectivity=8)
    kept: Mask = mask & np.isin(parts, [parts[y, x] for x, y in points])
    return kept
