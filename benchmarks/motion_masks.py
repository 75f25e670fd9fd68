"""python benchmarks/motion_masks.py DAVIS --every 10 [--set FIELD=VALUE].

Scores motion masks on a DAVIS-layout folder: J against the masks at threshold 0.5, mean over
sequences of the mean over frames. The masks are read for the score alone.
"""

import argparse
import ast
import dataclasses
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.colour_model import iou
from amd_seg.training.motion_masks import MotionMaskConfig, find_motion_masks


def score(images: Path, masks: Path, config: MotionMaskConfig) -> tuple[list[float], float, float]:
    """Give J of each frame with a mask, the share of frames with one, and CPU seconds."""
    files = sorted(images.glob("*.jpg"))
    frames = np.stack([np.asarray(Image.open(file)) for file in files])
    begun = time.process_time()
    found = list(find_motion_masks(frames, config))
    seconds = time.process_time() - begun
    scores = [
        iou(each.mask >= 128, read_mask(masks / f"{files[each.number].stem}.png")) for each in found
    ]
    asked = len(range(0, len(files), config.every))
    return scores, len(scores) / asked, seconds / asked


def read_mask(path: Path) -> NDArray[np.bool_]:
    return np.asarray(Image.open(path)) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("davis", type=Path)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    changes = {key: ast.literal_eval(value) for key, value in (s.split("=") for s in options.set)}
    config = dataclasses.replace(MotionMaskConfig(every=options.every), **changes)
    cv2.setNumThreads(1)
    rows = []
    print(f"OpenCV {cv2.__version__}, one thread; {config}")
    print(f"{'sequence':20} {'J':>5} {'frames with a mask':>21} {'CPU s a frame':>14}")
    for images in sorted((options.davis / "JPEGImages" / "480p").iterdir()):
        scores, share, seconds = score(
            images, options.davis / "Annotations" / "480p" / images.name, config
        )
        rows.append((100 * np.mean(scores) if scores else np.nan, share, seconds))
        print(f"{images.name:20} {rows[-1][0]:5.1f} {share:21.2f} {seconds:14.3f}", flush=True)
    mean, share, seconds = np.nanmean(rows, axis=0)
    print(f"{'mean where any':20} {mean:5.1f} {share:21.2f} {seconds:14.3f}")
    print(f"{'mean, none as 0':20} {np.nan_to_num(rows).mean(axis=0)[0]:5.1f}")


if __name__ == "__main__":
    main()
