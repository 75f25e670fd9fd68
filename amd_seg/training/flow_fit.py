"""Segments that explain a dense flow: each one's best motion in closed form, and what is left.

Source: the idea of Guess What Moves (Choudhury et al., BMVC 2022) and of RCF (Lian et al., CVPR
2023), on the motion pathway's own flow; weights, ridge and normalisation are ours. RCF's relaxed
common fate lets a pixel leave its region's motion by a bounded residual, which a network predicts
there; here each pixel takes the best one within the bound.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-6
"""Share of the grid's cells that is added to each normal matrix: an empty region stays solvable."""
STILL = 0.25
"""Variance, in squared pixels of the motion size, of a flow that counts as noise: half a pixel."""


@torch.no_grad()
def fit_flow(flow: Tensor, masks: Tensor, *, affine: bool = True) -> Tensor:
    """Fit the motion of each region by weighted least squares.

    Args:
        flow: (batch, 2, height, width), pixels, x first.
        masks: (batch, region, height, width), sums to 1 over region: the weights.
        affine: six numbers a region; else its mean flow.

    Returns:
        (batch, region, 2, height, width): what each region's motion would be everywhere.
    """
    height, width = flow.shape[-2:]
    basis = _basis(height, width, affine, flow)  # (term, cell)
    weights = masks.flatten(2)
    weighted = torch.einsum("brn,kn->brkn", weights, basis)
    normal = torch.einsum("brkn,ln->brkl", weighted, basis)
    right = torch.einsum("brkn,bvn->brkv", weighted, flow.flatten(2))
    ridge = RIDGE * height * width * torch.eye(len(basis), device=flow.device, dtype=flow.dtype)
    motion = torch.linalg.solve(normal + ridge, right)  # (batch, region, term, 2)
    fits = torch.einsum("brkv,kn->brvn", motion, basis)
    return fits.reshape(*fits.shape[:-1], height, width)


def unexplained_share(
    flow: Tensor, masks: Tensor, *, affine: bool = True, residual: float = 0.0
) -> Tensor:
    """Share of a flow's variance that the best motions of its regions leave over.

    The gradient reaches the masks only: at the fit's optimum none passes through the fit, and the
    flow must not learn to be easy to explain.

    Args:
        flow: (batch, 2, height, width), pixels, x first, on any grid.
        masks: (batch, region, height', width'), sums to 1 over region.
        affine: see `fit_flow`.
        residual: pixels by which a pixel may move apart from its region at no cost.

    Returns:
        A number from 0 (each pixel moves as its region) to 1.
    """
    with torch.autocast(flow.device.type, enabled=False):
        masks = masks.float()
        flow = F.interpolate(flow.detach().float(), masks.shape[-2:], mode="area")
        fits = fit_flow(flow, masks, affine=affine)
        apart: Tensor = torch.linalg.vector_norm(flow.unsqueeze(1) - fits, dim=2)
        left = (apart - residual).clamp(min=0).square()  # (batch, region, height, width)
        error = (masks * left).sum(dim=1).mean(dim=(1, 2))
        spread = (flow - flow.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1)
        return (error / (spread.mean(dim=(1, 2)) + STILL)).mean()


def _basis(height: int, width: int, affine: bool, like: Tensor) -> Tensor:
    ones = like.new_ones(height, width)
    if not affine:
        return ones.flatten()[None]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype),
        torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack((ones, x, y)).flatten(1)
