"""Eqs. 2 to 7 written a second time, in numpy and float64, against the model's.

The two share no line, and no sampling, pooling or normalisation of torch: where both give the same
number, neither has inherited the other's mistake. Flow is in pixels of its own grid, x first. The
*target* is the frame that is rebuilt, the *source* the one that is sampled for it; the flow lives
on the target's pixels, the masks are the source's.
"""

import dataclasses
import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.model import objective, segment_flow
from amd_seg.model.amd import AMD
from amd_seg.model.motion import MotionPathway
from tests.test_correlation import loop
from tests.tiny import TINY

Array = NDArray[np.float64]

# Sums of some hundred float64 terms of size 1, in another order.
EXACT = 1e-12


# --- the equations in numpy -----------------------------------------------------------------


def read(x: Array, rows: Array, columns: Array) -> Array:
    """Read x (..., height, width) bilinearly at positions, held at the border."""
    height, width = x.shape[-2:]
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u = rows - top, columns - left
    above = (1 - u) * x[..., top, left] + u * x[..., top, right]
    return (1 - v) * above + v * ((1 - u) * x[..., bottom, left] + u * x[..., bottom, right])


def np_resize(x: Array, size: tuple[int, ...]) -> Array:
    """Resize bilinearly; the centres of the corner pixels stay where they are."""
    rows, columns = (np.linspace(0, x.shape[axis] - 1, size[axis]) for axis in (-2, -1))
    return read(x, rows[:, None], columns[None])


def np_warp(x: Array, flow: Array) -> Array:
    """Eq. 6."""
    rows, columns = np.mgrid[: x.shape[2], : x.shape[3]]
    pairs = zip(x, flow, strict=True)
    return np.stack([read(each, rows + down, columns + right) for each, (right, down) in pairs])


def np_splat(flow: Array) -> Array:
    """Weight (batch, 1, height, width) that every pixel gets from the pixels that flow onto it."""
    _, _, height, width = flow.shape
    out = np.zeros_like(flow[:, :1])
    items, rows, columns = np.mgrid[: len(flow), :height, :width]
    y, x = rows + flow[:, 1], columns + flow[:, 0]
    for down, right in product((0, 1), repeat=2):
        row, column = np.floor(y).astype(int) + down, np.floor(x).astype(int) + right
        weight = (1 - abs(y - row)) * (1 - abs(x - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        np.add.at(out[:, 0], (items[inside], row[inside], column[inside]), weight[inside])
    return out


def np_visibility(opposite_flow: Array) -> Array:
    return np.where(np.clip(np_splat(opposite_flow), 0, 1) < 0.2, 0.0, 1.0)


def np_standardise(features: Array) -> Array:
    """Mean 0 over each map; at each pixel the length that makes a mean over channels a cosine."""
    centred = features - features.mean(axis=(2, 3), keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.1 * x)


def np_motion_features(
    pathway: MotionPathway, level: int, target: Array, source: Array, flow: Array
) -> Array:
    """Eq. 2: V on the target's pixels, of a source that the flow has brought there already."""
    state = pathway.state_dict()

    def convolve(x: Array, name: str) -> Array:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        y = F.conv2d(torch.from_numpy(x), weight, bias, padding=weight.shape[2] // 2)
        return leaky(y.numpy())

    compared = target, source
    if pathway.normalised_volume:
        compared = np_standardise(target), np_standardise(source)
    volume = loop(*map(torch.from_numpy, compared), pathway.max_displacement)
    costs = leaky(volume.numpy())
    outputs = [np.concatenate([costs, convolve(target, f"reductions.{level}"), flow], axis=1)]
    for index in range(5):
        x = np.concatenate(outputs[-2:] if index > 1 else outputs[-1:], axis=1)
        outputs.append(convolve(x, f"estimator.{index}"))
    return np.concatenate(outputs[-2:], axis=1)


def np_pool(features: Array, masks: Array) -> Array:
    """Eq. 3."""
    return np.einsum("bchw,brhw->brc", features, masks) / masks.sum(axis=(2, 3))[..., None]


def np_compose(masks: Array, vectors: Array) -> Array:
    """Eq. 5."""
    return np.einsum("brhw,brx->bxhw", masks, vectors)


def np_segment_flow(
    pathway: MotionPathway, target: Array, source: Array, masks: Array
) -> tuple[list[Array], list[Array]]:
    """Run the recursion coarse to fine; return vectors by level, and flows, finest first."""
    both = torch.from_numpy(np.stack((target, source)))
    levels = [list(map(Tensor.numpy, pathway.features(frames))) for frames in both]
    flow, vectors = np.zeros((len(masks), 2, *levels[0][0].shape[2:])), np.zeros(())
    history, flows = [], []
    for level, (reference, other) in enumerate(zip(*levels, strict=True)):
        if level > 0:
            flow, vectors = np_resize(2 * flow, reference.shape[2:]), 2 * vectors
            other = np_warp(other, flow)
        level_masks = np_resize(masks, reference.shape[2:])
        pooled = np_pool(np_motion_features(pathway, level, reference, other, flow), level_masks)
        # Eq. 4: g, a perceptron of two layers.
        first, last = ((g.weight.numpy()[:, :, 0, 0], g.bias.numpy()) for g in pathway.region_flow)
        vectors = vectors + leaky(pooled @ first[0].T + first[1]) @ last[0].T + last[1]
        flow = np_compose(level_masks, vectors)
        history.append(vectors)
        flows.insert(0, np_resize(4 * flow, tuple(4 * side for side in flow.shape[2:])))
    return history, flows


def np_dssim(x: Array, y: Array) -> Array:
    """(1 - SSIM) / 2 over 3x3 windows without padding, clamped to 0..1."""

    def mean(values: Array) -> Array:
        return sliding_window_view(values, (3, 3), axis=(2, 3)).mean(axis=(4, 5))

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    similarity = (2 * mean_x * mean_y + 1e-4) * (2 * (mean(x * y) - mean_x * mean_y) + 9e-4)
    similarity /= (mean_x**2 + mean_y**2 + 1e-4) * (variances + 9e-4)
    return np.clip((1 - similarity) / 2, 0, 1)


def np_error(target: Array, synthesized: Array, visible: Array) -> float:
    """P of one frame at one scale; the means run over the whole batch."""
    absolute = (np.abs(target - synthesized) * visible).mean()
    structural = np_dssim(synthesized * visible, target * visible).mean()
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


def assert_equal(found: Tensor, expected: Array, tolerance: float = EXACT) -> None:
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=tolerance)


FRAMES = uniform(4, 2, 3, 8, 11), uniform(5, 2, 3, 8, 11)
VISIBLE = np.where(uniform(8, 2, 1, 8, 11) < [[[[0.8]]], [[[0.3]]]], 1.0, 0.0)
# A constant window has variances that differ by rounding, next to C2 = 9e-4.
FLAT = tuple(np.where(np.arange(8)[:, None] < 4, 0.25, frame) for frame in FRAMES)
MASKS, FEATURES, VECTORS = region_masks(11, 2, 3, 6, 9), normal(12, 2, 4, 6, 9), normal(13, 2, 3, 2)
FLOW = normal(3, 2, 2, 8, 11)


@pytest.mark.parametrize(
    ("ours", "theirs", "inputs", "tolerance"),
    [
        *(
            (segment_flow.resize_masks, np_resize, (MASKS, s), EXACT)
            for s in ((5, 7), (1, 1), (1, 6), (24, 40))
        ),
        *(
            (segment_flow.synthesize_view, np_warp, (FRAMES[0], r * FLOW), EXACT)
            for r in (0.3, 4.0, 40.0)
        ),
        *((objective.splat_weights, np_splat, (r * FLOW,), EXACT) for r in (0.3, 2.0, 20.0)),
        *((objective.splat_visibility, np_visibility, (r * FLOW,), 0) for r in (0.3, 2.0, 20.0)),
        (objective.dssim, np_dssim, FRAMES, EXACT),
        (objective.dssim, np_dssim, FLAT, 1e-11),
        (objective.photometric_error, np_error, (*FRAMES, VISIBLE), EXACT),
        (segment_flow.pool_over_regions, np_pool, (FEATURES, MASKS), EXACT),
        (segment_flow.compose_segment_flow, np_compose, (MASKS, VECTORS), EXACT),
    ],
)
def test_each_equation(
    ours: Callable[..., Tensor], theirs: Callable[..., Array], inputs: tuple, tolerance: float
) -> None:
    tensors = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]
    assert_equal(ours(*tensors), theirs(*inputs), tolerance)


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_a_flow_that_is_not_a_number_is_not_hidden_and_goes_back(lost: tuple[int, ...]) -> None:
    frame, flow = torch.from_numpy(FRAMES[0]).requires_grad_(), torch.from_numpy(FLOW.copy())
    flow[0, list(lost), 4, 5] = math.nan
    view = segment_flow.synthesize_view(frame, flow.requires_grad_())
    is_lost = torch.zeros(2, 1, 8, 11, dtype=torch.bool)
    is_lost[0, 0, 4, 5] = True
    assert torch.equal(view.isnan(), is_lost.expand_as(view))
    # On a CPU torch's own backward pass ends the process here.
    view.sum().backward()
    assert frame.grad.isfinite().all()


# --- all of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [False, True])
@torch.no_grad()
def test_the_chain_from_masks_to_loss_is_that_of_the_equations(normalised: bool) -> None:
    torch.manual_seed(0)
    changes = {"dropout": 0.0, "normalised_volume": normalised}
    config = dataclasses.replace(TINY, pyramid_channels=(4, 4, 4, 4), **changes)
    model = AMD(config).double().train()
    for name, value in model.named_parameters():
        # Masks that differ, and flows of some pixels.
        value *= 40 if "classifier" in name else 1.2
    frames = torch.from_numpy(np.stack([255 * uniform(s, 2, 3, 36, 52) for s in (1, 2)]))
    frames = F.avg_pool2d(frames.flatten(0, 1), 5, 1, 2).unflatten(0, (2, 2))
    reconstruction = model(*frames)
    masks = [part.numpy() for part in model.segment(frames.flatten(0, 1)).chunk(2)]
    inputs = [np_resize(frame.numpy() / 255, config.motion_size) for frame in frames]
    flows = []
    for this, view in enumerate((reconstruction.view_i, reconstruction.view_j)):
        other = 1 - this
        assert_equal(view.target, inputs[this])
        assert_equal(view.masks, masks[other])
        vectors, expected = np_segment_flow(model.motion, inputs[this], inputs[other], masks[other])
        assert_equal(view.vectors, np.stack(vectors, axis=1), 1e-11)
        for found, flow in zip(view.flows, expected, strict=True):
            assert_equal(found, flow, 1e-10)
        flows.append(expected)

    assert 1 < max(np.abs(finest).max() for finest, *_ in flows) < 30
    visible = [np_visibility(flows[1 - this][0]) for this in (0, 1)]
    parts = objective.photometric_objective(reconstruction)
    assert parts["visible"].item() == pytest.approx(np.mean(visible), abs=EXACT)
    assert 0.3 < np.mean(visible) < 1
    errors = []
    for scale in range(3):
        step = 2**scale
        small = [block_means(frame, step) for frame in inputs]
        rebuilt = [np_warp(small[1 - this], flows[this][scale]) for this in (0, 1)]
        seen = [each[:, :, ::step, ::step] for each in visible]
        errors.append(np.mean(list(map(np_error, small, rebuilt, seen))))
        assert parts[f"scale_{scale}"].item() == pytest.approx(errors[-1], rel=1e-9)
    assert parts["loss"].item() == pytest.approx(sum(errors), rel=1e-9)
