"""Pairs of frames: drawn, decoded and cropped the same from memory and as drawn; and all crops."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.errors import InputError, MediaError
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.config import TrainingConfig
from amd_seg.training.crops import BLURRED_SHARE, Box, blur, jitter_colours, pair_box, random_box
from amd_seg.training.distributed import NumberedBatches, Processes
from amd_seg.training.pairs import DecodedPairs, Pairs, StoredPairs, draw_pair
from tests.clips import moving_square, truncate, write_clip, write_folder, write_lossless

SMALL = TrainingConfig(batch_size=4, crop=(16, 24), scale=(0.5, 1.0), short_edge=32, workers=0)
WHOLE = dataclasses.replace(SMALL, crop=(48, 64), scale=(1, 1), short_edge=48, flip=False)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Four clips, without loss, with B-frames, of variable rate, and a portrait folder."""
    root = tmp_path_factory.mktemp("clips")
    stamps = [0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.3, 2.0]
    write_lossless(root / "a.mkv", moving_square(6))
    write_clip(root / "b.mp4", moving_square(16))
    write_clip(root / "c.mkv", moving_square(8), times=stamps)
    write_folder(root / "d", moving_square(5, height=64, width=48))
    return find_clips([str(root)])


def one_clip(path: Path, frames: list[np.ndarray]) -> list[Clip]:
    return find_clips([str(write_lossless(path, frames))])


def both(clips: list[Clip], config: TrainingConfig = SMALL, **changes: object) -> list[Pairs]:
    config = dataclasses.replace(config, **changes)
    return [StoredPairs(clips, config, CPU), DecodedPairs(clips, config)]


def batches(pairs: Pairs, rank: int = 0, processes: int = 1) -> NumberedBatches:
    workers = pairs.config.workers if isinstance(pairs, DecodedPairs) else 0
    return NumberedBatches(pairs, pairs.config, Processes(CPU, rank, processes), workers)


# Clip, first and second frame, and the chances of some of 40 draws, as they have always been:
# published runs go on and can be repeated.
DRAWS = [(1, 1, 2), (2, 0, 1), (0, 3, 4), (2, 2, 3), (0, 5, 6)]
CHANCES = [
    (0.207809, 0.443363, 0.248999, 0.677591),
    (0.098901, 0.760534, 0.053559, 0.21421),
    (0.846832, 0.608793, 0.129705, 0.020224),
    (0.414405, 0.204719, 0.334911, 0.998915),
    (0.489605, 0.699937, 0.715409, 0.41469),
]
BOXES = [(6, 2, 35, 53), (7, 0, 39, 58), (15, 3, 23, 35), (3, 6, 30, 45), (13, 15, 29, 43)]


def test_draws_are_those_that_they_have_always_been() -> None:
    config = TrainingConfig(seed=5)
    some = [draw_pair(number, [7, 3, 9], config) for number in (0, 1, 2, 13, 39)]
    assert [draw[:3] for draw in some] == DRAWS
    np.testing.assert_allclose([draw.chances for draw in some], CHANCES, atol=1e-6)
    assert [pair_box((48, 64), draw.chances, SMALL)[:4] for draw in some] == BOXES


def test_an_epoch_draws_one_pair_of_each_video_in_a_new_order_with_uniform_gaps() -> None:
    draws = [draw_pair(number, [5] * 20, TrainingConfig()).clip for number in range(100)]
    epochs = [tuple(draws[start : start + 20]) for start in range(0, 100, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(epochs)) == 5
    draws = [draw_pair(number, [3, 50], TrainingConfig(max_gap=4)) for number in range(800)]
    assert all(0 <= draw.first < draw.second < (3, 50)[draw.clip] for draw in draws)
    gaps = Counter(draw.second - draw.first for draw in draws if draw.clip)
    assert set(gaps) == {1, 2, 3, 4}
    assert min(gaps.values()) > 0.15 * sum(gaps.values())


def test_frames_are_kept_as_they_are_read_and_portraits_transposed(clips: list[Clip]) -> None:
    kept = [frames for _, frames, _ in StoredPairs([clips[0], clips[3]], WHOLE, CPU).clips]
    upright = np.stack([frame.pixels for frame in clips[3].open()])
    assert torch.equal(kept[0], torch.tensor(np.stack(moving_square(6))).permute(0, 3, 1, 2))
    assert torch.equal(kept[1], torch.tensor(upright).permute(0, 3, 2, 1))


def test_frames_that_repeat_or_come_back_never_make_a_pair(tmp_path: Path) -> None:
    slow = [frame for frame in moving_square(4) for _ in range(3)]
    blinks = moving_square(2, step=(0, 8)) * 4
    for name, frames in {"slow.mkv": slow, "blinks.mkv": blinks}.items():
        for pairs in both(one_clip(tmp_path / name, frames), WHOLE, max_gap=4):
            for batch in itertools.islice(batches(pairs), 6):
                assert (batch.frame_i != batch.frame_j).flatten(1).any(1).all()


@pytest.mark.parametrize("flip", [True, False])
def test_both_frames_get_the_same_crop_and_half_are_flipped(tmp_path: Path, flip: bool) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (32, 64, 3))
    clip = one_clip(tmp_path / "ramp.mkv", [ramp, ramp + np.uint8(1)])
    batch = next(batches(both(clip, batch_size=64, flip=flip)[0]))
    assert torch.equal(batch.frame_i + 1, batch.frame_j)
    rises = batch.frame_i[:, 0, 0, -1] > batch.frame_i[:, 0, 0, 0]
    assert 16 < rises.sum() < 48 if flip else rises.all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_are_the_same_however_read_and_shared(clips: list[Clip], workers: int) -> None:
    state = torch.get_rng_state()
    stored, decoded = both(clips, max_gap=2, seed=4, workers=workers)
    streams = [batches(stored), batches(decoded), batches(stored, 0, 2), batches(stored, 1, 2)]
    for batch, other, *halves in itertools.islice(zip(*streams, strict=True), 6):
        assert batch.names == other.names == halves[0].names + halves[1].names
        for kind in ("frame_i", "frame_j"):
            whole = getattr(batch, kind)
            assert torch.equal(whole, getattr(other, kind))
            assert torch.equal(whole, torch.cat([getattr(half, kind) for half in halves]))
    assert torch.equal(torch.get_rng_state(), state)  # The run's generator is left alone.


@pytest.mark.parametrize("way", ["no video", "cut in the middle"])
def test_broken_clips_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    good, bad = one_clip(tmp_path / "good.mkv", moving_square(3)), tmp_path / "bad.mp4"
    if way == "no video":
        bad.write_text("no video")
    else:
        truncate(write_folder(bad, moving_square(2)) / "00001.png", 0.5)
    broken = find_clips([str(bad)])
    for pairs in both(good * 100 + broken, batch_size=101):
        for batch in itertools.islice(batches(pairs), 2):
            assert {name.split(":")[0] for name in batch.names} == {"good.mkv"}
    assert caplog.text.count("Clip bad.mp4 is left out") == 2
    few, config = good * 50 + broken, dataclasses.replace(SMALL, batch_size=51)
    for make in (lambda: StoredPairs(few, config, CPU), lambda: DecodedPairs(few, config)):
        with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*bad\.mp4"):
            next(batches(make()))
    if way != "no video":  # which is told before the first pair
        lost = DecodedPairs(broken, SMALL)
        for _ in range(2):  # Asked again it ends, too.
            with pytest.raises(MediaError, match="read"):
                next(batches(lost))


def test_a_clip_in_which_nothing_moves_is_left_out(
    tmp_path: Path, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    still = one_clip(tmp_path / "still.mkv", moving_square(1) * 5)
    assert len(StoredPairs([*clips, *still], SMALL, CPU).clips) == len(clips)
    assert "still.mkv" in caplog.text
    with pytest.raises(InputError, match="two different frames"):
        StoredPairs(still, SMALL, CPU)
    with pytest.raises(InputError, match="two frames"):
        DecodedPairs(one_clip(tmp_path / "one.mkv", moving_square(1)), SMALL)


def test_a_part_keeps_its_values_or_their_mean() -> None:
    frames = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    part = frames[..., 3:19, 5:29]
    assert torch.equal(Box(3, 5, 16, 24, False).cut(frames, (16, 24)), part)
    assert torch.equal(Box(3, 5, 16, 24, True).cut(frames, (16, 24)), part.flip(-1))
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(48).expand(1, 3, 64, 96)
    inner = Box(0, 0, 64, 96, False).cut(stripes, (16, 24))[..., 1:-1].float()
    assert (inner - 127.5).abs().max() <= 8
    frame = moving_square(1)[0]
    larger = Box(0, 0, 48, 64, False).cut(torch.tensor(frame).permute(2, 0, 1)[None], (96, 128))
    difference = larger[0].permute(1, 2, 0).numpy().astype(int) - cv2.resize(frame, (128, 96))
    assert abs(difference).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_frames_on_a_gpu_give_the_crops_of_frames_on_the_cpu() -> None:
    frames, box = torch.randint(0, 256, (2, 3, 48, 90), dtype=torch.uint8), Box(3, 5, 40, 60, True)
    first, second = (box.cut(frames.to(device), (16, 24)) for device in ("cpu", "cuda"))
    assert (first.int() - second.cpu().int()).abs().max() <= 1


@given(
    crop=st.tuples(st.integers(16, 80), st.integers(16, 80)),
    frame=st.tuples(st.integers(8, 120), st.integers(8, 120)),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_box_lies_in_the_frame(crop, frame, scale, chances, seed) -> None:
    config = TrainingConfig(crop=crop, scale=scale)
    one = random_box(frame, config, torch.Generator().manual_seed(seed))
    other = pair_box(frame, chances, config)
    for (top, left, height, width, _), least in ((one, 8), (other, 1)):
        assert 0 <= top <= top + height <= frame[0]
        assert 0 <= left <= left + width <= frame[1]
        assert min(height, width) >= least


def test_blur_is_a_gaussian_and_keeps_the_mean() -> None:
    frames = torch.zeros(40, 3, 21, 21)
    frames[:, :, 10, 10] = 100.0
    blurred = blur(frames, torch.Generator().manual_seed(0))
    changed = (blurred != frames).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(BLURRED_SHARE, abs=0.2)
    torch.testing.assert_close(blurred.sum(dim=(2, 3)), frames.sum(dim=(2, 3)))
    # Of a Gaussian, the values beside the centre's obey g(1)^4 = g(2) g(0)^3.
    g0, g1, g2 = blurred[blurred[:, 0, 10, 10].argmin(), 0, 10, 10:13].tolist()
    assert g1**4 == pytest.approx(g2 * g0**3, rel=1e-3)


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    frames = torch.randint(0, 256, (6, 3, 8, 8)).float()
    one, two = (jitter_colours(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= one.min() <= one.max() <= 255
    assert not torch.equal(one, frames)
