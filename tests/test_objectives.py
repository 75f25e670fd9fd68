"""Objectives and the object's region: what they promise, on numbers worked out by hand."""

import pytest
import torch

from amd_seg.model.amd import AMD, View
from amd_seg.model.config import AMDConfig
from amd_seg.model.objective import photometric_objective
from amd_seg.training.config import TrainingConfig
from amd_seg.training.objectives import (
    PhotometricObjective,
    choose_object_channel,
    mask_entropy,
    object_logit,
    relative_motion,
)
from amd_seg.training.pairs import PairBatch


def pairs() -> PairBatch:
    return PairBatch(
        *torch.randint(0, 256, (2, 2, 3, 32, 48), dtype=torch.uint8), ("clip:0-1",) * 2
    )


def test_the_object_logit_is_the_log_odds_of_the_softmax() -> None:
    logits = torch.randn(2, 5, 3, 4) * 4
    for channel in range(5):
        odds = object_logit(logits, channel).sigmoid()[:, 0]
        torch.testing.assert_close(odds, logits.softmax(dim=1)[:, channel])


def test_the_entropy_reward_fades(tiny_config: AMDConfig) -> None:
    assert mask_entropy(torch.full((1, 5, 2, 2), 0.2)).item() == pytest.approx(1, abs=1e-6)
    assert mask_entropy(torch.eye(5)[None, :, :, None]).item() == pytest.approx(0, abs=1e-6)
    model, batch = AMD(tiny_config).eval(), pairs()
    objective = PhotometricObjective(model, TrainingConfig(entropy_weight=1.0))
    for progress, share in ((0.0, 1), (0.25, 0.5), (0.5, 0), (0.9, 0)):
        parts = objective(batch, progress)
        reward = parts["scale_0"] + parts["scale_1"] - parts["loss"]
        torch.testing.assert_close(reward, share * parts["entropy"], rtol=0, atol=1e-5)


def test_flows_and_errors_are_float32_under_autocast(tiny_config: AMDConfig) -> None:
    model, batch = AMD(tiny_config).eval(), pairs()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.motion.features(model.motion_input(batch.frame_i))
        reconstruction = model(batch.frame_i, batch.frame_j)
        parts = photometric_objective(reconstruction)
    assert features[0].dtype == torch.bfloat16  # the convolutions are reduced
    view = reconstruction.view_j
    for value in (view.masks, view.vectors, view.flows[0]):
        assert value.dtype == torch.float32
        # A number that went through bfloat16 has 8 bits.
        assert not torch.equal(value, value.bfloat16().float())
    torch.testing.assert_close(parts, photometric_objective(reconstruction), rtol=0, atol=0)
    whole = photometric_objective(model(batch.frame_i, batch.frame_j))
    torch.testing.assert_close(parts["loss"], whole["loss"], rtol=0.02, atol=0)


def test_the_object_is_the_region_that_moves_most_against_the_frame(tiny_config: AMDConfig) -> None:
    # Region 0 fills three quarters of the frame and rests; region 1 moves 2 cells to the right.
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :3], masks[:, 1, 3:] = 1, 1
    vectors = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]])
    view = View(torch.empty(0), torch.empty(0), (), masks, vectors)
    # In pixels of the motion size: the mean is 2, so 0 - 2 and 8 - 2.
    torch.testing.assert_close(relative_motion(view), torch.tensor([[2.0, 6.0]]))
    # One that is nowhere has no motion.
    masks[:, 0], masks[:, 1] = 1, 0
    assert relative_motion(view)[0, 1].item() == 0
    model = AMD(tiny_config).train()
    choice = choose_object_channel(model, iter([pairs(), pairs()]), count=2)
    assert choice.motion[choice.channel] == max(choice.motion)
    assert model.training
