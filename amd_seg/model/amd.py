"""AMD: two pathways that together re-create one frame of a pair from the other.

Source: paper section 3, figure 2, and the released code.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amd_seg.model.appearance import AppearanceModel
from amd_seg.model.config import AMDConfig
from amd_seg.model.motion import MotionPathway
from amd_seg.model.segment_flow import (
    compose_segment_flow,
    full_precision,
    pool_over_regions,
    resize_masks,
    upsample_flow,
)


class View(NamedTuple):
    """One frame, the target, as it is re-created from the other, the source."""

    target: Tensor  # (batch, 3, height, width), 0..1, at the motion size
    source: Tensor  # the frame that is warped; the same shape
    flows: tuple[Tensor, ...]
    """Flows (batch, 2, height, width), finest first; each next one has half the size.
    Pixels of its own grid, x first: target(p) is looked for at source(p + flow)."""
    masks: Tensor | None = None
    """(batch, region, height / stride, width / stride) of the source, at the size of its input.
    None where the flow is dense and knows no regions."""
    vectors: Tensor | None = None
    """(batch, level, region, 2): what each region has moved by, in pixels of the level's grid,
    x first, coarse to fine."""


class Reconstruction(NamedTuple):
    """Both frames of a pair, each re-created from the other."""

    view_i: View  # frame_i from frame_j
    view_j: View  # frame_j from frame_i: the direction of the paper's equations


class AMD(AppearanceModel):
    """The appearance and the motion pathway, tied by the segment flow."""

    def __init__(self, config: AMDConfig) -> None:
        super().__init__(config, config.regions)
        self.config = config
        self.motion = MotionPathway(config)

    def segment(self, frames: Tensor) -> Tensor:
        """Eq. 1: the soft regions of frames (batch, 3, height, width), RGB, uint8 or 0..255.

        They are (batch, region, ceil(height / stride), ceil(width / stride)), float, sum to 1 over
        region; the stride is 8 in the dilated layout, 2 in the top-down one.
        """
        return self.logits(frames).softmax(dim=1)

    def motion_input(self, frames: Tensor) -> Tensor:
        """Frames in 0..1 at the motion size, as the motion pathway and the objective see them."""
        scaled = frames.to(self.mean.dtype) / 255
        return F.interpolate(scaled, self.config.motion_size, mode="bilinear", align_corners=True)

    def forward(self, frame_i: Tensor, frame_j: Tensor, *, dense: bool = False) -> Reconstruction:
        """Re-create each frame of the pairs from the other (eqs. 1 to 6), coarse to fine.

        Frames are as for `segment`. Each level adds to the motion of every region, as released.
        `dense` is the motion pathway alone, by a flow per pixel: g is applied at every pixel of V
        in place of its means over regions.
        """
        # Both directions run as one batch: first the targets i, then the targets j.
        frames = torch.cat((frame_i, frame_j))
        inputs = self.motion_input(frames)
        # One pass over both frames, so that BatchNorm mixes them, as released.
        masks = None if dense else _other_half(self.segment(frames))
        levels = self.motion.features(inputs)
        flow = inputs.new_zeros(len(inputs), 2, *levels[0].shape[-2:])
        vectors = inputs.new_zeros(len(inputs), self.config.regions, 2)
        flows, history = [], []
        for level, target in enumerate(levels):
            if level > 0:
                flow, vectors = upsample_flow(flow, 2), vectors * 2
            features = self.motion.motion_features(level, target, _other_half(target), flow)
            if masks is None:
                flow = flow + full_precision(self.motion.flow_of(features))
            else:
                region_masks = resize_masks(masks, target.shape[-2:])
                pooled = pool_over_regions(features, region_masks)  # (batch, region, channel)
                increments = self.motion.flow_of(pooled.transpose(1, 2).unsqueeze(-1))
                vectors = vectors + full_precision(increments).squeeze(-1).transpose(1, 2)
                flow = compose_segment_flow(region_masks, vectors)
            flows.append(flow)
            history.append(vectors)
        # Each flow is for a quarter of the size that it is returned at.
        outputs = [upsample_flow(flow, 4) for flow in reversed(flows)]
        motions = torch.stack(history, dim=1)
        i, j = (
            View(
                inputs.chunk(2)[half],
                inputs.chunk(2)[1 - half],
                tuple(flow.chunk(2)[half] for flow in outputs),
                None if masks is None else masks.chunk(2)[half],
                None if masks is None else motions.chunk(2)[half],
            )
            for half in (0, 1)
        )
        return Reconstruction(i, j)


def _other_half(values: Tensor) -> Tensor:
    """Swap the two halves of a batch: each target's partner stands in the other half."""
    first, second = values.chunk(2)
    return torch.cat((second, first))
