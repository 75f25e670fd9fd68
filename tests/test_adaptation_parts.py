"""What adaptation is made of: bounded frames, the vote, targets, and what a step needs."""

import dataclasses
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from amd_seg.media.video import Frame
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.training.clip_targets import (
    MotionEvidence,
    agreed_targets,
    find_motion,
    trust_in_network,
)
from amd_seg.training.consensus import vote
from amd_seg.training.memory import plan_memory, step_bytes
from amd_seg.training.objectives import make_objective
from amd_seg.training.pair_lessons import pairs_of
from amd_seg.training.pairs import PairBatch
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.stretches import Stretch, gather_stretches
from tests.clips import moving_patch, texture

# Frames of a clip in memory


def stream(count: int, height: int = 40, width: int = 60) -> Iterator[Frame]:
    for index in range(count):
        yield Frame(index, index / 24, np.full((height, width, 3), index % 251, np.uint8))


def test_a_short_clip_is_kept_whole() -> None:
    (stretch,) = gather_stretches(stream(11), source="clip", short_edge=40, length=3, most=4)
    assert stretch.numbers == tuple(range(11))
    assert stretch.frames[:, 0, 0, 0].tolist() == list(range(11))


def test_stretches_are_spread_over_a_long_clip() -> None:
    kept = gather_stretches(stream(1000), source="clip", short_edge=20, length=5, most=8)
    assert 4 <= len(kept) <= 8
    starts = [stretch.numbers[0] for stretch in kept]
    assert set(np.diff(starts)) == {160}
    assert all(np.diff(stretch.numbers).tolist() == [1] * 4 for stretch in kept)
    assert starts[-1] + 160 >= 1000
    assert kept[0].frames.shape == (5, 20, 30, 3)


def test_memory_does_not_grow_with_the_clip() -> None:
    peaks = []
    for count in (200, 2000):
        tracemalloc.start()
        gather_stretches(stream(count), source="clip", short_edge=40, length=5, most=8)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    # Nine stretches of five frames, the frame in hand, and one stretch being made.
    assert peaks[1] < 12 * 5 * 40 * 60 * 3


def test_repeated_frames_are_left_out() -> None:
    twice = (Frame(2 * f.index + n, 0.0, f.pixels) for f in stream(5) for n in (0, 1))
    (stretch,) = gather_stretches(twice, source="clip", short_edge=40, length=3, most=4)
    assert stretch.numbers == (0, 2, 4, 6, 8)


def test_pairs_and_those_held_out() -> None:
    stretches = [Stretch(tuple(range(n)), np.zeros((n, 2, 2, 3), np.uint8)) for n in (4, 3)]
    learned, held_out = pairs_of(stretches, 2)
    assert held_out == [(0, 2, 3)]
    assert learned == [(0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 1, 3), (1, 0, 1), (1, 0, 2), (1, 1, 2)]
    assert pairs_of(stretches[1:], 1) == ([(0, 0, 1), (0, 1, 2)], [])


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


def test_targets_join_motion_and_the_clip() -> None:
    frames, masks = moving_patch(8, height=96, width=128, side=40)
    motion = find_motion([Stretch(tuple(range(8)), frames)], most=4, frame_rate=24.0)
    assert motion.numbers == (0, 2, 5, 7)
    assert (motion.confidence > 0.5).all()
    silent = dataclasses.replace(
        motion,
        maps=np.concatenate([motion.maps[:3], np.full_like(motion.maps[:1], 0.5)]),
        confidence=np.append(motion.confidence[:3], np.float32(0)),
    )
    targets = agreed_targets(silent, np.zeros_like(motion.maps), "clip")
    assert targets.indices == motion.numbers
    assert targets.frames.shape == (4, 3, 96, 128)
    for number, target in zip(motion.numbers, targets.targets[:, 0].numpy(), strict=True):
        found = target > 127
        assert (found & masks[number]).sum() / (found | masks[number]).sum() > 0.7


# What a step needs


TRAINING = TrainingConfig(batch_size=4, crop=(64, 96))


def empty(count: int) -> PairBatch:
    frames = torch.empty(count, 3, *TRAINING.crop, dtype=torch.uint8)
    return PairBatch(frames, frames.clone(), ())


def bytes_of(config: AMDConfig, count: int, **options: bool) -> int:
    return step_bytes(
        config, lambda model: make_objective(model, TRAINING), empty(count), **options
    )


def test_needs_grow_with_the_batch_and_shrink_with_checkpoints(tiny_config: AMDConfig) -> None:
    one, two, three = (bytes_of(tiny_config, count) for count in (1, 2, 3))
    assert two - one == pytest.approx(three - two, rel=0.05)
    weights = sum(p.nbytes for p in AMD(tiny_config).parameters())
    assert one > 4 * weights  # themselves, their gradients, and Adam's two numbers
    assert bytes_of(tiny_config, 3, is_checkpointed=True) < 0.9 * three


def test_the_peak_is_that_of_the_tensors_alive(tiny_config: AMDConfig) -> None:
    """The same step for real, its memory followed by torch's profiler."""
    torch.manual_seed(0)
    objective = make_objective(AMD(tiny_config), TRAINING).train()
    batch = empty(3)
    with torch.profiler.profile(profile_memory=True) as profile:
        objective(batch)["loss"].backward()
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda e: e.start_ns())])
    weights = sum(p.nbytes for p in objective.parameters())
    assert bytes_of(tiny_config, 3) - 3 * weights == pytest.approx(held.max(), rel=0.15)


def test_steps_are_made_to_fit_in_this_order(tiny_config: AMDConfig) -> None:
    config = dataclasses.replace(tiny_config, motion_size=(64, 96))

    def plan(limit: float) -> tuple[int, bool, tuple[int, int]]:
        found = plan_memory(
            config,
            TRAINING,
            lambda model: make_objective(model, TRAINING),
            empty,
            device=torch.device("cpu"),
            limit_gib=limit / 2**30,
        )
        assert found.gib * 2**30 <= limit
        return found.accumulate, found.is_checkpointed, found.motion_size

    assert plan(bytes_of(config, 4)) == (1, False, (64, 96))
    assert plan(bytes_of(config, 2)) == (2, False, (64, 96))
    assert plan(bytes_of(config, 1, is_checkpointed=True)) == (4, True, (64, 96))
    smaller = dataclasses.replace(config, motion_size=(32, 48))
    assert plan(bytes_of(smaller, 1, is_checkpointed=True)) == (4, True, (32, 48))


def test_checkpoints_change_no_gradient(tiny_config: AMDConfig) -> None:
    gradients = []
    frames = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    for is_checkpointed in (False, True):
        torch.manual_seed(0)
        model = AMD(tiny_config).eval()
        model.appearance.backbone.is_checkpointed = is_checkpointed
        model.region_logits(frames).square().mean().backward()
        gradients.append([p.grad for p in model.appearance.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)
