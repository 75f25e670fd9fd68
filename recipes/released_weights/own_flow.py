"""The dense flow of a motion pathway, in the place of a classical one."""

import os
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from amd_seg.weights import load_weights


class OwnFlow:
    """The dense flow of a model's motion pathway, as a `Flow` of frames of any size.

    A process that it is sent to loads the weights anew: what is sent is where they are.

    Args:
        weights: a name, folder, file or repository, see `load_weights`.
        motion_size: height and width, in pixels, at which the flow is found; None is that of the
            weights. A finer one parts small things from their ground (notes/experiments.md).

    Raises:
        WeightsError: they cannot be loaded.
        ConfigError: the motion size is not one that a model can have.
    """

    def __init__(
        self, weights: str | os.PathLike[str], motion_size: tuple[int, int] | None = None
    ) -> None:
        self.weights, self.motion_size = weights, motion_size
        self._model = load_weights(weights).model.eval()
        if motion_size is not None:
            self._model.config = replace(self._model.config, motion_size=motion_size)

    @torch.inference_mode()
    def __call__(
        self, frame_i: NDArray[np.uint8], frame_j: NDArray[np.uint8], /
    ) -> NDArray[np.float32]:
        """Give the flow from frame i to frame j, each (height, width, 3): (height, width, 2).

        It is found at the motion size, and stretched to the frames.
        """
        size = frame_i.shape[:2]
        pair = [torch.tensor(frame).permute(2, 0, 1)[None] for frame in (frame_i, frame_j)]
        found = self._model(*pair, dense=True).view_i.flows[0]
        # The motion size is a grid between the frames' outermost pixels (`AMD.motion_input`).
        stretch = [(size[axis] - 1) / (found.shape[axis - 2] - 1) for axis in (1, 0)]
        flow = F.interpolate(found, size, mode="bilinear", align_corners=True)[0]
        flow = flow * torch.tensor(stretch)[:, None, None]
        result: NDArray[np.float32] = flow.permute(1, 2, 0).contiguous().numpy()
        return result

    def __reduce__(self) -> tuple[type["OwnFlow"], tuple[object, ...]]:
        return OwnFlow, (self.weights, self.motion_size)
