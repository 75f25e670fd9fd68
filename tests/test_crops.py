"""Random crops, mirrors, colours and blur; what a GPU resizes together equals the CPU's parts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amd_seg.training.crops import (
    BLURRED_SHARE,
    Chances,
    Crop,
    blur,
    jitter_colours,
    random_box,
    resize_each,
    resize_parts,
    resize_together,
)
from tests.clips import moving_square

SIZE = (16, 24)
SIDES = st.integers(1, 90)


def parts_of(sides: list[tuple[int, int]], frames: int = 2) -> list[Tensor]:
    """Parts of noise, cut out of larger frames as crops are: their rows are not contiguous."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (frames, 3, 95, 99), dtype=torch.uint8, generator=generator)
    return [whole[..., 3 : 3 + height, 5 : 5 + width] for height, width in sides]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIDES, SIDES, st.booleans()), min_size=1, max_size=4))
def test_together_and_each_by_itself_are_within_one(drawn: list[tuple[int, int, bool]]) -> None:
    parts = parts_of([(height, width) for height, width, _ in drawn])
    mirrored = [turned for *_, turned in drawn]
    each, together = (way(parts, SIZE, mirrored) for way in (resize_each, resize_together))
    assert each.shape == (len(parts), 2, 3, *SIZE)
    assert together.dtype == torch.uint8
    assert (each.int() - together.int()).abs().max() <= 1


@pytest.mark.parametrize("way", [resize_each, resize_together])
def test_a_part_of_the_wanted_size_keeps_its_values(way: object) -> None:
    parts = parts_of([SIZE, (40, 60), SIZE])
    resized = way(parts, SIZE, [False, True, True])
    assert torch.equal(resized[0], parts[0])
    assert torch.equal(resized[2], parts[2].flip(-1))


def test_a_reduced_part_is_averaged_and_not_sampled() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(48).expand(1, 3, 64, 96)
    for way in (resize_each, resize_together):
        inner = way([stripes], (16, 24), [False])[..., 1:-1].float()
        assert (inner - 127.5).abs().max() <= 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_frames_on_a_gpu_give_the_crops_of_frames_on_the_cpu() -> None:
    crop = Crop(size=SIZE, scale=(0.5, 1.0), flip=True)
    pairs = parts_of([(48, 90), (64, 90)])
    chances = [Chances(0.2, 0.7, 0.5, 0.1), Chances(0.9, 0.1, 0.3, 0.8)]
    first, second = (crop([pair.to(place) for pair in pairs], chances) for place in ("cpu", "cuda"))
    assert (first.int() - second.cpu().int()).abs().max() <= 1


def test_the_cpu_takes_its_own_kernel() -> None:
    parts = parts_of([(30, 40), (50, 80)])
    flags = [False, True]
    assert torch.equal(resize_parts(parts, SIZE, flags), resize_each(parts, SIZE, flags))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3),
)
def test_a_box_lies_in_the_frame(size, frame, scale, chances) -> None:
    crop = Crop(size=size, scale=tuple(scale))
    top, left, height, width, _ = crop.box(Chances(*chances, 0.0), *frame)
    assert 0 <= top <= top + height <= frame[0]
    assert 0 <= left <= left + width <= frame[1]
    assert min(height, width) >= 1


def test_the_default_box_is_the_published_crop() -> None:
    # 384 of a short edge 384..400: in a frame of short edge 400, boxes of 384..400.
    sides = []
    for zoom in np.linspace(0, 0.999, 50):
        top, left, height, width, _ = Crop().box(Chances(zoom, 0.999, 0.999, 0), 400, 711)
        assert height == width
        assert (top, left) == (400 - height, 711 - width)
        sides.append(height)
    assert (min(sides), max(sides)) == (384, 400)


def test_resizing_agrees_with_opencv() -> None:
    import cv2

    frames = torch.from_numpy(np.stack(moving_square(2)).transpose(0, 3, 1, 2))
    larger = Crop(size=(96, 128), scale=(1, 1))([frames], [Chances(0, 0, 0, 0)])
    expected = cv2.resize(frames[0].permute(1, 2, 0).numpy(), (128, 96))
    difference = larger[0, 0].permute(1, 2, 0).numpy().astype(int) - expected
    assert abs(difference).max() <= 1


def test_blur_is_a_gaussian_and_keeps_the_mean() -> None:
    frames = torch.zeros(40, 3, 21, 21)
    frames[:, :, 10, 10] = 100.0
    blurred = blur(frames, torch.Generator().manual_seed(0))
    changed = (blurred != frames).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(BLURRED_SHARE, abs=0.2)
    torch.testing.assert_close(blurred.sum(dim=(2, 3)), frames.sum(dim=(2, 3)))
    widest = blurred[blurred[:, 0, 10, 10].argmin(), 0]
    # Of a Gaussian, the values beside the centre's obey g(1)^4 = g(2) g(0)^3.
    g0, g1, g2 = (widest[10, 10 + step].item() for step in (0, 1, 2))
    assert g1**4 == pytest.approx(g2 * g0**3, rel=1e-3)
    torch.testing.assert_close(widest, widest.T)


@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    seed=st.integers(0, 1000),
    low=st.floats(0.1, 1.0),
)
def test_a_random_box_lies_inside_its_frame(height: int, width: int, seed: int, low: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    box = random_box((height, width), (16, 24), (low, 1.0), generator)
    assert 0 <= box.top <= height - box.height
    assert 0 <= box.left <= width - box.width
    assert min(box.height, box.width) >= 8


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    frames = torch.randint(0, 256, (6, 3, 8, 8)).float()
    one, two = (jitter_colours(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0
    assert one.max() <= 255
    assert not torch.equal(one, frames)
