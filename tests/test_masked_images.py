"""Folders of images with masks: written in parallel, read back, drawn in crops from a seed."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.errors import DeviceError, InputError, MediaError
from amd_seg.training import masked_images
from amd_seg.training.clips import find_clips
from amd_seg.training.config import TrainingConfig
from amd_seg.training.masked_images import CPU, MaskBatches, MaskedImage, load_masked_images
from amd_seg.training.motion_masks import MotionMaskConfig, clips_by_name, write_motion_masks
from tests.clips import moving_patch, write_clip, write_folder

CONFIG = TrainingConfig(
    objective="motion-masks", batch_size=400, crop=(16, 24), scale=(0.5, 1.0), colour=True
)


def write_pair(folder: Path, name: str, mask: Image.Image) -> None:
    for kind, image in (("images", Image.new("RGB", mask.size, "red")), ("masks", mask)):
        path = folder / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def test_a_folder_is_read_by_clip_and_shrunk(tmp_path: Path) -> None:
    write_pair(tmp_path, "walk/2", Image.new("L", (40, 30), 200))
    write_pair(tmp_path, "walk/10", Image.new("L", (80, 60), 200))
    write_pair(tmp_path, "still", Image.new("L", (20, 16), 90))
    Image.new("RGB", (20, 16)).save(tmp_path / "images" / "alone.png")
    (still,), walk = load_masked_images(tmp_path, short_edge=30).values()
    assert [image.name for image in (still, *walk)] == ["still", "walk/2", "walk/10"]
    assert [each.frame.shape for each in (still, *walk)] == [(3, 16, 20), (3, 30, 40), (3, 30, 40)]
    assert (walk[1].frame[0].unique(), walk[1].mask.unique()) == (255, 200)
    # Only what is named counts, as far as it is trusted.
    (tmp_path / "confidence.json").write_text('{"walk/10": 0.5, "still": 0, "gone": 1}')
    ((image,),) = load_masked_images(tmp_path, short_edge=30).values()
    assert (image.name, image.confidence) == ("walk/10", 0.5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_masks_of_any_kind_of_picture_count(tmp_path: Path, mode: str) -> None:
    mask = Image.new(mode, (40, 30))
    mask.paste({"RGB": (255, 255, 255), "P": 3}.get(mode, 1), (0, 0, 20, 30))
    write_pair(tmp_path, "one", mask)
    ((image,),) = load_masked_images(tmp_path, short_edge=30).values()
    assert (image.mask[0, :, :20] == 255).all()
    assert not image.mask[0, :, 20:].any()


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
        (lambda top: (top / "masks" / "one.png").write_bytes(b"no"), "Cannot read .*one.png"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    write_pair(tmp_path, "one", Image.new("L", (40, 30), 255))
    spoil(tmp_path)
    with pytest.raises((InputError, MediaError), match=message):
        load_masked_images(tmp_path, short_edge=30)


@pytest.mark.parametrize("flip", [True, False])
def test_images_and_masks_are_cut_and_mirrored_alike(flip: bool) -> None:
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(3, 32, 40).contiguous()
    config = dataclasses.replace(CONFIG, batch_size=32, colour=False, flip=flip)
    batch = next(MaskBatches([[[MaskedImage("ramp", ramp, ramp[:1])]]], config, CPU))
    assert torch.equal(batch.frames[:, 1:2], batch.masks)
    is_mirrored = batch.frames[:, 0, 0, 0] > batch.frames[:, 0, 0, -1]
    assert 8 < is_mirrored.sum() < 24 if flip else not is_mirrored.any()


def test_folders_are_drawn_equally_often_and_clips_by_what_agrees() -> None:
    def clip(name: str, count: int, trust: float = 1.0) -> list[MaskedImage]:
        noise = torch.randint(0, 256, (4, 32, 40), dtype=torch.uint8)
        return [MaskedImage(name, noise[:3], noise[3:], trust)] * count

    clips = [clip("sure", 2), clip("unsure", 50, trust=1e-3)]
    names = next(MaskBatches([clips, [clip("still", 1)] * 50], CONFIG, CPU)).names
    assert 150 < names.count("still") < 250
    assert "unsure" not in names


def jobs_of(confidence: float, *names: str) -> dict[str, tuple[masked_images.Finder, str]]:
    find = partial(found, "000003", confidence)
    return dict.fromkeys(names, (find, f"{confidence}"))


def found(name: str, confidence: float) -> list[masked_images.FoundMask]:
    """Find a mask, or nothing for good or bad reasons."""
    if confidence < 0:
        raise MediaError("Cannot read b.mp4: it ends early. Give another file.")
    if confidence > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return [(name, np.zeros((16, 20, 3), np.uint8), np.zeros((16, 20), np.uint8), confidence)]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    write = partial(
        masked_images.write_mask_folder, folder=tmp_path, on_done=lambda *each: seen.append(each)
    )
    write(jobs_of(0.5, "a", "b"))
    write({**jobs_of(0.5, "a"), **jobs_of(0.75, "b", "c")})
    assert seen == [("a", 1), ("b", 1), ("b", 1), ("c", 1)]
    confidence = json.loads((tmp_path / "confidence.json").read_text())
    assert confidence == {"a/000003": 0.5, "b/000003": 0.75, "c/000003": 0.75}
    # A file that was cut short says nothing: all is found anew.
    (tmp_path / "made_of.json").write_text("{")
    write(jobs_of(0.5, "a"))
    assert seen[4:] == [("a", 1)]


def test_jobs_that_fail_stop_no_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MediaError, match=r"1 of 2 clips cannot be read \(b: Cannot read b.mp4"):
        masked_images.write_mask_folder({**jobs_of(-1, "b"), **jobs_of(1, "c")}, tmp_path)
    assert list(load_masked_images(tmp_path, short_edge=16)) == ["c"]
    many = jobs_of(1, *(f"n{number}" for number in range(99)))
    masked_images.write_mask_folder({**many, **jobs_of(-1, "broken")}, tmp_path / "many")
    assert "broken is left out" in caplog.text
    with pytest.raises(DeviceError, match="One of 2 processes that look for masks was killed"):
        masked_images.write_mask_folder(jobs_of(2, "a"), tmp_path, workers=2)


def test_masks_of_a_clip_are_made_anew_when_it_changes(tmp_path: Path) -> None:
    clip, seen = tmp_path / "patch-001.mp4", []
    config = MotionMaskConfig(partners=(1, -1, 2), every=2)
    for count, times in ((4, 2), (5, 1)):
        write_clip(clip, list(moving_patch(count)[0]), rate=24)
        for _ in range(times):
            clips, tell = find_clips([str(clip)]), lambda *each: seen.append(each)
            write_motion_masks(clips, tmp_path / "out", config, workers=1, on_clip=tell)
    assert seen == [("patch-001", 2), ("patch-001", 3)]
    first, second, _ = load_masked_images(tmp_path / "out", short_edge=72)["patch-001"]
    assert (first.name, second.name) == ("patch-001/000000", "patch-001/000002")
    assert first.frame.shape == (3, 72, 96)


def test_clips_of_one_name_do_not_share_their_masks(tmp_path: Path) -> None:
    frames = list(moving_patch(2)[0])
    for name in ("a", "b"):
        write_folder(tmp_path / name, frames[:0])
        write_clip(tmp_path / name / "clip.mp4", frames)
    for name in ("2024.01.05", "2024.01.06", "walk", "walk.v2"):
        write_folder(tmp_path / name, frames)

    def named(*roots: str) -> list[str]:
        return list(clips_by_name(find_clips([str(tmp_path / root) for root in roots])))

    assert named(".") == ["2024.01.05", "2024.01.06", "a_clip", "b_clip", "walk", "walk.v2"]
    assert named("a", "a/clip.mp4") == ["clip"]
    with pytest.raises(InputError, match=r"a/clip\.mp4 and .*b/clip\.mp4 would share"):
        named("a", "b")
