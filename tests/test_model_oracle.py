"""Eqs. 2 to 7 written a second time, as loops over pixels in float64, against the model's.

The loops share no line with amd_seg and call no sampling, pooling or normalisation of torch: where
both give the same number, neither has inherited the other's mistake. Flow is in pixels of its own
grid, x first. The *target* is the frame that is rebuilt, the *source* the one that is sampled for
it; the flow lives on the target's pixels, the masks are the source's.
"""

import dataclasses
import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.model.amd import AMD, View
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

Array = NDArray[np.float64]

# Sums of some hundred float64 terms of size 1, in another order.
EXACT = 1e-12


# --- the equations as loops -----------------------------------------------------------------


def read(x: Array, y: float, x_position: float) -> Array:
    """Read x (..., height, width) bilinearly at one position, held at the border."""
    height, width = x.shape[-2:]
    y, x_position = min(max(y, 0.0), height - 1.0), min(max(x_position, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x_position)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x_position - left
    above = (1 - u) * x[..., top, left] + u * x[..., top, right]
    return np.asarray(
        (1 - v) * above + v * (u * x[..., bottom, right] + (1 - u) * x[..., bottom, left])
    )


def loop_resize(x: Array, size: tuple[int, ...]) -> Array:
    """Resize bilinearly; the centres of the corner pixels stay where they are."""
    out = np.empty((*x.shape[:2], *size))
    steps = [(old - 1) / max(new - 1, 1) for old, new in zip(x.shape[2:], size, strict=True)]
    for row, column in np.ndindex(*size):
        out[:, :, row, column] = read(x, row * steps[0], column * steps[1])
    return out


def loop_warp(x: Array, flow: Array) -> Array:
    """Eq. 6."""
    out = np.empty_like(x)
    for item, row, column in np.ndindex(len(x), *x.shape[2:]):
        right, down = flow[item, :, row, column]
        out[item, :, row, column] = read(x[item], row + down, column + right)
    return out


def loop_splat(flow: Array) -> Array:
    """Weight (batch, 1, height, width) that every pixel gets from the pixels that flow onto it."""
    batch, _, height, width = flow.shape
    out = np.zeros((batch, 1, height, width))
    for item, row, column in np.ndindex(batch, height, width):
        x, y = flow[item, :, row, column] + (column, row)
        for near_row, near_column in product(*((math.floor(v), math.floor(v) + 1) for v in (y, x))):
            if 0 <= near_row < height and 0 <= near_column < width:
                weight = (1 - abs(y - near_row)) * (1 - abs(x - near_column))
                out[item, 0, near_row, near_column] += weight
    return out


def loop_visibility(opposite_flow: Array) -> Array:
    return np.where(np.clip(loop_splat(opposite_flow), 0, 1) < 0.2, 0.0, 1.0)


def loop_correlation(reference: Array, other: Array, reach: int) -> Array:
    """Mean over channels of reference(p) * other(p + d); one channel per d, dy outer, dx inner."""
    batch, _, height, width = reference.shape
    steps = range(-reach, reach + 1)
    out = np.zeros((batch, len(steps) ** 2, height, width))
    for channel, (dy, dx) in enumerate(product(steps, steps)):
        for row in range(max(0, -dy), min(height, height - dy)):
            for column in range(max(0, -dx), min(width, width - dx)):
                products = reference[:, :, row, column] * other[:, :, row + dy, column + dx]
                out[:, channel, row, column] = products.mean(axis=1)
    return out


def loop_standardise(features: Array) -> Array:
    """Mean 0 over each map; at each pixel the length that makes a mean over channels a cosine."""
    centred = features - features.mean(axis=(2, 3), keepdims=True)
    for item, row, column in np.ndindex(len(features), *features.shape[2:]):
        vector = centred[item, :, row, column]
        vector *= np.sqrt(len(vector) / (vector**2).sum())
    return centred


def loop_motion_features(
    pathway: MotionPathway, level: int, target: Array, source: Array, flow: Array
) -> Array:
    """Eq. 2: V on the target's pixels, of a source that the flow has brought there already."""
    state = pathway.state_dict()

    def convolve(x: Array, name: str) -> Array:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        y = F.conv2d(torch.from_numpy(x), weight, bias, padding=weight.shape[2] // 2).numpy()
        return np.where(y > 0, y, 0.1 * y)

    compared = target, source
    if pathway.normalised_volume:
        compared = loop_standardise(target), loop_standardise(source)
    costs = loop_correlation(*compared, pathway.max_displacement)
    costs = np.where(costs > 0, costs, 0.1 * costs)
    outputs = [np.concatenate([costs, convolve(target, f"reductions.{level}"), flow], axis=1)]
    for index in range(5):
        x = np.concatenate(outputs[-2:] if index > 1 else outputs[-1:], axis=1)
        outputs.append(convolve(x, f"estimator.{index}"))
    return np.concatenate(outputs[-2:], axis=1)


def loop_pool(features: Array, masks: Array) -> Array:
    """Eq. 3."""
    out = np.empty((*masks.shape[:2], features.shape[1]))
    for item, region in np.ndindex(*masks.shape[:2]):
        mask = masks[item, region]
        out[item, region] = (features[item] * mask).sum(axis=(1, 2)) / mask.sum()
    return out


def loop_compose(masks: Array, vectors: Array) -> Array:
    """Eq. 5."""
    flow = np.zeros((len(masks), 2, *masks.shape[2:]))
    for item, region, axis in np.ndindex(*vectors.shape):
        flow[item, axis] += masks[item, region] * vectors[item, region, axis]
    return flow


def loop_segment_flow(
    pathway: MotionPathway, target: Array, source: Array, masks: Array
) -> tuple[list[Array], list[Array]]:
    """Run the recursion coarse to fine; return vectors by level, and flows, finest first."""
    both = torch.from_numpy(np.stack((target, source)))
    levels = [list(map(Tensor.numpy, pathway.features(frames))) for frames in both]
    flow, vectors = np.zeros((len(masks), 2, *levels[0][0].shape[2:])), np.zeros(())
    history, flows = [], []
    for level, (reference, other) in enumerate(zip(*levels, strict=True)):
        if level > 0:
            flow, vectors = loop_resize(2 * flow, reference.shape[2:]), 2 * vectors
            other = loop_warp(other, flow)
        level_masks = loop_resize(masks, reference.shape[2:])
        pooled = loop_pool(
            loop_motion_features(pathway, level, reference, other, flow), level_masks
        )
        # Eq. 4: g, a perceptron of two layers.
        first, last = ((g.weight.numpy()[:, :, 0, 0], g.bias.numpy()) for g in pathway.region_flow)
        hidden = pooled @ first[0].T + first[1]
        vectors = vectors + np.where(hidden > 0, hidden, 0.1 * hidden) @ last[0].T + last[1]
        flow = loop_compose(level_masks, vectors)
        history.append(vectors)
        flows.insert(0, loop_resize(4 * flow, tuple(4 * side for side in flow.shape[2:])))
    return history, flows


def loop_dssim(x: Array, y: Array) -> Array:
    """(1 - SSIM) / 2 over 3x3 windows without padding, clamped to 0..1."""
    out = np.empty((*x.shape[:2], x.shape[2] - 2, x.shape[3] - 2))
    for row, column in np.ndindex(*out.shape[2:]):
        a, b = (v[:, :, row : row + 3, column : column + 3] for v in (x, y))
        mean_a, mean_b = a.mean(axis=(2, 3)), b.mean(axis=(2, 3))
        variance_a = (a * a).mean(axis=(2, 3)) - mean_a**2
        variance_b = (b * b).mean(axis=(2, 3)) - mean_b**2
        covariance = (a * b).mean(axis=(2, 3)) - mean_a * mean_b
        similarity = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
        similarity /= (mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)
        out[:, :, row, column] = np.clip((1 - similarity) / 2, 0, 1)
    return out


def loop_error(target: Array, synthesized: Array, visible: Array) -> float:
    """P of one frame at one scale; the means run over the whole batch."""
    absolute = (np.abs(target - synthesized) * visible).mean()
    structural = loop_dssim(synthesized * visible, target * visible).mean()
    return float((0.15 * absolute + 0.85 * structural) / visible.mean())


def block_means(x: Array, factor: int) -> Array:
    height, width = x.shape[2] // factor, x.shape[3] // factor
    return x.reshape(*x.shape[:2], height, factor, width, factor).mean(axis=(3, 5))


# --- each equation --------------------------------------------------------------------------


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).random(shape)


def region_masks(seed: int, *shape: int) -> Array:
    return np.asarray(torch.from_numpy(3 * normal(seed, *shape)).softmax(dim=1))


def assert_equal(found: Tensor | None, expected: Array, tolerance: float = EXACT) -> None:
    assert found is not None
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(5, 7), (9, 4), (1, 1), (1, 6), (24, 40)])
def test_masks_are_resized_with_corners_aligned(size: tuple[int, int]) -> None:
    masks = region_masks(0, 2, 3, 5, 7)
    assert_equal(resize_masks(torch.from_numpy(masks), size), loop_resize(masks, size))


@pytest.mark.parametrize("reach", [0.3, 4.0, 40.0])
def test_a_frame_is_warped_with_positions_held_at_the_border(reach: float) -> None:
    frame, flow = uniform(1, 2, 3, 9, 13), reach * normal(2, 2, 2, 9, 13)
    view = synthesize_view(torch.from_numpy(frame), torch.from_numpy(flow))
    assert_equal(view, loop_warp(frame, flow))


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
    assert_equal(splat_weights(torch.from_numpy(flow)), loop_splat(flow))
    visible = splat_visibility(torch.from_numpy(flow))
    assert_equal(visible, loop_visibility(flow), tolerance=0)
    if reach == 2.0:
        assert 0.05 < float(visible.mean()) < 0.95


def test_dissimilarity_is_that_of_uniform_windows_without_padding() -> None:
    x, y = uniform(4, 2, 3, 8, 11), uniform(5, 2, 3, 8, 11)
    x[:, :, :4] = y[:, :, :4] = 0.25
    # A constant window has variances that differ by rounding, next to C2 = 9e-4.
    assert_equal(dssim(torch.from_numpy(x), torch.from_numpy(y)), loop_dssim(x, y), tolerance=1e-11)


def test_photometric_error_shares_its_means_over_the_batch() -> None:
    x, y = uniform(6, 2, 3, 8, 11), uniform(7, 2, 3, 8, 11)
    visible = np.where(uniform(8, 2, 1, 8, 11) < [[[[0.8]]], [[[0.3]]]], 1.0, 0.0)
    found = photometric_error(*map(torch.from_numpy, (x, y, visible)))
    assert found.item() == pytest.approx(loop_error(x, y, visible), rel=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
def test_motion_features_are_those_of_eq_2(normalised: bool, tiny_config: AMDConfig) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config, normalised_volume=normalised)
    pathway = MotionPathway(config).double()
    # Features of some size: at that of a fresh pathway the volume is lost among the biases.
    target, source = (5 + normal(seed, 2, config.pyramid_channels[-1], 3, 5) for seed in (1, 2))
    inputs = target, source, normal(3, 2, 2, 3, 5)
    found = pathway.motion_features(0, *map(torch.from_numpy, inputs))
    assert_equal(found, loop_motion_features(pathway, 0, *inputs))
    # Only the plain volume sees how large the features are.
    with torch.no_grad():
        pathway.reductions[0].weight.zero_()
        seen = [
            pathway.motion_features(0, *(torch.from_numpy(size * x) for x in inputs[:2]), flow)
            for flow in [torch.from_numpy(inputs[2])]
            for size in (1, 1000)
        ]
    assert torch.allclose(*seen, rtol=1e-9, atol=EXACT) == normalised


def test_features_are_pooled_and_vectors_composed_by_the_masks() -> None:
    masks, features = region_masks(11, 2, 3, 6, 9), normal(12, 2, 4, 6, 9)
    vectors = 3 * normal(13, 2, 3, 2)
    pooled = pool_over_regions(torch.from_numpy(features), torch.from_numpy(masks))
    assert_equal(pooled, loop_pool(features, masks))
    flow = compose_segment_flow(torch.from_numpy(masks), torch.from_numpy(vectors))
    assert_equal(flow, loop_compose(masks, vectors))


# --- all of them ----------------------------------------------------------------------------


@torch.no_grad()
def test_the_chain_from_masks_to_loss_is_that_of_the_equations(tiny_config: AMDConfig) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config, pyramid_channels=(4, 4, 4, 4), dropout=0.0)
    model = AMD(config).double().train()
    for name, value in model.named_parameters():
        # Masks that differ, and flows of some pixels.
        value *= 40 if "classifier" in name else 1.2
    frames = torch.from_numpy(np.stack([255 * uniform(s, 2, 3, 36, 52) for s in (1, 2)]))
    frames = F.avg_pool2d(frames.flatten(0, 1), 5, 1, 2).unflatten(0, (2, 2))
    reconstruction = model(*frames)
    views = reconstruction.view_i, reconstruction.view_j
    masks = model.segment(frames.flatten(0, 1)).chunk(2)
    inputs = [loop_resize(frame.numpy() / 255, config.motion_size) for frame in frames]

    def check(view: View, this: int) -> list[Array]:
        other = 1 - this
        assert_equal(view.target, inputs[this])
        assert_equal(view.masks, masks[other].numpy())
        vectors, flows = loop_segment_flow(
            model.motion, inputs[this], inputs[other], masks[other].numpy()
        )
        assert_equal(view.vectors, np.stack(vectors, axis=1), 1e-11)
        for found, expected in zip(view.flows, flows, strict=True):
            assert_equal(found, expected, 1e-10)
        return flows

    flows = [check(view, this) for this, view in enumerate(views)]
    assert 1 < max(np.abs(finest).max() for finest, *_ in flows) < 30
    visible = [loop_visibility(flows[1 - this][0]) for this in (0, 1)]
    parts = photometric_objective(reconstruction)
    assert parts["visible"].item() == pytest.approx(np.mean(visible), abs=EXACT)
    assert 0.3 < np.mean(visible) < 1
    errors = []
    for scale in range(3):
        step = 2**scale
        small = [block_means(frame, step) for frame in inputs]
        both = [
            loop_error(
                small[this],
                loop_warp(small[1 - this], flows[this][scale]),
                visible[this][:, :, ::step, ::step],
            )
            for this in (0, 1)
        ]
        errors.append(sum(both) / 2)
        assert parts[f"scale_{scale}"].item() == pytest.approx(errors[-1], rel=1e-9)
    assert parts["loss"].item() == pytest.approx(sum(errors), rel=1e-9)
