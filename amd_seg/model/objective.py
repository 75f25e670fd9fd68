"""Eq. 7: how well one frame was re-created from the other; pure functions.

Source: paper section 3.3; visibility, L1, scales and windows as in the released code.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_seg.model.amd import Reconstruction, View
from amd_seg.model.segment_flow import full_precision, synthesize_view

SSIM_WEIGHT = 0.85
SCALES = 4  # how many of the flows, finest first, are scored; each halves the frame
VISIBLE_WEIGHT = 0.2
# Below one pixel of any batch: guards the division when nothing is visible, changes nothing else.
NOTHING_VISIBLE = 1e-12

Share = Callable[[Tensor], Tensor]  # from a map of 0 and 1 to its visible share, a number


def dssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural dissimilarity, (1 - SSIM) / 2, over 3x3 uniform windows without padding."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    var_x = F.avg_pool2d(x * x, 3, 1) - mean_x * mean_x
    var_y = F.avg_pool2d(y * y, 3, 1) - mean_y * mean_y
    cov = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    ssim = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    )
    return ((1 - ssim) / 2).clamp(0, 1)


def splat_weights(flow: Tensor) -> Tensor:
    """How much lands on each pixel, (batch, 1, height, width), when all follow a flow in pixels.

    Each pixel sends a weight of 1, split bilinearly over four neighbours; what falls outside
    the frame is lost.
    """
    batch, _, height, width = flow.shape
    ys = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    xs = torch.arange(width, device=flow.device, dtype=flow.dtype)
    x, y = flow[:, 0] + xs, flow[:, 1] + ys
    weights = flow.new_zeros(batch, height * width)
    for left, top in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = x.floor() + left, y.floor() + top
        share = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        # A flow that is not finite lands nowhere, instead of at an index out of bounds.
        index = torch.where(inside, row * width + column, 0.0).long()
        share = torch.where(inside, share, 0.0)
        weights.scatter_add_(1, index.flatten(1), share.flatten(1))
    return weights.view(batch, 1, height, width)


@torch.no_grad()
def splat_visibility(opposite_flow: Tensor) -> Tensor:
    """Which pixels of a frame the other frame shows too, (batch, 1, height, width), 0 or 1.

    The flow is on the grid of the *other* frame and points into this one; less than 0.2 of a pixel
    that arrives is nothing.
    """
    weights = splat_weights(opposite_flow)
    return (weights >= VISIBLE_WEIGHT).to(weights.dtype)


def photometric_error(
    target: Tensor,
    synthesized: Tensor,
    visible: Tensor,
    *,
    ssim_weight: float = SSIM_WEIGHT,
    share: Share = torch.mean,
) -> Tensor:
    """Dissimilarity of two frames, 0..1, where they are visible (0 or 1), as one number.

    `ssim_weight` is the share of DSSIM, beside the absolute difference; 1 is the paper's D. The
    error is divided by the `share` of what is visible.
    """
    difference = ((target - synthesized).abs() * visible).mean()
    structure = dssim(synthesized * visible, target * visible).mean()
    error = (1 - ssim_weight) * difference + ssim_weight * structure
    return error / share(visible).clamp_min(NOTHING_VISIBLE)


def photometric_objective(
    reconstruction: Reconstruction, *, ssim_weight: float = SSIM_WEIGHT, share: Share = torch.mean
) -> dict[str, Tensor]:
    """Eq. 7 in both directions, summed over scales; see `photometric_error`.

    Returns "loss", its parts "scale_0" ..., and "visible", the visible share at the finest scale.
    """
    with torch.autocast(reconstruction.view_i.target.device.type, enabled=False):
        view_i, view_j = reconstruction.view_i, reconstruction.view_j
        visible_i = splat_visibility(full_precision(view_j.flows[0]))
        visible_j = splat_visibility(full_precision(view_i.flows[0]))

        def error_at(view: View, visible: Tensor, scale: int) -> Tensor:
            step = 2**scale
            target, source = F.avg_pool2d(view.target, step), F.avg_pool2d(view.source, step)
            synthesized = synthesize_view(source, view.flows[scale])
            seen = visible[..., ::step, ::step]
            return photometric_error(
                target, synthesized, seen, ssim_weight=ssim_weight, share=share
            )

        parts = {}
        for scale in range(min(SCALES, len(view_i.flows))):
            both = error_at(view_i, visible_i, scale) + error_at(view_j, visible_j, scale)
            parts[f"scale_{scale}"] = both / 2
        loss = torch.stack(list(parts.values())).sum()
        visible = (visible_i.mean() + visible_j.mean()) / 2
    return {"loss": loss, **parts, "visible": visible}
