"""Ground truth as it comes: the values of its files, and the folders of the benchmarks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amd_seg.errors import AmdSegError, InputError
from amd_seg.evaluation.datasets import BENCHMARKS, open_dataset, open_folders
from amd_seg.evaluation.predictions import centre_prior, read_prediction, read_truth, truth_of

# Every column its own grey, 0 to 255; half of them are the object.
RAMP = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
DEEP = RAMP.astype(np.uint16) * np.uint16(257)
ONES = (RAMP > 100).astype(np.uint8)


def write(path: Path, values: Any = RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, str):
        path.write_text(values)
    else:
        (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path)
    return path


def labels(values: np.ndarray, *palette: int) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(palette)
    return image


@pytest.mark.parametrize(
    ("values", "truth"),
    [
        (RAMP, RAMP >= 128),
        (DEEP, RAMP >= 128),
        (ONES, ONES > 0),
        (Image.fromarray(ONES * np.uint8(255)).convert("1"), ONES > 0),
        # A palette of greys is grey, whatever their order.
        (labels(ONES, 255, 255, 255, 0, 0, 0), ONES == 0),
        *((Image.fromarray(RAMP).convert(mode), RAMP >= 128) for mode in ("RGB", "RGBA", "LA")),
    ],
    ids=["grey", "16 bits", "0 and 1", "bits", "grey palette", "RGB", "RGBA", "LA"],
)
def test_the_object_is_where_the_file_says(tmp_path: Path, values: Any, truth: np.ndarray) -> None:
    found, void = read_truth(write(tmp_path / "a.png", values))
    assert (found == truth).all()
    assert not void.any()


def test_labels_are_objects_255_is_void_and_predictions_keep_their_levels(tmp_path: Path) -> None:
    values = np.zeros((12, 16))
    values[:, :4], values[:, 4:6], values[0] = 1, 2, 255
    image = labels(values, 0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 756, 224, 224, 192)
    truth, void = read_truth(write(tmp_path / "a.png", image))
    assert (truth.sum(), void.sum()) == (11 * 6, 16)
    assert (read_prediction(write(tmp_path / "b.png", DEEP)) == RAMP).all()
    assert read_prediction(write(tmp_path / "c.png", ONES)).max() == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP // 100, "run from 0 to 2"),
        (Image.new("RGB", (16, 12), (128, 0, 0)), r"a\.tif is coloured"),
        (RAMP.astype(np.uint16), "run from 0 to 255"),
        (Image.fromarray(RAMP.astype(np.float32)), "run from 0.0 to 255.0"),
        ("no image", r"a\.tif"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(AmdSegError, match=message):
        read_truth(write(tmp_path / "a.tif", values))


def test_the_centre_prior_is_highest_in_the_middle() -> None:
    prior = centre_prior(51, 31)
    assert prior[25, 15] == 1 == prior.max()
    assert prior == pytest.approx(prior[::-1, ::-1])
    # One sigma, 0.4 of the half-side, off the centre.
    assert centre_prior(5, 5)[2, 3] == pytest.approx(np.exp(-0.5))


Files = dict[str, Any]

COW = "JPEGImages/480p/cow/{0}.jpg", "Annotations/480p/cow/{0}.png"
COW_0, COW_1 = ({path.format(f"0000{k}"): RAMP for path in COW} for k in (0, 1))
LIST = {"ImageSets/480p/val.txt": "".join("/{} /{} \n".format(*cow) for cow in (COW_0, COW_1))}
OBJECTS = np.zeros((12, 16), np.uint8)
OBJECTS[:, 2:4], OBJECTS[:, 6:9] = 1, 2
DOGS = {
    "ImageSets/2017/val.txt": "dogs\n",
    "Annotations/480p/dogs/0.png": labels(OBJECTS, 0, 0, 0, 128, 0, 0, 0, 128, 0),
}
BMX = {f"GroundTruth/bmx/{k}/a.png": np.equal(OBJECTS, k) * np.uint8(255) for k in (1, 2)}
LION = np.full((12, 16, 3), 255, np.uint8)
LION[:, :4] = (0, 200, 30)


def fbms(name: str, **masks: np.ndarray) -> Files:
    """Five frames of a sequence, and what is in its folder of ground truth."""
    frames = {f"Testset/{name}/{name}_000{index}.jpg": RAMP for index in range(1, 6)}
    return frames | {f"Testset/{name}/GroundTruth/{name}_{m}": v for m, v in masks.items()}


# Name, files, and how many pixels of each sample are the object.
CASES: list[tuple[str, Files, dict[str, int]]] = [
    ("davis2016", LIST | COW_0 | COW_1, {"cow/00000": 96, "cow/00001": 96}),
    ("davis2017", DOGS, {"dogs/0": 60}),
    ("segtrackv2", BMX | {"JPEGImages/bmx/a.bmp": RAMP}, {"bmx/a": 60}),
]
for name, images, masks in (
    ("ecssd", "images", "ground_truth_mask"),
    ("ecssd", "images", "masks"),
    ("duts-te", "DUTS-TE-Image", "DUTS-TE-Mask"),
    ("duts-tr", "DUTS-TR-Image", "DUTS-TR-Mask"),
    ("pascal-s", "datasets/imgs/pascal", "datasets/masks/pascal"),
    ("dut-omron", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    ("hku-is", "imgs", "gt"),
):
    files = {f"{folder}/{k}.png": RAMP for k in (10, 2) for folder in (images, masks)}
    CASES.append((name, files, {"2": 96, "10": 96}))
for name, level in (("cars1", 0.1), ("marple2", 0.4), ("marple7", 0.05)):
    counts = {f"{name}/{name}_000{k}": int(np.greater(RAMP, 255 * level).sum()) for k in (1, 4)}
    CASES.append(("fbms59", fbms(name, **{"01.pgm": RAMP, "04.pgm": RAMP}), counts))
# White is background in colour files; the grey rendering beside each tells less.
lion = fbms("lion", **{"20.ppm": LION, "23.ppm": LION, "20_PROB.ppm": LION // 4, "20.pgm": RAMP})
CASES.append(("fbms59", lion, {"lion/lion_0001": 48, "lion/lion_0004": 48}))
tennis = {f"Testset/tennis/tennis{k}.jpg": RAMP for k in range(454, 458)}
tennis |= {f"Testset/tennis/GroundTruth/tennis{k}_gt.pgm": RAMP for k in (454, 457)}
white = int(np.greater(RAMP, 25.5).sum())
CASES.append(("fbms59", tennis, {f"tennis/tennis{k}": white for k in (454, 457)}))


@pytest.mark.parametrize(("name", "files", "counts"), CASES, ids=[case[0] for case in CASES])
def test_a_benchmark_is_read_as_it_is_unpacked(
    tmp_path: Path, name: str, files: Files, counts: dict[str, int]
) -> None:
    for path, values in files.items():
        write(tmp_path / path, values)
    dataset = open_dataset(name, tmp_path)
    found = [(sample.name, int(truth_of(sample)[0].sum())) for sample in dataset.samples]
    assert found == list(counts.items())
    assert all((sample.image or tmp_path).exists() for sample in dataset.samples)
    copy = " 16x12 copy" if name == "davis2016" else ""
    assert f"{BENCHMARKS[name].title}{copy} subset ({len(counts)} of" in dataset.title


@pytest.mark.parametrize(
    ("name", "files", "fault"),
    [
        ("ecssd", {"images/a.jpg": RAMP, "masks/c.png": RAMP}, r"1 files .* a; 1 masks .* c\. Add"),
        ("duts-te", {"a.jpg": RAMP}, "holds DUTS-TE-Image/ and DUTS-TE-Mask/"),
        ("duts", {}, "Use one of duts-te"),
        ("davis2016", {"a.jpg": RAMP}, "Give a folder that holds Annotations/480p/"),
        ("davis2016", COW_0, r"val\.txt is missing"),
        ("davis2016", COW_0 | LIST, r"2 files are missing: .*00001\.png"),
        ("davis2017", DOGS | {"ImageSets/2017/val.txt": "dogs\ncats\n"}, "cats: no such folder"),
        ("segtrackv2", BMX | {"GroundTruth/bmx/1/b.png": RAMP}, r"bmx/1 have no mask in .*/2: b\."),
        ("fbms59", fbms("cars1", **{"01.pgm": RAMP, "20.pgm": RAMP}), "does not fit the 5 frames"),
        ("", {"a.txt": ""}, "there is no image in it. Check the name"),
        ("", {}, "no such folder. Check the name"),
        ("", {"c.png": RAMP, "c.bmp": RAMP}, "have one name"),
    ],
)
def test_faults_of_a_folder_are_named(tmp_path: Path, name: str, files: Files, fault: str) -> None:
    folder = tmp_path / "data"
    for path, values in files.items():
        write(folder / path, values)
    with pytest.raises(InputError, match=fault):
        open_dataset(name, folder) if name else open_folders(None, folder)
