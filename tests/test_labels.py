"""Classes and label maps: names, colours, files, and one clear line for what is none."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg.classes import VOC2012, VOID, Classes, read_classes, standard_colour
from amd_seg.errors import InputError, MediaError
from amd_seg.media.labels import (
    TINT_SHARE,
    indexed_image,
    read_labels,
    render_labels_overlay,
    save_labels,
)
from amd_seg.training.labelled_photos import check_labelled, open_labelled_folders, open_voc2012
from tests.labelled import make_voc2012, scene

THREE = Classes(("background", "cup", "sign"), ("#000000", "#ff0000", "#0000ff"))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc2012(tmp_path / "voc")


# Classes


def test_the_standard_colours_are_voc_s() -> None:
    official = {
        0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128),
        8: (64, 0, 0), 12: (64, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128),
        255: (224, 224, 192),
    }  # fmt: skip
    for label, colour in official.items():
        assert standard_colour(label) == "#{:02x}{:02x}{:02x}".format(*colour)
    assert len({standard_colour(label) for label in range(256)}) == 256
    assert VOC2012.names[15] == "person"
    assert VOC2012.palette[15] == official[15]


def test_a_list_of_classes_may_name_colours(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("background\n\nred cup  #FF0000\nsign\n")
    classes = read_classes(path)
    assert classes.names == ("background", "red cup", "sign")
    assert classes.colours == ("#000000", "#ff0000", standard_colour(2))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_classes(path) == classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("background\n", "1 classes cannot be used"),
        ("".join(f"c{number}\n" for number in range(256)), "Name 2 to 255"),
        ("a\nb\na\n", "a name of its own; a stands"),
        ("a #ff0000\nb #ff0000\n", "a colour of its own; #ff0000"),
        ("a #ff00\nb\n", "#ff00 is no colour"),
        (None, "No such file"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_a_wrong_list_of_classes_gets_one_line(
    tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    path = tmp_path / "names.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_classes(path)
    assert "names.txt" in str(caught.value)


# Label maps as files


def test_labels_come_back_with_colours_and_names(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [2, VOID, 0]], np.uint8)
    save_labels(labels, tmp_path / "labels.png", THREE)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png", THREE), labels)
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        assert image.text["classes"].splitlines() == ["0 background", "1 cup", "2 sign"]
        pixels = np.asarray(image.convert("RGB"))
    assert pixels[0].tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    assert pixels[1, 1].tolist() == [224, 224, 192]
    with pytest.raises(MediaError, match=r"as indexed .png files only"):
        save_labels(labels, tmp_path / "labels.jpg", THREE)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.png"]


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_labels_are_the_values_of_a_picture(tmp_path: Path, mode: str) -> None:
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(labels * (255 if mode == "1" else 1)).convert(mode)
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([9, 9, 9, 7, 7, 7])
    image.save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "labels.png", THREE), labels)


def test_coloured_masks_are_read_by_the_classes_colours(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [2, VOID, 0]], np.uint8)
    coloured = indexed_image(labels, THREE).convert("RGB")
    coloured.save(tmp_path / "coloured.png")
    with pytest.raises(InputError, match=r"coloured.png is a coloured picture.*--coloured-masks"):
        read_labels(tmp_path / "coloured.png", THREE)
    found = read_labels(tmp_path / "coloured.png", THREE, by_colour=True)
    np.testing.assert_array_equal(found, labels)
    coloured.putpixel((0, 0), (1, 2, 3))
    coloured.save(tmp_path / "other.png")
    with pytest.raises(InputError, match="1 colours that no class has: #010203"):
        read_labels(tmp_path / "other.png", THREE, by_colour=True)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.array([[0, 7, 3]], np.uint8)), r"beyond the 3 classes.*: 3, 7"),
        (Image.new("LA", (4, 4)), "mode LA, which holds no labels"),
        (Image.new("I;16", (4, 4)), "mode I;16, which holds no labels"),
    ],
)
def test_what_holds_no_labels_gets_one_line(
    tmp_path: Path, image: Image.Image, message: str
) -> None:
    image.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / "mask.png", THREE)
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"Cannot read .*mask.png"):
        read_labels(tmp_path / "mask.png", THREE)


# An overlay


def test_an_overlay_tints_classes_and_leaves_the_background(tmp_path: Path) -> None:
    pixels = np.full((120, 160, 3), 100, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    labels[60:100, 80:140] = 1
    labels[100:, :] = VOID
    picture = np.asarray(render_labels_overlay(pixels, labels, THREE))
    tinted = np.rint((1 - TINT_SHARE) * 100 + TINT_SHARE * np.array(THREE.palette[1]))
    np.testing.assert_array_equal(picture[80, 100], tinted)
    np.testing.assert_array_equal(picture[50:, :79], 100)
    np.testing.assert_array_equal(picture[101:], 100)
    # The legend is where the picture begins, in the class's colour.
    assert (picture[:30, :30] == THREE.palette[1]).all(axis=2).any()
    with pytest.raises(InputError, match="one size"):
        render_labels_overlay(pixels, labels[:-1], THREE)


# Sets of labelled photos


def test_the_layout_of_voc_is_read_by_its_lists(voc: Path) -> None:
    found = open_voc2012(voc)
    assert (found.title, len(found.photos), found.classes) == ("voc2012 train", 6, VOC2012)
    assert len(open_voc2012(voc, "val").photos) == 3
    lists = voc / "ImageSets" / "Segmentation"
    # Some copies list the paths of photo and mask.
    (lists / "paths.txt").write_text("/JPEGImages/2007_000001.jpg /Masks/2007_000001.png\n\n")
    assert [photo.name for photo in open_voc2012(voc, "paths").photos] == ["2007_000001"]
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    shutil.copy(lists / "val.txt", lists / "trainaug.txt")
    augmented = open_voc2012(voc)
    assert augmented.title == "voc2012 trainaug"
    assert augmented.photos[0].mask.parent.name == "SegmentationClassAug"
    assert open_voc2012(voc, "train").photos[0].mask.parent.name == "SegmentationClass"
    shutil.rmtree(voc / "SegmentationClass")
    assert open_voc2012(voc, "train").photos[0].mask.parent.name == "SegmentationClassAug"


def test_files_that_are_missing_are_named(voc: Path) -> None:
    (voc / "JPEGImages/2007_000001.jpg").unlink()
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(InputError, match=r"2 files .*2007_000001.jpg, .*2007_000002.png"):
        open_voc2012(voc)
    with pytest.raises(InputError, match=r"night.txt is missing: it lists the photos"):
        open_voc2012(voc, "night")
    with pytest.raises(InputError, match=r"1 files of .*JPEGImages have no mask"):
        open_labelled_folders(voc / "JPEGImages", voc / "SegmentationClass", VOC2012)
    shutil.rmtree(voc / "SegmentationClass")
    with pytest.raises(InputError, match="neither SegmentationClass nor SegmentationClassAug"):
        open_voc2012(voc)


def test_label_maps_are_checked_before_a_run(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_labelled(open_voc2012(voc))
    assert "labelled boat, bottle, bus, car, cat and 12 more" in caplog.text
    first, second = (voc / f"SegmentationClass/2007_00000{number}.png" for number in (1, 2))
    Image.fromarray(scene(1)[1][:-1]).save(first)
    with pytest.raises(InputError, match=r"2007_000001.png is 56x39, but its photo .* is 56x40"):
        check_labelled(open_voc2012(voc))
    Image.new("RGB", (56, 40)).save(second)
    with pytest.raises(InputError, match=r"56x39.* 1 more cannot be used either"):
        check_labelled(open_voc2012(voc))
    few = Classes.of(("background", "one"))
    first.unlink()
    (voc / "JPEGImages/2007_000001.jpg").unlink()
    second.unlink()
    (voc / "JPEGImages/2007_000002.jpg").unlink()
    folders = open_labelled_folders(voc / "JPEGImages", voc / "SegmentationClass", few)
    with pytest.raises(InputError, match="labels beyond the 2 classes"):
        check_labelled(folders)


def test_masks_of_0_and_255_have_one_class(voc: Path) -> None:
    for path in (voc / "SegmentationClass").iterdir():
        labels = np.where(read_labels(path, VOC2012) == 0, 0, VOID).astype(np.uint8)
        Image.fromarray(labels).save(path)
    with pytest.raises(InputError, match=r"labelled background or 255.* need 1 in the place of"):
        check_labelled(open_voc2012(voc))


def test_a_palette_that_contradicts_the_labels_is_told(
    voc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order = np.arange(256)
    order[[1, 2]] = 2, 1
    for path in sorted((voc / "SegmentationClass").iterdir())[:2]:
        with Image.open(path) as image:
            before = np.asarray(image.convert("RGB"))
            # As tools write it that sort a palette: the picture looks the same.
            image.remap_palette(order.tolist()).save(path)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), before)
    with caplog.at_level(logging.WARNING):
        check_labelled(open_voc2012(voc))
    told, _ = caplog.messages
    assert told.startswith("2 of 6 label maps")
    assert "give label 1 (aeroplane) the colour of label 2 (bicycle)" in told
    assert "give --coloured-masks" in told
    caplog.clear()
    check_labelled(open_voc2012(voc, by_colour=True))
    assert all("palette" not in message for message in caplog.messages)


def test_a_photo_that_is_turned_upright_fits_its_upright_labels(voc: Path) -> None:
    pixels, _ = scene(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.fromarray(np.rot90(pixels))
    sideways.save(voc / "JPEGImages/2007_000000.jpg", exif=exif)
    check_labelled(open_voc2012(voc))
