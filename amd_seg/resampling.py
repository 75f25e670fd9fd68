"""Pictures at other sizes, as tensors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate


def resize_pixels(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Resize pixels (height, width, 3) bilinearly to (h, w), antialiased where they are reduced.

    Returns:
        (3, h, w), uint8.
    """
    # torch warns of memory that numpy may not write to.
    writeable = pixels if pixels.flags.writeable else pixels.copy()
    whole = torch.from_numpy(writeable).permute(2, 0, 1)[None]
    return interpolate(whole, size, mode="bilinear", align_corners=False, antialias=True)[0]
