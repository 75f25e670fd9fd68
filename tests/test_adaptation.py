"""A model adapted to one clip: a real tiny one, to a patch whose place is known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from amd_seg.errors import ConfigError, DeviceError, InputError
from amd_seg.media.video import open_video
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.adaptation import Adaptation, adapt
from amd_seg.training.clip_masks import flip_averaged_regions
from amd_seg.training.config import ADAPTATIONS, AdaptationConfig
from amd_seg.training.loop import StepReport
from amd_seg.training.object_channel import ChannelChoice
from tests.clips import moving_patch, texture, write_folder

FRAMES, MASKS = moving_patch(10, height=96, width=128, side=40)

MOTION = AdaptationConfig(steps=60, learning_rate=1e-2, batch_size=2, size=96, scale=(0.8, 1.0))
PHOTOMETRIC = AdaptationConfig(
    objective="photometric", steps=8, learning_rate=3e-3, batch_size=2, size=0, scale=(0.9, 1.0)
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("clips") / "patch", FRAMES)


@pytest.fixture
def weights(tiny_config: AMDConfig) -> WeightsConfig:
    return WeightsConfig(model=tiny_config, object_channel=1, input_size=96, name="tiny")


@pytest.fixture
def model(tiny_config: AMDConfig) -> AMD:
    torch.manual_seed(1)
    return AMD(tiny_config).eval()


def objects_iou(
    model: AMD,
    size: int,
    channel: int,
    frames: NDArray[np.uint8] = FRAMES,
    masks: NDArray[np.bool_] = MASKS,
) -> float:
    pixels = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).contiguous()
    seen = flip_averaged_regions(model, pixels, size=size)[:, channel].numpy() > 0.5
    return float((seen & masks).sum() / max((seen | masks).sum(), 1))


def values_of(model: AMD) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def assert_same(one: Adaptation, other: Adaptation) -> None:
    assert one.report.losses == other.report.losses
    torch.testing.assert_close(values_of(one.model), values_of(other.model), rtol=0, atol=0)


def test_a_model_learns_what_moves(model: AMD, weights: WeightsConfig, clip: Path) -> None:
    assert objects_iou(model, 96, 1) < 0.1
    adapted = adapt(model, weights, open_video(clip), MOTION)
    report, settings = adapted.report, adapted.weights
    # Measured 0.86 and 0.87 for two seeds.
    assert objects_iou(adapted.model, settings.input_size, settings.object_channel) > 0.7
    assert (report.is_adapted, report.steps, report.channel) == (True, 60, 1)
    assert (report.examples, report.held_out) == (8, 2)
    assert report.loss_after < report.loss_before
    assert report.margin > 0.5
    assert report.evidence is not None
    assert report.evidence > 0.5
    # Crops are enlarged by 1 / 0.9 on average.
    assert (settings.name, settings.input_size) == ("tiny-adapted", 104)
    assert settings.training["adapted"]["objective"] == "motion-masks"


def test_pairs_lower_the_loss_on_pairs_held_out(
    model: AMD, weights: WeightsConfig, clip: Path
) -> None:
    config = dataclasses.replace(PHOTOMETRIC, max_gap=2)
    report = adapt(model, weights, open_video(clip), config).report
    assert (report.examples, report.held_out) == (13, 4)
    assert report.loss_after < 0.8 * report.loss_before
    assert report.losses[-1] < report.losses[0]


def test_both_pathways_are_trained_by_eq_7(model: AMD, weights: WeightsConfig, clip: Path) -> None:
    adapted = adapt(model, weights, open_video(clip), PHOTOMETRIC).model
    before, after = dict(model.named_parameters()), dict(adapted.named_parameters())
    for pathway in ("appearance.backbone", "appearance.classifier", "motion.estimator"):
        names = [name for name in before if name.startswith(pathway)]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("config", [MOTION, PHOTOMETRIC], ids=["motion-masks", "photometric"])
def test_nothing_leaks(
    model: AMD, weights: WeightsConfig, clip: Path, config: AdaptationConfig
) -> None:
    config = dataclasses.replace(config, steps=3)
    before = values_of(model)
    torch.manual_seed(5)
    first = adapt(model, weights, open_video(clip), config)
    drawn = torch.rand(1)
    torch.rand(7)
    assert_same(first, adapt(model, weights, open_video(clip), config))
    torch.testing.assert_close(values_of(model), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())
    torch.manual_seed(5)
    torch.testing.assert_close(torch.rand(1), drawn)
    other = adapt(model, weights, open_video(clip), dataclasses.replace(config, seed=1))
    assert other.report.losses != first.report.losses


def test_statistics_stay_as_released(model: AMD, weights: WeightsConfig, clip: Path) -> None:
    adapted = adapt(model, weights, open_video(clip), dataclasses.replace(PHOTOMETRIC, steps=2))
    before, after = model.appearance.backbone, adapted.model.appearance.backbone
    assert torch.equal(before.bn1.running_mean, after.bn1.running_mean)
    assert not torch.equal(before.conv1.weight, after.conv1.weight)


@pytest.mark.parametrize("config", [MOTION, PHOTOMETRIC], ids=["motion-masks", "photometric"])
def test_a_blend_is_the_mean_of_before_and_after(
    model: AMD, weights: WeightsConfig, clip: Path, config: AdaptationConfig
) -> None:
    config = dataclasses.replace(config, steps=3, guard=False)
    whole = adapt(model, weights, open_video(clip), config)
    part = adapt(model, weights, open_video(clip), dataclasses.replace(config, blend=0.25))
    assert part.report.losses == whole.report.losses
    assert part.report.loss_after != whole.report.loss_after  # That of the mean.
    expected = 0.25 * values_of(whole.model) + 0.75 * values_of(model)
    torch.testing.assert_close(values_of(part.model), expected)


def test_it_does_no_harm(model: AMD, weights: WeightsConfig, clip: Path, caplog) -> None:
    # A step of this size loses all that there was.
    config = dataclasses.replace(PHOTOMETRIC, steps=1, learning_rate=30.0, seed=2)
    kept = adapt(model, weights, open_video(clip), config)
    assert not kept.report.is_adapted
    assert "did not fall" in kept.report.reason
    assert "released weights are kept" in caplog.text
    torch.testing.assert_close(values_of(kept.model), values_of(model), rtol=0, atol=0)
    assert (kept.weights.name, kept.weights.input_size) == ("tiny", 96)
    unguarded = dataclasses.replace(config, guard=False)
    assert adapt(model, weights, open_video(clip), unguarded).report.is_adapted


def test_nothing_is_learned_where_nothing_moves_on_its_own(
    model: AMD, weights: WeightsConfig, tmp_path: Path
) -> None:
    wide = texture(96, 168, 0)
    pan = write_folder(tmp_path / "pan", [wide[:, time : time + 128] for time in range(6)])
    report = adapt(model, weights, open_video(pan), MOTION).report
    assert (report.steps, report.is_adapted, report.evidence) == (0, False, 0.0)
    assert "moves on its own" in report.reason
    still = write_folder(tmp_path / "still", [wide[:, :128]] * 4)
    with pytest.raises(InputError, match="no two different frames"):
        adapt(model, weights, open_video(still), PHOTOMETRIC)


def test_two_frames_are_enough(model: AMD, weights: WeightsConfig, tmp_path: Path) -> None:
    clip = write_folder(tmp_path / "two", FRAMES[:2])
    for config in (MOTION, PHOTOMETRIC):
        config = dataclasses.replace(config, steps=2, guard=False)
        report = adapt(model, weights, open_video(clip), config).report
        assert (report.steps, report.held_out) == (2, 0)


def test_portrait_clips_stay_upright(model: AMD, weights: WeightsConfig, tmp_path: Path) -> None:
    frames, masks = FRAMES.transpose(0, 2, 1, 3), MASKS.transpose(0, 2, 1)
    clip = write_folder(tmp_path / "tall", list(frames))
    adapted = adapt(model, weights, open_video(clip), dataclasses.replace(MOTION, steps=30))
    assert objects_iou(adapted.model, adapted.weights.input_size, 1, frames, masks) > 0.5


def test_the_object_channel(model: AMD, weights: WeightsConfig, clip: Path) -> None:
    config = dataclasses.replace(MOTION, steps=30)
    taught = adapt(model, weights, open_video(clip), config, channel=3)
    assert (taught.report.channel, taught.weights.object_channel) == (3, 3)
    assert objects_iou(taught.model, taught.weights.input_size, 3) > 0.5
    given = adapt(model, weights, open_video(clip), PHOTOMETRIC, channel=4)
    assert given.report.channel == 4
    with pytest.raises(InputError, match=r"channel is 5.* has 5 regions"):
        adapt(model, weights, open_video(clip), PHOTOMETRIC, channel=5)


def test_a_known_channel_gives_way_to_a_clearly_faster_one() -> None:
    close = ChannelChoice(2, (1.0, 2.9, 3.0))
    assert close.margin == pytest.approx(3 / 2.9 - 1)
    assert close.unless_clear(1) == ChannelChoice(1, (1.0, 2.9, 3.0))
    assert close.unless_clear(1).margin == pytest.approx(2.9 / 3 - 1)
    assert close.unless_clear(0) == close
    assert close.unless_clear(0, lead=4.0).channel == 0
    assert ChannelChoice(0, (0.0, 0.0)).margin == 0


def test_steps_that_do_not_fit_the_memory_are_taken_in_smaller_pieces(
    model: AMD, weights: WeightsConfig, clip: Path
) -> None:
    tried: list[int] = []

    def run_out_once(report: StepReport) -> None:
        tried.append(report.step)
        if len(tried) == 1:
            raise torch.OutOfMemoryError

    def run_out(_: StepReport) -> None:
        raise torch.OutOfMemoryError

    config = dataclasses.replace(MOTION, steps=2)
    report = adapt(model, weights, open_video(clip), config, on_step=run_out_once).report
    assert (tried, report.steps) == ([1, 1, 2], 2)
    with pytest.raises(DeviceError, match="not even with one crop"):
        adapt(model, weights, open_video(clip), config, on_step=run_out)


def test_presets_are_legal_and_faults_are_all_named() -> None:
    assert {name: make().objective for name, make in ADAPTATIONS.items()} == {
        name: name for name in ADAPTATIONS
    }
    with pytest.raises(ConfigError, match=r"steps=0 .*learning_rate=-1 .*max_gap=0"):
        AdaptationConfig(steps=0, max_gap=0, learning_rate=-1)
    for fault in (
        {"objective": "dense"},
        {"size": -1},
        {"blend": 0},
        {"scale": (0, 1)},
    ):
        with pytest.raises(ConfigError, match=next(iter(fault))):
            AdaptationConfig(**fault)  # type: ignore[arg-type]
    assert AdaptationConfig(size=192).learning_size(144) == 192
    assert AdaptationConfig(size=192).learning_size(392) == 392
    assert AdaptationConfig(size=192, scale=(0.6, 1.0)).adapted_size(144) == 240
    assert AdaptationConfig(max_gap=4).gap_at(60.0) == 10
    assert AdaptationConfig(max_gap=4).gap_at(None) == 4
