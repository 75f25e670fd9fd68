"""Steadier masks of a clip: what a region was a frame ago, moved along by the segment flow."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.model.amd import AMD, View
from amd_seg.model.segment_flow import resize_masks, synthesize_view

PAST_SHARE = 0.7
"""Share of the past in a mask where both frames look alike."""

LIKENESS = 0.1
"""Mean difference of colours, 0..1, at which the past counts 1/e of that."""


class TemporalSmoother:
    """Smooths the masks of one clip exponentially, frame by frame.

    Each mask is mixed with the one before, which the model's segment flow (eq. 5) has moved to
    where its things are now. What the flow cannot explain, by the colours of the two frames, is
    taken from the new frame alone.

    Args:
        model: on the device where it shall run, in eval mode.
    """

    def __init__(self, model: AMD) -> None:
        self._model = model
        self._device = model.mean.device
        self._past: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def __call__(self, frame: Tensor, masks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the masks of the next frame, smoothed.

        Args:
            frame: (3, height, width), RGB, uint8, as the network saw it.
            masks: (region, ceil(height / 8), ceil(width / 8)), sums to 1 over region.

        Returns:
            The same shape; it still sums to 1 over region.
        """
        frames = frame[None].to(self._device)
        present = torch.from_numpy(masks)[None].to(self._device)
        if self._past is not None:
            past_frames, past = self._past
            view = self._model(frames, past_frames).view_i
            moved = synthesize_view(past, _on_grid(view.flows[0], present.shape[-2:]))
            share = PAST_SHARE * resize_masks(_likeness(view), present.shape[-2:])
            present = present + share * (moved - present)
        self._past = frames, present
        smoothed: NDArray[np.float32] = present[0].cpu().numpy()
        return smoothed


def _on_grid(flow: Tensor, size: torch.Size) -> Tensor:
    """Bring a flow to a grid of another size, in pixels of that grid."""
    height, width = flow.shape[-2:]
    ratio = flow.new_tensor([(size[1] - 1) / (width - 1), (size[0] - 1) / (height - 1)])
    resized = F.interpolate(flow, size, mode="bilinear", align_corners=True)
    return resized * ratio.view(1, 2, 1, 1)


def _likeness(view: View) -> Tensor:
    """How far the flow explains the target, (batch, 1, height, width), 0..1."""
    seen = synthesize_view(view.source, view.flows[0])
    return (-(view.target - seen).abs().mean(dim=1, keepdim=True) / LIKENESS).exp()
