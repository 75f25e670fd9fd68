"""python benchmarks/video.py CLIP [--device cuda]: seconds and memory of segmenting a clip.

A row for each backbone, in a process of its own: seconds to decode the clip, for the network
alone, to refine, draw and encode its overlay, and for all of it as `amd-seg video` does it,
overlapped; the peak of memory above what the process held with the weights loaded. Weights are
random: they change nothing about the time. `benchmarks/adaptation.py` measures the learning.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from adaptation import GIB, WEIGHTS, peak

from amd_seg.choices import MAX_PIXELS
from amd_seg.device import resolve_device
from amd_seg.media.video import FrameReader, open_video
from amd_seg.media.video_writer import open_writer
from amd_seg.model.amd import AMD
from amd_seg.prefetch import map_ahead
from amd_seg.segmentation import FrameSegmentation
from amd_seg.segmenter import Segmenter, prepare
from amd_seg.video_segmenter import VideoSegmenter


def main() -> None:
    options = parse()
    clip = open_video(options.clip)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch "
        f"{torch.__version__} ({options.threads} threads), device {options.device}, "
        f"{options.precision}; {options.clip}: {sum(1 for _ in clip)} frames of {clip.width}x"
        f"{clip.height}; median of {options.repeats}\n\n"
        "| weights | decode | network | refine, draw, encode | all, overlapped | peak GiB |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    context = get_context("spawn")
    for name in options.weights:
        # Peaks are those of a process: each row needs its own.
        with context.Pool(1) as pool:
            print(pool.apply(row, (options, name)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", help="a video file or a folder of frames")
    parser.add_argument("--weights", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def row(options: argparse.Namespace, name: str) -> str:
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    weights = WEIGHTS[name]
    model = AMD(weights.model).eval()
    video = VideoSegmenter(Segmenter(model, weights, device=device, precision=options.precision))
    held = peak(device)
    clip = open_video(options.clip)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "twin.mp4")
        whole = timed(lambda: video.write(clip, target, output="overlay", overwrite=True), options)
        most = (peak(device) - held) / GIB  # Before the parts, which hold the clip in memory.
        parts = [timed(work, options) for work in stages(video, clip, target)]
    cells = (name, *(f"{seconds:.2f} s" for seconds in (*parts, whole)), f"{most:.2f}")
    return f"| {' | '.join(cells)} |"


def stages(
    video: VideoSegmenter, clip: FrameReader, target: Path
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """What decodes, what runs the network, and what draws and encodes, each on its own."""
    segmenter = video.segmenter
    found: list[FrameSegmentation] = list(video(clip))
    size = segmenter.config.input_size
    frames = torch.stack([prepare(frame.photo, size, MAX_PIXELS)[1] for frame in found])

    def decode() -> None:
        for _ in clip:
            pass

    def network() -> None:
        for batch in frames.split(8):
            segmenter.region_masks(batch)

    def encode() -> None:
        # New objects: those of the last round hold refined maps.
        fresh = map(replace, found)
        with open_writer(target, clip) as writer:

            def draw(frame: FrameSegmentation) -> tuple[Any, int, float]:
                return writer.prepare(np.asarray(frame.overlay())), frame.index, frame.time

            for drawn in map_ahead(draw, fresh, ahead=8):
                writer.write(*drawn)

    return decode, network, encode


def timed(work: Callable[[], object], options: argparse.Namespace) -> float:
    """The median seconds of the repeats, after one to warm up."""
    seconds = []
    for _ in range(options.repeats + 1):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return median(seconds[1:])


if __name__ == "__main__":
    main()
