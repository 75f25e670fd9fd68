"""COCO, YOLO and Label Studio files, held to what the tools that read them draw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as runs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amd_seg import annotations
from amd_seg.annotations import AnnotationFile, Thing, coco_annotations, outlines
from amd_seg.colour_model import iou
from amd_seg.errors import InputError

INFO = {"version": "amd-seg 1", "weights": "w", "refine": "grabcut"}
SIZE = (60, 80)


def two_parts() -> np.ndarray:
    """A ring with a hole, and a square apart from it."""
    mask = np.zeros(SIZE, bool)
    mask[10:40, 10:50], mask[20:30, 20:40] = True, False
    mask[45:55, 60:75] = True
    return mask


@settings(max_examples=50)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_has_runs_and_outlines(mask: np.ndarray) -> None:
    assert (annotations.decode_runs(annotations.encode_runs(mask)) == mask).all()
    assert (runs.decode(annotations.encode_runs(mask)) == mask).all()
    for ring in outlines(mask):
        assert ((ring >= 0) & (ring <= mask.shape[::-1])).all()


def test_runs_that_do_not_cover_the_mask_are_refused() -> None:
    for counts in ([5], [0, 10**9], [-4, 4804], "5", "0:", "zz", "", "\x00\x01", ["a"], [[4800]]):
        with pytest.raises(ValueError):
            annotations.decode_runs({"size": [60, 80], "counts": counts})


def test_holes_and_parts_stay_in_every_format() -> None:
    mask = two_parts()
    rings = outlines(mask)
    # An outline runs around the pixels.
    assert rings[0].tolist() == [[60, 45], [60, 55], [75, 55], [75, 45]]
    (line,) = annotations.yolo_lines([Thing(1, mask)]).splitlines()
    label, *numbers = line.split()
    assert label == "0"
    yolo = np.array(numbers, float).reshape(-1, 2) * (80, 60)
    regions = annotations.labelstudio_result([Thing(2, mask, 0.7)], ["cat", "dog"])
    assert {region["value"]["polygonlabels"][0] for region in regions} == {"dog"}
    assert {(r["original_width"], r["original_height"]) for r in regions} == {(80, 60)}
    percent = [np.array(region["value"]["points"]) * (0.8, 0.6) for region in regions]
    for drawn, count, least in ((rings, 2, 0.97), ([yolo], 1, 0.95), (percent, 2, 0.97)):
        polygons = runs.frPyObjects([ring.ravel().tolist() for ring in drawn], *SIZE)
        assert len(drawn) == count
        assert iou(runs.decode(runs.merge(polygons)) > 0, mask) > least


def written(path: Path, things: dict[str, list[Thing]], mask_format: str = "rle") -> Any:
    file = AnnotationFile(path, "coco", info=INFO, overwrite=True)
    for name, found in things.items():
        file.add(name, SIZE[1], SIZE[0], coco_annotations(found, mask_format))
    file.finish()
    return json.loads(path.read_text())


@pytest.mark.parametrize(("mask_format", "least"), [("rle", 1.0), ("polygon", 0.95)])
def test_coco_tools_score_what_was_written(tmp_path: Path, mask_format: str, least: float) -> None:
    masks = [np.roll(two_parts(), 2 * k, axis=1) for k in range(3)]
    things = {f"{k}.jpg": [Thing(1, mask, 0.9)] for k, mask in enumerate(masks)}
    content = written(tmp_path / "masks.json", things, mask_format)
    assert content["info"]["weights"] == "w"
    truth = COCO(str(tmp_path / "masks.json"))
    for number, mask in enumerate(masks):
        assert truth.loadImgs(number + 1)[0]["file_name"] == f"{number}.jpg"
        (annotation,) = truth.loadAnns(truth.getAnnIds(number + 1))
        assert iou(truth.annToMask(annotation) > 0, mask) >= least
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == [10 + 2 * number, 10, 65, 45]
    evaluation = COCOeval(truth, truth.loadRes(content["annotations"]), "segm")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_parts_can_be_annotations_of_their_own() -> None:
    mask = two_parts()
    mask[58, 2:6] = True  # A speck, of less than a hundredth of the larger part.
    whole, parts = (coco_annotations([Thing(1, mask)], split=split) for split in (False, True))
    assert (len(whole), len(parts)) == (1, 2)
    assert sum(part["area"] for part in parts) == whole[0]["area"] - 4
    assert len(annotations.yolo_lines([Thing(1, mask)], split=True).splitlines()) == 2
    assert coco_annotations([Thing(1, mask & False)], split=True) == []


def test_a_killed_run_goes_on_and_ends_alike(tmp_path: Path) -> None:
    things = {f"{k}.jpg": [Thing(1, two_parts(), 0.5)] for k in range(3)}
    written(tmp_path / "whole.json", things)
    path = tmp_path / "masks.json"
    path.write_text("old")
    file = AnnotationFile(path, "coco", info=INFO, overwrite=True)
    for name in ("0.jpg", "1.jpg"):
        file.add(name, 80, 60, coco_annotations(things[name]))
    file.close()
    with open(tmp_path / "masks.json.part", "ab") as part:  # It is killed within a line.
        part.write(b'{"file_name": "2.jpg", "wid')
    assert path.read_text() == "old"
    with pytest.raises(InputError, match=r"masks\.json\.part exists"):
        AnnotationFile(path, "coco", info=INFO)
    file = AnnotationFile(path, "coco", info=INFO, resume=True)
    assert list(file.done) == ["0.jpg", "1.jpg"]
    for name in ("1.jpg", "2.jpg"):  # What is done again is there once.
        file.add(name, 80, 60, coco_annotations(things[name]))
    file.finish()
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks.json", "whole.json"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("deep/a.jpg", "b.jpg"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.parametrize("mask_format", ["rle", "polygon"])
def test_label_maps_hold_what_was_labelled(tmp_path: Path, photos: Path, mask_format: str) -> None:
    path = tmp_path / "masks.json"
    content = written(path, {"deep/a.jpg": [Thing(1, two_parts())], "b.jpg": []}, mask_format)
    content["images"][0]["file_name"] = "images\\other\\a.jpg"
    content["categories"].insert(0, {"id": 7, "name": "cup"})
    drawn = {"size": [60, 80], "counts": [0, 10, 50, 10, 4730]}
    cup = {"id": 2, "image_id": 2, "category_id": 7, "segmentation": drawn}
    content["annotations"].append(cup)
    path.write_text(json.dumps(content))
    found, classes = annotations.write_label_maps(path, photos, tmp_path / "labels")
    assert classes.names == ("background", "object", "cup")
    first, second = (np.asarray(Image.open(mask)) for _, _, mask in found)
    assert [photo.name for _, photo, _ in found] == ["a.jpg", "b.jpg"]
    assert iou(first == 1, two_parts()) > 0.95
    assert ((second == 2) == (np.arange(80) < 2) & (np.arange(60) < 10)[:, None]).all()


def mask(segmentation: Any, image: int = 1) -> dict[str, Any]:
    annotation = {"image_id": image, "category_id": 1, "segmentation": segmentation}
    return {"annotations": [annotation]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "it is no COCO file"),
        ({"images": None}, "it is no COCO file.* Give a COCO file"),
        ({"images": [], "annotations": []}, "it lists no photo"),
        ({"categories": [{"name": "x"}]}, "it lacks 'id'"),
        ({"images": [{"id": 1, "file_name": "c.jpg"}]}, "1 of 1 photos are not in"),
        ({"images": [{"id": 1, "file_name": "b.jpg", "width": 8, "height": 8}]}, "80x60, but"),
        (mask(5), "is no mask"),
        (mask([["a"] * 8]), "is no mask"),
        (mask([[10**400] * 8]), "is no mask"),
        (mask([[1e9, 0, 5, 5, 9, 0]]), "far outside"),
        (mask({"size": [60, 80], "counts": "5"}), "as long"),
        (mask([], 7), "it lacks 7"),
    ],
)
def test_no_coco_file_is_told(tmp_path: Path, photos: Path, change: Any, message: str) -> None:
    content = written(tmp_path / "masks.json", {"b.jpg": [Thing(1, two_parts())]})
    text = change if isinstance(change, str) else json.dumps({**content, **change})
    (tmp_path / "masks.json").write_text(text)
    with pytest.raises(InputError, match=message):
        annotations.write_label_maps(tmp_path / "masks.json", photos, tmp_path / "labels")
