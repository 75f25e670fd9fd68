"""Self-training's targets: what network and teacher agree on, on tiny models and real files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amd_seg.colour_model import redrawn_where_agreed
from amd_seg.errors import WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.consent import (
    EVIDENCE_RANGE,
    SALIENCY_RANGE,
    consent,
    flip_averaged_saliency,
)
from amd_seg.training.consent_files import main
from amd_seg.training.movers import read_mover_targets
from amd_seg.training.photo_files import main as photo_files
from amd_seg.weights import save_weights

probabilities = st.floats(0, 1, width=32)


@given(saliency=probabilities, evidence=probabilities)
def test_two_words_are_joined_by_bayes_rule(saliency, evidence):
    s, e = np.clip(saliency, *SALIENCY_RANGE), np.clip(evidence, *EVIDENCE_RANGE)
    joined, _ = consent(
        np.full((2, 3), saliency, np.float32), np.full((2, 3), evidence, np.float32)
    )
    assert joined.shape == (2, 3)
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined, s * e / (s * e + (1 - s) * (1 - e)), rtol=1e-4)


def test_agreement_is_the_soft_overlap():
    left, right = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    assert consent(left, right)[1] == 1
    left[:, :3], right[:, 1:] = 1, 1
    assert consent(left, right)[1] == pytest.approx(0.5)
    assert consent(left, left)[1] == 1


def test_a_mirrored_frame_has_the_mirrored_saliency(tiny_config):
    torch.manual_seed(0)
    model = AMD(tiny_config).eval()
    frames = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    saliency = flip_averaged_saliency(model, frames, 1)
    assert saliency.shape == (3, 32, 48)
    torch.testing.assert_close(
        flip_averaged_saliency(model, frames.flip(-1), 1), saliency.flip(-1), atol=1e-5, rtol=0
    )


def test_targets_of_a_folder_are_joined_with_a_networks(tiny_config, tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)).save(photos / "one.png")
    photo_files([str(photos), str(tmp_path / "first"), "--workers", "1"])
    torch.manual_seed(0)
    save_weights(tmp_path / "w", AMD(tiny_config), WeightsConfig(model=tiny_config))
    command = [str(tmp_path / "w"), str(tmp_path / "first"), str(tmp_path / "next")]
    main([*command, "--photos", str(photos), "--short-edge", "32"])
    for finish in ("redraw", "vote"):
        main([*command[:2], str(tmp_path / finish), "--photos", str(photos), "--finish", finish])
    first = read_mover_targets(tmp_path / "first" / "one.npz")
    joined = read_mover_targets(tmp_path / "next" / "one.npz")
    assert joined.masks.shape == first.masks.shape
    assert (joined.masks != first.masks).any()
    assert 0 < joined.confidence[0] < 1
    for finish in ("redraw", "vote"):
        found = read_mover_targets(tmp_path / finish / "one.npz")
        assert found.masks.shape == first.masks.shape
        assert 0 < found.confidence[0] <= 1


def test_a_rough_map_is_redrawn_along_its_colours():
    rows, columns = np.mgrid[:64, :64] - 32
    disc = np.hypot(rows, columns) < 14
    frame = np.where(disc[..., None], (200, 40, 30), (60, 90, 120)).astype(np.uint8)
    frame += np.random.default_rng(0).integers(0, 12, frame.shape, dtype=np.uint8)
    rough = np.where(np.maximum(abs(rows), abs(columns)) < 12, 0.9, 0.2).astype(np.float32)
    found = redrawn_where_agreed(frame, rough)
    np.testing.assert_array_equal(found > 0.5, disc)
    np.testing.assert_allclose(found, 0.75 * disc + 0.25 * rough, rtol=1e-6)
    few = np.where(np.hypot(rows, columns) < 3, 0.9, 0.2).astype(np.float32)
    assert redrawn_where_agreed(frame, few) is few


def test_weights_that_are_not_there_are_named(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "one.png")
    with pytest.raises(WeightsError, match="nowhere"):
        main([str(tmp_path / "nowhere"), str(tmp_path), str(tmp_path), "--photos", str(tmp_path)])
