"""What adaptation learns from: some frames of a clip, and masks that motion and network share."""

import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.media.video import Frame
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.training.clip_masks import (
    MOTION_RANGE,
    NETWORK_RANGE,
    ClipFrames,
    FrameChunk,
    MotionEvidence,
    agreed_masks,
    combine_odds,
    find_motion,
    flip_averaged_regions,
    gather_frames,
    trust_in_network,
)
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.superpixel_voting import vote
from tests.clips import moving_patch, texture

# Frames of a clip in memory


class Clip:
    """Frames of one grey each, made as they are read; each comes `times` times."""

    source, frame_rate = "clip", 24.0

    def __init__(self, count: int, times: int = 1) -> None:
        self.count, self.times = count, times

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count * self.times):
            grey = index // self.times % 251
            yield Frame(index, index / 24, np.full((40, 60, 3), grey, np.uint8))


def gathered(clip: Clip, short_edge: int = 40) -> Sequence[FrameChunk]:
    """Chunks of five frames, eight at most."""
    return gather_frames(clip, AdaptationConfig(max_gap=2, frames=40), short_edge=short_edge).chunks


def test_a_short_clip_is_kept_whole_and_a_long_one_in_chunks() -> None:
    (chunk,) = gathered(Clip(11))
    assert chunk.numbers == tuple(range(11))
    assert chunk.frames[:, 0, 0, 0].tolist() == list(range(11))
    (chunk,) = gathered(Clip(5, times=2))
    assert chunk.numbers == (0, 2, 4, 6, 8)
    kept = gathered(Clip(1000), short_edge=20)
    assert 4 <= len(kept) <= 8
    starts = [chunk.numbers[0] for chunk in kept]
    assert set(np.diff(starts)) == {160}
    assert all(np.diff(chunk.numbers).tolist() == [1] * 4 for chunk in kept)
    assert starts[-1] + 160 >= 1000
    assert kept[0].frames.shape == (5, 20, 30, 3)


def test_memory_does_not_grow_with_the_clip() -> None:
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        gathered(Clip(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Nine chunks of five frames, the frame in hand, and one chunk being made.
    assert peaks[1] < 12 * 5 * 40 * 60 * 3


# What the clip agrees on


def painted(is_object: np.ndarray) -> np.ndarray:
    """A frame in which the object is red on a blue ground, each with its own grain."""
    grain = texture(*is_object.shape, 3) // 10
    return np.where(is_object[..., None], (200, 30, 20), (20, 40, 190)).astype(np.uint8) + grain


def test_a_vote_finds_in_one_frame_what_others_know() -> None:
    masks = np.zeros((3, 60, 80), bool)
    for index in range(3):
        masks[index, 15:40, 10 + 8 * index : 40 + 8 * index] = True
    frames = np.stack([painted(mask) for mask in masks])
    evidence = [mask.astype(np.float32) for mask in masks]
    evidence[2] = np.full((60, 80), 0.5, np.float32)
    voted = vote(frames, evidence, [1.0, 1.0, 0.1])
    for mask, found in zip(masks, voted, strict=True):
        assert found.shape == mask.shape
        assert found.dtype == np.float32
        overlap = (found > 0.5) & mask
        assert overlap.sum() / ((found > 0.5) | mask).sum() > 0.9


def evidence_of(maps: list[float], confidence: list[float]) -> MotionEvidence:
    count = len(maps)
    return MotionEvidence(
        tuple(range(count)),
        np.zeros((count, 4, 4, 3), np.uint8),
        np.stack([np.full((4, 4), value, np.float32) for value in maps]),
        np.array(confidence, np.float32),
    )


def test_trust_is_the_moving_share_of_the_networks_object() -> None:
    half = np.zeros((2, 4, 4), np.float32)
    half[:, :2] = 1
    assert trust_in_network(evidence_of([1, 0], [1, 1]), half) == 1  # half of it moves
    assert trust_in_network(evidence_of([0, 0], [1, 1]), half) == 0
    one = half.copy()
    one[1] = 1  # 8 of 24 pixels move
    assert trust_in_network(evidence_of([1, 0], [1, 1]), one) == pytest.approx(2 / 3)
    assert trust_in_network(evidence_of([1, 0.5], [1, 0]), one) == 1  # the other says nothing
    assert trust_in_network(evidence_of([1, 1], [1, 1]), 0 * half) == 0  # it sees nothing


def test_masks_join_motion_and_the_clip() -> None:
    frames, masks = moving_patch(8, height=96, width=128, side=40)
    clip = ClipFrames("clip", [FrameChunk(tuple(range(8)), frames)], 24.0)
    motion = find_motion(clip, most=4)
    assert motion.numbers == (0, 2, 5, 7)
    assert (motion.confidence > 0.5).all()
    silent = motion._replace(
        maps=np.concatenate([motion.maps[:3], np.full_like(motion.maps[:1], 0.5)]),
        confidence=np.append(motion.confidence[:3], np.float32(0)),
    )
    found = agreed_masks(silent, np.zeros_like(motion.maps), "clip")
    assert found.labels == ("clip:0", "clip:2", "clip:5", "clip:7")
    assert found.frames[0].shape == (3, 96, 128)
    for number, mask in zip(motion.numbers, found.masks, strict=True):
        is_object = mask[0].numpy() > 127
        assert (is_object & masks[number]).sum() / (is_object | masks[number]).sum() > 0.7


probabilities = st.floats(0, 1, width=32)


@given(seen=probabilities, moving=probabilities)
def test_two_probabilities_are_joined_by_bayes_rule(seen: float, moving: float) -> None:
    s, m = np.clip(seen, *NETWORK_RANGE), np.clip(moving, *MOTION_RANGE)
    joined = combine_odds(*(np.full((2, 3), value, np.float32) for value in (seen, moving)))
    assert joined.shape == (2, 3)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, s * m / (s * m + (1 - s) * (1 - m)), rtol=1e-4)


def test_a_mirrored_frame_has_the_mirrored_regions(tiny_config: AMDConfig) -> None:
    torch.manual_seed(0)
    model = AMD(tiny_config).eval()
    frames = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    regions = flip_averaged_regions(model, frames)
    assert regions.shape == (3, 5, 32, 48)
    torch.testing.assert_close(
        flip_averaged_regions(model, frames.flip(-1)), regions.flip(-1), atol=1e-5, rtol=0
    )
