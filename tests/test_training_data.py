"""Clips found, frames kept in memory, pairs drawn and cropped: on real files."""

import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.data import FrameStore, PairSampler, StoredClip
from amd_seg.training.pairs import Crop, PairBatch, PairDraw, PairSchedule
from tests.clips import moving_square, truncate, write_clip, write_folder, write_lossless

SMALL = Crop(size=(16, 24), scale=(0.5, 1.0), flip=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Three clips of 6, 4 and 5 frames, two of them videos."""
    root = tmp_path_factory.mktemp("clips")
    write_lossless(root / "a.mkv", moving_square(6))
    write_lossless(root / "b.mkv", moving_square(4, step=(1, 0)))
    write_folder(root / "c", moving_square(5, height=40, width=80))
    return find_clips([str(root)])


@pytest.fixture(scope="module")
def store(clips: list[Clip]) -> FrameStore:
    return FrameStore.decode(clips, short_edge=48, threads=2)


def names_of(root: Path | str) -> list[str]:
    return [clip.name for clip in find_clips([str(root)])]


def test_videos_and_folders_at_any_depth(tmp_path: Path) -> None:
    frames = moving_square(2)
    for name in ("clip10.mp4", "clip2.mp4"):
        write_clip(tmp_path / name, frames)
    write_folder(tmp_path / "more" / "walk", frames)
    (tmp_path / "README.md").write_text("about")
    assert names_of(tmp_path) == ["clip2.mp4", "clip10.mp4", "more/walk"]
    assert names_of(tmp_path / "clip2.mp4") == ["clip2.mp4"]
    assert names_of(tmp_path / "more" / "walk") == ["walk"]


def test_data_set_layouts_give_frames_and_no_masks(tmp_path: Path) -> None:
    frames = moving_square(2)
    youtube, davis = tmp_path / "youtube-vos", tmp_path / "davis"
    for name in ("0a1", "0b2"):
        write_folder(youtube / "train_all_frames" / "JPEGImages" / name, frames, ".jpg")
        write_folder(youtube / "train" / "Annotations" / name, frames)
    for folder in ("JPEGImages/480p", "JPEGImages/1080p", "Annotations/480p"):
        write_folder(davis / folder / "bear", frames)
    assert names_of(youtube) == [f"train_all_frames/JPEGImages/{x}" for x in ("0a1", "0b2")]
    assert names_of(davis) == ["JPEGImages/480p/bear"]
    assert find_clips([str(davis)])[0].frames == ("00000.png", "00001.png")


def test_split_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "JPEGImages" / "bear", moving_square(4), ".jpg")
    split = tmp_path / "lists" / "train.txt"
    split.parent.mkdir()
    split.write_text("JPEGImages/bear/ 00001.jpg 00002.jpg\n\nJPEGImages/bear 00003 00000\n")
    first, second = find_clips([str(split)])
    assert (first.name, first.frames) == ("JPEGImages/bear", ("00001.jpg", "00002.jpg"))
    assert second.frames == ("00003.jpg", "00000.jpg")
    assert FrameStore.decode([first], short_edge=24).frame_count == 2
    split.write_text("elsewhere/bear 00001.jpg\n")
    with pytest.raises(InputError, match="elsewhere/bear"):
        find_clips([str(split)])
    split.write_text("JPEGImages/bear 00001.jpg 00002.jpg\nJPEGImages/bear\n")
    with pytest.raises(InputError, match=r"no frame of JPEGImages/bear\."):
        find_clips([str(split)])
    split.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="Give a text file"):
        find_clips([str(split)])


def test_roots_have_weights(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", moving_square(2))
    write_clip(tmp_path / "b@2.mp4", moving_square(2))
    roots = [f"{tmp_path / 'a.mp4'}@2.5", str(tmp_path / "b@2.mp4")]
    assert [clip.weight for clip in find_clips(roots)] == [2.5, 1.0]
    for bad in ("@0", "@-1", "@x", "@inf", "@nan"):
        with pytest.raises(InputError, match="is no weight"):
            find_clips([f"{tmp_path / 'a.mp4'}{bad}"])
    with pytest.raises(InputError, match="No such file"):
        find_clips([str(tmp_path / "c.mp4")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No clip"):
        find_clips([str(tmp_path / "empty")])


def test_frames_are_kept_as_they_are_read(clips: list[Clip], store: FrameStore) -> None:
    expected = np.stack(moving_square(6)).transpose(0, 3, 1, 2)
    assert torch.equal(store.clips[0].frames, torch.from_numpy(expected))
    assert [tuple(clip.frames.shape) for clip in store.clips] == [
        (6, 3, 48, 64), (4, 3, 48, 64), (5, 3, 40, 80)
    ]  # fmt: skip
    assert store.frame_count == 15
    assert store.gib == pytest.approx((10 * 48 * 64 + 5 * 40 * 80) * 3 / 2**30)
    small = FrameStore.decode(clips, short_edge=20, frame_step=2)
    assert [tuple(clip.frames.shape) for clip in small.clips] == [
        (3, 3, 20, 27), (2, 3, 20, 27), (3, 3, 20, 40)
    ]  # fmt: skip
    assert small.clips[0].numbers == (0, 2, 4)


def test_portrait_frames_are_transposed_as_published(tmp_path: Path) -> None:
    frames = moving_square(2, height=64, width=48)
    clip = find_clips([str(write_lossless(tmp_path / "phone.mkv", frames))])
    swapped = FrameStore.decode(clip, short_edge=48).clips[0].frames
    upright = FrameStore.decode(clip, short_edge=48, transpose_portrait=False).clips[0].frames
    assert tuple(upright.shape) == (2, 3, 64, 48)
    assert torch.equal(swapped, upright.transpose(2, 3))


def test_repeated_frames_are_left_out(tmp_path: Path) -> None:
    frames = [frame for frame in moving_square(4) for _ in range(3)]
    [clip] = FrameStore.decode(
        find_clips([str(write_lossless(tmp_path / "slow.mkv", frames))]), short_edge=48
    ).clips
    assert clip.numbers == (0, 3, 6, 9)


def test_frames_that_come_back_never_make_a_pair_with_themselves(tmp_path: Path) -> None:
    one, other = moving_square(2, step=(0, 8))
    clip = find_clips([str(write_lossless(tmp_path / "blinks.mkv", [one, other] * 4))])
    store = FrameStore.decode(clip, short_edge=48)
    sampler = PairSampler(store, batch_size=8, crop=Crop(size=(48, 64)), max_gap=4)
    for batch in itertools.islice(sampler, 5):
        assert (batch.frame_i != batch.frame_j).flatten(1).any(1).all()


def test_broken_clips_are_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = find_clips([str(write_lossless(tmp_path / "good.mkv", moving_square(2)))])
    (tmp_path / "bad.mp4").write_text("no video")
    bad = find_clips([str(tmp_path / "bad.mp4")])
    store = FrameStore.decode(clip * 100 + bad, short_edge=16)
    assert len(store.clips) == 100
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "bad.mp4" in caplog.text
    with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*bad\.mp4"):
        FrameStore.decode(clip * 50 + bad, short_edge=16)


def test_a_frame_broken_in_the_middle_breaks_its_clip(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "walk", moving_square(3))
    truncate(folder / "00001.png", 0.5)
    with pytest.raises(MediaError, match=r"1 of 1 clips cannot be read .*00001\.png"):
        FrameStore.decode(find_clips([str(folder)]), short_edge=16)


def test_a_clip_in_which_nothing_moves_is_left_out(
    tmp_path: Path, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    still = write_lossless(tmp_path / "still.mkv", moving_square(1) * 5)
    assert len(FrameStore.decode([*clips, *find_clips([str(still)])], short_edge=16).clips) == 3
    assert "still.mkv" in caplog.text
    with pytest.raises(InputError, match="two different frames"):
        FrameStore.decode(find_clips([str(still)]), short_edge=16)


def test_frames_that_do_not_fit_are_refused_with_the_numbers(clips: list[Clip]) -> None:
    with pytest.raises(InputError, match=r"they need 0\.00013\d* GiB, 0\.0001 GiB"):
        FrameStore.decode(clips, short_edge=48, limit_gib=1e-4)


def test_processes_that_share_a_cpu_share_its_memory(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Frames of 133 kB in this process, and so many copies that none has room for them.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**9))
    message = r"free by each of 1000000000 processes\. Use a smaller short edge, fewer processes"
    with pytest.raises(InputError, match=message):
        FrameStore.decode(clips, short_edge=48)


def test_progress_is_told(clips: list[Clip]) -> None:
    told: list[tuple[int, int]] = []
    FrameStore.decode(clips, short_edge=16, on_clip=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_holds_pairs_of_neighbours(store: FrameStore) -> None:
    whole = Crop(size=(48, 64), scale=(1.0, 1.0))
    frames = {clip.name: clip.frames for clip in store.clips}
    sampler = PairSampler(store, batch_size=3, crop=whole)
    for batch in itertools.islice(sampler, 20):
        assert batch.frame_i.shape == batch.frame_j.shape == (3, 3, 48, 64)
        assert batch.frame_i.dtype == torch.uint8
        for number, name in enumerate(batch.names):
            clip, first, second = name.replace("-", ":").split(":")
            assert int(second) - int(first) == 1
            if clip != "c":
                assert torch.equal(batch.frame_i[number], frames[clip][int(first)])
                assert torch.equal(batch.frame_j[number], frames[clip][int(second)])


def test_both_frames_get_the_same_crop_and_flip() -> None:
    ramp = torch.arange(40 * 60, dtype=torch.int32).remainder(251).to(torch.uint8)
    frame = ramp.view(1, 1, 40, 60).expand(2, 3, 40, 60)
    store = FrameStore([StoredClip("ramp", frame, (0, 1))])
    sampler = PairSampler(store, batch_size=32, crop=Crop(size=(16, 24), scale=(0.5, 1), flip=True))
    batch = next(sampler)
    assert torch.equal(batch.frame_i, batch.frame_j)
    assert len({tuple(pair.flatten().tolist()) for pair in batch.frame_i}) == 32


def test_half_of_the_pairs_are_flipped() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(2, 3, 32, 64)
    store = FrameStore([StoredClip("ramp", ramp, (0, 1))])
    batch = next(PairSampler(store, batch_size=64, crop=SMALL))
    rises = batch.frame_i[:, 0, 0, -1] > batch.frame_i[:, 0, 0, 0]
    assert 16 < rises.sum() < 48
    plain = next(PairSampler(store, batch_size=64, crop=Crop(size=(16, 24))))
    assert (plain.frame_i[:, 0, 0, -1] > plain.frame_i[:, 0, 0, 0]).all()


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3),
)
def test_a_box_lies_in_the_frame(size, frame, scale, chances) -> None:
    draw = PairDraw(0, 0, 1, *chances, 0.0)
    top, left, height, width = Crop(size=size, scale=tuple(scale)).box(draw, *frame)
    assert 0 <= top <= top + height <= frame[0]
    assert 0 <= left <= left + width <= frame[1]
    assert min(height, width) >= 1


def test_the_default_box_is_the_published_crop() -> None:
    # 384 of a short edge 384..400: in a frame of short edge 400, boxes of 384..400.
    sides = []
    for zoom in np.linspace(0, 0.999, 50):
        top, left, height, width = Crop().box(PairDraw(0, 0, 1, zoom, 0.999, 0.999, 0), 400, 711)
        assert height == width
        assert (top, left) == (400 - height, 711 - width)
        sides.append(height)
    assert (min(sides), max(sides)) == (384, 400)


def test_resizing_agrees_with_opencv(store: FrameStore) -> None:
    import cv2

    frames = store.clips[0].frames[:2]
    crop = Crop(size=(96, 128), scale=(1, 1))
    larger = crop([frames], [PairDraw(0, 0, 1, 0, 0, 0, 0)])
    expected = cv2.resize(frames[0].permute(1, 2, 0).numpy(), (128, 96))
    difference = larger[0, 0].permute(1, 2, 0).numpy().astype(int) - expected
    assert abs(difference).max() <= 1


def draws_of(schedule: PairSchedule, *counts: int) -> list[PairDraw]:
    return [draw for count in counts for draw in schedule.draw(count)]


def test_an_epoch_draws_one_pair_of_each_video_in_a_new_order() -> None:
    schedule = PairSchedule([5] * 20)
    epochs = [[draw.clip for draw in schedule.draw(20)] for _ in range(5)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_every_adjacent_pair_is_an_item() -> None:
    schedule = PairSchedule([2, 5, 3], sampling="pair")
    expected = {(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)}
    for _ in range(3):
        epoch = schedule.draw(7)
        assert {(draw.clip, draw.first) for draw in epoch} == expected
        assert all(draw.second - draw.first == 1 for draw in epoch)


@pytest.mark.parametrize("sampling", ["video", "pair"])
def test_gaps_are_uniform_and_stay_in_the_clip(sampling: str) -> None:
    schedule = PairSchedule([3, 50], sampling=sampling, max_gap=4)
    draws = schedule.draw(800)
    assert all(0 <= draw.first < draw.second < (3, 50)[draw.clip] for draw in draws)
    gaps = Counter(draw.second - draw.first for draw in draws if draw.clip)
    assert set(gaps) == {1, 2, 3, 4}
    assert min(gaps.values()) > 0.15 * sum(gaps.values())


def test_weights_are_kept_on_average() -> None:
    counts = Counter(draw.clip for draw in PairSchedule([5, 5, 5], [0.5, 1, 1.25]).draw(5500))
    assert counts[0] == pytest.approx(1000, abs=3)
    assert counts[1] == pytest.approx(2000, abs=6)
    assert counts[2] == pytest.approx(2500, abs=6)


def test_draws_do_not_depend_on_the_batch_size() -> None:
    arguments = {"lengths": [7, 3, 9], "max_gap": 3, "seed": 5}
    assert draws_of(PairSchedule(**arguments), 4, 1, 6, 13) == PairSchedule(**arguments).draw(24)
    assert PairSchedule([7, 3, 9], max_gap=3, seed=6).draw(24) != PairSchedule(**arguments).draw(24)


@pytest.mark.parametrize("sampling", ["video", "pair"])
def test_a_schedule_goes_on_where_it_was_saved(sampling: str) -> None:
    arguments = {"weights": [1, 2.5, 1], "sampling": sampling, "seed": 3}
    first = PairSchedule([7, 3, 9], **arguments)
    first.draw(11)
    state = first.state_dict()
    second = PairSchedule([7, 3, 9], **arguments)
    second.load_state_dict(state)
    assert first.draw(50) == second.draw(50)
    for other in (PairSchedule([7, 3], **arguments | {"weights": None}), PairSchedule([7, 3, 9])):
        with pytest.raises(ConfigError, match="Cannot resume"):
            other.load_state_dict(state)


def equal(first: PairBatch, second: PairBatch) -> bool:
    return (
        first.names == second.names
        and torch.equal(first.frame_i, second.frame_i)
        and torch.equal(first.frame_j, second.frame_j)
    )


def test_a_seed_and_a_state_give_the_same_batches(store: FrameStore) -> None:
    first, second = (PairSampler(store, batch_size=4, crop=SMALL, seed=9) for _ in range(2))
    assert equal(next(first), next(second))
    next(first)
    second.load_state_dict(first.state_dict())
    assert equal(next(first), next(second))
    assert not equal(next(first), next(PairSampler(store, batch_size=4, crop=SMALL, seed=10)))


def test_ranks_share_the_batch_of_one_process(store: FrameStore) -> None:
    whole = PairSampler(store, batch_size=6, crop=SMALL, max_gap=2)
    ranks = [
        PairSampler(store, batch_size=6, crop=SMALL, max_gap=2, rank=rank, world_size=3)
        for rank in range(3)
    ]
    for _ in range(4):
        batch, shares = next(whole), [next(rank) for rank in ranks]
        assert batch.names == tuple(name for share in shares for name in share.names)
        assert torch.equal(batch.frame_i, torch.cat([share.frame_i for share in shares]))
        assert torch.equal(batch.frame_j, torch.cat([share.frame_j for share in shares]))
    with pytest.raises(ConfigError, match="multiple of the number of processes"):
        PairSampler(store, batch_size=5, world_size=2)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampling"):
        PairSchedule([3], sampling="clip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_gap"):
        PairSchedule([3], max_gap=0)
    with pytest.raises(ConfigError, match="2 frames"):
        PairSchedule([3, 1])
    with pytest.raises(ConfigError, match="crop scale"):
        Crop(scale=(0.9, 0.5))
    with pytest.raises(ConfigError, match="crop size"):
        Crop(size=(0, 5))


def test_real_clips(shared: Path) -> None:
    clips = find_clips([str(shared / "data" / "videos")])
    assert len(clips) == 480
    store = FrameStore.decode(clips[:2], short_edge=48, frame_step=20)
    assert [clip.name for clip in store.clips] == ["ai_study_repo-001.mp4", "ai_study_repo-002.mp4"]
    assert [tuple(clip.frames.shape) for clip in store.clips] == [(7, 3, 48, 85), (6, 3, 48, 85)]
