"""Parts of frames at one size: the batched way a GPU takes equals the CPU's, part by part."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amd_seg.training.crops import resize_each, resize_parts, resize_together
from amd_seg.training.data import FrameStore, PairSampler, StoredClip
from amd_seg.training.pairs import Crop

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
def test_frames_on_a_gpu_give_the_batches_of_frames_on_the_cpu() -> None:
    batches = []
    for device in ("cpu", "cuda"):
        clips = [
            StoredClip(f"{height}", frames.to(device), tuple(range(len(frames))))
            for height in (48, 64)
            for [frames] in [parts_of([(height, 90)], frames=5)]
        ]
        crop = Crop(size=SIZE, scale=(0.5, 1.0), flip=True)
        batches.append(next(PairSampler(FrameStore(clips), batch_size=8, crop=crop)))
    assert batches[0].names == batches[1].names
    for name in ("frame_i", "frame_j"):
        first, second = (getattr(batch, name).cpu().numpy().astype(int) for batch in batches)
        assert np.abs(first - second).max() <= 1


def test_the_cpu_takes_its_own_kernel() -> None:
    parts = parts_of([(30, 40), (50, 80)])
    flags = [False, True]
    assert torch.equal(resize_parts(parts, SIZE, flags), resize_each(parts, SIZE, flags))
