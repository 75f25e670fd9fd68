"""python -m benchmarks.confidence DATA [--weights W]: what confidence knows of a mask.

DATA holds the folders ecssd and duts-tr. The first table ranks them by measures of what the
network says, against the true IoU of the mask (Spearman's correlation; ties share a rank); the
second tells, for values of --min-confidence, how often a picture without an object gets a mask,
how many photos keep theirs, and the mean true IoU of those that do and of those that do not.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from amd_seg.evaluation.datasets import open_dataset
from amd_seg.evaluation.metrics import intersection_over_union
from amd_seg.evaluation.predictions import truth_of
from amd_seg.segmentation import Segmentation
from amd_seg.segmenter import Segmenter
from tests.scenes import SCENES, scenes

SETS = ("ecssd", "duts-tr")
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

Cells = np.ndarray


def expected_iou(cells: Cells, mirrored: Cells) -> float:
    inside = cells > 0.5
    return float(cells[inside].sum() / max(inside.sum() + cells[~inside].sum(), 1e-9))


def contrast(cells: Cells, mirrored: Cells) -> float:
    inside = cells > 0.5
    return float(cells[inside].mean() - cells[~inside].mean()) if 0 < inside.mean() < 1 else 0.0


def mean_inside(cells: Cells, mirrored: Cells) -> float:
    inside = cells > 0.5
    return float(cells[inside].mean()) if inside.any() else 0.0


def size(cells: Cells, mirrored: Cells) -> float:
    return float((cells > 0.5).mean())


def decidedness(cells: Cells, mirrored: Cells) -> float:
    sure = np.clip(cells, 1e-9, 1 - 1e-9)
    return float((sure * np.log(sure) + (1 - sure) * np.log(1 - sure)).mean())


def agreement_over_flips(cells: Cells, mirrored: Cells) -> float:
    return float(np.minimum(cells, mirrored).sum() / np.maximum(cells, mirrored).sum())


def compactness(cells: Cells, mirrored: Cells) -> float:
    rows, columns = np.mgrid[: cells.shape[0], : cells.shape[1]]
    total = cells.sum()
    y, x = (cells * rows).sum() / total, (cells * columns).sum() / total
    spread = (cells * ((rows - y) ** 2 + (columns - x) ** 2)).sum() / total
    return -float(np.sqrt(spread) / np.hypot(*cells.shape))


MEASURES: tuple[Callable[[Cells, Cells], float], ...] = (
    *(expected_iou, contrast, mean_inside, size, decidedness),
    *(agreement_over_flips, compactness),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = Segmenter.from_pretrained(options.weights, device="cpu")
    found = {name: look_at(segmenter, options.data / name, name) for name in SETS}
    values = {name: np.array([row[1] for row in rows]) for name, rows in found.items()}
    ious = {name: np.array([row[2] for row in rows]) for name, rows in found.items()}
    confidences = np.array([row[0] for rows in found.values() for row in rows])
    print(f"| measure | {' | '.join(SETS)} | both |\n|{'---|' * (len(SETS) + 2)}")
    for place, measure in enumerate(MEASURES):
        pairs = [(values[name][:, place], ious[name]) for name in SETS]
        pairs.append(tuple(np.concatenate(side) for side in zip(*pairs, strict=True)))
        cells = (f"{spearman(*pair):.2f}" for pair in pairs)
        print(f"| {measure.__name__.replace('_', ' ')} | {' | '.join(cells)} |")
    everything = np.concatenate([ious[name] for name in SETS])
    print(f"| confidence, as it is used | | | {spearman(confidences, everything):.2f} |")
    report_levels(segmenter, confidences, everything)


def look_at(
    segmenter: Segmenter, folder: Path, name: str
) -> list[tuple[float, list[float], float]]:
    """Return the confidence, the measures and the true IoU of each photo of a set."""
    rows = []
    samples = open_dataset(name, folder).samples
    for sample, result in zip(samples, segmenter([s.image for s in samples]), strict=True):
        mirrored = segmenter(np.ascontiguousarray(result.photo.pixels[:, ::-1]))
        pair = cells_of(result), cells_of(mirrored)[:, ::-1]
        truth, _ = truth_of(sample)
        iou = intersection_over_union(result.mask, truth)
        rows.append((result.confidence, [measure(*pair) for measure in MEASURES], iou))
    return rows


def cells_of(result: Segmentation) -> Cells:
    return result.region_masks[result.object_channel].astype(np.float64)


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    _, groups, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[groups]


def report_levels(segmenter: Segmenter, confidences: np.ndarray, ious: np.ndarray) -> None:
    without = np.array([segmenter(pixels).confidence for _, pixels in scenes(20)])
    print(f"\n{len(without)} pictures without an object: {', '.join(SCENES)}; {len(ious)} photos\n")
    print("| --min-confidence | no object, a mask | photos, a mask | their IoU | the others' |")
    print("|---|---|---|---|---|")
    for level in LEVELS:
        is_kept = (confidences >= level) & (confidences > 0)
        others = f"{100 * ious[~is_kept].mean():.1f}" if not is_kept.all() else "-"
        share = f"{((without >= level) & (without > 0)).mean():.0%} | {is_kept.mean():.0%}"
        print(f"| {level} | {share} | {100 * ious[is_kept].mean():.1f} | {others} |")


if __name__ == "__main__":
    main()
