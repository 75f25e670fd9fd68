"""Random crops, mirrors, colours and blur."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from amd_seg.training.crops import BLURRED_SHARE, Box, Crop, blur, jitter_colours, random_box
from tests.clips import moving_square


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def test_a_part_of_the_wanted_size_keeps_its_values() -> None:
    frames = noise(40, 50)
    part = frames[..., 3:19, 5:29]
    assert torch.equal(Box(3, 5, 16, 24, False).cut(frames, (16, 24)), part)
    assert torch.equal(Box(3, 5, 16, 24, True).cut(frames, (16, 24)), part.flip(-1))


def test_a_reduced_part_is_averaged_and_not_sampled() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(48).expand(1, 3, 64, 96)
    inner = Box(0, 0, 64, 96, False).cut(stripes, (16, 24))[..., 1:-1].float()
    assert (inner - 127.5).abs().max() <= 8


def test_resizing_agrees_with_opencv() -> None:
    frames = torch.from_numpy(np.stack(moving_square(2)).transpose(0, 3, 1, 2))
    larger = Crop(size=(96, 128), scale=(1, 1))([frames], [(0, 0, 0, 0)])
    expected = cv2.resize(frames[0].permute(1, 2, 0).numpy(), (128, 96))
    difference = larger[0, 0].permute(1, 2, 0).numpy().astype(int) - expected
    assert abs(difference).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_frames_on_a_gpu_give_the_crops_of_frames_on_the_cpu() -> None:
    crop = Crop(size=(16, 24), scale=(0.5, 1.0), flip=True)
    pairs = [noise(48, 90), noise(64, 90)]
    chances = [(0.2, 0.7, 0.5, 0.1), (0.9, 0.1, 0.3, 0.8)]
    first, second = (crop([pair.to(place) for pair in pairs], chances) for place in ("cpu", "cuda"))
    assert (first.int() - second.cpu().int()).abs().max() <= 1


@given(
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
)
def test_a_box_lies_in_the_frame(size, frame, scale, chances) -> None:
    top, left, height, width, _ = Crop(size=size, scale=tuple(scale)).box(chances, *frame)
    assert 0 <= top <= top + height <= frame[0]
    assert 0 <= left <= left + width <= frame[1]
    assert min(height, width) >= 1


def test_the_default_box_is_the_published_crop() -> None:
    # 384 of a short edge 384..400: in a frame of short edge 400, boxes of 384..400.
    sides = []
    for zoom in np.linspace(0, 0.999, 50):
        top, left, height, width, _ = Crop().box((zoom, 0.999, 0.999, 0), 400, 711)
        assert height == width
        assert (top, left) == (400 - height, 711 - width)
        sides.append(height)
    assert (min(sides), max(sides)) == (384, 400)


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


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    frames = torch.randint(0, 256, (6, 3, 8, 8)).float()
    one, two = (jitter_colours(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= one.min() <= one.max() <= 255
    assert not torch.equal(one, frames)
