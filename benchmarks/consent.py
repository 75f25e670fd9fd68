"""python benchmarks/consent.py DAVIS WEIGHTS: the quality of self-training's targets.

J on a DAVIS-layout folder, at threshold 0.5, over the frames that the motion teacher has targets
for: of the network alone, of the teacher alone, and of what `consent_files` makes of both. The
masks are read for the score alone.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import torch
from movers import read_mask

from amd_seg.colour_model import iou
from amd_seg.training.clips import find_clips
from amd_seg.training.consent import flip_averaged_saliency
from amd_seg.training.consent_files import Finish, consented_targets
from amd_seg.training.mover_files import write_targets_of_clips
from amd_seg.training.movers import MoverConfig
from amd_seg.training.targets import TargetClip, load_target_clips
from amd_seg.weights import load_weights

SHORT_EDGE = 160
ROWS = ("network", "teacher", *(f"both, {finish}" for finish in get_args(Finish)))


def main() -> None:
    options = parse()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pretrained = load_weights(options.weights)
    model, config = pretrained.model.eval(), pretrained.config
    clips = find_clips([str(options.davis)])
    teacher = MoverConfig(mask_height=SHORT_EDGE, every=4, partners=(1, -1, 3, -3))
    print(f"{'sequence':20} frames  {'  '.join(ROWS)}")
    means = []
    with tempfile.TemporaryDirectory() as folder:
        write_targets_of_clips(clips, folder, teacher, workers=1)
        for clip in load_target_clips(clips, Path(folder), short_edge=SHORT_EDGE):
            saliency = flip_averaged_saliency(model, clip.frames, config.object_channel)
            found = [saliency.numpy() * 255, clip.targets[:, 0].numpy()]
            found += [
                consented_targets(model, config, "float32", finish, clip).masks
                for finish in get_args(Finish)
            ]
            means.append([mean_j(options.davis, clip, masks) for masks in found])
            name, count = Path(clip.name).name, len(clip.indices)
            print(f"{name:20} {count:6}  {cells(means[-1])}", flush=True)
    print(f"{'mean':20} {'':6}  {cells(np.mean(means, axis=0))}")


def cells(scores: Iterable[float]) -> str:
    return "  ".join(f"{j:{len(row)}.1f}" for j, row in zip(scores, ROWS, strict=True))


def mean_j(davis: Path, clip: TargetClip, masks: np.ndarray) -> float:
    """Mean J, 0..100, of maps (frame, height, width) in 0..255, enlarged to the truth's size."""
    files = sorted((davis / "Annotations" / "480p" / Path(clip.name).name).glob("*.png"))
    scores = []
    for index, mask in zip(clip.indices, masks, strict=True):
        truth = read_mask(files[index])
        whole = cv2.resize(mask.astype(np.float32), truth.shape[::-1])
        scores.append(iou(whole >= 127.5, truth))
    return 100 * float(np.mean(scores))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("davis", type=Path)
    parser.add_argument("weights", help="of the network: a name, folder or file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
