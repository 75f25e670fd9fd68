"""What adaptation learns from: some frames of a clip, and masks that motion and network share."""

import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.colour_model import iou
from amd_seg.media.video import Frame
from amd_seg.model.amd import AMD
from amd_seg.training import clip_masks
from amd_seg.training.clip_masks import ClipFrames, FrameChunk, combine_odds, flip_averaged_regions
from amd_seg.training.config import AdaptationConfig
from tests.clips import moving_patch
from tests.tiny import TINY


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
    config = AdaptationConfig(max_gap=2, frames=40)
    return clip_masks.gather_frames(clip, config, short_edge=short_edge).chunks


def test_a_short_clip_is_kept_whole_and_a_long_one_in_chunks() -> None:
    (chunk,) = gathered(Clip(11))
    assert chunk.numbers == tuple(chunk.frames[:, 0, 0, 0]) == tuple(range(11))
    (chunk,) = gathered(Clip(5, times=2))
    assert chunk.numbers == (0, 2, 4, 6, 8)
    kept = gathered(Clip(1000), short_edge=20)
    starts = [chunk.numbers[0] for chunk in kept]
    assert 4 <= len(kept) <= 8
    assert starts == list(range(0, 1000, 160))
    assert all(np.diff(chunk.numbers).tolist() == [1] * 4 for chunk in kept)
    assert kept[0].frames.shape == (5, 20, 30, 3)


def test_memory_does_not_grow_with_the_clip() -> None:
    tracemalloc.start()
    gathered(Clip(2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Nine chunks of five frames, the frame in hand, and one chunk being made.
    assert peak < 12 * 5 * 40 * 60 * 3


def test_trust_is_the_moving_share_of_the_networks_object() -> None:
    half = np.zeros((2, 4, 4), np.float32)
    half[:, :2] = 1
    most = half.copy()
    most[1] = 1  # 24 pixels
    for seen, moving, confidence, trust in (
        (half, (1, 0), (1, 1), 1),  # half of it moves
        (half, (0, 0), (1, 1), 0),
        (most, (1, 0), (1, 1), 2 / 3),  # 8 of 24 pixels move
        (most, (1, 0.5), (1, 0), 1),  # the other frame says nothing
        (0 * half, (1, 1), (1, 1), 0),  # it sees nothing
    ):
        maps = np.stack([np.full((4, 4), value, np.float32) for value in moving])
        frames = np.zeros((2, 4, 4, 3), np.uint8)
        motion = clip_masks.MotionEvidence((0, 1), frames, maps, np.array(confidence, np.float32))
        assert clip_masks.trust_in_network(motion, seen) == pytest.approx(trust)


def test_masks_join_motion_and_the_clip() -> None:
    frames, masks = moving_patch(8, height=96, width=128, side=40)
    whole = ClipFrames("clip", [FrameChunk(tuple(range(8)), frames)], 24.0)
    motion = clip_masks.find_motion(whole, most=4)
    assert motion.numbers == (0, 2, 5, 7)
    assert (motion.confidence > 0.5).all()
    # Of the last frame the motion says nothing.
    motion.maps[3], motion.confidence[3] = 0.5, 0
    nothing = torch.zeros(4, 3, 12, 16)
    found = clip_masks.agreed_masks(motion, np.zeros_like(motion.maps), nothing, "clip")
    assert [image.name for image in found] == ["clip:0", "clip:2", "clip:5", "clip:7"]
    for number, image in zip(motion.numbers, found, strict=True):
        assert torch.equal(image.frame, torch.from_numpy(frames[number]).permute(2, 0, 1))
        assert iou(image.mask[0].numpy() > 127, masks[number]) > 0.7


def test_what_is_known_of_a_frame_follows_the_features() -> None:
    # All is grey: the features alone tell the object, which moves from one quarter to the next.
    frames = np.full((2, 64, 128, 3), 128, np.uint8)
    features = torch.zeros(2, 3, 8, 16)
    features[0, 1, :, :4] = features[1, 1, :, 4:8] = 1
    first, second = np.zeros((64, 128), np.float32), np.full((64, 128), 0.5, np.float32)
    first[:, :32] = 1
    trust = np.array([1, 0.01], np.float32)
    _, found = clip_masks.diffuse(frames, [first, second], trust, features)
    assert found[:, 40:56].min() > 0.6
    assert max(found[:, :24].max(), found[:, 72:].max()) < 0.4


@given(seen=st.floats(0, 1, width=32), moving=st.floats(0, 1, width=32))
def test_two_probabilities_are_joined_by_bayes_rule(seen: float, moving: float) -> None:
    s, m = np.clip(seen, *clip_masks.NETWORK_RANGE), np.clip(moving, *clip_masks.MOTION_RANGE)
    joined = combine_odds(*(np.full((2, 3), value, np.float32) for value in (seen, moving)))
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, s * m / (s * m + (1 - s) * (1 - m)), rtol=1e-4)


def test_a_mirrored_frame_has_the_mirrored_regions() -> None:
    torch.manual_seed(0)
    model = AMD(TINY).eval()
    frames = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    regions, mirrored = (flip_averaged_regions(model, each) for each in (frames, frames.flip(-1)))
    assert regions.shape == (3, 5, 32, 48)
    torch.testing.assert_close(mirrored, regions.flip(-1), atol=1e-5, rtol=0)
