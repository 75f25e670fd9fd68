"""Where frames are normalised: in the model, and nowhere else."""

import torch
from torch import Tensor, nn

# Mean and standard deviation of ImageNet's RGB values, in 0..255 (FACTS 2.1).
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class NormalisedModel(nn.Module):
    """A model that takes frames as they are: (batch, 3, height, width), RGB, uint8 or 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def preprocess(self, frames: Tensor) -> Tensor:
        """Normalise frames per channel, as the appearance pathway reads them."""
        return (frames.to(self.mean.dtype) - self.mean) / self.std
