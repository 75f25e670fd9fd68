"""Objects of other crops pasted onto a batch: more places, sizes and backgrounds than were filmed.

As in copy-paste augmentation (Ghiasi et al., CVPR 2021), but what is cut out are the targets of
the objective mover: no mask that anybody drew.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = (0.4, 1.0)
"""Range of a pasted crop's side, as a share of its own."""
AREAS = (0.02, 0.5)
"""Share of the crop that an object may take to be cut out."""
LARGEST_BORDER = 0.05
"""Mean target along the crop's border, above which its object is cut by it: nothing is as straight
as a crop, and the network would learn that."""
EDGE = (0.35, 0.65)
"""Targets between which a pasted object fades out."""


def paste_objects(
    images: Tensor, targets: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste whole objects of the batch, at random sizes and places, onto some of its crops.

    Args:
        images: (batch, 3, height, width), float, 0..255.
        targets: (batch, 1, height, width), float, 0..255.
        share: of the crops that get an object, if the batch has one.
        generator: where the numbers come from.

    Returns:
        Images and targets of the same shapes; where an object lies, both are the object's.
    """
    batch = len(images)
    draws = torch.rand(batch, 6, generator=generator)
    donors = torch.nonzero(holds_whole_object(targets).cpu()).flatten()
    if not len(donors):
        return images, targets
    chosen = donors[(draws[:, 0] * len(donors)).long()]
    is_pasted = (draws[:, 1] < share) & (chosen != torch.arange(batch))
    rows = torch.nonzero(is_pasted).flatten().to(images.device)
    if not len(rows):
        return images, targets
    layers = torch.cat((images, targets), dim=1)
    moved = _move(layers[chosen.to(images.device)[rows]], draws[is_pasted, 2:].to(images.device))
    low, high = (255 * bound for bound in EDGE)
    alpha = ((moved[:, 3:] - low) / (high - low)).clamp(0, 1)
    layers[rows] = alpha * moved + (1 - alpha) * layers[rows]
    return layers[:, :3], layers[:, 3:]


def holds_whole_object(targets: Tensor) -> Tensor:
    """Tell which targets (batch, 1, height, width), 0..255, hold an object that no border cuts."""
    maps = targets[:, 0] / 255
    area = maps.mean(dim=(1, 2))
    border = torch.cat((maps[:, 0], maps[:, -1], maps[:, :, 0], maps[:, :, -1]), dim=1)
    is_whole = border.mean(dim=1) < LARGEST_BORDER
    return is_whole & (area > AREAS[0]) & (area < AREAS[1])


def _move(layers: Tensor, draws: Tensor) -> Tensor:
    """Shrink, shift and mirror crops (crop, channel, height, width) by draws (crop, 4), 0..1.

    A crop stays within the frame of its place; around it are zeros.
    """
    side = SIZES[0] + (SIZES[1] - SIZES[0]) * draws[:, 0]
    shift = (1 - side)[:, None] * (2 * draws[:, 1:3] - 1)  # in half frames, x first
    mirror = torch.where(draws[:, 3] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(side)
    # affine_grid maps places of the result to places of the source.
    across = torch.stack((mirror / side, zero, -mirror * shift[:, 0] / side), dim=1)
    down = torch.stack((zero, 1 / side, -shift[:, 1] / side), dim=1)
    grid = F.affine_grid(
        torch.stack((across, down), dim=1), list(layers.shape), align_corners=False
    )
    return F.grid_sample(layers, grid, align_corners=False)
