"""Random crops, mirrors, colours and blur."""

import cv2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amd_seg.training.config import TrainingConfig
from amd_seg.training.crops import BLURRED_SHARE, Box, blur, jitter_colours, pair_box, random_box
from tests.clips import moving_square


def test_a_part_keeps_its_values_or_their_mean() -> None:
    frames = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    part = frames[..., 3:19, 5:29]
    assert torch.equal(Box(3, 5, 16, 24, False).cut(frames, (16, 24)), part)
    assert torch.equal(Box(3, 5, 16, 24, True).cut(frames, (16, 24)), part.flip(-1))
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(48).expand(1, 3, 64, 96)
    inner = Box(0, 0, 64, 96, False).cut(stripes, (16, 24))[..., 1:-1].float()
    assert (inner - 127.5).abs().max() <= 8
    frame = moving_square(1)[0]
    larger = Box(0, 0, 48, 64, False).cut(torch.tensor(frame).permute(2, 0, 1)[None], (96, 128))
    difference = larger[0].permute(1, 2, 0).numpy().astype(int) - cv2.resize(frame, (128, 96))
    assert abs(difference).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_frames_on_a_gpu_give_the_crops_of_frames_on_the_cpu() -> None:
    frames, box = torch.randint(0, 256, (2, 3, 48, 90), dtype=torch.uint8), Box(3, 5, 40, 60, True)
    first, second = (box.cut(frames.to(device), (16, 24)) for device in ("cpu", "cuda"))
    assert (first.int() - second.cpu().int()).abs().max() <= 1


@given(
    crop=st.tuples(st.integers(16, 80), st.integers(16, 80)),
    frame=st.tuples(st.integers(8, 120), st.integers(8, 120)),
    scale=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_box_lies_in_the_frame(crop, frame, scale, chances, seed) -> None:
    config = TrainingConfig(crop=crop, scale=scale)
    one = random_box(frame, config, torch.Generator().manual_seed(seed))
    other = pair_box(frame, chances, config)
    for (top, left, height, width, _), least in ((one, 8), (other, 1)):
        assert 0 <= top <= top + height <= frame[0]
        assert 0 <= left <= left + width <= frame[1]
        assert min(height, width) >= least


def test_blur_is_a_gaussian_and_keeps_the_mean() -> None:
    frames = torch.zeros(40, 3, 21, 21)
    frames[:, :, 10, 10] = 100.0
    blurred = blur(frames, torch.Generator().manual_seed(0))
    changed = (blurred != frames).flatten(1).any(dim=1)
    assert changed.float().mean().item() == pytest.approx(BLURRED_SHARE, abs=0.2)
    torch.testing.assert_close(blurred.sum(dim=(2, 3)), frames.sum(dim=(2, 3)))
    # Of a Gaussian, the values beside the centre's obey g(1)^4 = g(2) g(0)^3.
    g0, g1, g2 = blurred[blurred[:, 0, 10, 10].argmin(), 0, 10, 10:13].tolist()
    assert g1**4 == pytest.approx(g2 * g0**3, rel=1e-3)


def test_colours_stay_in_range_and_follow_the_seed() -> None:
    frames = torch.randint(0, 256, (6, 3, 8, 8)).float()
    one, two = (jitter_colours(frames, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= one.min() <= one.max() <= 255
    assert not torch.equal(one, frames)
