"""The loop and its objectives, on numbers worked out by hand."""

from itertools import repeat
from typing import Any

import pytest
import torch
from torch import nn

from amd_seg.errors import TrainingDivergedError
from amd_seg.model.amd import AMD, View
from amd_seg.model.objective import photometric_objective
from amd_seg.training import loop, objectives
from amd_seg.training.config import TrainingConfig
from amd_seg.training.loop import StepReport
from amd_seg.training.masked_images import MaskBatch
from amd_seg.training.pairs import PairBatch
from tests.tiny import TINY


class Slope(nn.Module):
    """An objective whose gradient is the mean of the batch, whatever the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)

    def forward(self, batch: MaskBatch, progress: float) -> dict[str, torch.Tensor]:
        return {"loss": (batch.frames * self.model.weight).mean()}


def descend(*batches: list[float], **settings: Any) -> tuple[loop.TrainState, list[StepReport]]:
    """Take steps of SGD at rate 1 on slopes, one list of them a micro-batch."""
    config = TrainingConfig(
        **{"batch_size": 2, "optimizer": "sgd", "momentum": 0, "weight_decay": 0, "steps": 1}
        | {"learning_rate": 1, "final_learning_rate": 1}
        | settings
    )
    reports: list[StepReport] = []
    state = loop.TrainState(Slope(), config)
    stream = (MaskBatch(torch.tensor(b), torch.empty(0), ("walk:3",)) for b in batches)
    loop.optimize(state, stream, config, on_step=reports.append)
    return state, reports


def test_a_gradient_that_is_not_finite_stops_before_the_step() -> None:
    objective, config = Slope(), TrainingConfig(steps=1)
    # Its loss is 0 where its gradient is not finite.
    objective.forward = lambda *_: {"loss": objective.model.weight.abs().sqrt().sum()}
    state, batch = loop.TrainState(objective, config), MaskBatch(*torch.empty(2, 0), ("walk:3",))
    with pytest.raises(TrainingDivergedError, match=r"gradient is not finite at step 0.*walk:3"):
        loop.optimize(state, iter([batch]), config)
    assert state.model.weight.item() == 0


def test_micro_batches_give_the_step_of_the_whole_batch() -> None:
    whole, report = descend([1.0, 4.0])
    parts, reports = descend([1.0], [4.0], accumulate=2)
    assert whole.model.weight.item() == parts.model.weight.item() == -2.5
    assert reports[0].gradient_norm == report[0].gradient_norm == 2.5
    # A gradient is clipped, and its own length is told.
    state, reports = descend([3.0, 5.0], gradient_clip=0.5)
    assert state.model.weight.item() == pytest.approx(-0.5, rel=1e-5)
    assert reports[0].gradient_norm == 4.0


def test_steps_are_sgd_with_momentum_on_the_poly_schedule() -> None:
    slopes = [1.0, -0.5, 2.0, 0.25, 1.0]
    rates = {"learning_rate": 0.1, "final_learning_rate": 0.02, "poly_power": 0.9}
    decays = {"momentum": 0.9, "weight_decay": 5e-4, "warmup_steps": 1}
    state, _ = descend(*([s] for s in slopes), steps=5, batch_size=1, **rates, **decays)
    weight = velocity = 0.0
    for step, slope in enumerate(slopes):
        velocity = 0.9 * velocity + slope + 5e-4 * weight
        rate = ((0.1 - 0.02) * (1 - step / 5) ** 0.9 + 0.02) * (1 if step else 0.5)
        weight -= rate * velocity
    assert state.model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_the_average_follows_the_weights_by_its_decay() -> None:
    state, _ = descend([1.0], [1.0], [1.0], steps=3, batch_size=1, ema_decay=0.15)
    # After steps of -1 the weight is -1, -2, -3; early the decay is (1 + step) / (10 + step).
    expected = 0.0
    for step, weight in enumerate((-1.0, -2.0, -3.0)):
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert state.released.weight.item() == pytest.approx(expected, rel=1e-6)


def pairs() -> PairBatch:
    frames = torch.randint(0, 256, (2, 2, 3, 32, 48), dtype=torch.uint8)
    return PairBatch(*frames, ("clip:0-1",) * 2)


def test_the_object_logit_is_the_log_odds_of_the_softmax() -> None:
    logits = torch.randn(2, 5, 3, 4) * 4
    for channel in range(5):
        odds = objectives.object_logit(logits, channel).sigmoid()[:, 0]
        torch.testing.assert_close(odds, logits.softmax(dim=1)[:, channel])


def test_the_entropy_reward_fades() -> None:
    for masks, entropy in ((torch.full((1, 5, 2, 2), 0.2), 1), (torch.eye(5)[None, :, :, None], 0)):
        assert objectives.mask_entropy(masks).item() == pytest.approx(entropy, abs=1e-6)
    model, batch = AMD(TINY).eval(), pairs()
    objective = objectives.PhotometricObjective(model, TrainingConfig(entropy_weight=1.0))
    for progress, share in ((0.0, 1), (0.25, 0.5), (0.5, 0), (0.9, 0)):
        parts = objective(batch, progress)
        reward = parts["scale_0"] + parts["scale_1"] - parts["loss"]
        torch.testing.assert_close(reward, share * parts["entropy"], rtol=0, atol=1e-5)


def test_flows_and_errors_are_float32_under_autocast() -> None:
    model, batch = AMD(TINY).eval(), pairs()
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


def test_the_object_is_the_region_that_moves_most_against_the_frame() -> None:
    # Region 0 fills three quarters of the frame and rests; region 1 moves 2 cells to the right.
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :3], masks[:, 1, 3:] = 1, 1
    vectors = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]])
    view = View(torch.empty(0), torch.empty(0), (), masks, vectors)
    # In pixels of the motion size: the mean is 2, so 0 - 2 and 8 - 2.
    torch.testing.assert_close(objectives.relative_motion(view), torch.tensor([[2.0, 6.0]]))
    # One that is nowhere has no motion.
    masks[:, 0], masks[:, 1] = 1, 0
    assert objectives.relative_motion(view)[0, 1].item() == 0
    model = AMD(TINY).train()
    choice = objectives.choose_object_channel(model, repeat(pairs()))
    assert choice.motion[choice.channel] == max(choice.motion)
    assert model.training
