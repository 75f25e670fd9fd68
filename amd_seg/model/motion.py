"""Eq. 2: the motion pathway, a PWC-Lite network with one estimator for all its levels.

Source: paper section 3.2 and table 5; levels and channels as in the released code.
"""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.model.config import AMDConfig
from amd_seg.model.correlation import correlation
from amd_seg.model.segment_flow import full_precision, synthesize_view

SLOPE = 0.1
REGION_FLOW_CHANNELS = 64
FLOW_SPREAD = 0.01  # of g's last weights, where the pathway starts by Kaiming's rule


def leaky(features: Tensor) -> Tensor:
    """The activation of the whole pathway."""
    return F.leaky_relu(features, SLOPE)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


class MotionPathway(nn.Module):
    """Features of frames at several levels, and motion features between two of them.

    The cost volume and the reduced features live on the grid of the *target*, the frame that is
    to be re-created; the *source* is the frame that is warped.
    """

    def __init__(self, config: AMDConfig) -> None:
        super().__init__()
        self.max_displacement = config.max_displacement
        self.normalised_volume = config.normalised_volume
        # Of each stage's two convolutions the first halves the grid.
        self.pyramid = nn.ModuleList(
            nn.ModuleList((_conv3x3(inputs, width, stride=2), _conv3x3(width, width)))
            for inputs, width in pairwise((3, *config.pyramid_channels))
        )
        # Coarse to fine; the stage of stride 2 gives features but no level.
        levels = config.pyramid_channels[:0:-1]
        self.reductions = nn.ModuleList(
            nn.Conv2d(width, config.reduced_channels, 1) for width in levels
        )
        volume = (2 * config.max_displacement + 1) ** 2
        c1, c2, c3, c4, c5 = config.estimator_channels
        inputs = (volume + config.reduced_channels + 2, c1, c1 + c2, c2 + c3, c3 + c4)
        self.estimator = nn.ModuleList(map(_conv3x3, inputs, config.estimator_channels))
        self.region_flow = nn.ModuleList(
            (nn.Conv2d(c4 + c5, REGION_FLOW_CHANNELS, 1), nn.Conv2d(REGION_FLOW_CHANNELS, 2, 1))
        )

    def initialise_by_kaiming(self) -> None:
        """Start anew so that features keep the size of the frames, and the flow begins near zero.

        The framework's default, as released, shrinks features to a hundredth and the cost volume
        to a ten-thousandth: the flow hardly depends on the frames until long training undoes that.
        """
        for parameter in self.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, a=SLOPE, nonlinearity="leaky_relu")
            else:
                nn.init.zeros_(parameter)
        last_weight, _ = list(self.region_flow.parameters())[-2:]
        nn.init.normal_(last_weight, std=FLOW_SPREAD)

    def features(self, frames: Tensor) -> list[Tensor]:
        """Map frames (batch, 3, height, width) in 0..1 to their levels, each twice as fine.

        Level l has (batch, channels, height / 2^(n-l), width / 2^(n-l)) for n stages, l from 0.
        """
        pyramid = [frames]
        for stage in self.pyramid:
            first, second = stage.children()
            pyramid.append(leaky(second(leaky(first(pyramid[-1])))))
        return pyramid[:1:-1]

    def motion_features(self, level: int, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        """Eq. 2: V at one level (0 is the coarsest), given the flow that the coarser ones found.

        Target and source are features of the two frames; the flow is in pixels of their grid.
        """
        # At the coarsest level the flow is zero: warping by it would change nothing.
        warped = source if level == 0 else synthesize_view(source, flow)
        compared = target, warped
        if self.normalised_volume:
            compared = _standardised(target), _standardised(warped)
        volume = leaky(correlation(*compared, self.max_displacement))
        reduced = leaky(self.reductions[level](target))
        c1, c2, c3, c4, c5 = self.estimator
        first = leaky(c1(torch.cat((volume, reduced, flow.to(reduced.dtype)), dim=1)))
        second = leaky(c2(first))
        third = leaky(c3(torch.cat((first, second), dim=1)))
        fourth = leaky(c4(torch.cat((second, third), dim=1)))
        fifth = leaky(c5(torch.cat((third, fourth), dim=1)))
        return torch.cat((fourth, fifth), dim=1)

    def flow_of(self, motion_features: Tensor) -> Tensor:
        """Eq. 4: g, from motion features, pooled or of a grid, to flow (batch, 2, ...), x first."""
        hidden, out = self.region_flow
        return cast(Tensor, out(leaky(hidden(motion_features))))


def _standardised(features: Tensor) -> Tensor:
    """Bring features (batch, channel, height, width) to mean 0 over each map, and to one length.

    The cost volume of two such maps is the cosine of the angle between their features, -1 to 1.
    Source: after UFlow (Jonschkowski et al., ECCV 2020), which has one mean for all channels.
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = full_precision(features)
        centred = wide - wide.mean(dim=(2, 3), keepdim=True)
        # The cost volume is a mean over channels: sqrt(channels) makes it a sum.
        unit: Tensor = F.normalize(centred, dim=1) * features.shape[1] ** 0.5
    return unit.to(features.dtype)
