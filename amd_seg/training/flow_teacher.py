"""A classical flow as teacher of the motion pathway's own dense flow."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.model.amd import Reconstruction, View
from amd_seg.training.background import dis_flow
from amd_seg.training.objectives import area_resize


def teacher_error(reconstruction: Reconstruction) -> Tensor:
    """Mean distance of the dense flows of both views from those of OpenCV's DIS.

    Args:
        reconstruction: by `AMD.dense_reconstruction`.

    Returns:
        Pixels of the motion size; the mean over pixels, then over levels, so that the coarse ones
        learn to find what moves far.
    """
    views = (reconstruction.view_i, reconstruction.view_j)
    return torch.stack([_error(view) for view in views]).mean()


def _error(view: View) -> Tensor:
    taught = teacher_flow(view.target, view.source)
    errors = []
    for flow in view.flows:
        shrink = taught.shape[-1] / flow.shape[-1]
        # In pixels of the level's grid there, in those of the motion size here.
        apart = area_resize(taught, flow) - flow.float() * shrink
        errors.append(torch.linalg.vector_norm(apart, dim=1).mean())
    return torch.stack(errors).mean()


@torch.no_grad()
def teacher_flow(target: Tensor, source: Tensor) -> Tensor:
    """Flow from target to source, each (batch, 3, height, width) in 0..1: (batch, 2, ...)."""
    frames = [_as_pixels(images) for images in (target, source)]
    flows = np.stack([dis_flow(*pair) for pair in zip(*frames, strict=True)])
    return torch.from_numpy(flows).permute(0, 3, 1, 2).to(target.device)


def _as_pixels(images: Tensor) -> NDArray[np.uint8]:
    levels = (images.float() * 255).round().byte()
    pixels: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
