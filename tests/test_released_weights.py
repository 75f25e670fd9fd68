"""The recipe of the released weights: its parts on known pictures, and the whole chain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from average import average_weights
from contrast import boundary_contrast
from grounds import write_grounds
from photo_masks import photo_mask, write_photo_masks
from PIL import Image
from self_training import write_joined_masks

from amd_seg.training.masked_images import load_masked_images
from amd_seg.weights import load_weights
from tests.clips import moving_patch, write_clip
from tests.processes import ROOT, python
from tests.tiny import tiny_weights

MAKE = ROOT / "recipes" / "released_weights" / "make.py"
rows, columns = np.mgrid[:60, :80]


def photo_of_a_ball(seed: int = 0, radius: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """A red ball on grass of two greens, and its mask."""
    mask = (rows - 24) ** 2 + (columns - 50) ** 2 < radius**2
    photo = np.where(rows[..., None] > 30, (40, 120, 50), (60, 140, 60))
    photo = np.where(mask[..., None], (190, 40, 40), photo)
    noise = np.random.default_rng(seed).normal(0, 4, photo.shape)
    return np.clip(photo + noise, 0, 255).astype(np.uint8), mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(8):
        photo, _ = photo_of_a_ball(number, 10 + number)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_what_stands_out_is_found_and_what_the_border_cuts_is_not() -> None:
    photo, mask = photo_of_a_ball()
    found, confidence = photo_mask(photo, (60,))
    assert 0.7 < confidence <= 1
    is_object = found >= 0.5
    assert (is_object & mask).sum() / (is_object | mask).sum() > 0.9  # measured 0.97
    nothing, _ = photo_mask(np.full_like(photo, 128), (60,))
    assert not nothing.any()
    photo[rows >= 40] = (200, 190, 60)  # a table's edge: as striking as the ball
    contrast = boundary_contrast(photo, 60)
    assert contrast[mask].mean() > 0.8
    assert contrast[rows >= 44].mean() < 0.2


def test_grounds_hold_no_object(photos: Path, tmp_path: Path) -> None:
    write_photo_masks(photos, tmp_path / "stills", short_edge=60)
    write_grounds(tmp_path / "stills", tmp_path / "grounds", short_edge=60, parts=1.0, drawn=2)
    found = load_masked_images(tmp_path / "grounds", short_edge=60)
    assert {"surface_0000", "surface_0001"} < set(found)
    for name, (image,) in found.items():
        assert not image.mask.any()
        # The balls are red, the grass is not.
        red, green, _ = image.frame.float().mean((1, 2))
        assert name.startswith("surface") or red < 0.6 * green


@pytest.mark.parametrize("how", [{}, {"redraw": True}])
def test_masks_join_those_of_a_network(
    weights: Path, photos: Path, tmp_path: Path, how: dict[str, bool]
) -> None:
    write_photo_masks(photos, tmp_path / "first", short_edge=40)
    write_joined_masks(weights, tmp_path / "first", tmp_path / "next", short_edge=40, **how)
    first, joined = (load_masked_images(tmp_path / n, short_edge=40) for n in ("first", "next"))
    assert first.keys() == joined.keys()
    for (one,), (two,) in zip(first.values(), joined.values(), strict=True):
        assert (one.name, one.mask.shape) == (two.name, two.mask.shape)
        assert not torch.equal(one.mask, two.mask)
        assert 0 < two.confidence < 1


def test_a_mean_is_that_of_all_parameters_and_statistics(tmp_path: Path) -> None:
    sources = [tiny_weights(tmp_path / f"{seed}", seed, input_size=64) for seed in range(3)]
    average_weights(sources[:2], tmp_path / "mean", motion=sources[2], input_size=96)
    states = [load_weights(source).model.state_dict() for source in sources]
    mean = load_weights(tmp_path / "mean")
    for name, found in mean.model.state_dict().items():
        expected = states[2][name] if name.startswith("motion.") else states[0][name]
        if found.is_floating_point() and not name.startswith("motion."):
            expected = (states[0][name] + states[1][name]) / 2
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)  # stored in halves
    assert (mean.config.object_channel, mean.config.input_size) == (1, 96)
    assert mean.config.training["mean_of"] == [load_weights(s).config.sha256 for s in sources[:2]]


@pytest.mark.slow
def test_the_chain_runs_and_is_not_run_again(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        frames, _ = moving_patch(8 + number, height=96, width=128, side=40)
        write_clip(tmp_path / "clips" / f"{number}.mp4", list(frames), rate=24)
    words = ["-W", "error", MAKE, tmp_path / "clips", "--photos", photos]
    words += ["--out", tmp_path / "out", "--minutes", "0.01"]
    lines = python(*words).stdout.splitlines()
    assert lines[-1] == str(tmp_path / "out" / "weights")
    assert load_weights(tmp_path / "out" / "weights").config.model.regions == 5
    (tmp_path / "out" / "final").rename(tmp_path / "final")
    again = python(*words).stdout.splitlines()
    assert sum(line.endswith(": done before") for line in again) == len(lines) // 2 - 1
    assert again[-3].startswith("final: the mean of fine-d")
