"""python benchmarks/movers.py DAVIS --every 10 [--flow W [--motion-size HxW]] [--set FIELD=VALUE].

Scores the motion teacher on a DAVIS-layout folder: J against the masks at threshold 0.5, mean over
sequences of the mean over frames. The masks are read for the score alone.
"""

import argparse
import ast
import dataclasses
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from amd_seg.colour_model import iou
from amd_seg.training.background import Flow, dis_flow
from amd_seg.training.movers import MoverConfig, mover_targets
from amd_seg.training.own_flow import OwnFlow


def score(
    images: Path, masks: Path, config: MoverConfig, flow: Flow
) -> tuple[list[float], float, float]:
    """Give J of each frame with a target, the share of frames with one, and CPU seconds."""
    files = sorted(images.glob("*.jpg"))
    frames = np.stack([np.asarray(Image.open(file)) for file in files])
    begun = time.process_time()
    found = mover_targets(frames, config, flow)
    seconds = time.process_time() - begun
    scores = [
        iou(target >= 128, read_mask(masks / f"{files[index].stem}.png"))
        for index, target in zip(found.indices, found.masks, strict=True)
    ]
    asked = len(range(0, len(files), config.every))
    return scores, len(scores) / asked, seconds / asked


def read_mask(path: Path) -> NDArray[np.bool_]:
    return np.asarray(Image.open(path)) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("davis", type=Path)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--flow", metavar="W", help="weights whose own flow is used, not DIS")
    parser.add_argument("--motion-size", metavar="HxW", help="where that flow is found")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    changes = {key: ast.literal_eval(value) for key, value in (s.split("=") for s in options.set)}
    config = dataclasses.replace(MoverConfig(every=options.every), **changes)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    size = tuple(map(int, options.motion_size.split("x"))) if options.motion_size else None
    flow = OwnFlow(options.flow, size) if options.flow else dis_flow
    rows = []
    print(f"OpenCV {cv2.__version__}, one thread; {config}")
    print(f"{'sequence':20} {'J':>5} {'frames with a target':>21} {'CPU s a frame':>14}")
    for images in sorted((options.davis / "JPEGImages" / "480p").iterdir()):
        scores, share, seconds = score(
            images, options.davis / "Annotations" / "480p" / images.name, config, flow
        )
        rows.append((100 * np.mean(scores) if scores else np.nan, share, seconds))
        print(f"{images.name:20} {rows[-1][0]:5.1f} {share:21.2f} {seconds:14.3f}", flush=True)
    mean, share, seconds = np.nanmean(rows, axis=0)
    print(f"{'mean where any':20} {mean:5.1f} {share:21.2f} {seconds:14.3f}")
    print(f"{'mean, none as 0':20} {np.nan_to_num(rows).mean(axis=0)[0]:5.1f}")


if __name__ == "__main__":
    main()
