"""python benchmarks/finetuning.py VOC2012 --out runs --set precision=bfloat16.

Fine-tunes on the training list of a folder in VOC's layout, from weights and from scratch, with
the same steps, crops and first head for each seed, and scores its val list: mean and standard
deviation over the seeds of mIoU and of each class's IoU, as Markdown. Runs that are done are not
run again, others go on, so that it may be stopped. --sheet draws the labels of some photos.
"""

import argparse
import ast
import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from amd_seg import SemanticSegmenter, __version__
from amd_seg.classes import Classes
from amd_seg.evaluation.datasets import Dataset, open_dataset
from amd_seg.evaluation.predictions import from_semantic_network
from amd_seg.evaluation.scoring import Evaluation, evaluate
from amd_seg.media.images import save_image
from amd_seg.media.labels import Labels, read_labels, render_labels_overlay
from amd_seg.model.config import SemanticConfig
from amd_seg.training.config import FINETUNE_PRESETS, FinetuneConfig
from amd_seg.training.finetune import SCRATCH, finetune, model_for
from amd_seg.training.labelled_photos import open_voc2012

SHEET_PHOTOS, SHEET_SEED = 8, 0
"""How many of the photos scored are drawn, at random: none is chosen for how it came out."""
CELL = (200, 150)
"""Largest width and height of a drawing, in pixels."""


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    config = FINETUNE_PRESETS[options.preset]
    changes = dict(text.split("=", 1) for text in options.set)
    config = dataclasses.replace(config, **{key: value_of(text) for key, text in changes.items()})
    model = model_for(options.weights, len(open_voc2012(options.voc).classes))
    dataset = open_dataset("voc2012", options.voc)
    print(f"amd-seg {__version__}, torch {torch.__version__}, {options.threads} thread(s)")
    print(f"{config}\n{model}", flush=True)
    results: dict[str, list[Evaluation]] = {}
    for seed in options.seeds:
        for start in (SCRATCH, options.weights or "amd-resnet18"):
            run = options.out / f"{Path(start).name}-{seed}"
            train(options.voc, run, start, model, dataclasses.replace(config, seed=seed))
            call = {"flip": options.flip}
            maps = from_semantic_network(dataset, str(run), {"device": "cpu"}, call)
            results.setdefault(start, []).append(evaluate(dataset, maps, method=start))
            miou = results[start][-1].scores["miou"]
            print(f"{start}, seed {seed}: mIoU {100 * miou:.1f}", flush=True)
    print(table(results, dataset.title))
    if options.sheet is not None:
        runs = [options.out / f"{Path(start).name}-{options.seeds[0]}" for start in results]
        save_image(sheet(dataset, runs), options.sheet)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", help="As amd-seg finetune takes them; the bundled ones.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", choices=list(FINETUNE_PRESETS), default="cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path)
    return parser.parse_args()


def value_of(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def train(voc: Path, run: Path, start: str, model: SemanticConfig, config: FinetuneConfig) -> None:
    if (run / "weights").is_dir():
        return
    goes_on = any((run / "checkpoints").glob("step-*"))
    labelled = open_voc2012(voc)
    finetune(labelled, run, model=model, config=config, weights=start, device="cpu", resume=goes_on)


def table(results: dict[str, list[Evaluation]], title: str) -> str:
    names = list(next(iter(results.values()))[0].groups)
    lines = [
        f"| {title}, IoU | {' | '.join(results)} | difference |",
        f"|---|{'---|' * len(results)}---|",
    ]
    for row in ("mIoU", *names):
        found = [np.array([iou_of(e, row) for e in group]) for group in results.values()]
        cells = [
            f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
            for values in found
        ]
        cells.append(f"{(found[1] - found[0]).mean():+.1f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def iou_of(evaluation: Evaluation, row: str) -> float:
    share = evaluation.scores["miou"] if row == "mIoU" else evaluation.groups[row]["iou"]
    return 100 * share


def sheet(dataset: Dataset, runs: list[Path]) -> Image.Image:
    """Draw label maps, two photos a row: the truth, then each run's.

    The photos themselves are left out: they are Flickr's, and not ours to pass on.
    """
    segmenters = [SemanticSegmenter.from_pretrained(run, device="cpu") for run in runs]
    classes = segmenters[0].classes
    random = np.random.default_rng(SHEET_SEED)
    rows: list[list[Image.Image]] = []
    for place in sorted(random.choice(len(dataset.samples), SHEET_PHOTOS, replace=False)):
        sample = dataset.samples[place]
        assert sample.image is not None
        truth = read_labels(sample.masks[0], classes)
        found = [segmenter(sample.image).labels for segmenter in segmenters]
        rows.append([drawn(labels, classes) for labels in (truth, *found)])
    return tiled(rows)


def drawn(labels: Labels, classes: Classes) -> Image.Image:
    """Draw a label map on a light ground, with a legend."""
    image = Image.fromarray(labels)
    scale = min(CELL[0] / image.width, CELL[1] / image.height)
    size = (round(image.width * scale), round(image.height * scale))
    small = np.asarray(image.resize(size, Image.Resampling.NEAREST))
    return render_labels_overlay(np.full((*small.shape, 3), 225, np.uint8), small, classes)


def tiled(rows: list[list[Image.Image]]) -> Image.Image:
    columns, gap = len(rows[0]), 6
    width, height = CELL[0] + gap, CELL[1] + gap
    lines = -(-len(rows) // 2)
    canvas = Image.new("RGB", (2 * columns * width + 3 * gap, lines * height), "white")
    for number, row in enumerate(rows):
        left = number % 2 * (columns * width + 3 * gap)
        for column, image in enumerate(row):
            canvas.paste(image, (left + column * width, number // 2 * height))
    return canvas


if __name__ == "__main__":
    main()
