"""python benchmarks/flow.py CLIPS... --weights W: how far a model sees motion.

Compares the dense flow of weights with OpenCV's DIS (medium) at the weights' motion size, on pairs
that are 1, 2 and 3 frames apart. DIS is no truth: it is what the classical teacher has. Beside the
mean distance of the two stands that of no motion at all, and the share of the pixels within a
pixel of DIS.
"""

import argparse
import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from amd_seg.model.amd import AMD
from amd_seg.training.clips import find_clips
from amd_seg.training.motion_masks import dis_flow
from amd_seg.weights import load_weights

GAPS = (1, 2, 3)


def main() -> None:
    options = parse()
    cv2.setNumThreads(1)
    torch.set_num_threads(options.threads)
    for weights in options.weights:
        model = load_weights(weights).model.eval()
        rows = {gap: [] for gap in GAPS}
        for clip in find_clips(options.clips):
            for gap, frame_i, frame_j in pairs_of(clip, model, options.every):
                rows[gap].append(measure(model, frame_i, frame_j))
        print(f"{weights}, at {model.config.motion_size[0]}x{model.config.motion_size[1]}")
        print(f"{'gap':>5} {'pairs':>6} {'no motion':>10} {'flow':>6} {'within 1 px':>12}")
        rows["all"] = list(itertools.chain(*rows.values()))
        for gap, found in rows.items():
            still, apart, near = np.mean(found, axis=0)
            print(f"{gap:>5} {len(found):6} {still:10.2f} {apart:6.2f} {100 * near:11.0f}%")


def pairs_of(clip, model: AMD, every: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each gap in turn, from every n-th frame on; frames are at the motion size."""
    size = model.config.motion_size
    frames = [
        F.adaptive_avg_pool2d(torch.tensor(frame.pixels).permute(2, 0, 1)[None].float(), size)
        for frame in clip.open(short_edge=2 * min(size))
    ]
    for number, first in enumerate(range(0, len(frames) - max(GAPS), every)):
        gap = GAPS[number % len(GAPS)]
        yield gap, frames[first], frames[first + gap]


@torch.inference_mode()
def measure(model: AMD, frame_i: torch.Tensor, frame_j: torch.Tensor) -> tuple[float, float, float]:
    """Length of DIS's flow, distance of the model's from it, in pixels; share within one."""
    view = model(frame_i, frame_j, dense=True).view_i
    taught = classical_flow(view.target, view.source)
    apart = (view.flows[0] - taught).norm(dim=1)
    return (
        taught.norm(dim=1).mean().item(),
        apart.mean().item(),
        (apart < 1).float().mean().item(),
    )


def classical_flow(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Flow of DIS from target to source, each (1, 3, height, width) in 0..1: (1, 2, ...)."""
    frames = [
        (image[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        for image in (target, source)
    ]
    return torch.from_numpy(dis_flow(*frames)).permute(2, 0, 1)[None]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", help="as for amd-seg train")
    parser.add_argument("--weights", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=10, help="a pair each n-th frame")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
