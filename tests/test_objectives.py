"""Objectives, targets and crops: what they promise, on numbers worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.errors import MediaError
from amd_seg.model.amd import AMD, View
from amd_seg.model.config import AMDConfig
from amd_seg.model.objective import photometric_objective
from amd_seg.training.channel import ChannelChoice, choose_object_channel, relative_motion
from amd_seg.training.clips import find_clips
from amd_seg.training.crops import jitter_colours, random_box
from amd_seg.training.objectives import (
    MoverObjective,
    PhotometricObjective,
    mask_entropy,
    object_logit,
)
from amd_seg.training.pairs import PairBatch
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.targets import TargetBatch, TargetClip, TargetSampler, load_target_clips
from tests.clips import moving_square, write_clip

CONFIG = TrainingConfig(
    objective="mover", batch_size=4, crop=(16, 24), scale=(0.5, 1.0), colour=True
)


def target_clip(name: str = "clip", count: int = 3, trust: float = 1.0) -> TargetClip:
    frames = torch.randint(0, 256, (count, 3, 32, 40), dtype=torch.uint8)
    targets = torch.randint(0, 256, (count, 1, 32, 40), dtype=torch.uint8)
    return TargetClip(name, tuple(range(count)), frames, targets, torch.full((count,), trust))


def pairs(count: int = 2) -> PairBatch:
    frames = torch.randint(0, 256, (2, count, 3, 32, 48), dtype=torch.uint8)
    return PairBatch(frames[0], frames[1], ("clip:0-1",) * count)


def test_the_object_logit_is_the_log_odds_of_the_softmax() -> None:
    logits = torch.randn(2, 5, 3, 4) * 4
    for channel in range(5):
        odds = object_logit(logits, channel).sigmoid()[:, 0]
        torch.testing.assert_close(odds, logits.softmax(dim=1)[:, channel])


def test_entropy_is_one_for_undecided_and_zero_for_decided_masks() -> None:
    uniform = torch.full((1, 5, 2, 2), 0.2)
    decided = F.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), 5).permute(0, 3, 1, 2).float()
    assert mask_entropy(uniform).item() == pytest.approx(1, abs=1e-6)
    assert mask_entropy(decided).item() == pytest.approx(0, abs=1e-6)


def test_the_entropy_reward_fades(tiny_config: AMDConfig) -> None:
    config = TrainingConfig(entropy_weight=1.0)
    objective = PhotometricObjective(AMD(tiny_config).eval(), config)
    batch = pairs()
    scales = {p: objective(batch, p) for p in (0.0, 0.25, 0.5, 0.9)}
    rewards = {
        p: (parts["scale_0"] + parts["scale_1"] - parts["loss"]) for p, parts in scales.items()
    }
    assert rewards[0.0].item() == pytest.approx(scales[0.0]["entropy"].item(), abs=1e-5)
    assert rewards[0.25].item() == pytest.approx(rewards[0.0].item() / 2, abs=1e-5)
    assert rewards[0.5].item() == pytest.approx(0, abs=1e-6)
    assert rewards[0.9].item() == pytest.approx(0, abs=1e-6)


def test_flows_and_errors_are_float32_under_autocast(tiny_config: AMDConfig) -> None:
    model, batch = AMD(tiny_config).eval(), pairs()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.motion.features(model.motion_input(batch.frame_i))
        reconstruction = model(batch.frame_i, batch.frame_j)
        parts = photometric_objective(reconstruction)
    assert features[0].dtype == torch.bfloat16  # the convolutions are reduced
    view = reconstruction.view_j
    for name, value in {
        "masks": view.masks,
        "vectors": view.vectors,
        "flow": view.flows[0],
    }.items():
        assert value.dtype == torch.float32, name
        # A number that went through bfloat16 has 8 bits.
        assert not torch.equal(value, value.bfloat16().float()), name
    torch.testing.assert_close(parts, photometric_objective(reconstruction), rtol=0, atol=0)
    whole = photometric_objective(model(batch.frame_i, batch.frame_j))
    torch.testing.assert_close(parts["loss"], whole["loss"], rtol=0.02, atol=0)


def test_the_mover_objective_falls_as_the_object_channel_learns_its_target(
    tiny_config: AMDConfig,
) -> None:
    torch.manual_seed(0)
    objective = MoverObjective(AMD(tiny_config), TrainingConfig())
    frames = torch.zeros(4, 3, 32, 48)
    targets = torch.zeros(4, 1, 32, 48)
    frames[..., 8:24, 16:32], targets[..., 8:24, 16:32] = 255, 255
    batch = TargetBatch(frames, targets, ("square",) * 4)
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    first = objective(batch)["loss"].item()
    for _ in range(30):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    assert objective(batch)["loss"].item() < 0.6 * first


def test_relative_motion_is_measured_against_the_frame_s_mean() -> None:
    # Region 0 fills three quarters of the frame and rests; region 1 moves 2 cells to the right.
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :3], masks[:, 1, 3:] = 1, 1
    vectors = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]])
    view = View(torch.empty(0), torch.empty(0), (), masks, vectors)
    # In pixels of the motion size: the mean is 2, so 0 - 2 and 8 - 2.
    torch.testing.assert_close(relative_motion(view), torch.tensor([[2.0, 6.0]]))


def test_a_region_that_is_nowhere_has_no_motion() -> None:
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0] = 1
    vectors = torch.tensor([[[[1.0, 0.0], [50.0, 0.0]]]])
    view = View(torch.empty(0), torch.empty(0), (), masks, vectors)
    assert relative_motion(view)[0, 1].item() == 0


def test_the_object_channel_is_the_fastest_and_the_model_s_mode_is_kept(
    tiny_config: AMDConfig,
) -> None:
    model = AMD(tiny_config).train()
    choice = choose_object_channel(model, iter([pairs(), pairs()]), count=2)
    assert choice.channel == max(range(5), key=choice.motion.__getitem__)
    assert choice.margin >= 0
    assert model.training
    assert ChannelChoice(1, (1.0, 3.0, 2.0)).margin == pytest.approx(0.5)


@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    seed=st.integers(0, 1000),
    low=st.floats(0.1, 1.0),
)
def test_a_random_box_lies_inside_its_frame(height: int, width: int, seed: int, low: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    box = random_box((height, width), (16, 24), (low, 1.0), generator)
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert min(box.height, box.width) >= 8


def test_frames_and_targets_are_cut_and_mirrored_alike() -> None:
    ramp = torch.arange(32 * 40, dtype=torch.int32).remainder(251).to(torch.uint8).view(1, 32, 40)
    clip = TargetClip("ramp", (0,), ramp.expand(1, 3, 32, 40), ramp[None], torch.ones(1))
    config = dataclasses.replace(CONFIG, batch_size=32, colour=False)
    batch = next(TargetSampler([clip], config, torch.device("cpu")))
    assert torch.equal(batch.frames[:, 1:2], batch.targets)
    assert batch.frames.is_floating_point()
    assert len({tuple(target.flatten().tolist()) for target in batch.targets}) == 32


@pytest.mark.parametrize("flip", [True, False])
def test_crops_are_mirrored_where_that_is_asked_for(flip: bool) -> None:
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(1, 3, 32, 40).contiguous()
    clip = TargetClip("ramp", (0,), ramp, ramp[:, :1], torch.ones(1))
    config = dataclasses.replace(CONFIG, batch_size=32, colour=False, flip=flip)
    frames = next(TargetSampler([clip], config, torch.device("cpu"))).frames
    is_mirrored = frames[:, 0, 0, 0] > frames[:, 0, 0, -1]
    assert 8 < is_mirrored.sum() < 24 if flip else not is_mirrored.any()


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    frames = torch.randint(0, 256, (6, 3, 8, 8)).float()
    one, two = (jitter_colours(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 255
    assert not torch.equal(one, frames)


def test_a_target_sampler_goes_on_where_its_state_was_taken() -> None:
    clips = [target_clip("a"), target_clip("b", 5)]
    sampler = TargetSampler(clips, CONFIG, torch.device("cpu"))
    next(sampler)
    state = sampler.state_dict()
    expected = next(sampler)
    again = TargetSampler(clips, CONFIG, torch.device("cpu"))
    again.load_state_dict(state)
    batch = next(again)
    assert batch.names == expected.names
    assert torch.equal(batch.frames, expected.frames)
    assert batch.frames.shape == (4, 3, 16, 24)
    assert batch.targets.shape == (4, 1, 16, 24)


def test_targets_that_nothing_agrees_with_are_not_drawn() -> None:
    clips = [target_clip("sure", 2), target_clip("unsure", 50, trust=1e-3)]
    sampler = TargetSampler(clips, CONFIG, torch.device("cpu"))
    names = [name for _ in range(5) for name in next(sampler).names]
    assert all(name.startswith("sure") for name in names)


def test_targets_of_frames_that_a_clip_does_not_have_are_named(tmp_path: Path) -> None:
    clips = find_clips([str(write_clip(tmp_path / "clip.mp4", moving_square(4)))])
    masks, confidence = np.zeros((1, 48, 64), np.uint8), np.ones(1, np.float32)
    np.savez(tmp_path / "clip.npz", indices=np.array([9]), masks=masks, confidence=confidence)
    with pytest.raises(MediaError, match=r"clip\.npz holds targets of frames that .*clip"):
        load_target_clips(clips, tmp_path, short_edge=48)


def test_clips_without_targets_are_an_error() -> None:
    with pytest.raises(MediaError, match="No clip has a target"):
        TargetSampler([], CONFIG, torch.device("cpu"))
