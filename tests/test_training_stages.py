"""Sums and stages of objectives, and the pairs they see: each option does what its help says."""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from amd_seg.errors import ConfigError
from amd_seg.model.amd import AMD, Reconstruction, View
from amd_seg.model.config import AMDConfig
from amd_seg.model.correlation import correlation
from amd_seg.training import loop
from amd_seg.training.batches import open_batches
from amd_seg.training.combined import CombinedObjective, equivariance_error, make_objective
from amd_seg.training.distributed import Processes
from amd_seg.training.flow_fit import fit_flow, unexplained_share
from amd_seg.training.flow_teacher import teacher_error
from amd_seg.training.folder import RunFolder
from amd_seg.training.moving_pairs import MovingPairs, relative_motion
from amd_seg.training.objectives import DenseFlowObjective, PhotometricObjective
from amd_seg.training.pairs import PairBatch
from amd_seg.training.presets import PRESETS, TrainingConfig
from amd_seg.training.run import train
from amd_seg.weights import load_weights
from tests.clips import moving_square, write_clip, write_folder

SETTINGS = TrainingConfig(
    steps=3, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1
)


def pairs(count: int = 2) -> PairBatch:
    frames = torch.randint(0, 256, (2, count, 3, 32, 48), dtype=torch.uint8)
    return PairBatch(frames[0], frames[1], ("clip:0-1",) * count)


def two_affine_motions(height: int = 12, width: int = 16) -> tuple[Tensor, Tensor]:
    """A flow of two affine motions, (1, 2, h, w), and the regions that have them, (1, 2, h, w)."""
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    inside = ((x.abs() < 0.5) & (y.abs() < 0.6)).float()
    background = torch.stack((1 + 0.5 * x, -0.3 * y))
    square = torch.stack((-3 + 0.2 * y, 2 - 0.4 * x))
    flow = inside * square + (1 - inside) * background
    return flow[None], torch.stack((1 - inside, inside))[None]


def test_affine_regions_explain_their_flow_whole() -> None:
    flow, masks = two_affine_motions()
    fits = fit_flow(flow, masks)
    torch.testing.assert_close((masks.unsqueeze(2) * fits).sum(dim=1), flow, atol=1e-3, rtol=0)
    assert unexplained_share(flow, masks).item() < 1e-5
    assert unexplained_share(flow, masks, affine=False).item() > 0.01
    assert unexplained_share(flow, torch.full_like(masks, 0.5)).item() > 0.2


def test_a_constant_fit_is_the_weighted_mean() -> None:
    flow, masks = torch.randn(2, 2, 5, 6), torch.rand(2, 3, 5, 6).softmax(dim=1)
    means = torch.einsum("brhw,bvhw->brv", masks, flow) / masks.sum(dim=(2, 3)).unsqueeze(-1)
    fits = fit_flow(flow, masks, affine=False)[..., 0, 0]
    torch.testing.assert_close(fits, means, rtol=1e-4, atol=1e-4)


def test_an_affine_fit_is_numpys_weighted_least_squares() -> None:
    flow, masks = torch.randn(1, 2, 5, 6), torch.rand(1, 1, 5, 6) + 0.1
    y, x = np.mgrid[-1:1:5j, -1:1:6j]
    design = np.stack((np.ones_like(x), x, y), axis=-1).reshape(-1, 3)
    root = masks[0, 0].numpy().reshape(-1, 1) ** 0.5
    motion, *_ = np.linalg.lstsq(root * design, root * flow[0].flatten(1).numpy().T, rcond=None)
    expected = torch.from_numpy(design @ motion).T.reshape(2, 5, 6).float()
    torch.testing.assert_close(fit_flow(flow, masks)[0, 0], expected, rtol=1e-3, atol=1e-3)


def test_a_residual_lets_a_limb_swing() -> None:
    flow, masks = two_affine_motions()
    limb = torch.zeros(2, *flow.shape[-2:])
    limb[0, 6:10, 10:14] = 1.5
    swinging = flow + limb
    strict, relaxed, still_strict = (
        unexplained_share(swinging, masks, residual=pixels).item() for pixels in (0, 1.6, 0.5)
    )
    assert relaxed < 1e-6 < strict
    assert relaxed < still_strict < strict
    # What is a region of its own is not explained away.
    assert unexplained_share(swinging, masks.mean(dim=1, keepdim=True), residual=0.5).item() > 0.1


def test_an_empty_region_and_a_still_frame_are_finite() -> None:
    flow, masks = two_affine_motions()
    with_empty = torch.cat((masks, torch.zeros_like(masks[:, :1])), dim=1)
    assert torch.isfinite(fit_flow(flow, with_empty)).all()
    assert unexplained_share(torch.zeros_like(flow), masks).item() == 0


def test_regions_find_the_square_in_a_flow() -> None:
    torch.manual_seed(0)
    flow, truth = two_affine_motions()
    logits = (0.1 * torch.randn_like(truth)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        unexplained_share(flow, logits.softmax(dim=1)).backward()
        optimizer.step()
    inside = truth[0, 1] > 0
    overlaps = [
        (found & inside).sum() / (found | inside).sum() for found in logits.softmax(dim=1)[0] > 0.5
    ]
    assert max(overlaps) > 0.9  # 1.0 when this was written


def test_the_flow_fit_teaches_the_masks_and_not_the_flow(tiny_config: AMDConfig) -> None:
    model = AMD(tiny_config)
    batch = pairs()
    dense = model.dense_reconstruction(batch.frame_i, batch.frame_j)
    unexplained_share(dense.view_i.flows[0], model.segment(batch.frame_i)).backward()
    assert all(p.grad is None for p in model.motion.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.appearance.parameters())


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


def test_without_an_extra_the_plain_objectives_are_used(tiny_config: AMDConfig) -> None:
    model = AMD(tiny_config)
    kinds = {"photometric": PhotometricObjective, "dense": DenseFlowObjective}
    for name, kind in kinds.items():
        config = dataclasses.replace(SETTINGS, objective=name)
        assert type(make_objective(model, config)) is kind
        config = dataclasses.replace(config, motion_first_steps=2)
        assert type(make_objective(model, config)) is CombinedObjective


def test_a_sum_is_the_weighted_sum_of_its_terms(tiny_config: AMDConfig) -> None:
    config = dataclasses.replace(
        SETTINGS,
        dense_weight=0.5,
        flow_teacher_weight=0.25,
        flow_fit_weight=2.0,
        equivariance_weight=3.0,
    )
    model = AMD(tiny_config).eval()
    parts = make_objective(model, config)(pairs(), 0.9)
    expected = parts["photometric"] + 0.5 * parts["dense"] + 2 * parts["flow_fit"]
    expected = expected + 0.25 * parts["flow_teacher"]
    torch.testing.assert_close(parts["loss"], expected + 3 * parts["equivariance"])


def test_a_sum_of_one_is_the_plain_objective(tiny_config: AMDConfig) -> None:
    model, batch = AMD(tiny_config).eval(), pairs()
    for name, kind, entropy in (
        ("photometric", PhotometricObjective, 0.3),
        ("dense", DenseFlowObjective, 0.0),
    ):
        config = dataclasses.replace(SETTINGS, objective=name, entropy_weight=entropy)
        combined = CombinedObjective(model, config)(batch, 0.2)
        plain = kind(model, config)(batch, 0.2)
        for part in ("loss", "visible", "flow"):
            torch.testing.assert_close(combined[part].detach(), plain[part].detach())


def test_the_motion_comes_first_and_the_masks_wait(tiny_config: AMDConfig, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", moving_square(6))
    config = dataclasses.replace(SETTINGS, motion_first_steps=2, weight_decay=0.1)
    batches = open_batches(
        [str(tmp_path)], config, Processes(torch.device("cpu")), RunFolder(tmp_path)
    )
    model = AMD(tiny_config)
    state = loop.start(make_objective(model, config), config)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    moved: dict[int, set[str]] = {}

    def on_step(report: loop.StepReport) -> None:
        now = model.state_dict()
        moved[report.step] = {
            n.partition(".")[0] for n in now if not torch.equal(now[n], before[n])
        }

    loop.optimize(state, batches, config, on_step=on_step)
    assert moved == {1: {"motion"}, 2: {"motion"}, 3: {"motion", "appearance"}}


def test_equivariance_is_zero_for_masks_that_follow_the_picture(tiny_config: AMDConfig) -> None:
    class Follows(AMD):
        def segment(self, frames: Tensor) -> Tensor:
            small = torch.nn.functional.avg_pool2d(frames[:, :1].float() / 255, 8)
            return torch.cat((small, 1 - small), dim=1)

    class Stays(AMD):
        def segment(self, frames: Tensor) -> Tensor:
            ramp = torch.linspace(0, 1, frames.shape[-1] // 8).expand(
                len(frames), 1, frames.shape[-2] // 8, -1
            )
            return torch.cat((ramp, 1 - ramp), dim=1)

    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 96), indexing="ij")
    frames = (127 + 100 * torch.sin(x + y)).expand(2, 3, 64, 96)
    errors = {}
    for kind in (Follows, Stays):
        model = kind(tiny_config)
        runs = [equivariance_error(model, frames, model.segment(frames)) for _ in range(8)]
        errors[kind] = torch.stack(runs).mean().item()
    assert errors[Follows] < 2e-3
    assert errors[Stays] > 0.02


def test_frames_grow_over_the_first_half(tiny_config: AMDConfig) -> None:
    seen = []

    class Watched(AMD):
        def segment(self, frames: Tensor) -> Tensor:
            seen.append(tuple(frames.shape[-2:]))
            return super().segment(frames)

    objective = make_objective(Watched(tiny_config), dataclasses.replace(SETTINGS, start_scale=0.5))
    for progress in (0.0, 0.25, 0.5, 1.0):
        objective(pairs(), progress)
    assert seen == [(16, 32), (32, 32), (32, 48), (32, 48)]


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


def test_a_classical_flow_teaches_the_dense_flow_at_every_level() -> None:
    frames = torch.from_numpy(np.stack(textured(3, 3)[:2])).permute(0, 3, 1, 2) / 255
    earlier, later = frames[:1], frames[1:]

    def told(pixels: float) -> float:
        """The error of flows that say this much to the right, in pixels of the frame."""
        shape = (1, 2, *frames.shape[-2:])
        finest = torch.tensor([pixels, 0.0]).reshape(1, 2, 1, 1).expand(shape)
        flows = (finest, finest[..., ::2, ::2] / 2, finest[..., ::4, ::4] / 4)
        return teacher_error(
            Reconstruction(
                View(earlier, later, flows), View(later, earlier, tuple(-flow for flow in flows))
            )
        ).item()

    # A pan of 3 pixels moves what is seen by as much to the left.
    assert told(-3) < 1
    assert told(0) == pytest.approx(3, abs=1)
    assert told(3) == pytest.approx(6, abs=1)


def test_relative_motion_knows_a_pan_from_an_object() -> None:
    pan = [frame[:, :144] for frame in textured(2, -2)]
    assert relative_motion(pan[0], pan[1]) < 0.3
    moving = textured(2, 2)
    assert relative_motion(moving[0], moving[1]) > 2


def test_pairs_without_relative_motion_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path / "pan", textured(2, -2))
    write_folder(tmp_path / "moving", textured(2, 2))
    config = dataclasses.replace(
        SETTINGS, min_relative_motion=1.0, short_edge=96, crop=(96, 144), scale=(1, 1)
    )
    alone, nowhere = Processes(torch.device("cpu")), RunFolder(tmp_path)
    batches = open_batches([str(tmp_path)], config, alone, nowhere)
    first = [next(batches).names for _ in range(3)]
    assert all(name.startswith("moving") for names in first for name in names)
    assert all(len(names) == 2 for names in first)
    position = batches.state_dict()
    following = next(batches).names
    batches.load_state_dict(position)
    assert next(batches).names == following

    still = dataclasses.replace(config, min_relative_motion=1e3)
    batches = open_batches([str(tmp_path / "pan")], still, alone, nowhere)
    assert isinstance(batches, MovingPairs)
    with caplog.at_level(logging.WARNING):
        assert len(next(batches).names) == 2
    assert "--min-relative-motion" in caplog.text


@pytest.mark.parametrize("extra", [{"objective": "flow-fit"}, {"flow_fit_weight": 0.5}])
def test_a_run_learns_by_the_flow_fit(
    tiny_config: AMDConfig, tmp_path: Path, extra: dict[str, object]
) -> None:
    write_clip(tmp_path / "clip.mp4", moving_square(6))
    config = dataclasses.replace(SETTINGS, **extra, flow_fit="constant")
    run = tmp_path / "run"
    train([str(tmp_path / "clip.mp4")], run, model=tiny_config, config=config, device="cpu")
    line = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= line["flow_fit"] <= 1
    assert 0 <= line["entropy"] <= 1


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
        ("mover", {"frame_step": 2, "transpose_portrait": False, "workers": 4, "ssim_weight": 1}),
        ("mover", {"shared_visibility": True, "flow_fit": "constant", "entropy_weight": 0.1}),
        ("photometric", {"colour": True, "photo_share": 0.2, "paste_share": 0.5}),
        ("flow-fit", {"colour": True}),
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
@pytest.mark.parametrize("objective", ["photometric", "dense", "flow-fit", "mover"])
def test_a_preset_takes_any_objective_and_keeps_what_it_reads(preset: str, objective: str) -> None:
    before = PRESETS[preset]().training
    after = before.with_changes(objective=objective, steps=9)
    reads_targets = objective == "mover"
    assert (after.objective, after.steps, after.crop) == (objective, 9, before.crop)
    assert after.colour == (before.colour and reads_targets)
    assert after.frames == ("memory" if reads_targets else before.frames)


def test_what_works_on_pairs_is_refused_for_targets() -> None:
    message = r"motion_first_steps=5.*start_scale=0\.5.*sampling='?pair.*max_gap=2"
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(
            objective="mover", motion_first_steps=5, start_scale=0.5, sampling="pair", max_gap=2
        )
