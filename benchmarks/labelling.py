"""python benchmarks/labelling.py ECSSD [--photos 100000]: COCO files and the tools that read them.

ECSSD holds images/ and masks/. `amd-seg image --output coco` writes its masks; pycocotools scores
them against a file made from masks/, beside the IoU that `amd-seg evaluate` has; supervision, where
it is installed, reads the file, and its masks are compared pixel by pixel. Then memory and time of
a file of that many photos, whose masks are drawn from those.
"""

import argparse
import contextlib
import io
import json
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
from click.testing import CliRunner
from pycocotools import mask as runs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amd_seg.annotations import AnnotationFile, Thing, coco_annotations
from amd_seg.cli import cli
from amd_seg.evaluation.datasets import Dataset, open_dataset
from amd_seg.evaluation.metrics import intersection_over_union
from amd_seg.evaluation.predictions import truth_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ecssd", type=Path)
    parser.add_argument("--photos", type=int, default=100_000)
    options = parser.parse_args()
    dataset = open_dataset("ecssd", options.ecssd)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for mask_format in ("rle", "polygon"):
            found = folder / f"{mask_format}.json"
            command = ["image", str(options.ecssd / "images"), "--output", "coco", "-o", str(found)]
            result = CliRunner().invoke(cli, [*command, "--mask-format", mask_format])
            assert result.exit_code == 0, result.stderr
            score(found, write_truth(dataset, folder / "truth.json"), dataset)
            if mask_format == "rle":
                read_by_supervision(found, options.ecssd / "images")
        # In a process of its own, whose peak of memory is not that of the network.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            files = (folder / "rle.json", folder / "many.json")
            print(pool.submit(many, *files, options.photos).result())


def write_truth(dataset: Dataset, path: Path) -> Path:
    file = AnnotationFile(path, "coco", info={"weights": "truth"}, overwrite=True)
    for sample in dataset.samples:
        assert sample.image is not None
        mask = truth_of(sample)[0]
        marks = coco_annotations([Thing(1, mask)])
        file.add(sample.image.name, mask.shape[1], mask.shape[0], marks)
    file.finish()
    return path


def score(found: Path, truth: Path, dataset: Dataset) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        numbers = {image["file_name"]: image["id"] for image in known.dataset["images"]}
        content = json.loads(found.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            annotation["image_id"] = numbers[names[annotation["image_id"]]]
        results = known.loadRes(content["annotations"])
        evaluation = COCOeval(known, results, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ious = []
    for sample in dataset.samples:
        assert sample.image is not None
        mask = truth_of(sample)[0]
        mine = np.zeros_like(mask)
        for annotation in results.loadAnns(results.getAnnIds(numbers[sample.image.name])):
            mine |= results.annToMask(annotation) > 0
        ious.append(intersection_over_union(mine, mask))
    ap, ap_half = evaluation.stats[:2]
    print(f"{found.stem}: {found.stat().st_size / len(names) / 1024:.1f} KB a photo,", end=" ")
    print(f"AP {100 * ap:.1f}, AP at 0.5 {100 * ap_half:.1f}, mean IoU {100 * np.mean(ious):.1f}")


def read_by_supervision(found: Path, images: Path) -> None:
    try:
        import supervision
    except ImportError:
        print("supervision is not installed")
        return
    read = supervision.DetectionDataset.from_coco(str(images), str(found), force_masks=True)
    by_name = {Path(path).name: detections for path, _, detections in read}
    content = json.loads(found.read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    differing = 0
    for annotation in content["annotations"]:
        drawn = by_name[names[annotation["image_id"]]].mask[0]
        differing += int((drawn != (runs.decode(annotation["segmentation"]) > 0)).sum())
    print(f"supervision {supervision.__version__}: {differing} pixels differ", end=" ")
    print(f"in {len(content['annotations'])} masks")


def many(source: Path, target: Path, photos: int) -> str:
    content = json.loads(source.read_text())
    marks = [
        {key: a[key] for key in a if key not in ("id", "image_id")} for a in content["annotations"]
    ]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, perf_counter()
    file = AnnotationFile(target, "coco", info=content["info"])
    for number in range(photos):
        file.add(f"{number:06}.jpg", 400, 300, [marks[number % len(marks)]])
    file.finish()
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    size, seconds = target.stat().st_size / 1e6, perf_counter() - start
    return f"{photos:,} photos: {size:.0f} MB in {seconds:.0f} s, {more / 1024:.0f} MB of memory"


if __name__ == "__main__":
    main()
