"""python benchmarks/random_sheet.py SHEET.jpg --photos DATASET DIR ... --clips DIR [--seed 0].

A picture of what the released weights do to photos and frames that chance chose: each with the
outline of its mask, and the mask's IoU with the ground truth. Nothing is left out or drawn again.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from amd_seg import Segmenter
from amd_seg.evaluation.datasets import Sample, open_dataset
from amd_seg.evaluation.metrics import intersection_over_union
from amd_seg.evaluation.predictions import truth_of

TILE = (200, 150)
CAPTION = 14
COLUMNS = 6


def main() -> None:
    options = parse()
    draw = random.Random(options.seed)
    photos = [sample for pair in options.photos for sample in open_dataset(*pair).samples]
    frames = list(open_dataset("davis2016", options.clips).samples)
    chosen = draw.sample(photos, options.count[0]) + draw.sample(frames, options.count[1])
    segmenter = Segmenter.from_pretrained(options.weights, device="cpu")
    tiles = [tile(segmenter, sample) for sample in chosen]
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE[0], rows * (TILE[1] + CAPTION)), "white")
    for place, picture in enumerate(tiles):
        sheet.paste(picture, (place % COLUMNS * TILE[0], place // COLUMNS * picture.height))
    sheet.save(options.sheet, quality=80)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument(
        "--photos", nargs=2, action="append", required=True, metavar=("DATASET", "DIR")
    )
    parser.add_argument("--clips", required=True, metavar="DIR", help="in the layout of DAVIS")
    parser.add_argument(
        "--count", nargs=2, type=int, default=(24, 12), metavar=("PHOTOS", "FRAMES")
    )
    parser.add_argument("--weights")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def tile(segmenter: Segmenter, sample: Sample) -> Image.Image:
    """One picture with its mask, and below it its name and IoU in percent."""
    result = segmenter(sample.image)
    truth, void = truth_of(sample)
    score = 100 * intersection_over_union(result.mask, truth, void)
    picture = Image.new("RGB", (TILE[0], TILE[1] + CAPTION), "white")
    picture.paste(ImageOps.pad(result.overlay(), TILE, color="white"))
    ImageDraw.Draw(picture).text((2, TILE[1]), f"{sample.name}  {score:.0f}", fill="black")
    return picture


if __name__ == "__main__":
    main()
