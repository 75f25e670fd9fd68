"""Photos with label maps: where they lie, whether they fit, and the crops that a step sees."""

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.classes import VOC2012, VOID, Classes
from amd_seg.errors import InputError, MediaError
from amd_seg.training import labelled_photos as photos
from amd_seg.training.config import FinetuneConfig
from amd_seg.training.distributed import NumberedBatches, Processes
from amd_seg.training.labelled_photos import check_labelled, draw_crops, draw_view, open_voc2012
from tests.clips import truncate
from tests.labelled import scene

SETTINGS = FinetuneConfig(batch_size=4, short_edge=40, crop=(40, 40), workers=0)
CPU = torch.device("cpu")


def batches(voc: Path, rank: int = 0, processes: int = 1, **changes: object) -> NumberedBatches:
    config = dataclasses.replace(SETTINGS, **changes)
    draw, place = partial(draw_crops, open_voc2012(voc), config), Processes(CPU, rank, processes)
    return NumberedBatches(draw, config, place, config.workers)


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
    folders = [open_voc2012(voc, split).photos[0].mask.parent.name for split in (None, "train")]
    assert folders == ["SegmentationClassAug", "SegmentationClass"]
    shutil.rmtree(voc / "SegmentationClass")
    assert open_voc2012(voc, "train").photos[0].mask.parent.name == "SegmentationClassAug"


def test_files_that_are_missing_are_named(voc: Path) -> None:
    (voc / "JPEGImages/2007_000001.jpg").unlink()
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(InputError, match=r"2 files .*2007_000001.jpg, .*2007_000002.png"):
        open_voc2012(voc)
    with pytest.raises(InputError, match=r"night.txt is missing or empty: it lists the photos"):
        open_voc2012(voc, "night")
    (voc / "ImageSets/Segmentation/latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"latin.txt: .*Save it as UTF-8"):
        open_voc2012(voc, "latin")
    with pytest.raises(InputError, match=r"1 files of .*JPEGImages have no mask"):
        photos.open_labelled_folders(voc / "JPEGImages", voc / "SegmentationClass", VOC2012)
    shutil.rmtree(voc / "SegmentationClass")
    with pytest.raises(InputError, match="neither SegmentationClass nor SegmentationClassAug"):
        open_voc2012(voc)


def test_label_maps_are_checked_before_a_run(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled, maps = open_voc2012(voc), sorted((voc / "SegmentationClass").iterdir())
    check_labelled(labelled)
    assert "labelled boat, bottle, bus, car, cat and 12 more" in caplog.text
    two = dataclasses.replace(labelled, classes=Classes.of(("background", "one")))
    with pytest.raises(InputError, match="labels beyond the 2 classes"):
        check_labelled(two)
    Image.fromarray(scene(0)[1][:-1]).save(maps[0])
    Image.new("RGB", (56, 40)).save(maps[1])
    message = r"2007_000000.png is 56x39, but its photo .* is 56x40.* 1 more cannot be used either"
    with pytest.raises(InputError, match=message):
        check_labelled(labelled)
    for path in maps:
        Image.fromarray(np.where(scene(0)[1] == 0, 0, VOID).astype(np.uint8)).save(path)
    with pytest.raises(InputError, match=r"labelled background or 255.* need 1 in the place of"):
        check_labelled(labelled)


def test_a_palette_against_the_labels_is_told(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    order = [0, 2, 1, *range(3, 256)]
    for path in sorted((voc / "SegmentationClass").iterdir())[:2]:
        with Image.open(path) as image:
            # As tools write it that sort a palette: the picture looks the same.
            image.remap_palette(order).save(path)
    check_labelled(open_voc2012(voc))
    told, _ = caplog.messages
    assert told.startswith("2 of 6 label maps")
    assert "give label 1 (aeroplane) the colour of label 2 (bicycle)" in told
    caplog.clear()
    check_labelled(open_voc2012(voc, by_colour=True))
    assert "palette" not in caplog.text


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_is_that_of_the_whole_photo_resized(seed: int) -> None:
    config = dataclasses.replace(SETTINGS, crop=(32, 48))
    ways = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    for image, way in zip(scene(seed), ways, strict=True):
        height, width = image.shape[:2]
        size, box, _ = draw_view((height, width), config, np.random.default_rng(seed))
        (rows, columns), (left, top, right, bottom) = size, box
        found = np.full((*config.crop, *image.shape[2:]), 7, np.uint8)
        photos.cut_view(image, size, box, found)
        # The published way: all of the photo is resized, then a part of it is cut out.
        scaled = (round(width * columns / (right - left)), round(height * rows / (bottom - top)))
        whole = np.asarray(Image.fromarray(image).resize(scaled, way)).astype(int)
        y, x = round(top / height * scaled[1]), round(left / width * scaled[0])
        difference = np.abs(found[:rows, :columns] - whole[y : y + rows, x : x + columns])
        # Sums of rounded kernels; a label's pixel centre may lie on a border of two.
        assert np.mean(difference > 1) < 0.01
        assert (found[rows:] == 7).all()
        assert (found[:, columns:] == 7).all()


def test_what_a_small_photo_leaves_is_void(voc: Path) -> None:
    batch = next(batches(voc, crop=(96, 96), scale=(0.5, 1.0)))
    assert (batch.labels[:, 40:] == VOID).all()
    corner = batch.frames[:, :, -1, -1].float()
    assert torch.equal(corner, torch.tensor([[124.0, 116.0, 104.0]]).expand(4, 3))


def test_scales_and_places_fill_their_ranges() -> None:
    random = np.random.default_rng(0)
    views = [draw_view((100, 150), FinetuneConfig(), random) for _ in range(2000)]
    boxes = np.array([box for _, box, _ in views])
    scales = np.array([size[0] for size, _, _ in views]) / (boxes[:, 3] - boxes[:, 1]) * 100 / 512
    assert (scales.min(), scales.max()) == pytest.approx((0.5, 2.0), abs=0.02)
    # Uniform, as published.
    assert np.mean(scales < 1.25) == pytest.approx(0.5, abs=0.05)
    assert np.mean([is_mirrored for _, _, is_mirrored in views]) == pytest.approx(0.5, abs=0.05)
    assert boxes[scales > 1.5, 0].min() < 2 < 148 < boxes[scales > 1.5, 2].max()
    assert (boxes[:, 2:] <= (150, 100)).all()


def test_draws_are_the_same_whatever_the_processes_and_readers(voc: Path) -> None:
    whole, halves = batches(voc), [batches(voc, rank, 2, workers=rank) for rank in (0, 1)]
    names: list[str] = []
    for _ in range(3):
        batch, parts = next(whole), [next(half) for half in halves]
        assert torch.equal(batch.frames, torch.cat([part.frames for part in parts]))
        assert torch.equal(batch.labels, torch.cat([part.labels for part in parts]))
        names += batch.names
    # Every epoch shows each of the six photos once.
    assert sorted(names[:6]) == sorted(names[6:12]) == sorted(set(names))
    # Heavy augmentation changes the colours and no label.
    light, heavy = (next(batches(voc, augment=augment)) for augment in ("light", "heavy"))
    assert torch.equal(light.labels, heavy.labels)
    assert all(not torch.equal(*pair) for pair in zip(light.frames, heavy.frames, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_breaks_during_a_run_is_one_line(voc: Path, workers: int) -> None:
    photo = truncate(voc / "JPEGImages" / "2007_000003.jpg", 0.5)
    stream = batches(voc, workers=workers)
    with pytest.raises(MediaError, match=r"damaged or cut short") as caught:
        next(stream), next(stream)
    assert str(photo) in str(caught.value)
    assert str(caught.value).isprintable()
