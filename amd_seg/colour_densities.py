"""A map redrawn by which colours, and where, are the object's and which the ground's; in torch."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

COLOUR_SPREAD = 0.025
"""Standard deviation of the kernel in colour, of channels in 0..1: how alike is the same colour."""

PLACE_SPREAD = 0.5
"""Standard deviation of the kernel in place, in short edges of the picture."""

SAMPLES = 1024
"""Pixels, at most and spread evenly, that the densities are estimated from."""

DENSITY_WEIGHT = 0.5
"""Weight of the densities' log-ratio beside the map's log-odds: they are no independent witness,
because the map tells them which colours are whose."""

DECISION = 2.0
"""What the first round's log-odds are multiplied by: it draws the two sides apart."""

SUREST = 1e-5
"""Distance from 0 and 1 within which a given map counts as no surer than that."""

FLOOR = 1e-3
"""Density, as a share of the picture's mean, that both sides have everywhere: a colour that neither
knows decides nothing."""

_BLOCK = 128
"""Rows of the kernel that are made at a time: they stay in the processor's cache."""

_LEAST_EXPONENT = -30.0
"""Below it a kernel is nothing; numbers under float32's normal range would be slow."""


def redraw_by_densities(guide: Tensor, probability: Tensor) -> Tensor:
    """Give each pixel to the side whose colours, near its place, are its own.

    With q the belief that a pixel is the object's, and K a Gaussian in colour and place, the
    object's density at pixel i is sum_j q_j K_ij / sum_j q_j, and the ground's that of 1 - q. The
    result has the log-odds of the given map plus half of the log-ratio of the two densities. It is
    found twice: from the map itself, and from what came of that. Each side's density sums to 1,
    so that a small object is not outvoted by a large ground.

    Args:
        guide: (3, height, width), float, 0..1, the picture at the map's size.
        probability: (height, width), float, 0..1, of the object.

    Returns:
        (height, width), float, 0..1.

    Source: ours; Bayes' rule on kernel densities (Parzen, 1962), in place of the mixtures of
    Gaussians and the cut of GrabCut (Rother et al., SIGGRAPH 2004).
    """
    height, width = probability.shape
    factor = min(1.0, (SAMPLES / (height * width)) ** 0.5)
    size = max(1, int(height * factor)), max(1, int(width * factor))
    samples = _features(interpolate(guide[None], size, mode="area")[0])
    prior = _log_odds(interpolate(probability[None, None], size, mode="area").flatten())
    first = prior + DENSITY_WEIGHT * _log_ratio(samples, samples, prior)
    ratio = _log_ratio(_features(guide), samples, DECISION * first).reshape(height, width)
    return torch.sigmoid(_log_odds(probability) + DENSITY_WEIGHT * ratio)


def _features(guide: Tensor) -> Tensor:
    """Give (pixel, 5): colours and place of a guide (3, h, w) in units of the kernel's spreads."""
    height, width = guide.shape[1:]
    unit = PLACE_SPREAD * min(height, width)
    y, x = ((torch.arange(side).to(guide) + 0.5) / unit for side in (height, width))
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    return torch.cat((guide / COLOUR_SPREAD, places)).flatten(1).T


def _log_ratio(points: Tensor, samples: Tensor, log_odds: Tensor) -> Tensor:
    """Give the log of the object's density over the ground's at each point.

    Args:
        points: (point, 5), features.
        samples: (sample, 5), features of the pixels that the densities are estimated from.
        log_odds: (sample), that each of them is the object's.
    """
    # 1 minus the one would round to no pixel at all.
    sides = torch.sigmoid(torch.stack((log_odds, -log_odds), dim=1))
    sides /= sides.sum(dim=0)
    lengths = samples.square().sum(dim=1) / 2
    densities = points.new_empty(len(points), 2)
    for rows, out in zip(torch.split(points, _BLOCK), torch.split(densities, _BLOCK), strict=True):
        exponents = torch.addmm(lengths, rows, samples.T, beta=-1)
        exponents -= rows.square().sum(dim=1, keepdim=True) / 2
        torch.mm(exponents.clamp_(min=_LEAST_EXPONENT).exp_(), sides, out=out)
    densities += FLOOR * densities.sum(dim=1).mean()
    return densities[:, 0].log() - densities[:, 1].log()


def _log_odds(probability: Tensor) -> Tensor:
    return torch.logit(probability, eps=SUREST)
