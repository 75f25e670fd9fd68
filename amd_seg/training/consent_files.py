"""Targets of self-training, one file a clip or photo.

Run it with `python -m amd_seg.training.consent_files WEIGHTS TARGETS OUT --videos DIR` (or
`--photos DIR`).
"""

import argparse
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.colour_model import redrawn_where_agreed
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.clip_targets import MotionEvidence, agreed_targets
from amd_seg.training.clips import find_clips, find_photos
from amd_seg.training.consent import EVIDENCE_RANGE, consent, flip_averaged_saliency
from amd_seg.training.movers import MoverTargets
from amd_seg.training.target_files import TargetJob, write_targets
from amd_seg.training.targets import TargetClip, load_target_clips, target_name
from amd_seg.weights import load_weights

logger = logging.getLogger(__name__)

Finish = Literal["none", "redraw", "vote"]
"""What is done to what network and teacher say together. redraw: a colour model redraws it where
it agrees; vote: the frames of a clip agree on it before, see `clip_targets`."""


def consented_targets(
    model: AMD, config: WeightsConfig, precision: str, finish: Finish, clip: TargetClip
) -> MoverTargets:
    """Targets of the frames that the teacher had targets for, in which the network has a say.

    The confidence is the mean of the teacher's and of how far the two agree; after a vote, how
    much of it the colour model left as it was.
    """
    channel = config.object_channel
    saliency = flip_averaged_saliency(model, clip.frames, channel, precision=precision).numpy()
    evidence = clip.targets[:, 0].numpy().astype(np.float32) / np.float32(255)
    frames = clip.frames.permute(0, 2, 3, 1).contiguous().numpy()
    certain = clip.confidence.numpy()
    if finish == "vote":
        motion = MotionEvidence(clip.indices, frames, evidence, certain)
        voted = agreed_targets(motion, saliency, clip.name)
        return _targets(clip, voted.targets[:, 0].numpy(), voted.confidence.numpy())
    joined = [consent(*pair) for pair in zip(saliency, evidence, strict=True)]
    agreement = np.array([agreed for _, agreed in joined], dtype=np.float32)
    masks = [mask for mask, _ in joined]
    if finish == "redraw":
        masks = [redrawn_where_agreed(*pair) for pair in zip(frames, masks, strict=True)]
    levels = np.stack([np.rint(mask * 255).astype(np.uint8) for mask in masks])
    return _targets(clip, levels, (certain + agreement) / np.float32(2))


def _targets(
    clip: TargetClip, masks: NDArray[np.uint8], confidence: NDArray[np.float32]
) -> MoverTargets:
    indices = np.array(clip.indices, dtype=np.int64)
    return MoverTargets(indices, masks, confidence.astype(np.float32))


def write_consented_targets(
    weights: str | os.PathLike[str],
    clips: Iterable[TargetClip],
    folder: str | os.PathLike[str],
    *,
    precision: str = "float32",
    finish: Finish = "none",
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Write the joined targets of clips, one file a clip, see `write_targets`.

    Args:
        weights: as `load_weights` takes them.
        clips: with the first teacher's targets, from `load_target_clips`.
        folder: where the files go; another than the teacher's.
        precision: of the network, see `flip_averaged_saliency`.
        finish: see `Finish`; all but none need OpenCV.
        on_clip: called with name and number of targets after each.

    Raises:
        WeightsError: the weights cannot be had.
    """
    pretrained = load_weights(weights)
    model = pretrained.model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = (pretrained.config.name, pretrained.config.sha256, EVIDENCE_RANGE, finish)
    jobs = {
        target_name(clip): TargetJob(
            partial(consented_targets, model, pretrained.config, precision, finish, clip),
            settings,
            clip.identity,
        )
        for clip in clips
    }
    return write_targets(jobs, folder, workers=1, on_file=on_clip)


def main(arguments: list[str] | None = None) -> None:
    """Write the joined targets of clips or photos; the log on stderr has a line each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.consent_files")
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
        "--finish",
        choices=get_args(Finish),
        default="none",
        help="redraw: by a colour model; vote: after a vote among the frames of each clip (OpenCV)",
    )
    options = parser.parse_args(arguments)
    found = find_clips([options.videos]) if options.videos else find_photos(options.photos)
    write_consented_targets(
        options.weights,
        load_target_clips(found, options.targets, short_edge=options.short_edge),
        options.out,
        precision=options.precision,
        finish=options.finish,
        on_clip=lambda name, count: logger.info("%s: %d targets", name, count),
    )


if __name__ == "__main__":
    main()
