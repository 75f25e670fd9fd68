"""Classes and label maps: names, colours, files, and one clear line for what is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg.classes import VOC2012, VOID, Classes, read_classes, standard_colour
from amd_seg.errors import InputError
from amd_seg.media import labels as label_maps
from amd_seg.media.labels import TINT_SHARE, indexed_image, read_labels, save_labels

THREE = Classes(("background", "cup", "sign"), ("#000000", "#ff0000", "#0000ff"))


def test_the_standard_colours_are_voc_s() -> None:
    official = {0: "#000000", 1: "#800000", 3: "#808000", 8: "#400000", 12: "#400080"}
    official |= {15: "#c08080", 20: "#004080", 255: "#e0e0c0"}
    for label, colour in official.items():
        assert standard_colour(label) == colour
    assert len({standard_colour(label) for label in range(256)}) == 256
    assert (VOC2012.names[15], VOC2012.colours[15]) == ("person", official[15])


def test_a_list_of_classes_may_name_colours(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("background\n\nred cup  #FF0000\nsign\n")
    classes = read_classes(path)
    assert classes.names == ("background", "red cup", "sign")
    assert classes.colours == ("#000000", "#ff0000", standard_colour(2))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_classes(path) == classes
    for content, message in (
        (b"background\n", "1 classes cannot be used"),
        (b"".join(b"c%d\n" % number for number in range(256)), "Name 2 to 255"),
        (b"a\nb\na\n", "a name of its own; a stands"),
        (b"a #ff0000\nb #ff0000\n", "a colour of its own; #ff0000"),
        (b"a #ff00\nb\n", "#ff00 is no colour"),
        (b"\xff\xfe", "utf-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"names\.txt.*{message}"):
            read_classes(path)
    with pytest.raises(InputError, match=r"none\.txt: No such file"):
        read_classes(tmp_path / "none.txt")


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


def test_labels_are_the_values_of_a_picture(tmp_path: Path) -> None:
    path, labels = tmp_path / "labels.png", np.array([[0, 1], [1, 0]], np.uint8)
    indexed = Image.fromarray(labels)
    indexed.putpalette([9, 9, 9, 7, 7, 7])
    for image in (Image.fromarray(labels), Image.fromarray(labels > 0), indexed):
        image.save(path)
        np.testing.assert_array_equal(read_labels(path, THREE), labels)
    for mode, value, message in (
        ("L", 7, r"labels\.png has labels beyond the 3 classes.*: 7"),
        ("LA", (7, 7), r"labels\.png is .* mode LA, which"),
        ("I;16", 7, r"labels\.png is .* mode I;16, which"),
    ):
        Image.new(mode, (4, 4), value).save(path)
        with pytest.raises(InputError, match=message):
            read_labels(path, THREE)


def test_coloured_masks_are_read_by_the_classes_colours(tmp_path: Path) -> None:
    path, labels = tmp_path / "coloured.png", np.array([[0, 1, 2], [2, VOID, 0]], np.uint8)
    coloured = indexed_image(labels, THREE).convert("RGB")
    coloured.save(path)
    with pytest.raises(InputError, match=r"coloured.png is .* mode RGB.*--coloured-masks"):
        read_labels(path, THREE)
    np.testing.assert_array_equal(read_labels(path, THREE, by_colour=True), labels)
    coloured.putpixel((0, 0), (1, 2, 3))
    coloured.save(path)
    with pytest.raises(InputError, match="1 colours that no class has: #010203"):
        read_labels(path, THREE, by_colour=True)


def test_an_overlay_tints_classes_and_leaves_the_background() -> None:
    pixels = np.full((120, 160, 3), 100, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    labels[60:100, 80:140] = 1
    labels[100:, :] = VOID
    picture = np.asarray(label_maps.render_labels_overlay(pixels, labels, THREE))
    tinted = np.rint((1 - TINT_SHARE) * 100 + TINT_SHARE * np.array(THREE.palette[1]))
    np.testing.assert_array_equal(picture[80, 100], tinted)
    np.testing.assert_array_equal(picture[50:, :79], 100)
    np.testing.assert_array_equal(picture[101:], 100)
    # The legend is where the picture begins, in the class's colour.
    assert (picture[:30, :30] == THREE.palette[1]).all(axis=2).any()
    with pytest.raises(InputError, match="one size"):
        label_maps.render_labels_overlay(pixels, labels[:-1], THREE)
