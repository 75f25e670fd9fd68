"""Pasting objects from crop to crop, by pictures whose answer is known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.errors import ConfigError
from amd_seg.training.paste import holds_whole_object, paste_objects
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.targets import TargetClip, TargetSampler

SQUARE = slice(24, 40)


def crops(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark crops of 64x64; the first holds a white square of 16 pixels."""
    images = torch.full((batch, 3, 64, 64), 20.0)
    targets = torch.zeros(batch, 1, 64, 64)
    images[0, :, SQUARE, SQUARE] = 240.0
    targets[0, :, SQUARE, SQUARE] = 255.0
    return images, targets


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_object_and_target_lie_in_the_same_place(seed: int, share: float) -> None:
    images, targets = paste_objects(*crops(), share, torch.Generator().manual_seed(seed))
    assert images.shape == (4, 3, 64, 64)
    assert targets.shape == (4, 1, 64, 64)
    # White is where the target is, up to the faded edge.
    inside = torch.nn.functional.avg_pool2d(targets, 3, stride=1, padding=1) > 254
    assert (images[:, :1][inside] > 230).all()
    outside = torch.nn.functional.max_pool2d(targets, 3, stride=1, padding=1) < 1
    assert (images[:, :1][outside] < 30).all()


def test_every_other_crop_gets_the_only_whole_object() -> None:
    images, targets = paste_objects(*crops(), 1.0, torch.Generator().manual_seed(0))
    own_images, own_targets = crops()
    assert torch.equal(images[0], own_images[0])
    assert torch.equal(targets[0], own_targets[0])
    areas = targets.mean(dim=(1, 2, 3)) / 255
    square = (16 / 64) ** 2
    # Sides of 0.4 to 1 of its own: areas of 0.16 to 1.
    assert (areas[1:] > 0.12 * square).all()
    assert (areas[1:] < 1.1 * square).all()
    assert len({round(float(area), 4) for area in areas[1:]}) == 3


def test_no_share_and_no_object_leave_the_crops_as_they_are() -> None:
    images, targets = crops()
    for share, kept in ((0.0, targets), (1.0, torch.zeros_like(targets))):
        pasted = paste_objects(images, kept, share, torch.Generator().manual_seed(0))
        assert torch.equal(pasted[0], images)
        assert torch.equal(pasted[1], kept)


@pytest.mark.parametrize(
    ("rows", "columns", "is_whole"),
    [
        (SQUARE, SQUARE, True),
        (slice(0, 40), SQUARE, False),
        (slice(31, 33), slice(31, 33), False),
        (slice(4, 60), slice(4, 60), False),
    ],
    ids=["inside", "cut by the border", "a speck", "nearly all"],
)
def test_what_may_be_cut_out(rows: slice, columns: slice, is_whole: bool) -> None:
    targets = torch.zeros(1, 1, 64, 64)
    targets[..., rows, columns] = 255
    assert holds_whole_object(targets).tolist() == [is_whole]


def test_a_sampler_pastes_what_its_settings_say() -> None:
    images, targets = (layer.byte() for layer in crops(2))
    clips = [
        TargetClip(name, (0,), images[row : row + 1], targets[row : row + 1], torch.ones(1))
        for row, name in enumerate(("square", "empty"))
    ]
    settings = {"objective": "mover", "batch_size": 16, "crop": (64, 64), "scale": (1.0, 1.0)}
    drawn = {}
    for share in (0.0, 1.0):
        config = TrainingConfig(**settings, paste_share=share)
        drawn[share] = next(TargetSampler(clips, config, torch.device("cpu")))
    assert drawn[0.0].names == drawn[1.0].names
    is_empty = torch.tensor([name.startswith("empty") for name in drawn[0.0].names])
    assert is_empty.any()
    assert not drawn[0.0].targets[is_empty].any()
    assert drawn[1.0].targets[is_empty].flatten(1).any(dim=1).all()


def test_other_objectives_have_nothing_to_paste() -> None:
    with pytest.raises(ConfigError, match=r"paste_share=0\.5"):
        TrainingConfig(objective="photometric", paste_share=0.5)
