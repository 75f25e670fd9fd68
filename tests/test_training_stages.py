"""The dense flow, how the motion pathway begins, and settings that an objective refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from amd_seg.errors import ConfigError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.model.correlation import correlation
from amd_seg.training.pairs import PairBatch
from amd_seg.training.presets import PRESETS, TrainingConfig
from amd_seg.training.run import train
from amd_seg.weights import load_weights
from tests.clips import moving_square, write_clip

SETTINGS = TrainingConfig(
    steps=3, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1
)


def pairs(count: int = 2) -> PairBatch:
    frames = torch.randint(0, 256, (2, count, 3, 32, 48), dtype=torch.uint8)
    return PairBatch(frames[0], frames[1], ("clip:0-1",) * count)


def test_the_dense_flow_is_that_of_the_reconstruction(tiny_config: AMDConfig) -> None:
    model = AMD(tiny_config)
    batch = pairs()
    whole = model.dense_reconstruction(batch.frame_i, batch.frame_j)
    for view, pair in (
        (whole.view_i, (batch.frame_i, batch.frame_j)),
        (whole.view_j, (batch.frame_j, batch.frame_i)),
    ):
        flow = model.dense_flow(*pair)
        assert flow.shape[-2:] == tiny_config.motion_size
        torch.testing.assert_close(flow, view.flows[0])


def textured(step: int, square_step: int) -> list[np.ndarray]:
    """Four frames of a pan by `step` pixels a frame over noise, and a square that moves on it."""
    generator = np.random.default_rng(0)
    world = np.kron(generator.integers(0, 200, (24, 60)), np.ones((4, 4))).astype(np.uint8)
    frames = []
    for number in range(4):
        frame = np.repeat(world[:, number * step : number * step + 144, None], 3, axis=-1)
        left = 40 + number * square_step
        frame[30:70, left : left + 40] = world[:40, 100:140, None] // 2 + 127
        frames.append(frame.astype(np.uint8))
    return frames


def test_kaiming_gives_a_cost_volume_of_the_size_of_the_frames() -> None:
    torch.manual_seed(0)
    model = AMD(AMDConfig(backbone="resnet18", motion_size=(64, 128)))
    frames = torch.from_numpy(np.stack(textured(3, 3)[:2])).permute(0, 3, 1, 2)

    def finest_volume() -> float:
        finest = model.motion.features(model.motion_input(frames))[-1]
        return correlation(*finest.chunk(2), 4).abs().mean().item()

    assert finest_volume() < 0.005
    model.motion.initialise_by_kaiming()
    assert 0.05 < finest_volume() < 5
    flow = model.dense_reconstruction(frames[:1], frames[1:]).view_i.flows[0]
    assert 0 < flow.norm(dim=1).mean().item() < 3


def test_the_motion_pathway_of_weights_is_begun_anew_where_asked(
    tiny_config: AMDConfig, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mp4", moving_square(6))
    clips, runs = [str(tmp_path / "clip.mp4")], {}
    first = train(clips, tmp_path / "a", model=tiny_config, config=SETTINGS, device="cpu")
    for init in ("released", "kaiming"):
        config = dataclasses.replace(SETTINGS, motion_init=init, steps=1, objective="dense")
        out, rate = tmp_path / init, {"learning_rate": 1e-12, "final_learning_rate": 0}
        config = dataclasses.replace(config, **rate)
        folder = train(clips, out, model=tiny_config, config=config, init=str(first), device="cpu")
        runs[init] = load_weights(folder).model.state_dict()
    begun = load_weights(first).model.state_dict()
    for name, value in begun.items():
        torch.testing.assert_close(runs["released"][name], value, rtol=1e-3, atol=1e-6)
        if name.startswith("motion."):
            assert not torch.equal(runs["kaiming"][name], runs["released"][name]), name
        else:
            torch.testing.assert_close(runs["kaiming"][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (
            "motion-masks",
            {"transpose_portrait": False, "workers": 4, "ssim_weight": 1},
        ),
        ("motion-masks", {"shared_visibility": True, "entropy_weight": 0.1}),
        ("photometric", {"colour": True}),
        ("dense", {"colour": True}),
        ("dense", {"entropy_weight": 0.1}),
    ],
)
def test_what_an_objective_does_not_read_is_refused(
    objective: str, settings: dict[str, object]
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(objective=objective, **settings)
    for name, value in settings.items():
        assert f"{name}={value!r} (left out for the objective {objective})" in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("objective", ["photometric", "dense", "motion-masks"])
def test_a_preset_takes_any_objective_and_keeps_what_it_reads(preset: str, objective: str) -> None:
    before = PRESETS[preset]().training
    after = before.with_changes(objective=objective, steps=9)
    reads_targets = objective == "motion-masks"
    assert (after.objective, after.steps, after.crop) == (objective, 9, before.crop)
    assert after.colour == (before.colour and reads_targets)
    assert after.frames == ("memory" if reads_targets else before.frames)


def test_what_works_on_pairs_is_refused_for_targets() -> None:
    with pytest.raises(ConfigError, match=r"sampling='?pair.*max_gap=2"):
        TrainingConfig(objective="motion-masks", sampling="pair", max_gap=2)
