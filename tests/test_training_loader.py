"""Pairs decoded as they are drawn: the same pairs as from memory, by workers, on real files."""

import itertools
from pathlib import Path

import pytest
import torch

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.data import FrameStore, PairSampler
from amd_seg.training.loader import PairLoader
from amd_seg.training.pairs import Crop, PairBatch
from tests.clips import moving_square, truncate, write_clip, write_folder, write_lossless

SMALL = Crop(size=(16, 24), scale=(0.5, 1.0), flip=True)


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


def equal(first: PairBatch, second: PairBatch) -> bool:
    return (
        first.names == second.names
        and torch.equal(first.frame_i, second.frame_i)
        and torch.equal(first.frame_j, second.frame_j)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("frame_step", [1, 2])
def test_the_loader_gives_what_the_store_gives(
    clips: list[Clip], workers: int, frame_step: int
) -> None:
    options = {"batch_size": 4, "crop": SMALL, "max_gap": 2, "seed": 4}
    store = FrameStore.decode(clips, short_edge=32, frame_step=frame_step)
    loader = PairLoader(clips, short_edge=32, frame_step=frame_step, workers=workers, **options)
    sampler = PairSampler(store, **options)
    assert all(equal(next(loader), next(sampler)) for _ in range(6))


def test_the_loader_goes_on_after_the_batch_given_last(clips: list[Clip]) -> None:
    def loader(workers: int) -> PairLoader:
        options = {"workers": workers, "prefetch": 3}
        return PairLoader(clips, batch_size=2, short_edge=32, crop=SMALL, **options)

    first, second = loader(1), loader(0)
    list(itertools.islice(first, 3))
    second.load_state_dict(first.state_dict())
    expected = list(itertools.islice(first, 3))
    assert all(map(equal, expected, second))
    first.load_state_dict(loader(0).state_dict())
    assert equal(next(first), next(loader(0)))


def test_ranks_share_the_batch_of_one_process(clips: list[Clip]) -> None:
    whole, *ranks = (
        PairLoader(
            clips, batch_size=4, short_edge=32, crop=SMALL, workers=0, rank=rank, world_size=size
        )
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    for _ in range(3):
        batch, shares = next(whole), [next(rank) for rank in ranks]
        assert batch.names == shares[0].names + shares[1].names
        assert torch.equal(batch.frame_j, torch.cat([share.frame_j for share in shares]))


def test_the_generator_of_the_run_is_left_alone(clips: list[Clip]) -> None:
    state = torch.get_rng_state()
    next(PairLoader(clips, batch_size=2, short_edge=32, crop=SMALL, workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_repeated_frames_never_make_a_pair(tmp_path: Path) -> None:
    frames = [frame for frame in moving_square(4) for _ in range(3)]
    clip = find_clips([str(write_lossless(tmp_path / "slow.mkv", frames))])
    loader = PairLoader(clip, batch_size=8, short_edge=48, crop=Crop(size=(48, 64)), workers=0)
    for batch in itertools.islice(loader, 3):
        assert (batch.frame_i != batch.frame_j).flatten(1).any(1).all()


def test_a_clip_found_broken_is_named_once_and_another_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = find_clips([str(write_lossless(tmp_path / "good.mkv", moving_square(3)))])
    bad = find_clips([str(truncated_folder(tmp_path / "bad"))])
    options = {"batch_size": 101, "short_edge": 16, "crop": SMALL, "workers": 0}
    loader = PairLoader([*good * 100, *bad], **options)
    for batch in itertools.islice(loader, 2):
        assert {name.split(":")[0] for name in batch.names} == {"good.mkv"}
    assert caplog.text.count("Clip bad is left out") == 1
    with pytest.raises(MediaError, match=r"1 of 51 clips cannot be read .*00001\.png"):
        next(PairLoader([*good * 50, *bad], **options))


def truncated_folder(folder: Path) -> Path:
    write_folder(folder, moving_square(2))
    truncate(folder / "00001.png", 0.5)
    return folder


def test_what_cannot_be_drawn_from_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        PairLoader(find_clips([str(tmp_path / "bad.mp4")]), batch_size=1, short_edge=16)
    one = write_lossless(tmp_path / "one.mkv", moving_square(1))
    with pytest.raises(InputError, match="two frames"):
        PairLoader(find_clips([str(one)]), batch_size=1, short_edge=16)
    with pytest.raises(ConfigError, match="multiple of the number of processes"):
        PairLoader(clips, batch_size=3, short_edge=16, world_size=2)
