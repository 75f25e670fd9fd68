"""What the network says of photos, each seen once or at several sizes and mirrored."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.network_input import NetworkInput, Prepared
from amd_seg.upsampling import upsample

Masks = NDArray[np.float32]

SCALES = (1.0, 0.75, 1.25)
"""Sizes at which `tta` shows the network a photo, as shares of the size asked for."""


def view_sizes(size: int, tta: bool) -> list[int]:
    """Return the short edges, in pixels, at which the network sees a photo."""
    return [round(size * scale) for scale in SCALES] if tta else [size]


def masks_of(
    batch: Sequence[Prepared], network: Callable[[Tensor], Masks], *, with_mirrored: bool
) -> dict[int, Masks]:
    """Run the network once for each size of frame in a batch, twice with mirrored frames.

    Args:
        batch: photos with their frames; errors are passed over.
        network: (batch, 3, height, width) to (batch, region, h, w), `Segmenter.region_masks`.
        with_mirrored: show each frame mirrored too.

    Returns:
        Place in the batch -> (region, h, w), float32, sums to 1 over region: the mean of all
        views of that photo.
    """
    by_size: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
    for index, item in enumerate(batch):
        if isinstance(item, NetworkInput):
            for frame in item.frames:
                by_size[frame.shape].append((index, frame))
    views: dict[int, list[Masks]] = defaultdict(list)
    for group in by_size.values():
        indices, frames = zip(*group, strict=True)
        stacked = torch.stack(frames)
        passes = [network(stacked)]
        if with_mirrored:
            passes.append(network(stacked.flip(-1))[..., ::-1])
        for masks in passes:
            for index, view in zip(indices, masks, strict=True):
                views[index].append(view)
    return {index: mean_of_views(masks) for index, masks in views.items()}


def mean_of_views(views: Sequence[Masks]) -> Masks:
    """Return the mean of masks (region, h, w) on the finest of their grids."""
    if len(views) == 1:
        return views[0]
    grid = max(view.shape[1:] for view in views)
    total = np.zeros((len(views[0]), *grid), np.float32)
    for view in views:
        total += upsample(view, grid)
    total /= len(views)
    return total
