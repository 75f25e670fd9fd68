"""From a frame to its classes: whole or by sliding windows, as it is or with its mirror image."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.errors import DeviceError
from amd_seg.model.appearance import SemanticNetwork

# Rows that are brought to the photo's size at a time: all classes of a large photo at once take
# gigabytes.
_STRIP_ROWS = 64


@torch.inference_mode()
def class_probabilities(
    model: SemanticNetwork,
    frame: Tensor,
    *,
    window: int | None = None,
    flip: bool = False,
    batch_size: int = 8,
) -> Tensor:
    """Return the probability of each class at each pixel of a frame.

    Args:
        model: in eval mode.
        frame: (3, height, width), RGB, uint8 or float in 0..255, on the model's device.
        window: side of a square window, in pixels, that slides by two thirds of it; the logits of
            overlapping windows are averaged. None shows the network the whole frame.
        flip: average with the probabilities of the mirrored frame.
        batch_size: windows in a pass of the network.

    Returns:
        (class, height, width), float32, sums to 1 over class.

    Raises:
        DeviceError: the device ran out of memory.

    Source: the practice of the published toolbox (mmsegmentation: whole and slide inference).
    """
    try:
        scores = _logits(model, frame, window, batch_size).softmax(dim=0)
        if flip:
            mirrored = _logits(model, frame.flip(-1), window, batch_size).softmax(dim=0)
            scores = (scores + mirrored.flip(-1)) / 2
    except torch.cuda.OutOfMemoryError as cause:
        raise DeviceError(
            f"{frame.device} has not enough memory for a frame of {frame.shape[2]}x"
            f"{frame.shape[1]} pixels. Use a smaller size or batch size, or --slide."
        ) from cause
    return scores


def strongest_classes(scores: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the class with the highest score at each pixel of a map of another size.

    Args:
        scores: (class, h, w), float32, on the CPU; resized bilinearly, strip by strip.
        size: height and width of the result.

    Returns:
        (height, width), uint8; the lower label where scores are equal.
    """
    height, width = size
    wide = _resized(scores, (scores.shape[1], width))
    # Centres of the rows in rows of the scores; beyond the outer ones nothing changes.
    places = (torch.arange(height) + 0.5) * (scores.shape[1] / height) - 0.5
    places = places.clamp(0, scores.shape[1] - 1)
    above = places.floor().long()
    below = (above + 1).clamp(max=scores.shape[1] - 1)
    share = (places - above)[:, None]
    labels = np.empty(size, np.uint8)
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, start + _STRIP_ROWS)
        strip = torch.lerp(wide[:, above[rows]], wide[:, below[rows]], share[rows])
        labels[rows] = strip.argmax(dim=0).byte().numpy()
    return labels


def _logits(model: SemanticNetwork, frame: Tensor, window: int | None, batch_size: int) -> Tensor:
    """Return logits (class, height, width) of a frame, whole or from windows."""
    height, width = frame.shape[-2:]
    if window is None:
        return _resized(model.class_logits(frame[None])[0], (height, width))
    side = (min(window, height), min(window, width))
    corners = [(top, left) for top in _starts(height, window) for left in _starts(width, window)]
    total = torch.zeros(model.config.classes, height, width, device=frame.device)
    count = torch.zeros(height, width, device=frame.device)
    for first in range(0, len(corners), batch_size):
        group = corners[first : first + batch_size]
        parts = torch.stack([frame[:, y : y + side[0], x : x + side[1]] for y, x in group])
        for (y, x), logits in zip(group, model.class_logits(parts), strict=True):
            total[:, y : y + side[0], x : x + side[1]] += _resized(logits, side)
            count[y : y + side[0], x : x + side[1]] += 1
    return total / count


def _starts(length: int, window: int) -> list[int]:
    """Return where windows begin along an edge; the last one ends with it."""
    last = max(length - window, 0)
    return [*range(0, last, max(1, 2 * window // 3)), last]


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]
