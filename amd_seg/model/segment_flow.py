"""Eqs. 3 to 6 as pure functions: pool over regions, compose the segment flow, warp.

Flow is in pixels of its own grid, channel 0 to the right (x), channel 1 down (y).
Source: paper section 3.3, and the released code for resizing, levels and borders.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# A region of a smaller total weight has no pixels to speak of: its mean would be 0 / 0.
EMPTY_REGION = 1e-12


def full_precision(values: Tensor) -> Tensor:
    """Return half-precision values as float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def resize_masks(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Sample masks (batch, region, height, width) on a grid of another size, corners aligned.

    Point sampling as released: a thin region can vanish on a coarse grid.
    """
    return F.interpolate(full_precision(masks), list(size), mode="bilinear", align_corners=True)


def upsample_flow(flow: Tensor, factor: int) -> Tensor:
    """Bring a flow to a grid that is `factor` times finer, in pixels of that grid."""
    return F.interpolate(
        flow * factor, scale_factor=float(factor), mode="bilinear", align_corners=True
    )


def pool_over_regions(features: Tensor, masks: Tensor) -> Tensor:
    """Eq. 3: the mean of features over each soft region, (batch, region, channel).

    Features are (batch, channel, height, width), masks (batch, region, height, width), 0..1. The
    mean is float32 or wider. A region without weight gives zeros and passes no gradient.
    """
    features, masks = full_precision(features), full_precision(masks)
    with torch.autocast(features.device.type, enabled=False):
        weighted = torch.einsum("bchw,brhw->brc", features, masks)
    area = masks.sum(dim=(2, 3)).unsqueeze(-1)  # (batch, region, 1)
    present = area > EMPTY_REGION
    return torch.where(present, weighted / torch.where(present, area, 1.0), 0.0)


def compose_segment_flow(masks: Tensor, vectors: Tensor) -> Tensor:
    """Eq. 5: every pixel moves as the mixture of its regions does.

    Masks (batch, region, height, width) sum to 1 over region. Vectors (batch, region, 2) are in
    pixels of this grid, x first, as the flow that is returned.
    """
    with torch.autocast(masks.device.type, enabled=False):
        return torch.einsum("brhw,brv->bvhw", full_precision(masks), full_precision(vectors))


def synthesize_view(frame: Tensor, flow: Tensor) -> Tensor:
    """Eq. 6: read the frame at p + flow(p), bilinearly; positions outside stop at the border.

    Frame, or features, are (batch, channel, height, width), the flow (batch, 2, height, width), in
    pixels, x first. Where it is NaN, the result is.
    """
    height, width = frame.shape[-2:]
    flow = full_precision(flow)
    ys = torch.arange(height, device=flow.device, dtype=flow.dtype)
    xs = torch.arange(width, device=flow.device, dtype=flow.dtype)
    x = (flow[:, 0] + xs) * (2 / max(width - 1, 1)) - 1
    y = (flow[:, 1] + ys[:, None]) * (2 / max(height - 1, 1)) - 1
    grid = torch.stack((x, y), dim=-1)
    # torch reads the border where a position is NaN, which would hide a flow that is lost, and on
    # a CPU its backward pass writes out of bounds there and crashes.
    is_lost = grid.isnan()
    with torch.autocast(frame.device.type, enabled=False):
        warped = F.grid_sample(
            full_precision(frame),
            grid.masked_fill(is_lost, 0.0),
            padding_mode="border",
            align_corners=True,
        )
        warped = warped.masked_fill(is_lost.any(dim=-1).unsqueeze(1), math.nan)
    return warped.to(frame.dtype)
