"""Self-training: the next targets are what the network and the first teacher both say."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.device import resolve_precision
from amd_seg.model.amd import AMD

EVIDENCE_RANGE = (0.15, 0.85)
"""The teacher's word counts at most so much: where it is wrong it is wrong with certainty."""
SALIENCY_RANGE = (0.02, 0.98)
"""The network's likewise."""
BATCH = 16


def consent(
    saliency: NDArray[np.float32], evidence: NDArray[np.float32], *, trust: float = 1.0
) -> tuple[NDArray[np.float32], float]:
    """Join what the network says with what the teacher says: the product of their odds.

    Args:
        saliency: (height, width), 0..1, the network's.
        evidence: (height, width), 0..1, the teacher's.
        trust: in the network, 0..1: the power of its odds.

    Returns:
        The probability of the object, (height, width), float32, 0..1; and how far the two
        agree, 0..1: the sum of their minima over that of their maxima.
    """
    union = float(np.maximum(saliency, evidence).sum())
    agreement = float(np.minimum(saliency, evidence).sum()) / union if union else 1.0
    odds = np.ones_like(saliency)
    for word, limits, power in (
        (saliency, SALIENCY_RANGE, trust),
        (evidence, EVIDENCE_RANGE, 1.0),
    ):
        bounded = np.clip(word, *limits)
        odds *= (bounded / (1 - bounded)) ** np.float32(power)
    return odds / (1 + odds), agreement


def flip_averaged_saliency(
    model: AMD, frames: Tensor, channel: int, *, precision: str = "float32"
) -> Tensor:
    """The object channel at the frames' size; see `flip_averaged_regions`.

    Returns:
        (frame, height, width), float32, 0..1.
    """
    only = slice(channel, channel + 1)
    return flip_averaged_regions(model, frames, regions=only, precision=precision)[:, 0]


@torch.no_grad()
def flip_averaged_regions(
    model: AMD,
    frames: Tensor,
    *,
    size: int | None = None,
    regions: slice = slice(None),
    precision: str = "float32",
) -> Tensor:
    """Regions at the frames' size, averaged over the frames and their mirror images.

    Args:
        model: in evaluation mode.
        frames: (frame, 3, height, width), uint8, RGB.
        size: short edge, in pixels, that the network sees; None shows it the frames as they are.
        regions: which ones are wanted.
        precision: "float32", or "bfloat16" where the device has it.

    Returns:
        (frame, region, height, width), float32, 0..1, on the CPU.
    """
    device = model.mean.device
    dtype = resolve_precision(precision, device)
    factor = 1.0 if size is None else size / min(frames.shape[-2:])
    seen = [round(edge * factor) for edge in frames.shape[-2:]]
    found = []
    for part in torch.split(frames, BATCH):
        batch = part.to(device)
        if size is not None:
            batch = F.interpolate(batch.float(), seen, mode="bilinear", antialias=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            masks = model.segment(batch)[:, regions]
            mirrored = model.segment(batch.flip(-1))[:, regions].flip(-1)
        mean = (masks + mirrored).float() / 2
        whole = F.interpolate(mean, frames.shape[-2:], mode="bilinear", align_corners=True)
        found.append(whole.cpu())
    return torch.cat(found)
