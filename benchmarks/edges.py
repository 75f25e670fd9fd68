"""python benchmarks/edges.py DATA [--weights W]: what --refine brings, and what it costs.

DATA holds the folders ecssd, duts-tr, pascal-s and davis2016; those that are missing are left
out, and of the videos every n-th frame is scored. A row's time is processor time of one thread for
a photo of ECSSD, from its file to its mask, writing left out: the median of the repeats.
"""

import argparse
import platform
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from time import process_time

import torch

from amd_seg.choices import REFINEMENTS
from amd_seg.evaluation.datasets import Dataset, open_dataset
from amd_seg.evaluation.predictions import from_network
from amd_seg.evaluation.report import shown
from amd_seg.evaluation.scoring import evaluate
from amd_seg.segmenter import Segmenter

STILLS = ("ecssd", "duts-tr", "pascal-s")
SCORES = {
    "saliency": {"f_max": "max F", "mae": "MAE", "iou_half": "IoU", "boundary_f": "bound. F"},
    "video": {"j_mean": "J", "f_mean": "bound. F"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--every", type=int, default=10, help="frames of a video")
    parser.add_argument("--photos", type=int, default=24, help="to time")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)
    datasets = list(find(options.data, options.every))
    costs = times(options.data / "ecssd", options)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread; "
        f"weights {options.weights or 'bundled'}; " + ", ".join(data.title for data in datasets)
    )
    print(heading(datasets), flush=True)
    for refine in REFINEMENTS:
        cells = [score for data in datasets for score in scores(data, refine, options.weights)]
        cost = f"{1000 * costs[refine]:.0f} | {costs[refine] / costs['none']:.2f}"
        print(f"| {refine} | {' | '.join(cells)} | {cost} |", flush=True)


def find(folder: Path, every: int) -> Iterator[Dataset]:
    for stills in STILLS:
        if (folder / stills).is_dir():
            yield open_dataset(stills, folder / stills)
    if (folder / "davis2016").is_dir():
        yield open_dataset("davis2016", folder / "davis2016").subset(every=every, limit=None)


def heading(datasets: list[Dataset]) -> str:
    labels = [
        f"{data.benchmark.name} {label}"
        for data in datasets
        for label in SCORES[data.benchmark.kind].values()
    ]
    columns = ["--refine", *labels, "ms a photo", "times none"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def scores(data: Dataset, refine: str, weights: str | None) -> list[str]:
    maps = from_network(data, weights, {"device": "cpu"}, {"refine": refine})
    found = evaluate(data, maps, method=refine).scores
    return [shown(key, found[key]) for key in SCORES[data.benchmark.kind]]


def times(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of processor time that each setting takes for a photo.

    The settings take turns, so that a busy machine slows all of them alike.
    """
    samples = open_dataset("ecssd", folder).subset(every=1, limit=options.photos).samples
    photos = [sample.image for sample in samples if sample.image is not None]
    segmenter = Segmenter.from_pretrained(options.weights, device="cpu")
    seconds: dict[str, list[float]] = {refine: [] for refine in REFINEMENTS}
    for _ in range(options.repeats + 1):
        for refine, taken in seconds.items():
            taken.append(time_of(segmenter, photos, refine) / len(photos))
    # The first turn warms up.
    return {refine: median(taken[1:]) for refine, taken in seconds.items()}


def time_of(segmenter: Segmenter, photos: list[Path], refine: str) -> float:
    start = process_time()
    with closing(segmenter.stream(photos, refine=refine)) as results:
        for result in results:
            assert result.mask is not None
    return process_time() - start


if __name__ == "__main__":
    main()
