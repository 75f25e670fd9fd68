"""A slow reference of the model and its objective, in float64, written from the equations alone.

Loops over pixels, windows and kernel taps; numpy only. It shares no line with amd_seg and calls no
sampling, convolution or normalisation routine of torch, so that where both give the same number
neither can have inherited the other's mistake. Made for frames of some tens of pixels.

Axis words are those of the package: batch, channel, region, height, width; flow is in pixels of
its own grid, x first. The *target* is the frame that is rebuilt, the *source* the frame that is
sampled for it; the flow lives on the target's pixels, the masks are the source's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Rounded to float32, as the constants of the released normalisation are.
MEAN = np.array((123.675, 116.28, 103.53), np.float32).astype(np.float64)
STD = np.array((58.395, 57.12, 57.375), np.float32).astype(np.float64)


# --- layers ---------------------------------------------------------------------------------


def convolve(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Array:
    """Cross-correlate x (batch, channel, height, width) with weight (out, channel, kh, kw)."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    _, _, kernel_height, kernel_width = weight.shape
    height = (padded.shape[2] - dilation * (kernel_height - 1) - 1) // stride + 1
    width = (padded.shape[3] - dilation * (kernel_width - 1) - 1) // stride + 1
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    for ky in range(kernel_height):
        for kx in range(kernel_width):
            rows = slice(ky * dilation, ky * dilation + stride * (height - 1) + 1, stride)
            columns = slice(kx * dilation, kx * dilation + stride * (width - 1) + 1, stride)
            tap = np.tensordot(weight[:, :, ky, kx], padded[:, :, rows, columns], axes=(1, 1))
            out += np.moveaxis(tap, 0, 1)
    return out if bias is None else out + bias[None, :, None, None]


def max_pool(x: Array) -> Array:
    """Maximum over 3x3 windows, stride 2, one cell of padding that never wins."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
    out = np.empty((*x.shape[:2], height, width))
    for row, column in np.ndindex(height, width):
        window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        out[:, :, row, column] = window.max(axis=(2, 3))
    return out


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def leaky_relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.1 * x)


def softmax(x: Array) -> Array:
    """Softmax over axis 1."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass
class BatchNorm:
    """Batch normalisation, eps 1e-5, momentum 0.1; `running` collects the new buffers."""

    train: bool = False
    running: dict[str, Array] = field(default_factory=dict)

    def __call__(self, x: Array, state: Mapping[str, Array], name: str) -> Array:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if self.train:
            count = x.shape[0] * x.shape[2] * x.shape[3]
            batch_mean = x.mean(axis=(0, 2, 3))
            batch_variance = ((x - batch_mean[None, :, None, None]) ** 2).mean(axis=(0, 2, 3))
            self.running[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.running[f"{name}.running_var"] = 0.9 * variance + 0.1 * batch_variance * count / (
                count - 1
            )
            mean, variance = batch_mean, batch_variance
        scale = state[f"{name}.weight"] / np.sqrt(variance + 1e-5)
        shift = state[f"{name}.bias"] - mean * scale
        return x * scale[None, :, None, None] + shift[None, :, None, None]


# --- sampling -------------------------------------------------------------------------------


def resize_corners(x: Array, size: tuple[int, int]) -> Array:
    """Resize bilinearly; the centres of the corner pixels stay where they are."""
    out = np.empty((*x.shape[:2], *size))
    for place in np.ndindex(size):
        y, x_position = (
            index * (source - 1) / (length - 1) if length > 1 else 0.0
            for index, length, source in zip(place, size, x.shape[2:], strict=True)
        )
        out[:, :, *place] = _sample(x, y, x_position)
    return out


def _sample(x: Array, y: float, x_position: float) -> Array:
    """Read x (..., height, width) bilinearly at one position inside it."""
    top, left = floor(y), floor(x_position)
    bottom, right = min(top + 1, x.shape[-2] - 1), min(left + 1, x.shape[-1] - 1)
    v, u = y - top, x_position - left
    value: Array = (
        (1 - v) * (1 - u) * x[..., top, left]
        + (1 - v) * u * x[..., top, right]
        + v * (1 - u) * x[..., bottom, left]
        + v * u * x[..., bottom, right]
    )
    return value


def warp(x: Array, flow: Array) -> Array:
    """Read x (batch, channel, height, width) at p + flow(p), positions clamped to the frame."""
    batch, _, height, width = x.shape
    out = np.empty_like(x)
    for item, row, column in np.ndindex(batch, height, width):
        y = min(max(row + flow[item, 1, row, column], 0.0), height - 1.0)
        x_position = min(max(column + flow[item, 0, row, column], 0.0), width - 1.0)
        out[item, :, row, column] = _sample(x[item], y, x_position)
    return out


def splat(flow: Array) -> Array:
    """Weight (batch, 1, height, width) that every pixel gets from the pixels that flow onto it."""
    batch, _, height, width = flow.shape
    out = np.zeros((batch, 1, height, width))
    for item, row, column in np.ndindex(batch, height, width):
        x, y = column + flow[item, 0, row, column], row + flow[item, 1, row, column]
        for down, right in np.ndindex(2, 2):
            near_row, near_column = floor(y) + down, floor(x) + right
            if 0 <= near_row < height and 0 <= near_column < width:
                weight = (1 - abs(y - near_row)) * (1 - abs(x - near_column))
                out[item, 0, near_row, near_column] += weight
    return out


def visibility(flow: Array) -> Array:
    """1 where the other frame's pixels land on this one, 0 where next to nothing does.

    Args:
        flow: (batch, 2, height, width) of the *opposite* direction, on the other frame's pixels.
    """
    return np.where(np.clip(splat(flow), 0, 1) < 0.2, 0.0, 1.0)


def block_means(x: Array, factor: int) -> Array:
    """Mean over factor x factor blocks."""
    height, width = x.shape[2] // factor, x.shape[3] // factor
    blocks = x[:, :, : height * factor, : width * factor]
    blocks = blocks.reshape(*x.shape[:2], height, factor, width, factor)
    means: Array = blocks.mean(axis=(3, 5))
    return means


# --- appearance pathway (eq. 1) -------------------------------------------------------------

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 1, 2)


def region_logits(
    state: Mapping[str, Array], frames: Array, backbone: str, head_dilation: int, norm: BatchNorm
) -> Array:
    """Logits (batch, region, height/8, width/8) of frames (batch, 3, height, width) in 0..255."""
    x = (frames - MEAN[None, :, None, None]) / STD[None, :, None, None]
    stem = "appearance.backbone"
    x = convolve(x, state[f"{stem}.conv1.weight"], stride=2, padding=3)
    x = max_pool(relu(norm(x, state, f"{stem}.bn1")))
    for layer, count in enumerate(BLOCKS[backbone]):
        for block in range(count):
            stride = STRIDES[layer] if block == 0 else 1
            name = f"{stem}.layer{layer + 1}.{block}"
            x = _residual(state, x, name, stride, DILATIONS[layer], norm)
    return _head(state, x, head_dilation, norm)


def _head(state: Mapping[str, Array], x: Array, dilation: int, norm: BatchNorm) -> Array:
    for index in range(2):
        weight = state[f"appearance.head.{index}.conv.weight"]
        x = convolve(x, weight, padding=dilation, dilation=dilation)
        x = relu(norm(x, state, f"appearance.head.{index}.bn"))
    return convolve(x, state["appearance.classifier.weight"], state["appearance.classifier.bias"])


def _residual(
    state: Mapping[str, Array], x: Array, name: str, stride: int, dilation: int, norm: BatchNorm
) -> Array:
    """A basic block of two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1."""
    is_bottleneck = f"{name}.conv3.weight" in state
    convolutions = 3 if is_bottleneck else 2
    strided = 2 if is_bottleneck else 1
    y = x
    for index in range(1, convolutions + 1):
        weight = state[f"{name}.conv{index}.weight"]
        spread = {"padding": dilation, "dilation": dilation} if weight.shape[2] == 3 else {}
        y = convolve(y, weight, stride=stride if index == strided else 1, **spread)
        y = norm(y, state, f"{name}.bn{index}")
        y = y if index == convolutions else relu(y)
    if f"{name}.downsample.0.weight" in state:
        x = convolve(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = norm(x, state, f"{name}.downsample.1")
    return relu(y + x)


# --- motion pathway and segment flow (eqs. 2-6) ---------------------------------------------


def correlation(reference: Array, other: Array, reach: int) -> Array:
    """Mean over channels of reference(p) * other(p + d); one channel per d, dy outer, dx inner."""
    batch, _, height, width = reference.shape
    side = 2 * reach + 1
    out = np.zeros((batch, side * side, height, width))
    for channel, (dy, dx) in enumerate(np.ndindex(side, side)):
        dy, dx = dy - reach, dx - reach
        for row in range(max(0, -dy), min(height, height - dy)):
            for column in range(max(0, -dx), min(width, width - dx)):
                products = reference[:, :, row, column] * other[:, :, row + dy, column + dx]
                out[:, channel, row, column] = products.mean(axis=1)
    return out


def pool_over_regions(features: Array, masks: Array) -> Array:
    """Eq. 3: (batch, region, channel), the mean of the features weighted by each mask."""
    batch, regions = masks.shape[:2]
    out = np.empty((batch, regions, features.shape[1]))
    for item, region in np.ndindex(batch, regions):
        mask = masks[item, region]
        out[item, region] = (features[item] * mask).sum(axis=(1, 2)) / mask.sum()
    return out


def compose(masks: Array, vectors: Array) -> Array:
    """Eq. 5: flow (batch, 2, h, w) of masks (batch, region, h, w), vectors (batch, region, 2)."""
    batch, regions, height, width = masks.shape
    flow = np.zeros((batch, 2, height, width))
    for item, region, axis in np.ndindex(batch, regions, 2):
        flow[item, axis] += masks[item, region] * vectors[item, region, axis]
    return flow


def feature_pyramid(state: Mapping[str, Array], frames: Array) -> list[Array]:
    """Features of every stage of the motion pathway, finest (half the frame) first."""
    levels = []
    x = frames
    stage = 0
    while f"motion.pyramid.{stage}.0.weight" in state:
        for index, stride in ((0, 2), (1, 1)):
            x = leaky_relu(_motion_convolution(state, x, f"pyramid.{stage}.{index}", stride))
        levels.append(x)
        stage += 1
    return levels


def _motion_convolution(state: Mapping[str, Array], x: Array, name: str, stride: int = 1) -> Array:
    weight, bias = state[f"motion.{name}.weight"], state[f"motion.{name}.bias"]
    return convolve(x, weight, bias, stride=stride, padding=(weight.shape[2] - 1) // 2)


def motion_features(
    state: Mapping[str, Array],
    target: Array,
    source: Array,
    flow: Array,
    level: int,
    reach: int,
    *,
    normalised: bool = False,
) -> Array:
    """Eq. 2: V of one level, on the target's pixels, given the flow found so far."""
    compared = [standardise(x) for x in (target, source)] if normalised else (target, source)
    costs = leaky_relu(correlation(*compared, reach))
    reduced = leaky_relu(_motion_convolution(state, target, f"reductions.{level}"))
    outputs = [np.concatenate([costs, reduced, flow], axis=1)]
    for index in range(5):
        x = np.concatenate(outputs[-2:] if index > 1 else outputs[-1:], axis=1)
        outputs.append(leaky_relu(_motion_convolution(state, x, f"estimator.{index}")))
    return np.concatenate(outputs[-2:], axis=1)


def standardise(features: Array) -> Array:
    """Mean 0 over each map; at each pixel the length that makes a mean over channels a cosine."""
    batch, channels, height, width = features.shape
    result = np.empty_like(features)
    for item in range(batch):
        centred = [features[item, c] - features[item, c].mean() for c in range(channels)]
        for row, column in np.ndindex(height, width):
            vector = np.array([plane[row, column] for plane in centred])
            length = np.sqrt((vector**2).sum())
            result[item, :, row, column] = vector / length * np.sqrt(channels)
    return result


def region_flow(state: Mapping[str, Array], pooled: Array) -> Array:
    """Eq. 4: g, a perceptron of two layers, from (batch, region, channel) to (b, region, 2)."""
    weight, bias = (
        [state[f"motion.region_flow.{layer}.{name}"] for layer in range(2)]
        for name in ("weight", "bias")
    )
    hidden = leaky_relu(pooled @ weight[0][:, :, 0, 0].T + bias[0])
    return hidden @ weight[1][:, :, 0, 0].T + bias[1]


@dataclass
class SegmentFlow:
    """One direction: vectors in pixels of each level's grid, flows O_s in pixels of their own."""

    vectors: list[Array]
    flows: list[Array]


def segment_flow(
    state: Mapping[str, Array], target: Array, source: Array, masks: Array, reach: int
) -> SegmentFlow:
    """Run the recursion from coarse to fine for the target, with the masks of the source.

    Both frames are (batch, 3, height, width) in 0..1 at the motion pathway's size; the masks are
    the source's, at the size that the appearance pathway gives.
    """
    target_levels = feature_pyramid(state, target)[:0:-1]
    source_levels = feature_pyramid(state, source)[:0:-1]
    batch, regions = masks.shape[:2]
    vectors = np.zeros((batch, regions, 2))
    flow = np.zeros((batch, 2, *target_levels[0].shape[2:]))
    result = SegmentFlow([], [])
    for level, (reference, other) in enumerate(zip(target_levels, source_levels, strict=True)):
        size = (reference.shape[2], reference.shape[3])
        if level > 0:
            flow = resize_corners(2 * flow, size)
            vectors = 2 * vectors
            other = warp(other, flow)
        level_masks = resize_corners(masks, size)
        features = motion_features(state, reference, other, flow, level, reach)
        vectors = vectors + region_flow(state, pool_over_regions(features, level_masks))
        flow = compose(level_masks, vectors)
        result.vectors.append(vectors)
        result.flows.insert(0, resize_corners(4 * flow, (4 * size[0], 4 * size[1])))
    return result


# --- objective (eq. 7) ----------------------------------------------------------------------


def dssim(x: Array, y: Array) -> Array:
    """(1 - SSIM) / 2 over 3x3 windows without padding, clamped to 0..1."""
    height, width = x.shape[2] - 2, x.shape[3] - 2
    out = np.empty((*x.shape[:2], height, width))
    for row, column in np.ndindex(height, width):
        a = x[:, :, row : row + 3, column : column + 3]
        b = y[:, :, row : row + 3, column : column + 3]
        mean_a, mean_b = a.mean(axis=(2, 3)), b.mean(axis=(2, 3))
        variance_a = (a * a).mean(axis=(2, 3)) - mean_a**2
        variance_b = (b * b).mean(axis=(2, 3)) - mean_b**2
        covariance = (a * b).mean(axis=(2, 3)) - mean_a * mean_b
        similarity = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
        similarity /= (mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)
        out[:, :, row, column] = np.clip((1 - similarity) / 2, 0, 1)
    return out


def photometric_error(target: Array, synthesized: Array, visible: Array) -> float:
    """P of one frame at one scale; the means run over the whole batch."""
    absolute = (np.abs(target - synthesized) * visible).mean()
    structural = dssim(synthesized * visible, target * visible).mean()
    return float((0.15 * absolute + 0.85 * structural) / visible.mean())


@dataclass
class Chain:
    """Everything between two frames and the loss; suffix 12: target 1, source 2, masks of 2."""

    logits: Array
    flow_12: SegmentFlow
    flow_21: SegmentFlow
    visible: tuple[Array, Array]
    synthesized: list[tuple[Array, Array]]
    per_scale: list[float]
    loss: float
    running: dict[str, Array]


def run_chain(
    state: Mapping[str, Array],
    frames: Sequence[Array],
    *,
    backbone: str,
    head_dilation: int,
    reach: int,
    motion_size: tuple[int, int],
    scales: int,
    train: bool,
) -> Chain:
    """Run frames 1 and 2, each (batch, 3, height, width) in 0..255, through eqs. 1 to 7."""
    norm = BatchNorm(train)
    # Both frames of all pairs share the statistics of one batch.
    logits = region_logits(state, np.concatenate(frames), backbone, head_dilation, norm)
    masks_1, masks_2 = np.split(softmax(logits), 2)
    frame_1, frame_2 = (resize_corners(frame / 255, motion_size) for frame in frames)
    flow_12 = segment_flow(state, frame_1, frame_2, masks_2, reach)
    flow_21 = segment_flow(state, frame_2, frame_1, masks_1, reach)
    visible = visibility(flow_21.flows[0]), visibility(flow_12.flows[0])
    synthesized, per_scale = [], []
    for scale in range(scales):
        step = 2**scale
        small_1, small_2 = block_means(frame_1, step), block_means(frame_2, step)
        pair = warp(small_2, flow_12.flows[scale]), warp(small_1, flow_21.flows[scale])
        errors = [
            photometric_error(small, view, mask[:, :, ::step, ::step])
            for small, view, mask in zip((small_1, small_2), pair, visible, strict=True)
        ]
        synthesized.append(pair)
        per_scale.append(sum(errors) / 2)
    return Chain(
        logits,
        flow_12,
        flow_21,
        visible,
        synthesized,
        per_scale,
        sum(per_scale),
        norm.running,
    )
