"""The released model's own numbers, on seeded weights, against `AMD` with its default settings.

By itself this runs one training pair forward and backward, one pair and one odd photo in eval
mode, all in float32, and the motion pathway in float64 on the reference's masks: what fits in a
minute. `AMD_SEG_CONFORMANCE=float64` asks for everything in that precision: minutes, and some
gigabytes of memory. `pytest -rP` prints how large each error is.
"""

import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from amd_seg.model import objective
from amd_seg.model.amd import AMD, Reconstruction, View
from amd_seg.model.config import AMDConfig
from amd_seg.model.segment_flow import resize_masks, synthesize_view
from amd_seg.weights_import import load_official_state_dict, official_name

pytestmark = pytest.mark.shared

Arrays = Mapping[str, NDArray[np.float64]]
State = dict[str, Tensor]
Frames = tuple[Tensor, Tensor]

IS_DOUBLE = os.environ.get("AMD_SEG_CONFORMANCE") == "float64"
DTYPE = torch.float64 if IS_DOUBLE else torch.float32

# Largest error against the float64 results; the stored arrays are rounded to float32. Vectors and
# flows are in pixels of their own grids; buffers and gradients are relative, that of one element
# to its tensor's largest.
TOLERANCES = {
    # Next to the released code's own float32 run: masks 1.2e-5, vectors 4e-6, flow 3.4e-5,
    # warped 9e-6, loss 1.6e-7, norms 5e-4 (ReLUs that switch), elements 3.5e-3.
    torch.float32: SimpleNamespace(
        masks=1e-4, vectors=1e-4, flow=3e-4, warped=5e-5, loss=1e-6,
        buffers=1e-5, gradient_norm=1e-3, gradient=1e-2,
    ),
    # 1e-7 is the rounding of what is stored; the released code takes its motion input back from
    # normalised frames with constants that were rounded only once, which shifts the loss by 2e-9.
    torch.float64: SimpleNamespace(
        masks=1e-6, vectors=1e-6, flow=2e-6, warped=1e-6, loss=1e-8,
        buffers=1e-6, gradient_norm=1e-6, gradient=1e-5,
    ),
}  # fmt: skip
TOLERANCE = TOLERANCES[DTYPE]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "reference"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    """All arrays of the reference, by name."""
    found: dict[str, NDArray[np.float64]] = {}
    for path in folder.glob("ref_*.npz"):
        with np.load(path) as stored:
            found |= stored
    return found


@pytest.fixture(scope="module")
def official_state(folder: Path) -> State:
    """The seeded weights under the released keys, 122 MB, made in memory."""
    value = runpy.run_path(str(folder / "make_weights.py"))["value"]
    rows = (folder / "official_state_dict.tsv").read_text().splitlines()[1:]
    state = {}
    for key, shape, _ in (row.split("\t") for row in rows):
        sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        state[key] = torch.from_numpy(value(key, sizes))
    return state


@pytest.fixture(scope="module")
def pair(folder: Path) -> Frames:
    return read_frame(folder / "frame_i.png"), read_frame(folder / "frame_j.png")


def read_frame(path: Path) -> Tensor:
    """An image as (1, 3, height, width), RGB, uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).unsqueeze(0)


def make_model(state: State) -> AMD:
    """The released model; without dropout, as the reference was computed."""
    model = AMD(AMDConfig(dropout=0.0)).to(DTYPE)
    load_official_state_dict(model, state)
    return model


@pytest.fixture(scope="module")
def models(official_state: State) -> dict[str, AMD]:
    """One that has taken one training pair forward and backward, and one in eval mode."""
    return {"train": make_model(official_state).train(), "eval": make_model(official_state).eval()}


@pytest.fixture(scope="module")
def found(models: dict[str, AMD], pair: Frames) -> dict[str, Reconstruction]:
    trained = models["train"](*pair)
    objective.photometric_objective(trained)["loss"].backward()
    with torch.no_grad():
        return {"train": trained, "eval": models["eval"](*pair)}


def assert_near(found: ArrayLike | Tensor, expected: ArrayLike, tolerance: float) -> None:
    values = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
    print(f"largest error {np.abs(values - expected).max():.1e}, allowed {tolerance:.0e}")
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


def assert_ratio(found: float, expected: float, tolerance: float) -> None:
    print(f"relative error {abs(found / expected - 1):.1e}, allowed {tolerance:.0e}")
    assert found == pytest.approx(expected, rel=tolerance)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# --- the whole model ------------------------------------------------------------------------


def views_of(reconstruction: Reconstruction) -> tuple[View, View]:
    return reconstruction.view_i, reconstruction.view_j


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_masks_and_motion(mode: str, found: dict[str, Reconstruction], arrays: Arrays) -> None:
    views = views_of(found[mode])
    expected = arrays["train_masks"] if mode == "train" else softmax(arrays["eval_logits"])
    # A view carries the masks of its source, the reference has them in the order i, j.
    masks = torch.cat([view.masks for view in reversed(views)])
    # Batch statistics cost the released code itself 1.2e-5 in float32.
    assert_near(masks, expected, TOLERANCE.masks if mode == "train" else 1e-5)
    assert_motion(views, mode, arrays, TOLERANCE)
    visible = torch.cat(visibility(views)).bool().numpy()
    flipped = np.packbits(visible) ^ arrays[f"{mode}_vis_bits"]
    assert int(np.unpackbits(flipped).sum()) == 0


def assert_motion(
    views: tuple[View, View], mode: str, arrays: Arrays, tolerance: SimpleNamespace
) -> None:
    """All vectors, every stored flow, and the mean, spread and range of all five."""
    vectors = torch.cat([view.vectors for view in views])
    assert_near(vectors, arrays[f"{mode}_segflow_cum"], tolerance.vectors)
    for view, direction in zip(views, ("fw", "bw"), strict=True):
        stats = []
        for scale, flow in enumerate(f.detach() for f in view.flows):
            stats.append([flow.mean(), flow.std(correction=0), flow.min(), flow.max()])
            for stride in (1, 2, 4, 8):
                name = f"{mode}_flow{scale}_{direction}_s{stride}"
                if name in arrays:
                    assert_near(flow[..., ::stride, ::stride], arrays[name], tolerance.flow)
        assert_near(torch.tensor(stats), arrays[f"{mode}_flow_stats_{direction}"], tolerance.flow)


def visibility(views: tuple[View, View]) -> tuple[Tensor, Tensor]:
    view_i, view_j = views
    return objective.splat_visibility(view_j.flows[0]), objective.splat_visibility(view_i.flows[0])


@pytest.mark.parametrize(("mode", "stored"), [("eval", 4), ("train", 8)])
def test_warped_frames_terms_and_loss(
    mode: str, stored: int, found: dict[str, Reconstruction], arrays: Arrays
) -> None:
    terms, compared, views = np.empty((4, 2, 4)), 0, views_of(found[mode])
    for scale, index in np.ndindex(4, 2):
        view, visible = views[index], visibility(views)[index][..., :: 2**scale, :: 2**scale]
        target, source = (F.avg_pool2d(frame, 2**scale) for frame in (view.target, view.source))
        synthesized = synthesize_view(source, view.flows[scale])
        for stride in (1, 4, 8):
            name = f"{mode}_warp{scale}_{index + 1}_s{stride}"
            if name in arrays:
                part = synthesized[..., ::stride, ::stride]
                assert_near(part, arrays[name], TOLERANCE.warped)
                compared += 1
        absolute = ((target - synthesized).abs() * visible).mean()
        structure = objective.dssim(synthesized * visible, target * visible).mean()
        error = objective.photometric_error(target, synthesized, visible)
        terms[scale, index] = [t.item() for t in (absolute, structure, visible.mean(), error)]
    assert compared == stored
    assert_near(terms, arrays[f"{mode}_terms"], TOLERANCE.loss)
    assert_loss(objective.photometric_objective(found[mode]), mode, arrays, TOLERANCE.loss)


def assert_loss(parts: State, mode: str, arrays: Arrays, tolerance: float) -> None:
    per_scale = torch.stack([parts[f"scale_{scale}"] for scale in range(4)])
    assert_near(per_scale, arrays[f"{mode}_loss_per_scale"], tolerance)
    assert_ratio(parts["loss"].item(), float(arrays[f"{mode}_loss"]), tolerance)


@pytest.mark.usefixtures("found")
def test_statistics_and_gradients(models: dict[str, AMD], folder: Path, arrays: Arrays) -> None:
    buffers, gradients = dict(models["train"].named_buffers()), gradients_of(models["train"])
    statistics = read_rows(folder / "bn_after.tsv")
    assert len(statistics) == 110
    for name, (total, norm) in statistics.items():
        buffer = buffers[name].double()
        assert buffer.norm().item() == pytest.approx(norm, rel=TOLERANCE.buffers)
        # A sum of numbers of both signs can be near 0: its error is that of its terms.
        assert buffer.sum().item() == pytest.approx(total, abs=TOLERANCE.buffers * norm * 10)
    norms = read_rows(folder / "grad_norms.tsv")
    assert norms.keys() == gradients.keys()
    assert len(norms) == 215
    errors = []
    for name, (norm, _, largest, released_deviation) in norms.items():
        gradient = gradients[name].double()
        # A few backbone tensors: ReLUs that switch between float32 and float64.
        bound = max(TOLERANCE.gradient_norm, 0 if IS_DOUBLE else 5 * released_deviation)
        errors.append(abs(gradient.norm().item() / norm - 1))
        assert errors[-1] < bound, name
        relative = 10 * max(bound, TOLERANCE.gradient)
        assert gradient.abs().max().item() == pytest.approx(largest, rel=relative), name
    beyond = sum(error > 1e-3 for error in errors)
    print(f"norms: largest error {max(errors):.1e}, {beyond} of {len(errors)} above 1e-3")
    total_norm = torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm()
    assert_ratio(total_norm.item(), float(arrays["train_grad_norm_total"]), 1e-4)
    ours = our_names()
    for key, expected in arrays.items():
        kind, _, name = key.partition(":")
        if kind == "bn_after":
            assert_near(buffers[ours[name]], expected, TOLERANCE.buffers)
        elif kind == "grad":
            bound = TOLERANCE.gradient * float(np.abs(expected).max())
            assert_near(gradients[ours[name]], expected, bound)


def gradients_of(model: AMD) -> State:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def our_names() -> dict[str, str]:
    """Our name of each released key."""
    return {official_name(ours): ours for ours in AMD(AMDConfig()).state_dict()}


def read_rows(path: Path) -> dict[str, list[float]]:
    """Numbers by our names."""
    ours = our_names()
    rows = (line.split("\t") for line in path.read_text().splitlines()[1:])
    return {ours[key]: [float(value) for value in values] for key, *values in rows}


def test_a_photo_of_any_size(models: dict[str, AMD], folder: Path, arrays: Arrays) -> None:
    with torch.no_grad():
        masks = models["eval"].segment(read_frame(folder / "frame_odd.png"))
        resized = resize_masks(masks, (480, 637))
    assert_near(masks, softmax(arrays["odd_logits"]), 1e-5)
    for channel, share in ((0, 0.250170), (1, 0.002368)):
        saliency = resized[:, channel : channel + 1]
        assert_near(saliency[..., ::8, ::8], arrays[f"odd_gt_c{channel}_s8"], 1e-5)
        foreground = (saliency > 0.5).numpy()
        assert (np.packbits(foreground) == arrays[f"odd_gt_c{channel}_bits"]).all()
        assert foreground.mean() == pytest.approx(share, abs=1e-6)


# --- the motion pathway alone, in float64 ----------------------------------------------------


class GivenMasks(AMD):
    """The model with the masks of the reference in place of its appearance pathway's."""

    given: Tensor

    def segment(self, frames: Tensor) -> Tensor:
        return self.given


@pytest.mark.slow
def test_motion_and_objective_in_float64(
    official_state: State, pair: Frames, folder: Path, arrays: Arrays
) -> None:
    model, tolerance = GivenMasks(AMDConfig()).double(), TOLERANCES[torch.float64]
    load_official_state_dict(model, official_state)
    model.given = torch.from_numpy(arrays["train_masks"]).double()
    reconstruction = model(*pair)
    parts = objective.photometric_objective(reconstruction)
    parts["loss"].backward()
    assert_loss(parts, "train", arrays, tolerance.loss)
    assert_motion(views_of(reconstruction), "train", arrays, tolerance)
    rows, gradients = read_rows(folder / "grad_norms.tsv"), gradients_of(model)
    names = [name for name in rows if name.startswith("motion.")]
    assert len(names) == 48
    for name in names:
        norm = gradients[name].norm().item()
        assert norm == pytest.approx(rows[name][0], rel=tolerance.gradient_norm), name
