"""Folders of images with masks: written in parallel, read back, drawn in crops from a seed."""

import dataclasses
import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.errors import DeviceError, InputError, MediaError
from amd_seg.training.clips import find_clips
from amd_seg.training.config import TrainingConfig
from amd_seg.training.masked_images import (
    FoundMask,
    MaskBatches,
    MaskedClip,
    MaskJob,
    find_masked_images,
    load_masked_images,
    write_mask_folder,
)
from amd_seg.training.motion_masks import MotionMaskConfig, clips_by_name, write_motion_masks
from tests.clips import moving_patch, write_clip, write_folder

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    objective="motion-masks", batch_size=4, crop=(16, 24), scale=(0.5, 1.0), colour=True
)


def write_pair(folder: Path, name: str, mask: Image.Image) -> None:
    for kind, image in (("images", Image.new("RGB", mask.size, "red")), ("masks", mask)):
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def masked_clip(name: str = "clip", count: int = 3, trust: float = 1.0) -> MaskedClip:
    images = torch.randint(0, 256, (count, 4, 32, 40), dtype=torch.uint8)
    labels = tuple(f"{name}:{number}" for number in range(count))
    trusts = torch.full((count,), trust)
    return MaskedClip(name, images[:, :3].unbind(), images[:, 3:].unbind(), trusts, labels)


# Reading


def test_a_folder_is_read_by_clip_and_shrunk(tmp_path: Path) -> None:
    write_pair(tmp_path, "walk/2", Image.new("L", (40, 30), 200))
    write_pair(tmp_path, "walk/10", Image.new("L", (80, 60), 200))
    write_pair(tmp_path, "still", Image.new("L", (20, 16), 90))
    Image.new("RGB", (20, 16)).save(tmp_path / "images" / "alone.png")
    still, walk = load_masked_images(tmp_path, short_edge=30)
    assert (still.name, still.labels, still.confidence.tolist()) == ("still", ("still",), [1])
    assert walk.labels == ("walk/2", "walk/10")
    assert [tuple(frame.shape) for frame in walk.frames] == [(3, 30, 40)] * 2
    assert [tuple(mask.shape) for mask in walk.masks] == [(1, 30, 40)] * 2
    assert {int(mask.unique()) for mask in walk.masks} == {200}
    (tmp_path / "confidence.json").write_text('{"walk/2": 0.5, "walk/10": 0, "gone": 1}')
    (walk,) = load_masked_images(tmp_path, short_edge=30)
    assert (walk.labels, walk.confidence.tolist()) == (("walk/2",), [0.5])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_any_kind_of_picture_count(tmp_path: Path, mode: str) -> None:
    mask = Image.new(mode, (40, 30))
    mask.paste({"RGB": (255, 255, 255), "P": 3}.get(mode, 1), (0, 0, 20, 30))
    write_pair(tmp_path, "one", mask)
    (clip,) = load_masked_images(tmp_path, short_edge=30)
    assert (clip.masks[0][0, :, :20] == 255).all()
    assert not clip.masks[0][0, :, 20:].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda top: (top / "masks").rename(top / "labels"), "no folders images/ and masks/"),
        (lambda top: (top / "masks" / "one.png").unlink(), r"No image in .* has a mask"),
        (lambda top: (top / "confidence.json").write_text("[1]"), r"Cannot read .*confidence"),
        (lambda top: (top / "confidence.json").write_text('{"one": NaN}'), "one not from 0 to 1"),
        (lambda top: (top / "confidence.json").write_text("[" * 99_999), "Cannot read .*confid"),
        (lambda top: Image.new("I;16", (40, 30)).save(top / "masks" / "one.png"), "of 8 bits"),
        (lambda top: Image.new("L", (9, 9)).save(top / "images" / "one.jpg"), "of one name"),
        (lambda top: Image.new("L", (9, 9)).save(top / "masks" / "one.png"), "mask.*is 9x9, but"),
        (lambda top: Image.new("F", (40, 30)).save(top / "masks" / "one.tif"), "of one name"),
        (lambda top: (top / "masks" / "one.png").write_bytes(b"no"), "Cannot read .*one.png"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, spoil, message: str) -> None:
    write_pair(tmp_path, "one", Image.new("L", (40, 30), 255))
    spoil(tmp_path)
    with pytest.raises((InputError, MediaError), match=message):
        load_masked_images(tmp_path, short_edge=30)


# Drawing


@pytest.mark.parametrize("flip", [True, False])
def test_images_and_masks_are_cut_and_mirrored_alike(flip: bool) -> None:
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(3, 32, 40).contiguous()
    clip = MaskedClip("ramp", [ramp], [ramp[:1]], torch.ones(1), ("ramp:0",))
    config = dataclasses.replace(CONFIG, batch_size=32, colour=False, flip=flip)
    batch = next(MaskBatches([[clip]], config, CPU))
    assert torch.equal(batch.frames[:, 1:2], batch.masks)
    assert batch.frames.is_floating_point()
    is_mirrored = batch.frames[:, 0, 0, 0] > batch.frames[:, 0, 0, -1]
    assert 8 < is_mirrored.sum() < 24 if flip else not is_mirrored.any()


def test_folders_are_drawn_equally_often_and_clips_by_what_agrees() -> None:
    clips = [masked_clip("sure", 2), masked_clip("unsure", 50, trust=1e-3)]
    stills = [masked_clip(f"still{n}", 1) for n in range(50)]
    config = dataclasses.replace(CONFIG, batch_size=400)
    names = next(MaskBatches([clips, stills], config, CPU)).names
    assert 150 < sum(name.startswith("still") for name in names) < 250
    assert not any(name.startswith("unsure") for name in names)
    with pytest.raises(MediaError, match="no mask to learn from"):
        MaskBatches([[]], CONFIG, CPU)


# Writing


def jobs_of(**masks: float) -> dict[str, MaskJob]:
    def find(value: float) -> list[FoundMask]:
        image = np.full((16, 20, 3), 50, np.uint8)
        return [FoundMask("000003", image, np.full((16, 20), 255, np.uint8), value)]

    return {name: (partial(find, value), f"{value}") for name, value in masks.items()}


def fail() -> list[FoundMask]:
    raise MediaError("Cannot read b.mp4: it ends early. Give another file.")


def die() -> list[FoundMask]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    write = partial(write_mask_folder, folder=tmp_path, on_done=lambda *each: seen.append(each))
    write(jobs_of(a=0.5, b=0.25))
    assert seen == [("a", 1), ("b", 1)]
    write(jobs_of(a=0.5, b=0.75, c=1.0))
    assert seen[2:] == [("b", 1), ("c", 1)]
    confidence = json.loads((tmp_path / "confidence.json").read_text())
    assert confidence == {"a/000003": 0.5, "b/000003": 0.75, "c/000003": 1.0}
    assert list(find_masked_images(tmp_path)) == ["a", "b", "c"]
    # A file that was cut short says nothing: all is found anew.
    (tmp_path / "made_of.json").write_text("{")
    write(jobs_of(a=0.5))
    assert seen[4:] == [("a", 1)]


def test_a_clip_that_cannot_be_read_is_named_and_the_others_are_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = {"b": (fail, ""), **jobs_of(c=1.0)}
    with pytest.raises(MediaError, match=r"1 of 2 clips cannot be read \(b: Cannot read b.mp4"):
        write_mask_folder(jobs, tmp_path)
    assert list(find_masked_images(tmp_path)) == ["c"]
    many = {**jobs_of(**{f"n{number}": 1.0 for number in range(99)}), "broken": (fail, "")}
    write_mask_folder(many, tmp_path / "many")
    assert "broken is left out" in caplog.text


def test_a_process_that_is_killed_is_one_clear_line(tmp_path: Path) -> None:
    message = "One of 2 processes that look for masks was killed .* memory runs out"
    with pytest.raises(DeviceError, match=message):
        write_mask_folder({"a": (die, "")}, tmp_path, workers=2)


def test_masks_of_a_clip_are_made_anew_when_it_changes(tmp_path: Path) -> None:
    clip, out, seen = tmp_path / "patch-001.mp4", tmp_path / "out", []
    config = MotionMaskConfig(partners=(1, -1, 2), every=2)
    for count, times in ((4, 2), (5, 1)):
        write_clip(clip, list(moving_patch(count)[0]), rate=24)
        for _ in range(times):
            found, tell = find_clips([str(clip)]), lambda *each: seen.append(each)
            write_motion_masks(found, out, config, workers=1, on_clip=tell)
    assert seen == [("patch-001", 2), ("patch-001", 3)]
    (loaded,) = load_masked_images(out, short_edge=72)
    assert loaded.labels[:2] == ("patch-001/000000", "patch-001/000002")
    assert loaded.frames[0].shape == (3, 72, 96)


def test_clips_of_one_name_do_not_share_their_masks(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_clip(tmp_path / folder / "clip.mp4", list(moving_patch(4)[0]))
    roots = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(InputError, match=r"a/clip\.mp4 and .*b/clip\.mp4 would share"):
        clips_by_name(find_clips(roots))
    assert list(clips_by_name(find_clips([str(tmp_path)]))) == ["a_clip", "b_clip"]
    assert len(clips_by_name(find_clips([roots[0], f"{roots[0]}/clip.mp4"]))) == 1
    names = ["2024.01.05", "2024.01.06", "walk", "walk.v2"]
    for name in names:
        write_folder(tmp_path / "dates" / name, list(moving_patch(4)[0]))
    assert list(clips_by_name(find_clips([str(tmp_path / "dates")]))) == names
