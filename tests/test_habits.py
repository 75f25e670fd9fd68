"""What callers do: their own torch settings, fork, threads, open files, streams that are closed."""

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg import AdaptationConfig, Segmenter, VideoSegmenter
from amd_seg.choices import REFINEMENTS
from tests.clips import moving_square, write_folder

ROOT = Path(__file__).parents[1]


@contextmanager
def default_device_meta():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


CONTEXTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": default_device_meta,
}


def pixels(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(pixels()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("context", CONTEXTS)
def test_what_surrounds_a_call_changes_no_number(weights: Path, context: str) -> None:
    expected = Segmenter.from_pretrained(weights, device="cpu")
    with CONTEXTS[context]():
        segmenter = Segmenter.from_pretrained(weights, device="cpu")
        for refine in REFINEMENTS:
            inside = segmenter(pixels(), refine=refine).saliency
            later = expected(pixels(), refine=refine)
            np.testing.assert_array_equal(inside, later.saliency)
        clicked = segmenter(pixels()).clicked([(20, 20)]).saliency
    np.testing.assert_array_equal(inside, expected(pixels(), refine=refine).saliency)
    np.testing.assert_array_equal(clicked, expected(pixels()).clicked([(20, 20)]).saliency)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("objective", ["motion-masks", "photometric"])
def test_what_surrounds_an_adaptation_changes_no_loss(
    weights: Path, tmp_path: Path, context: str, objective: str
) -> None:
    clip = write_folder(tmp_path / "clip", moving_square(9))
    config = AdaptationConfig(objective=objective, steps=2, guard=False)
    # A click makes masks that are learned as certain; eq. 7 knows of none.
    clicks = [(0, 20, 20)] if objective == "motion-masks" else []
    expected = VideoSegmenter.from_pretrained(weights, device="cpu")
    losses = expected.adapt(clip, config, include=clicks).losses
    with CONTEXTS[context]():
        video = VideoSegmenter.from_pretrained(weights, device="cpu")
        report = video.adapt(clip, config, include=clicks)
    assert report.losses == losses


FORK = """
import multiprocessing, sys, torch
from amd_seg import Segmenter
torch.set_num_threads(4)
segmenter = Segmenter.from_pretrained(sys.argv[1], device="cpu")
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
def answer(): queue.put(segmenter(sys.argv[2]).saliency.tobytes())
child = context.Process(target=answer, daemon=True)
child.start()
child.join(60)
assert child.exitcode == 0, "the child hangs"
assert queue.get() == segmenter(sys.argv[2]).saliency.tobytes()
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_child_gives_the_numbers_of_its_parent(weights: Path, photo: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(weights), str(photo)]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=120)


@pytest.mark.slow
def test_eight_threads_share_a_segmenter(weights: Path) -> None:
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    photos = [pixels(seed, 40 + seed % 3, 60) for seed in range(24)]
    for refine in REFINEMENTS:
        expected = [segmenter(photo, refine=refine).saliency for photo in photos]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda p: segmenter(p, refine=refine).saliency, photos))  # noqa: B023
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_open_files_are_images(weights: Path, photo: Path) -> None:
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    data = photo.read_bytes()
    expected = segmenter(photo).saliency
    with photo.open("rb") as file, tempfile.SpooledTemporaryFile() as upload:
        upload.write(data)
        upload.seek(0)
        for image in (io.BytesIO(data), file, upload, memoryview(data), bytearray(data)):
            np.testing.assert_array_equal(segmenter(image).saliency, expected)
    results = list(segmenter([io.BytesIO(data), memoryview(data)]))
    assert [result.saliency.shape for result in results] == [(40, 60), (40, 60)]


def shell(arguments: str, weights: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `amd-seg image` by a shell's line."""
    line = f"{sys.executable} -m amd_seg.cli image --quiet --weights {weights} {arguments}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", line]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("output", ["-o out/", "-o out/ --json", "-o -"])
def test_a_full_stdout_is_told_in_one_line(weights: Path, photo: Path, output: str) -> None:
    result = shell(f"photo.png {output} > /dev/full", weights, photo.parent)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: Cannot write to stdout: No space left on device.")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("photo.png -o out.png <&-", 0, ""),
        ("photo.png -o out.png 2>&-", 0, ""),
        ("photo.png -o out.png <&- 2>&-", 0, ""),
        ("photo.png -o out.png >&-", 1, "Error: Cannot write to stdout: Bad file descriptor."),
        ("photo.png -o - >&-", 1, "Error: Cannot write to stdout: Bad file descriptor."),
        ("- -o none.png <&-", 1, "Error: "),
    ],
)
def test_a_closed_stream_changes_no_file(
    weights: Path, photo: Path, arguments: str, code: int, said: str
) -> None:
    result = shell(arguments, weights, photo.parent)
    assert (result.returncode, result.stderr[: len(said)]) == (code, said)
    assert "Traceback" not in result.stderr
    if "out.png" in arguments:
        with Image.open(photo.parent / "out.png") as mask:
            assert mask.size == (60, 40)
