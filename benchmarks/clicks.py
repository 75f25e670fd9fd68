"""python -m benchmarks.clicks DATA [--weights W] [--limit N]: what clicks bring, and cost.

With `--megapixels 12` photos of ECSSD are enlarged to that size and clicked in the middle: the
processor time of one thread, from the click to the mask, without reading and network.

DATA holds the folders ecssd, duts-tr, pascal-s, davis2016 (the first, a third and two thirds of
each sequence) and voc2012 (each object that another class shares its photo with; the map of what
stands out is often of another one). Those that are missing are left out. Settings were chosen on
the samples with odd numbers in the order of names; this scores the even ones.

A click is set as the field does: where the largest connected error is deepest (the maximum of its
distance transform). IoU is after 0, 1, 2, 3 and 5 clicks, at the photo's size; NoC@85 is the mean
number of clicks until it is 85 %, at most 20.

The baselines know the clicks alone, and take a frame around the photo for ground: GrabCut (5
rounds; what is nearer to an included point than to an excluded one or the frame starts as likely
object) and, where scikit-image is installed, its random walker.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from amd_seg.choices import DEFAULT_REFINEMENT
from amd_seg.clicks import segment_by_clicks
from amd_seg.evaluation.datasets import open_dataset
from amd_seg.media.images import read_image
from amd_seg.media.video import FrameReader, open_video
from amd_seg.segmenter import Segmenter
from amd_seg.video_segmenter import VideoSegmenter

Mask = NDArray[np.bool_]
Click = tuple[int, int, bool]
"""x, y, and whether it is included."""

SHOWN = (0, 1, 2, 3, 5)
GOAL, MOST = 0.85, 20
BASELINE_EDGE = 192
LEAST_SHARE = 0.02
"""Of its photo, that an object of VOC must have."""


@dataclass(frozen=True)
class Case:
    """An object to be had by clicks."""

    pixels: NDArray[np.uint8]
    truth: Mask
    cells: NDArray[np.float32]
    """The network's map of what stands out."""
    start: Mask
    """The mask before the first click."""


Method = Callable[[Case, list[Click]], Mask]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--limit", type=int, help="samples of each set, spread evenly")
    parser.add_argument("--odd", action="store_true", help="the samples that settings were set on")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--methods", nargs="*", default=["ours", "GrabCut", "random walker"])
    parser.add_argument("--adapt", nargs="*", metavar="SEQUENCE", help="of DAVIS, in place of it")
    parser.add_argument("--megapixels", type=float, help="print the time of clicks instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    methods = {name: method for name, method in METHODS.items() if name in options.methods}
    segmenter = Segmenter.from_pretrained(options.weights, device="cpu")
    if options.megapixels:
        large_clicks(options.data / "ecssd", options.megapixels, segmenter)
        return
    if options.adapt:
        adapted_table(options.data / "davis2016", options.adapt, segmenter)
        return
    print("| set | method | " + " | ".join(f"{n} clicks" for n in SHOWN) + " | NoC@85 | ms |")
    print("|---" * (len(SHOWN) + 4) + "|")
    for name in options.sets:
        if not (options.data / name).is_dir():
            continue
        pairs = SETS[name](options.data / name)[0 if options.odd else 1 :: 2]
        if options.limit and options.limit < len(pairs):
            places = np.linspace(0, len(pairs) - 1, options.limit).round().astype(int)
            pairs = [pairs[place] for place in places]
        cases = [case for pair in pairs if (case := case_of(segmenter, *pair)) is not None]
        for label, method in methods.items():
            print(row(f"{name} ({len(cases)})", label, method, cases), flush=True)


def large_clicks(folder: Path, megapixels: float, segmenter: Segmenter) -> None:
    """Print the time of first and second clicks in enlarged photos."""
    firsts, seconds = [], []
    for sample in open_dataset("ecssd", folder).samples[::40]:
        photo = Image.open(sample.image).convert("RGB")
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        size = round(photo.width * scale), round(photo.height * scale)
        result = segmenter(photo.resize(size, Image.Resampling.BICUBIC))
        middle, beside = ((size[0] * share, size[1] / 2) for share in (0.5, 0.4))
        for times, include in ((firsts, [middle]), (seconds, [middle, beside])):
            start = process_time()
            result.clicked(include).mask.any()
            times.append(process_time() - start)
    for name, times in (("first", firsts), ("second", seconds)):
        print(f"{name} click: {', '.join(f'{time:.2f}' for time in times)} s")


def adapted_table(folder: Path, sequences: list[str], segmenter: Segmenter) -> None:
    """Print J of sequences of DAVIS 2016: per image, adapted, adapted with a click in frame 0.

    The click is the deepest point of the object.
    """
    print("| sequence | per image | adapted | adapted, one click |\n|---|---|---|---|")
    video = VideoSegmenter(segmenter)
    for name in sequences:
        samples = [s for s in open_dataset("davis2016", folder).samples if s.sequence == name]
        clip = open_video(samples[0].image.parent)
        truths = [np.asarray(Image.open(s.masks[0]).convert("L")) > 127 for s in samples]
        x, y, _ = next_click(np.zeros_like(truths[0]), truths[0], [])
        scores = [j_of(video, clip, truths)]
        for include in ([], [(0, x, y)]):
            video.adapt(clip, include=include)
            scores.append(j_of(video, clip, truths))
            video.reset()
        print(f"| {name} | {' | '.join(f'{100 * score:.1f}' for score in scores)} |", flush=True)


def j_of(video: VideoSegmenter, clip: FrameReader, truths: list[Mask]) -> float:
    """Return the mean IoU of the frames but the first and the last, as DAVIS 2016 counts."""
    ious = [overlap(f.mask, truth) for f, truth in zip(video(clip), truths, strict=True)]
    return float(np.mean(ious[1:-1]))


def row(title: str, label: str, method: Method, cases: list[Case]) -> str:
    """Return a line of the table."""
    start = process_time()
    courses = [course(case, method) for case in cases]
    clicks = sum(len(ious) - 1 for ious in courses)
    milliseconds = 1000 * (process_time() - start) / max(clicks, 1)
    # Where no error is left, further clicks change nothing.
    shown = [np.mean([ious[min(n, len(ious) - 1)] for ious in courses]) for n in SHOWN]
    reached = [next((n for n, iou in enumerate(ious) if iou >= GOAL), MOST) for ious in courses]
    cells = [f"{100 * value:.1f}" for value in shown]
    return (
        f"| {title} | {label} | {' | '.join(cells)} | {np.mean(reached):.1f} | {milliseconds:.0f} |"
    )


def course(case: Case, method: Method) -> list[float]:
    """Return the IoU after 0, 1, 2, ... clicks, until `GOAL` is reached and `SHOWN` is known."""
    mask, clicks, ious = case.start, list[Click](), [overlap(case.start, case.truth)]
    while len(clicks) < max(SHOWN) or (max(ious) < GOAL and len(clicks) < MOST):
        click = next_click(mask, case.truth, clicks)
        if click is None:
            break
        clicks.append(click)
        mask = method(case, clicks)
        ious.append(overlap(mask, case.truth))
    return ious


def next_click(mask: Mask, truth: Mask, clicks: list[Click]) -> Click | None:
    """Return the deepest point of the largest connected error; None where there is no error."""
    largest: tuple[int, Mask, bool] | None = None
    for error, is_included in ((truth & ~mask, True), (mask & ~truth, False)):
        _, parts, facts, _ = cv2.connectedComponentsWithStats(error.astype(np.uint8))
        if len(facts) > 1 and (largest is None or facts[1:, 4].max() > largest[0]):
            part = 1 + int(facts[1:, 4].argmax())
            largest = int(facts[part, 4]), parts == part, is_included
    if largest is None:
        return None
    _, error, is_included = largest
    # The border of the photo is a border of the error.
    depth = cv2.distanceTransform(np.pad(error, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    for x, y, _ in clicks:
        depth[y, x] = 0
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return int(x), int(y), is_included


def overlap(mask: Mask, truth: Mask) -> float:
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def ours(case: Case, clicks: list[Click]) -> Mask:
    include, exclude = (
        [(x, y) for x, y, is_in in clicks if is_in is side] for side in (True, False)
    )
    return segment_by_clicks(case.pixels, case.cells, DEFAULT_REFINEMENT, include, exclude) > 0.5


def grabcut(case: Case, clicks: list[Click]) -> Mask:
    small, seeds = seeded(case, clicks)
    distances = [
        cv2.distanceTransform((seeds != side).astype(np.uint8), cv2.DIST_L2, 5) for side in (1, 2)
    ]
    labels = np.where(distances[0] < distances[1], cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    if not (seeds == 1).any():
        labels[:] = cv2.GC_PR_BGD
    labels[seeds == 1], labels[seeds == 2] = cv2.GC_FGD, cv2.GC_BGD
    is_object = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if min(is_object.sum(), (~is_object).sum()) >= 32:
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, labels, None, *models, 5, cv2.GC_INIT_WITH_MASK)
        is_object = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return enlarged(is_object.astype(np.float32), case)


def random_walker(case: Case, clicks: list[Click]) -> Mask:
    from skimage.segmentation import random_walker as walk

    small, seeds = seeded(case, clicks)
    if not (seeds == 1).any():
        return np.zeros_like(case.truth)
    found = walk(
        small, seeds, beta=130, mode="cg_j", tol=1e-3, return_full_prob=True, channel_axis=2
    )
    return enlarged(found[0].astype(np.float32), case)


def seeded(case: Case, clicks: list[Click]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return a small photo, and the seeds in it: 1 is the object, 2 is the ground, 0 is open."""
    height, width = case.truth.shape
    factor = min(1.0, BASELINE_EDGE / min(height, width))
    size = round(width * factor), round(height * factor)
    small = cv2.resize(case.pixels, size, interpolation=cv2.INTER_AREA)
    seeds = np.full(size[::-1], 2, np.int32)
    seeds[2:-2, 2:-2] = 0
    for x, y, is_included in clicks:
        centre = int(x * size[0] / width), int(y * size[1] / height)
        cv2.circle(seeds, centre, 3, 1 if is_included else 2, thickness=-1)
    return small, seeds


def enlarged(values: NDArray[np.float32], case: Case) -> Mask:
    return cv2.resize(values, case.truth.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


METHODS: dict[str, Method] = {
    "ours": ours,
    "GrabCut": grabcut,
    "random walker": random_walker,
}


def case_of(segmenter: Segmenter, image: Path, truth: Mask) -> Case | None:
    """Run the network on a photo; None where there is no object."""
    pixels = read_image(image).pixels
    result = segmenter(image)
    cells = result.region_masks[result.object_channel]
    return Case(pixels, truth, cells, result.saliency > 0.5) if truth.any() else None


Pairs = list[tuple[Path, Mask]]


def stills(name: str) -> Callable[[Path], Pairs]:
    def find(folder: Path) -> Pairs:
        samples = sorted(open_dataset(name, folder).samples, key=lambda sample: sample.name)
        if name == "davis2016":
            sequences: dict[str | None, list] = {}
            for sample in samples:
                sequences.setdefault(sample.sequence, []).append(sample)
            samples = [
                frames[len(frames) * third // 3]
                for third in range(3)
                for frames in sequences.values()
            ]
        return [(s.image, np.asarray(Image.open(s.masks[0]).convert("L")) > 127) for s in samples]

    return find


def objects_of_classes(folder: Path) -> Pairs:
    """Give the largest connected part of each class in photos of several classes."""
    return list(_objects_of_classes(folder))


def _objects_of_classes(folder: Path) -> Iterator[tuple[Path, Mask]]:
    for path in sorted((folder / "SegmentationClass").glob("*.png")):
        labels = np.asarray(Image.open(path))
        classes = [label for label in np.unique(labels) if label not in (0, 255)]
        if len(classes) < 2:
            continue
        for label in classes:
            _, parts, facts, _ = cv2.connectedComponentsWithStats(
                (labels == label).astype(np.uint8)
            )
            part = 1 + int(facts[1:, 4].argmax())
            if facts[part, 4] >= LEAST_SHARE * labels.size:
                yield folder / "JPEGImages" / f"{path.stem}.jpg", parts == part


SETS: dict[str, Callable[[Path], Pairs]] = {
    **{name: stills(name) for name in ("ecssd", "duts-tr", "pascal-s", "davis2016")},
    "voc2012": objects_of_classes,
}


if __name__ == "__main__":
    main()
