"""The model against a slow float64 reference that shares no code with it (oracle.py).

The functions are compared live on drawn inputs; the whole chain from frames to loss against the
numbers in data/reference.npz, which make_reference.py wrote.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from make_reference import (
    CASES,
    REFERENCE,
    make_direction,
    make_state,
    parameter_names,
    thin,
)
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.model.amd import AMD, Reconstruction
from amd_seg.model.config import AMDConfig
from amd_seg.model.motion import MotionPathway
from amd_seg.model.objective import (
    dssim,
    photometric_error,
    photometric_objective,
    splat_visibility,
    splat_weights,
)
from amd_seg.model.segment_flow import (
    compose_segment_flow,
    pool_over_regions,
    resize_masks,
    synthesize_view,
)

# Sums of some hundred float64 terms of size 1, in another order.
EXACT = 1e-12


def normal(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(shape)


def region_masks(seed: int, *shape: int) -> NDArray[np.float64]:
    return oracle.softmax(3 * normal(seed, *shape))


def assert_equal(found: Tensor, expected: NDArray[np.float64], tolerance: float = EXACT) -> None:
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(5, 7), (9, 4), (1, 1), (1, 6), (24, 40)])
def test_masks_are_resized_with_corners_aligned(size: tuple[int, int]) -> None:
    masks = region_masks(0, 2, 3, 5, 7)
    resized = resize_masks(torch.from_numpy(masks), size)
    assert_equal(resized, oracle.resize_corners(masks, size))


@pytest.mark.parametrize("reach", [0.3, 4.0, 40.0])
def test_a_frame_is_warped_with_positions_held_at_the_border(reach: float) -> None:
    frame, flow = uniform(1, 2, 3, 9, 13), reach * normal(2, 2, 2, 9, 13)
    view = synthesize_view(torch.from_numpy(frame), torch.from_numpy(flow))
    assert_equal(view, oracle.warp(frame, flow))


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_a_flow_that_is_not_a_number_is_not_hidden_and_goes_back(lost: tuple[int, ...]) -> None:
    frame = torch.from_numpy(uniform(1, 2, 3, 9, 13)).requires_grad_()
    flow = torch.from_numpy(normal(2, 2, 2, 9, 13))
    flow[0, list(lost), 4, 5] = math.nan
    view = synthesize_view(frame, flow.requires_grad_())
    is_lost = torch.zeros(2, 1, 9, 13, dtype=torch.bool)
    is_lost[0, 0, 4, 5] = True
    assert torch.equal(view.isnan(), is_lost.expand_as(view))
    # On a CPU torch's own backward pass ends the process here.
    view.sum().backward()
    assert frame.grad is not None
    assert frame.grad.isfinite().all()


@pytest.mark.parametrize("reach", [0.3, 2.0, 20.0])
def test_pixels_are_splatted_over_their_four_neighbours(reach: float) -> None:
    flow = reach * normal(3, 2, 2, 11, 16)
    assert_equal(splat_weights(torch.from_numpy(flow)), oracle.splat(flow))
    visible = splat_visibility(torch.from_numpy(flow))
    assert_equal(visible, oracle.visibility(flow), tolerance=0)
    if reach == 2.0:
        assert 0.05 < float(visible.mean()) < 0.95


def test_dissimilarity_is_that_of_uniform_windows_without_padding() -> None:
    x, y = uniform(4, 2, 3, 8, 11), uniform(5, 2, 3, 8, 11)
    x[:, :, :4] = y[:, :, :4] = 0.25
    found = dssim(torch.from_numpy(x), torch.from_numpy(y))
    # A constant window has variances that differ by rounding, next to C2 = 9e-4.
    assert_equal(found, oracle.dssim(x, y), tolerance=1e-11)


def test_photometric_error_shares_its_means_over_the_batch() -> None:
    x, y = uniform(6, 2, 3, 8, 11), uniform(7, 2, 3, 8, 11)
    visible = np.where(uniform(8, 2, 1, 8, 11) < [[[[0.8]]], [[[0.3]]]], 1.0, 0.0)
    found = photometric_error(*map(torch.from_numpy, (x, y, visible)))
    assert found.item() == pytest.approx(oracle.photometric_error(x, y, visible), rel=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
def test_motion_features_are_those_of_eq_2(normalised: bool, tiny_config: AMDConfig) -> None:
    config = dataclasses.replace(tiny_config, normalised_volume=normalised)
    torch.manual_seed(0)
    pathway = MotionPathway(config).double()
    width = config.pyramid_channels[-1]
    # Features of some size: at that of a fresh pathway the volume is lost among the biases.
    target, source = (5 + normal(seed, 2, width, 3, 5) for seed in (1, 2))
    flow = normal(3, 2, 2, 3, 5)
    state = {f"motion.{name}": value.numpy() for name, value in pathway.state_dict().items()}
    expected = oracle.motion_features(
        state, target, source, flow, 0, config.max_displacement, normalised=normalised
    )
    found = pathway.motion_features(0, *(torch.from_numpy(x) for x in (target, source, flow)))
    assert_equal(found, expected)


def test_a_normalised_volume_does_not_see_the_size_of_features(tiny_config: AMDConfig) -> None:
    frames = torch.from_numpy(uniform(1, 2, 3, *tiny_config.motion_size))
    for is_normalised in (False, True):
        config = dataclasses.replace(tiny_config, normalised_volume=is_normalised)
        torch.manual_seed(0)
        pathway = MotionPathway(config).double()
        coarsest = pathway.features(frames)[0]
        with torch.no_grad():
            # What else reads the features is put to sleep.
            pathway.reductions[0].weight.zero_()
            flow = torch.zeros(1, 2, *coarsest.shape[-2:], dtype=torch.float64)
            seen = [
                pathway.motion_features(0, *(size * coarsest).chunk(2), flow) for size in (1, 1000)
            ]
        assert torch.allclose(*seen, rtol=1e-9, atol=1e-12) == is_normalised


def test_features_are_pooled_and_vectors_composed_by_the_masks() -> None:
    masks, features = region_masks(11, 2, 3, 6, 9), normal(12, 2, 4, 6, 9)
    vectors = 3 * normal(13, 2, 3, 2)
    pooled = pool_over_regions(torch.from_numpy(features), torch.from_numpy(masks))
    assert_equal(pooled, oracle.pool_over_regions(features, masks))
    flow = compose_segment_flow(torch.from_numpy(masks), torch.from_numpy(vectors))
    assert_equal(flow, oracle.compose(masks, vectors))


# --- the whole chain ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Mapping[str, NDArray[np.float64]]:
    with np.load(REFERENCE) as stored:
        return dict(stored)


def make_model(case: str, *, train: bool, dtype: torch.dtype = torch.float64) -> AMD:
    model = AMD(CASES[case]).to(dtype)
    state = {name: torch.from_numpy(value) for name, value in make_state(CASES[case]).items()}
    model.load_state_dict(state)
    return model.train(train)


def reconstruct(
    model: AMD, case: str, reference: Mapping[str, NDArray[np.float64]]
) -> Reconstruction:
    reconstruction: Reconstruction = model(*map(torch.from_numpy, reference[f"{case}/frames"]))
    return reconstruction


MODES = [("shallow", "eval"), ("shallow", "train"), ("deep", "eval")]


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_the_chain_from_frames_to_loss_is_that_of_the_equations(
    case: str, mode: str, reference: Mapping[str, NDArray[np.float64]]
) -> None:
    model = make_model(case, train=mode == "train")
    with torch.no_grad():
        reconstruction = reconstruct(model, case, reference)
        parts = photometric_objective(reconstruction)

    def stored(name: str) -> NDArray[np.float64]:
        return reference[f"{case}/{mode}/{name}"]

    visible = []
    views = {"12": reconstruction.view_i, "21": reconstruction.view_j}
    for name, view in views.items():
        assert_equal(view.vectors, stored(f"vectors_{name}"), 1e-11)
        for scale, flow in enumerate(view.flows):
            assert_equal(thin(flow), stored(f"flow_{name}_{scale}"), 1e-10)
    for name, opposite in (("12", views["21"]), ("21", views["12"])):
        visible.append(splat_visibility(opposite.flows[0]).numpy())
        for scale in range(3):
            source = F.avg_pool2d(views[name].source, 2**scale)
            synthesized = synthesize_view(source, views[name].flows[scale])
            # Stored in float32.
            assert_equal(thin(synthesized), stored(f"synthesized_{name}_{scale}"), 1e-7)
    bits = np.packbits(np.concatenate(visible).astype(bool))
    assert (bits == stored("visible_bits")).all()

    masks = oracle.softmax(stored("logits"))
    masks_1, masks_2 = np.split(masks, 2)
    assert_equal(views["12"].masks, masks_2)
    assert_equal(views["21"].masks, masks_1)

    scales = [name for name in parts if name.startswith("scale_")]
    assert_equal(torch.stack([parts[name] for name in scales]), stored("per_scale"))
    assert parts["loss"].item() == pytest.approx(stored("per_scale").sum(), rel=1e-12)


@pytest.mark.parametrize("case", ["shallow", "deep"])
def test_segment_gives_the_masks_of_the_equations(
    case: str, reference: Mapping[str, NDArray[np.float64]]
) -> None:
    expected = oracle.softmax(reference[f"{case}/eval/logits"])
    frames = torch.from_numpy(np.concatenate(reference[f"{case}/frames"]))
    with torch.no_grad():
        assert_equal(make_model(case, train=False).segment(frames), expected)
        masks = make_model(case, train=False, dtype=torch.float32).segment(frames)
    np.testing.assert_allclose(masks.numpy(), expected, rtol=0, atol=1e-5)


def test_training_updates_the_running_statistics_once_for_both_frames(
    reference: Mapping[str, NDArray[np.float64]],
) -> None:
    model = make_model("shallow", train=True)
    with torch.no_grad():
        reconstruct(model, "shallow", reference)
    prefix = "shallow/train/running:"
    expected = {name.removeprefix(prefix): v for name, v in reference.items() if prefix in name}
    buffers = {name: v for name, v in model.named_buffers() if "running" in name}
    assert set(buffers) == set(expected)
    for name, value in expected.items():
        assert_equal(buffers[name], value)


def test_gradients_are_the_slopes_of_the_equations(
    reference: Mapping[str, NDArray[np.float64]],
) -> None:
    model = make_model("shallow", train=True)
    photometric_objective(reconstruct(model, "shallow", reference))["loss"].backward()
    parameters = dict(model.named_parameters())
    names = parameter_names(make_state(CASES["shallow"]))
    assert set(names) == set(parameters)
    found = np.array([_slope(name, parameters[name]) for name in names])
    # Central differences, step 1e-6: rounding of the loss 1e-10, kinks that a step crosses more.
    np.testing.assert_allclose(found, reference["shallow/slopes"], rtol=1e-5, atol=1e-8)


def _slope(name: str, parameter: Tensor) -> float:
    assert parameter.grad is not None
    direction = make_direction(name, tuple(parameter.shape))
    return float((parameter.grad.numpy() * direction).sum())
