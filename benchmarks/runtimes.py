"""python benchmarks/runtimes.py PHOTOS: torch and onnxruntime on the CPU, the released weights.

End to end is what `amd-seg image` does: read a photo, segment, refine, write the mask as PNG; the
network alone is `Segmenter.region_masks` on frames of the network's size. The last row is the
whole graph of the .onnx file, without the package around it: from a decoded photo to its saliency,
without refinement. All run one thread, by turns, photo by photo or in batches; times are processor
time of the process, so that a busy machine does not count, and every cell is the median of the
rounds with the least and the most. bfloat16 without AVX-512 is emulated.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import onnxruntime
import torch

from amd_seg.media.images import read_image
from amd_seg.network_input import prepare
from amd_seg.onnx_export import export_onnx
from amd_seg.onnx_network import open_session
from amd_seg.segmenter import Segmenter


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    paths = sorted(Path(options.photos).glob("*.jpg"))[: options.count]
    pixels = np.mean([read_image(path).pixels.size / 3e6 for path in paths])
    print(
        f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, torch "
        f"{torch.__version__}, onnxruntime {onnxruntime.__version__}, 1 thread; {len(paths)} "
        f"photos of {pixels:.2f} megapixels in the mean, batches of {options.batch_size}; "
        f"processor milliseconds a photo, median (least to most) of {options.rounds} rounds\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        work = rows(paths, Path(folder), options)
        times = measured(work, len(paths), options.rounds)
    print("| | end to end | network alone |\n| --- | --- | --- |")
    for name in options.runs:
        cells = (cell(times.get((name, part), [])) for part in ("whole", "network"))
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nthe graph alone, photo to saliency: {cell(times['graph', 'whole'])}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", help="folder of .jpg files")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--runs", nargs="+", default=["torch float32", "torch bfloat16", "onnxruntime"]
    )
    return parser.parse_args()


def rows(
    paths: list[Path], folder: Path, options: argparse.Namespace
) -> dict[tuple[str, str], Callable[[], object]]:
    """Return what is timed, by its row and column."""
    file = export_onnx(folder / "model.onnx").path
    session = open_session(file)
    segmenters = {
        "torch float32": lambda: Segmenter.from_pretrained(device="cpu"),
        "torch bfloat16": lambda: Segmenter.from_pretrained(device="cpu", precision="bfloat16"),
        "onnxruntime": lambda: Segmenter.from_pretrained(file),
    }
    work: dict[tuple[str, str], Callable[[], object]] = {}
    for name in options.runs:
        segmenter = segmenters[name]()
        work[name, "whole"] = end_to_end(segmenter, paths, folder, options.batch_size)
        work[name, "network"] = network_alone(segmenter, paths)
    photos = [read_image(path).pixels[None] for path in paths]
    work["graph", "whole"] = lambda: [session.run(["saliency"], {"image": p}) for p in photos]
    return work


def end_to_end(
    segmenter: Segmenter, paths: list[Path], folder: Path, batch_size: int
) -> Callable[[], None]:
    def run() -> None:
        for result in segmenter(paths, batch_size=batch_size):
            result.save(folder / "mask.png")

    return run


def network_alone(segmenter: Segmenter, paths: list[Path]) -> Callable[[], None]:
    size = segmenter.config.input_size
    frames = [prepare(path, (size,), 10**9).frames[0][None] for path in paths]

    def run() -> None:
        for frame in frames:
            segmenter.region_masks(frame)

    return run


def measured(
    work: dict[tuple[str, str], Callable[[], object]], photos: int, rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Return the milliseconds a photo of each round; the rows take turns, after one to warm up."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            start = process_time()
            run()
            if turn > 0:
                times[name].append(1000 * (process_time() - start) / photos)
    return times


def cell(milliseconds: list[float]) -> str:
    least, most = min(milliseconds), max(milliseconds)
    return f"{median(milliseconds):.0f} ({least:.0f} to {most:.0f})"


if __name__ == "__main__":
    main()
