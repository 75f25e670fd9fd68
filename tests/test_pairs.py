"""Pairs of frames: drawn, decoded and cropped the same from memory and as drawn, on real files."""

import itertools
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.crops import Crop
from amd_seg.training.distributed import Processes
from amd_seg.training.pairs import (
    DecodedPairs,
    PairBatch,
    PairDraw,
    PairSchedule,
    PairStream,
    StoredClip,
    StoredPairs,
)
from tests.clips import moving_square, truncate, write_clip, write_folder, write_lossless

SMALL = Crop(size=(16, 24), scale=(0.5, 1.0), flip=True)
ALONE = Processes(torch.device("cpu"))


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


@pytest.fixture(scope="module")
def stored(clips: list[Clip]) -> StoredPairs:
    return StoredPairs.decode(clips, SMALL, short_edge=32)


@pytest.fixture(scope="module", params=["memory", "as drawn"])
def source(request: pytest.FixtureRequest, clips: list[Clip]) -> StoredPairs | DecodedPairs:
    if request.param == "memory":
        return StoredPairs.decode(clips, SMALL, short_edge=32)
    return DecodedPairs(clips, SMALL, short_edge=32)


def one_clip(path: Path, frames: list[np.ndarray]) -> list[Clip]:
    return find_clips([str(write_lossless(path, frames))])


def both(clips: list[Clip], crop: Crop, short_edge: int) -> list[StoredPairs | DecodedPairs]:
    return [
        StoredPairs.decode(clips, crop, short_edge=short_edge),
        DecodedPairs(clips, crop, short_edge=short_edge),
    ]


def equal(first: PairBatch, second: PairBatch) -> bool:
    return (
        first.names == second.names
        and torch.equal(first.frame_i, second.frame_i)
        and torch.equal(first.frame_j, second.frame_j)
    )


# Clip, first and second frame, and the chances of some of 40 draws, as they have always been:
# published runs go on and can be repeated.
DRAWS = {
    ("video", 1): [(1, 1, 2), (2, 0, 1), (0, 3, 4), (2, 2, 3), (0, 5, 6)],
    ("pair", 3): [(1, 1, 2), (0, 3, 6), (2, 3, 6), (0, 5, 6), (0, 0, 3)],
}
CHANCES = [
    (0.207809, 0.443363, 0.248999, 0.677591),
    (0.098901, 0.760534, 0.053559, 0.21421),
    (0.846832, 0.608793, 0.129705, 0.020224),
    (0.414405, 0.204719, 0.334911, 0.998915),
    (0.489605, 0.699937, 0.715409, 0.41469),
]
BOXES = [(6, 2, 35, 53), (7, 0, 39, 58), (15, 3, 23, 35), (3, 6, 30, 45), (13, 15, 29, 43)]


@pytest.mark.parametrize(("sampling", "max_gap"), DRAWS)
def test_draws_are_those_that_they_have_always_been(sampling: str, max_gap: int) -> None:
    schedule = PairSchedule([7, 3, 9], sampling=sampling, max_gap=max_gap, seed=5)
    draws = [draw for count in (4, 1, 6, 29) for draw in schedule.draw(count)]
    some = [draws[place] for place in (0, 1, 2, 13, 39)]
    assert [draw[:3] for draw in some] == DRAWS[sampling, max_gap]
    np.testing.assert_allclose([draw.chances for draw in some], CHANCES, atol=1e-6)
    assert [SMALL.box(draw.chances, 48, 64)[:4] for draw in some] == BOXES


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
    draws = PairSchedule([3, 50], sampling=sampling, max_gap=4).draw(800)
    assert all(0 <= draw.first < draw.second < (3, 50)[draw.clip] for draw in draws)
    gaps = Counter(draw.second - draw.first for draw in draws if draw.clip)
    assert set(gaps) == {1, 2, 3, 4}
    assert min(gaps.values()) > 0.15 * sum(gaps.values())


@pytest.mark.parametrize("sampling", ["video", "pair"])
def test_a_schedule_goes_on_where_it_was_saved(sampling: str) -> None:
    first, second = (PairSchedule([7, 3, 9], sampling=sampling, seed=3) for _ in range(2))
    first.draw(11)
    state = first.state_dict()
    second.load_state_dict(state)
    assert first.draw(50) == second.draw(50)
    for other in (PairSchedule([7, 3], seed=3), PairSchedule([7, 3, 9])):
        with pytest.raises(ConfigError, match="Cannot resume"):
            other.load_state_dict(state)


def test_frames_are_kept_as_they_are_read(clips: list[Clip]) -> None:
    store = StoredPairs.decode(clips[:1], SMALL, short_edge=48)
    expected = np.stack(moving_square(6)).transpose(0, 3, 1, 2)
    assert torch.equal(store.clips[0].frames, torch.from_numpy(expected))


def test_portrait_frames_are_transposed_as_published(clips: list[Clip]) -> None:
    swapped, upright = (
        StoredPairs.decode(clips[3:], SMALL, short_edge=48, transpose_portrait=is_swapped)
        for is_swapped in (True, False)
    )
    assert tuple(upright.clips[0].frames.shape) == (5, 3, 64, 48)
    assert torch.equal(swapped.clips[0].frames, upright.clips[0].frames.transpose(2, 3))


def test_frames_that_repeat_or_come_back_never_make_a_pair(tmp_path: Path) -> None:
    whole = Crop(size=(48, 64), scale=(1, 1))
    slow = [frame for frame in moving_square(4) for _ in range(3)]
    blinks = moving_square(2, step=(0, 8)) * 4
    for name, frames in {"slow.mkv": slow, "blinks.mkv": blinks}.items():
        for source in both(one_clip(tmp_path / name, frames), whole, 48):
            stream = PairStream(source, ALONE, batch_size=8, max_gap=4, workers=0)
            for batch in itertools.islice(stream, 3):
                assert (batch.frame_i != batch.frame_j).flatten(1).any(1).all()


def test_a_batch_holds_pairs_of_neighbours(clips: list[Clip]) -> None:
    source = StoredPairs.decode(clips, Crop(size=(48, 64), scale=(1, 1)), short_edge=48)
    frames = {clip.name: clip.frames for clip in source.clips}
    for batch in itertools.islice(PairStream(source, ALONE, batch_size=3), 20):
        assert batch.frame_i.shape == batch.frame_j.shape == (3, 3, 48, 64)
        assert batch.frame_i.dtype == torch.uint8
        for number, name in enumerate(batch.names):
            clip, first, second = name.replace("-", ":").split(":")
            assert int(second) - int(first) == 1
            assert torch.equal(batch.frame_i[number], frames[clip][int(first)])
            assert torch.equal(batch.frame_j[number], frames[clip][int(second)])


def test_both_frames_get_the_same_crop_and_half_are_flipped() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).expand(2, 3, 32, 64)
    for crop in (SMALL, Crop(size=(16, 24))):
        source = StoredPairs([StoredClip("ramp", ramp, (0, 1))], crop)
        batch = next(PairStream(source, ALONE, batch_size=64))
        assert torch.equal(batch.frame_i, batch.frame_j)
        rises = batch.frame_i[:, 0, 0, -1] > batch.frame_i[:, 0, 0, 0]
        assert 16 < rises.sum() < 48 if crop.flip else rises.all()


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_decoded_as_drawn_are_those_from_memory(
    clips: list[Clip], stored: StoredPairs, workers: int
) -> None:
    options = {"batch_size": 4, "max_gap": 2, "seed": 4}
    decoded = DecodedPairs(clips, SMALL, short_edge=32)
    drawn = PairStream(decoded, ALONE, workers=workers, **options)
    assert all(map(equal, itertools.islice(drawn, 6), PairStream(stored, ALONE, **options)))


def test_a_stream_goes_on_after_the_batch_given_last(source: StoredPairs | DecodedPairs) -> None:
    def stream(workers: int, seed: int = 9) -> PairStream:
        return PairStream(source, ALONE, batch_size=2, workers=workers, seed=seed)

    first, second = stream(1), stream(0)
    list(itertools.islice(first, 3))
    second.load_state_dict(first.state_dict())
    expected = list(itertools.islice(first, 3))
    assert all(map(equal, expected, second))
    first.load_state_dict(stream(0).state_dict())
    assert equal(next(first), next(stream(0)))
    assert not equal(next(stream(0)), next(stream(0, seed=10)))


def test_processes_share_the_batch_of_one(source: StoredPairs | DecodedPairs) -> None:
    whole, *ranks = (
        PairStream(source, Processes(ALONE.device, rank, size), batch_size=4, workers=0)
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    for _ in range(3):
        batch, shares = next(whole), [next(rank) for rank in ranks]
        assert batch.names == shares[0].names + shares[1].names
        assert torch.equal(batch.frame_j, torch.cat([share.frame_j for share in shares]))
    with pytest.raises(ConfigError, match="multiple of the number of processes"):
        PairStream(source, Processes(ALONE.device, 0, 2), batch_size=5)


def test_the_generator_of_the_run_is_left_alone(clips: list[Clip]) -> None:
    state = torch.get_rng_state()
    next(PairStream(DecodedPairs(clips, SMALL, short_edge=32), ALONE, batch_size=2, workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_broken_clips_are_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = one_clip(tmp_path / "good.mkv", moving_square(2))
    (tmp_path / "bad.mp4").write_text("no video")
    bad = find_clips([str(tmp_path / "bad.mp4")])
    store, decoded = both(clip * 100 + bad, SMALL, 16)
    assert len(store.lengths) == len(decoded.lengths) == 100
    assert [r.levelno for r in caplog.records if "left out" in r.message] == [logging.WARNING] * 2
    for source in (StoredPairs.decode, DecodedPairs):
        with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*bad\.mp4"):
            source(clip * 50 + bad, SMALL, short_edge=16)


def test_a_frame_broken_in_the_middle_breaks_its_clip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = one_clip(tmp_path / "good.mkv", moving_square(3))
    bad = find_clips([str(write_folder(tmp_path / "bad", moving_square(2)))])
    truncate(tmp_path / "bad" / "00001.png", 0.5)
    stream = PairStream(
        DecodedPairs([*good * 100, *bad], SMALL, short_edge=16), ALONE, batch_size=101, workers=0
    )
    for batch in itertools.islice(stream, 2):
        assert {name.split(":")[0] for name in batch.names} == {"good.mkv"}
    assert caplog.text.count("Clip bad is left out") == 1
    with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*00001\.png"):
        StoredPairs.decode([*good * 50, *bad], SMALL, short_edge=16)
    few = DecodedPairs([*good * 50, *bad], SMALL, short_edge=16)
    with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*00001\.png"):
        next(PairStream(few, ALONE, batch_size=101, workers=0))


def test_a_clip_in_which_nothing_moves_is_left_out(
    tmp_path: Path, clips: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    still = one_clip(tmp_path / "still.mkv", moving_square(1) * 5)
    assert len(StoredPairs.decode([*clips, *still], SMALL, short_edge=16).clips) == len(clips)
    assert "still.mkv" in caplog.text
    with pytest.raises(InputError, match="two different frames"):
        StoredPairs.decode(still, SMALL, short_edge=16)
    with pytest.raises(InputError, match="two frames"):
        DecodedPairs(one_clip(tmp_path / "one.mkv", moving_square(1)), SMALL, short_edge=16)


def test_frames_that_do_not_fit_are_refused_with_the_numbers(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Frames of 400 kB in this process, and so many copies that none has room for them.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**9))
    message = r"need 0\.0004\d* GiB, .*free by each of 1000000000 processes\. Use .*fewer processes"
    with pytest.raises(InputError, match=message):
        StoredPairs.decode(clips, SMALL, short_edge=48)


def test_progress_is_told(clips: list[Clip], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    StoredPairs.decode(clips, SMALL, short_edge=16)
    told = [message for message in caplog.messages if message.startswith("Decoded")]
    assert told == [f"Decoded: {count} of 4." for count in range(1, 5)]


def test_draws_name_their_clip_and_frames(stored: StoredPairs) -> None:
    draw: PairDraw = PairSchedule(stored.lengths).draw(1)[0]
    _, [name], _ = stored[[draw]]
    assert name == f"{stored.clips[draw.clip].name}:{draw.first}-{draw.second}"
