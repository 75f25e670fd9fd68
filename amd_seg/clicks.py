"""The object that clicks choose: the network's map corrected at the points that a person names."""

from collections.abc import Iterable

import cv2
import numpy as np
import torch

from amd_seg.colour_model import grabcut, iou
from amd_seg.device import own_numerics
from amd_seg.refine import (
    FEATHER,
    Map,
    Pixels,
    Point,
    along_edges,
    refine_map,
    resize_pixels,
    size_within,
)

Places = list[tuple[int, int]]  # pixels of the small photo, x first

EDGES = (192, 768)  # longest short and long edge, in pixels, of the small photo that is worked on

# The kernel of the Gaussian process: how far a click reaches.
COLOUR_REACH = 0.15  # standard deviation in colour: CIELAB, in hundreds
PLACE_REACH = 0.3  # standard deviation in place, in short edges of the photo
NEAR_SHARE = 0.5  # of the kernel that reaches half as far: a click says most of what is close
BLUR = 5  # window, in small pixels, over which colours are averaged: a click means no pixel
NOISE = 0.05  # variance of a click, of the kernel's 1: near clicks that disagree have a solution
CERTAINTY = 4.0  # log-odds of a clicked point
PRIOR = 3.0  # largest log-odds of the network's map: less than a click's

# The cut.
DISC = 3  # radius, in small pixels, of what a click holds for certain
SURE_BACKGROUND, SURE_OBJECT = 0.05, 0.95  # below and above, the cut may change nothing
CUT_SHARE = 0.75  # of its mask in the result; the rest is the map before it, with its doubts
GAP = 21  # window, in small pixels, of the closing that joins parts of one object
SCRAP = 0.1  # of the rest of the object, below which a part is no object by itself


def segment_by_clicks(
    pixels: Pixels, cells: Map, how: str, include: Iterable[Point], exclude: Iterable[Point]
) -> Map:
    """Find the object that is at some points, and not at others.

    1. The log-odds of the network's map are the mean of a Gaussian process, and the clicks are
       observations of it: they correct the map as far as colour and place are alike.
    2. GrabCut finds the outline, starting from the corrected map, with the clicks as certain.
    3. Of its parts those with an included point are kept, if they are more than a scrap beside the
       others. Else all are, as where none is included: the click corrects, and chooses no other.

    `cells`, (h, w), 0..1, are the network's map of what stands out; `how` gives it edges before
    the clicks. Points lie inside the photo (height, width, 3), in any order.

    Source: ours, from Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
    eq. 2.38, and Rother et al., GrabCut, SIGGRAPH 2004.
    """
    size = size_within(EDGES, pixels)
    guide = resize_pixels(pixels, size)  # (3, h, w)
    small = guide.permute(1, 2, 0).contiguous().numpy()
    scale = np.array((size[1] / pixels.shape[1], size[0] / pixels.shape[0]))
    inside, outside = (
        [(int(x), int(y)) for x, y in np.array(list(points), float).reshape(-1, 2) * scale]
        for points in (include, exclude)
    )
    least = 1 / (1 + np.exp(PRIOR))
    # A cut follows the clicks, and needs none before.
    before = refine_map(small, cells, "ranking" if how == "grabcut" else how)
    probability = np.clip(before, least, 1 - least)
    prior: Map = np.log(probability / (1 - probability)).astype(np.float32)
    odds = corrected_odds(small, prior, inside, outside)
    corrected: Map = (1 / (1 + np.exp(-odds))).astype(np.float32)
    labels = np.where(corrected > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[corrected < SURE_BACKGROUND] = cv2.GC_BGD
    labels[corrected > SURE_OBJECT] = cv2.GC_FGD
    sides = (inside, outside, cv2.GC_FGD), (outside, inside, cv2.GC_BGD)
    for points, others, label in sides:
        for x, y in points:
            # No click's disc covers another one's point.
            apart = min((np.hypot(x - a, y - b) for a, b in others), default=2 * DISC)
            cv2.circle(labels, (x, y), min(DISC, int(apart // 2)), int(label), thickness=-1)
    start = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    mask = grabcut(small, labels)
    if mask is None or iou(mask, start) < SCRAP:
        mask = start  # The cut has lost the object.
    result = corrected + np.float32(CUT_SHARE) * (mask - corrected)
    if inside:
        window = np.ones((GAP, GAP), np.uint8)
        closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, window)
        _, parts = cv2.connectedComponents(closed, connectivity=8)
        rest = mask & ~np.isin(parts, [parts[y, x] for x, y in inside])
        if np.sum(mask & ~rest) > SCRAP * rest.sum():
            result[rest] = 0
    with own_numerics():
        return along_edges(pixels, guide.float() / 255, torch.from_numpy(result), FEATHER)


def corrected_odds(small: Pixels, prior: Map, include: Places, exclude: Places) -> Map:
    """Put a map's log-odds (h, w) right at clicks: the posterior mean of a Gaussian process."""
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
    return prior + np.tensordot(weights.astype(np.float32), kernel, 1)
