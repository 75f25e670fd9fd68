"""The loop on objectives of one weight, where each step can be worked out by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from amd_seg.errors import TrainingDivergedError
from amd_seg.training import loop
from amd_seg.training.config import TrainingConfig
from amd_seg.training.loop import StepReport
from amd_seg.training.masked_images import MaskBatch


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
