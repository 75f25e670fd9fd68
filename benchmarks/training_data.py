"""python benchmarks/training_data.py CLIPS... [--device cuda]: pairs/s from memory and files."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator

import av
import torch

from amd_seg.training.clips import find_clips
from amd_seg.training.data import FrameStore, PairSampler
from amd_seg.training.loader import PairLoader
from amd_seg.training.pairs import Crop, PairBatch


def pairs_per_second(batches: Iterator[PairBatch], batch_size: int, seconds: float) -> str:
    """Return the median and the spread over five stretches, after three steps to warm up."""
    for _ in range(3):
        next(batches)
    rates: list[float] = []
    for _ in range(5):
        # A stretch, not a step: workers hand over what they have ready in bursts.
        steps, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds / 5:
            batch = next(batches)
            steps += 1
        if batch.frame_i.is_cuda:
            torch.cuda.synchronize()
        rates.append(steps * batch_size / (time.perf_counter() - start))
    return f"{statistics.median(rates):8.1f} pairs/s ({min(rates):.1f} to {max(rates):.1f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", help="folders or files of clips")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--short-edge", type=int, default=144)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10, help="for each line")
    parser.add_argument("--limit", type=int, help="use the first N clips")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    print(
        f"torch {torch.__version__}, av {av.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, device {given.device}"
    )
    clips = find_clips(given.clips)[: given.limit]
    wall, cpu = time.perf_counter(), time.process_time()
    store = FrameStore.decode(clips, short_edge=given.short_edge, device=given.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"decoding {len(clips)} clips to short edge {given.short_edge}: {wall:.1f} s "
        f"({cpu:.1f} s of the CPU), {store.frame_count} frames, {store.gib:.2f} GiB"
    )
    crop = Crop(size=(given.crop, given.crop), scale=(0.5, 1.0), flip=True)
    shape = f"{given.batch_size} pairs of {given.crop}x{given.crop}"
    sampler = PairSampler(store, batch_size=given.batch_size, crop=crop)
    print(f"{shape}, memory: ", pairs_per_second(sampler, given.batch_size, given.seconds))
    loader = PairLoader(
        clips,
        batch_size=given.batch_size,
        short_edge=given.short_edge,
        crop=crop,
        device=given.device,
        workers=given.workers,
    )
    rate = pairs_per_second(loader, given.batch_size, given.seconds)
    print(f"{shape}, files, {given.workers} workers: ", rate)


if __name__ == "__main__":
    main()
