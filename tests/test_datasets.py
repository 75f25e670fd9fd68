from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.evaluation.datasets import BENCHMARKS, open_dataset, open_folders
from amd_seg.evaluation.predictions import centre_prior, read_prediction, read_truth, truth_of

SIZE = (12, 16)
# Every column its own grey, 0 to 255.
RAMP = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
DEEP = RAMP.astype(np.uint16) * np.uint16(257)
ONES = (RAMP > 100).astype(np.uint8)


def write(path: Path, values: np.ndarray | Image.Image = RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path)
    return path


def labels(values: np.ndarray, palette: list[int]) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(palette)
    return image


# Ground truth as it comes.


@pytest.mark.parametrize(
    ("values", "truth"),
    [
        (RAMP, RAMP >= 128),
        (DEEP, RAMP >= 128),
        (ONES, ONES > 0),
        (Image.fromarray(ONES * np.uint8(255)).convert("1"), ONES > 0),
        # A palette of greys is grey, whatever their order.
        (labels(ONES, [255, 255, 255, 0, 0, 0]), ONES == 0),
        *((Image.fromarray(RAMP).convert(mode), RAMP >= 128) for mode in ("RGB", "RGBA", "LA")),
    ],
    ids=["grey", "16 bits", "0 and 1", "bits", "grey palette", "RGB", "RGBA", "LA"],
)
def test_the_object_is_where_the_file_says(
    tmp_path: Path, values: np.ndarray | Image.Image, truth: np.ndarray
) -> None:
    found, void = read_truth(write(tmp_path / "a.png", values))
    assert (found == truth).all()
    assert not void.any()


def test_predictions_keep_their_levels(tmp_path: Path) -> None:
    assert (read_prediction(write(tmp_path / "a.png", DEEP)) == RAMP).all()
    assert read_prediction(write(tmp_path / "b.png", ONES)).max() == 1


def test_labels_are_objects_and_255_is_void(tmp_path: Path) -> None:
    values = np.zeros(SIZE)
    values[:, :4], values[:, 4:6], values[0] = 1, 2, 255
    colours = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0, 0, 0] * 252 + [224, 224, 192]
    truth, void = read_truth(write(tmp_path / "a.png", labels(values, colours)))
    assert (truth.sum(), void.sum()) == (11 * 6, SIZE[1])


def test_values_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.png").write_bytes(b"no image")
    red = Image.new("RGB", SIZE, (128, 0, 0))
    for path, error, message in (
        (write(tmp_path / "a.png", RAMP // 100), InputError, "run from 0 to 2"),
        (write(tmp_path / "b.png", red), InputError, r"b\.png is coloured"),
        (write(tmp_path / "c.png", RAMP.astype(np.uint16)), InputError, "16 bits hold 0 to 255"),
        (tmp_path / "d.png", MediaError, r"d\.png"),
        (tmp_path / "missing.png", MediaError, "no such file"),
    ):
        with pytest.raises(error, match=message):
            read_truth(path)


def test_the_centre_prior_is_highest_in_the_middle() -> None:
    prior = centre_prior(51, 31)
    assert prior.shape == (51, 31)
    assert prior[25, 15] == 1 == prior.max()
    assert prior == pytest.approx(prior[::-1, ::-1])
    # One sigma, 0.4 of the half-side, off the centre.
    assert centre_prior(5, 5)[2, 3] == pytest.approx(np.exp(-0.5))


# Layouts.


@pytest.mark.parametrize(
    ("name", "images", "masks"),
    [
        ("ecssd", "images", "ground_truth_mask"),
        ("ecssd", "images", "masks"),
        ("duts-te", "DUTS-TE-Image", "DUTS-TE-Mask"),
        ("duts-tr", "DUTS-TR-Image", "DUTS-TR-Mask"),
        ("pascal-s", "datasets/imgs/pascal", "datasets/masks/pascal"),
        ("dut-omron", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        ("hku-is", "imgs", "gt"),
    ],
)
def test_pictures_and_masks_meet(tmp_path: Path, name: str, images: str, masks: str) -> None:
    for stem in ("2", "10"):
        write(tmp_path / images / f"{stem}.jpg")
        write(tmp_path / masks / f"{stem}.png")
    dataset = open_dataset(name, tmp_path)
    assert [sample.name for sample in dataset.samples] == ["2", "10"]
    assert dataset.samples[0].image == tmp_path / images / "2.jpg"
    assert "subset (2 of" in dataset.title


def test_faults_of_a_folder_are_named_together(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "masks/c.png", "twice/c.png", "twice/c.bmp"):
        write(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for name, folder, fault in (
        ("ecssd", "", r"2 files .* a, b; 1 masks .* c\. Add or remove"),
        ("duts-te", "images", "DUTS-TE-Image/ and DUTS-TE-Mask/"),
        ("duts", "", "Use one of duts-te"),
        ("ecssd", "nowhere", "no such folder"),
        ("", "empty", "empty: there is no image in it. Check the name"),
        ("", "nowhere", "nowhere: no such folder. Check the name"),
        ("", "twice", "have one name"),
    ):
        with pytest.raises(InputError, match=fault):
            open_dataset(name, tmp_path / folder) if name else open_folders(None, tmp_path / folder)


def test_davis_2016_wants_all_that_its_list_names(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/480p").mkdir(parents=True)
    write(tmp_path / "Annotations/480p/cow/00000.png")
    with pytest.raises(InputError, match="Give a folder that holds Annotations/480p/"):
        open_dataset("davis2016", tmp_path / "ImageSets")
    with pytest.raises(InputError, match=r"val\.txt is missing"):
        open_dataset("davis2016", tmp_path)
    lines = (f"/JPEGImages/480p/cow/{i:05}.jpg /Annotations/480p/cow/{i:05}.png" for i in (0, 1))
    (tmp_path / "ImageSets/480p/val.txt").write_text("\n".join(lines) + " \n")
    with pytest.raises(InputError, match=r"1 files are missing: .*00001\.png"):
        open_dataset("davis2016", tmp_path)
    write(tmp_path / "Annotations/480p/cow/00001.png")
    dataset = open_dataset("davis2016", tmp_path)
    assert dataset.title == "DAVIS 2016 val 16x12 copy subset (2 of 1,376 frames)"


def test_davis_2017_is_merged(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("dogs\n")
    values = np.zeros(SIZE)
    values[:, 2:4], values[:, 6:9] = 1, 2
    for frame in ("00000", "00001", "00002"):
        path = tmp_path / f"Annotations/480p/dogs/{frame}.png"
        write(path, labels(values, [0, 0, 0, 128, 0, 0, 0, 128, 0]))
    samples = open_dataset("davis2017", tmp_path).samples
    assert [sample.is_end for sample in samples] == [True, False, True]
    assert (truth_of(samples[0])[0] == (values > 0)).all()
    (tmp_path / "ImageSets/2017/val.txt").write_text("dogs\ncats\n")
    with pytest.raises(InputError, match="no folder for cats"):
        open_dataset("davis2017", tmp_path)


def test_objects_of_segtrack_are_joined(tmp_path: Path) -> None:
    root = tmp_path / "GroundTruth" / "bmx"
    for name, left in (("1/a", 2), ("2/a", 9), ("1/b", 2)):
        mask = np.zeros(SIZE, np.uint8)
        mask[:, left : left + 3] = 255
        write(root / f"{name}.png", mask)
    with pytest.raises(InputError, match=r"1 files of .*bmx/1 have no mask in .*bmx/2: b\."):
        open_dataset("segtrackv2", tmp_path)
    (root / "1" / "b.png").unlink()
    write(tmp_path / "JPEGImages" / "bmx" / "a.bmp")
    dataset = open_dataset("segtrackv2", tmp_path)
    assert dataset.title == "SegTrack v2 subset (1 of 976 frames)"
    assert dataset.samples[0].image == tmp_path / "JPEGImages" / "bmx" / "a.bmp"
    assert truth_of(dataset.samples[0])[0].sum() == 6 * SIZE[0]


def fbms(root: Path, sequence: str, masks: dict[str, np.ndarray]) -> None:
    for index in range(1, 6):
        write(root / sequence / f"{sequence}_{index:04}.jpg")
    for name, values in masks.items():
        write(root / sequence / "GroundTruth" / name, values)


@pytest.mark.parametrize(("name", "level"), [("cars1", 0.1), ("marple2", 0.4), ("marple7", 0.05)])
def test_annotated_frames_of_fbms_are_found(tmp_path: Path, name: str, level: float) -> None:
    fbms(tmp_path / "Testset", name, {f"{name}_01.pgm": RAMP, f"{name}_04.pgm": RAMP})
    samples = open_dataset("fbms59", tmp_path).samples
    assert [sample.name for sample in samples] == [f"{name}/{name}_0001", f"{name}/{name}_0004"]
    truth, _ = truth_of(samples[0])
    assert (truth == np.greater(RAMP, 255 * level)).all()
    write(tmp_path / "Testset" / name / "GroundTruth" / f"{name}_20.pgm")
    with pytest.raises(InputError, match="does not fit the 5 frames"):
        open_dataset("fbms59", tmp_path)


def test_white_is_background_in_the_colour_files_of_fbms(tmp_path: Path) -> None:
    colours = np.full((*SIZE, 3), 255, np.uint8)
    colours[:, :4] = (0, 200, 30)
    masks = {"lion01_20_gt.ppm": colours, "lion01_23_gt.ppm": colours}
    masks["lion01_20_PROB_gt.ppm"] = np.full((*SIZE, 3), 60, np.uint8)
    # The original folders hold a grey rendering beside each colour file, which tells less.
    masks["lion01_20_gt.pgm"] = masks["lion01_23_gt.pgm"] = np.zeros(SIZE, np.uint8)
    fbms(tmp_path / "Trainingset", "lion01", masks)
    samples = open_dataset("fbms59", tmp_path).samples
    assert [sample.name for sample in samples] == ["lion01/lion01_0001", "lion01/lion01_0004"]
    assert truth_of(samples[1])[0].sum() == SIZE[0] * 4


def test_subsets_at_hand_are_named_so_and_parts_are_even(shared: Path) -> None:
    dataset = open_dataset("davis2016", shared / "data" / "davis2016")
    assert dataset.title == "DAVIS 2016 val 598x336 copy (1,376 frames)"
    part = dataset.subset(every=10)
    assert len({sample.sequence for sample in part.samples}) == 20
    assert len(part.samples) == 141
    assert dataset.subset(limit=3).samples[-1] == dataset.samples[-1]
    for name, count in {"ecssd": 200, "duts-tr": 300, "pascal-s": 60}.items():
        dataset = open_dataset(name, shared / "data" / name)
        assert len(dataset.samples) == count
        assert f"{BENCHMARKS[name].title} subset ({count} of" in dataset.title
