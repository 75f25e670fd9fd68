"""Self-training: the next targets are what the network and the first teacher both say.

Run it with `python -m amd_seg.training.consent WEIGHTS TARGETS OUT --videos DIR` (or `--photos`).
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.colour_model import redrawn_where_agreed
from amd_seg.device import resolve_precision
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.clips import find_clips, find_photos
from amd_seg.training.movers import MoverTargets
from amd_seg.training.target_files import TargetJob, write_targets
from amd_seg.training.targets import TargetClip, load_target_clips, target_name
from amd_seg.weights import load_weights

logger = logging.getLogger(__name__)

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


def consented_targets(
    model: AMD, config: WeightsConfig, precision: str, is_redrawn: bool, clip: TargetClip
) -> MoverTargets:
    """Targets of the frames that the teacher had targets for, in which the network has a say.

    The confidence is the mean of the teacher's and of how far the two agree; `is_redrawn` lets the
    colour model redraw what they say together.
    """
    channel = config.object_channel
    saliency = flip_averaged_saliency(model, clip.frames, channel, precision=precision).numpy()
    evidence = clip.targets[:, 0].numpy().astype(np.float32) / 255
    joined = [consent(*pair) for pair in zip(saliency, evidence, strict=True)]
    agreement = np.array([agreed for _, agreed in joined], dtype=np.float32)
    masks = [mask for mask, _ in joined]
    if is_redrawn:
        frames = clip.frames.permute(0, 2, 3, 1).contiguous().numpy()
        masks = [redrawn_where_agreed(*pair) for pair in zip(frames, masks, strict=True)]
    return MoverTargets(
        indices=np.array(clip.indices, dtype=np.int64),
        masks=np.stack([np.rint(mask * 255).astype(np.uint8) for mask in masks]),
        confidence=((clip.confidence.numpy() + agreement) / 2).astype(np.float32),
    )


def write_consented_targets(
    weights: str | os.PathLike[str],
    clips: Iterable[TargetClip],
    folder: str | os.PathLike[str],
    *,
    precision: str = "float32",
    is_redrawn: bool = False,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Write the joined targets of clips, one file a clip, see `write_targets`.

    Args:
        weights: as `load_weights` takes them.
        clips: with the first teacher's targets, from `load_target_clips`.
        folder: where the files go; another than the teacher's.
        precision: of the network, see `flip_averaged_saliency`.
        is_redrawn: see `redrawn_where_agreed`; it needs OpenCV.
        on_clip: called with name and number of targets after each.

    Raises:
        WeightsError: the weights cannot be had.
        ConfigError: OpenCV is needed and not installed.
    """
    pretrained = load_weights(weights)
    model = pretrained.model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = (pretrained.config.name, pretrained.config.sha256, EVIDENCE_RANGE, is_redrawn)
    jobs = {
        target_name(clip): TargetJob(
            partial(consented_targets, model, pretrained.config, precision, is_redrawn, clip),
            settings,
        )
        for clip in clips
    }
    return write_targets(jobs, folder, workers=1, on_file=on_clip)


def main(arguments: list[str] | None = None) -> None:
    """Write the joined targets of clips or photos; the log on stderr has a line each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.consent")
    parser.add_argument("weights", help="of the network: a name, folder or file")
    parser.add_argument("targets", type=Path, help="folder of the first teacher's targets")
    parser.add_argument("out", type=Path, help="folder for the joined targets")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--videos", help="folder of the clips that the targets belong to")
    source.add_argument("--photos", help="folder of the photos that the targets belong to")
    parser.add_argument(
        "--short-edge", type=int, default=160, help="of the frames that the network sees, in pixels"
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--redraw", action="store_true", help="let a colour model redraw the targets (OpenCV)"
    )
    options = parser.parse_args(arguments)
    found = find_clips([options.videos]) if options.videos else find_photos(options.photos)
    write_consented_targets(
        options.weights,
        load_target_clips(found, options.targets, short_edge=options.short_edge),
        options.out,
        precision=options.precision,
        is_redrawn=options.redraw,
        on_clip=lambda name, count: logger.info("%s: %d targets", name, count),
    )


if __name__ == "__main__":
    main()
