"""The guided filter: a map redrawn along the edges of a picture; a few box filters in torch."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

# Pairs of colour channels of a symmetric 3x3 matrix, row by row.
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def guided_coefficients(guide: Tensor, values: Tensor, radius: int, epsilon: float) -> Tensor:
    """Give, for each pixel, the linear function of the colour that its surroundings agree on.

    In every window a linear function of the colour is fitted to the values; a pixel takes the
    mean of the functions of all windows that hold it.

    Args:
        guide: (3, height, width), float, 0..1: the picture whose edges count.
        values: (height, width), float: the map to redraw, on the same device.
        radius: windows are squares of 2 * radius + 1 pixels, cut off at the border.
        epsilon: variance of the colour, in its squared unit, below which a window counts as flat
            and its values are only averaged.

    Returns:
        (4, height, width): the slope for each colour, then the offset. The redrawn map is the
        offset plus the sum of the slopes times the colours.

    Source: He, Sun, Tang, Guided Image Filtering, PAMI 2013, eqs. 14 and 15: eqs. 5, 6 and 8 for
    a guide of colours.
    """
    mean_guide = box_filter(guide, radius)  # (3, height, width)
    mean_values = box_filter(values[None], radius)  # (1, height, width)
    covariance = box_filter(guide * values, radius) - mean_guide * mean_values
    products = torch.stack([guide[i] * guide[j] for i, j in _PAIRS])
    mean_products = torch.stack([mean_guide[i] * mean_guide[j] for i, j in _PAIRS])
    variances = box_filter(products, radius) - mean_products
    slope = _solve(variances, epsilon, covariance)
    offset = mean_values - (slope * mean_guide).sum(dim=0, keepdim=True)
    return box_filter(torch.cat((slope, offset)), radius)


def box_filter(values: Tensor, radius: int) -> Tensor:
    """Give the mean over each pixel's window; what lies beyond the border does not count.

    Args:
        values: (channel, height, width), float.
        radius: the window is a square of 2 * radius + 1 pixels.
    """
    # Running sums would not grow with the radius, but lose the variance of flat windows to
    # rounding in float32.
    window = 2 * radius + 1
    for kernel, padding in (((window, 1), (radius, 0)), ((1, window), (0, radius))):
        values = avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
    return values


def _solve(variances: Tensor, epsilon: float, covariance: Tensor) -> Tensor:
    """Solve (variances + epsilon * identity) x = covariance at each pixel, by Cramer's rule.

    Args:
        variances: (6, height, width), the pairs of `_PAIRS`.
        epsilon: added to the diagonal.
        covariance: (3, height, width).

    Returns:
        (3, height, width).
    """
    rr, rg, rb, gg, gb, bb = variances
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    # The adjugate of a symmetric matrix is symmetric.
    a_rr, a_rg, a_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    a_gg, a_gb, a_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    rows = ((a_rr, a_rg, a_rb), (a_rg, a_gg, a_gb), (a_rb, a_gb, a_bb))
    determinant = rr * a_rr + rg * a_rg + rb * a_rb
    red, green, blue = covariance
    solution: Tensor = torch.stack([r * red + g * green + b * blue for r, g, b in rows])
    return solution.div_(determinant)
