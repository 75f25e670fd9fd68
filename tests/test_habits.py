"""What callers do: their own torch settings, fork, threads, closed streams, a first photo."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg import AdaptationConfig, Segmenter, VideoSegmenter
from amd_seg.choices import REFINEMENTS
from tests.clips import moving_square, write_folder
from tests.processes import ENVIRONMENT, python


def pixels(seed: int = 0, height: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, 60, 3), np.uint8)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(pixels()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def numbers(weights: Path, clip: Path) -> list[np.ndarray]:
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    found = [segmenter(pixels(), refine=refine).saliency for refine in REFINEMENTS]
    found.append(segmenter(pixels()).clicked([(20, 20)]).saliency)
    video = VideoSegmenter.from_pretrained(weights, device="cpu")
    # A click makes masks that are learned as certain; eq. 7 knows of none.
    for objective, clicks in (("motion-masks", [(0, 20, 20)]), ("photometric", [])):
        config = AdaptationConfig(objective=objective, steps=2, guard=False)
        found.append(np.array(video.adapt(clip, config, include=clicks).losses))
    return found


def test_what_surrounds_a_call_changes_no_number(weights: Path, tmp_path: Path) -> None:
    clip = write_folder(tmp_path / "clip", moving_square(9))
    expected = numbers(weights, clip)
    modes = torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad(), torch.inference_mode()
    for context in (*modes, torch.device("meta")):
        with context:
            inside = numbers(weights, clip)
        for one, other in zip(inside, expected, strict=True):
            np.testing.assert_array_equal(one, other)


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
    python("-W", "ignore", "-c", FORK, weights, photo, env=environment)


@pytest.mark.slow
def test_eight_threads_share_a_segmenter(weights: Path) -> None:
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    cases = [(pixels(seed, 40 + seed % 3), refine) for seed in range(24) for refine in REFINEMENTS]

    def saliency(case: tuple[np.ndarray, str]) -> np.ndarray:
        return segmenter(case[0], refine=case[1]).saliency

    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(pool.map(saliency, cases), map(saliency, cases), strict=True):
            np.testing.assert_array_equal(one, other)


FULL = "Error: Cannot write to stdout: No space left on device."


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("photo.png -o out.png <&- 2>&-", 0, ""),
        ("photo.png -o out.png >&-", 1, "Error: Cannot write to stdout: Bad file descriptor."),
        ("photo.png -o - >&-", 1, "Error: Cannot write to stdout: Bad file descriptor."),
        ("- -o none.png <&-", 1, "Error: "),
        *((f"photo.png {output} > /dev/full", 1, FULL) for output in ("-o out/ --json", "-o -")),
    ],
)
def test_a_closed_or_full_stream_changes_no_file(
    weights: Path, photo: Path, arguments: str, code: int, said: str
) -> None:
    if "/dev/full" in arguments and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    line = f"{sys.executable} -m amd_seg.cli image --quiet --weights {weights} {arguments}"
    how = {"cwd": photo.parent, "env": ENVIRONMENT, "capture_output": True, "text": True}
    result = subprocess.run(["bash", "-c", line], **how)
    assert (result.returncode, result.stderr[: len(said)]) == (code, said)
    assert len(result.stderr.splitlines()) <= 2 * code
    if "out.png" in arguments:
        with Image.open(photo.parent / "out.png") as mask:
            assert mask.size == (60, 40)


# Drawing of letters, other runtimes, video, the Hub, and what torch loads when it compiles.
NEVER_FOR_A_PHOTO = {
    *("PIL.ImageDraw", "PIL.ImageFont", "onnx", "onnxruntime", "av", "huggingface_hub"),
    *("torch._dynamo", "torch._inductor", "sympy", "tensorboard", "gradio", "scipy"),
    *("amd_seg.training", "amd_seg.evaluation"),
}
SCRIPT = """
import os, sys
from amd_seg.cli import main
sys.argv = ["amd-seg", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(sys.modules), os.environ["OMP_WAIT_POLICY"], sep="\\n", file=sys.stderr)
"""


def test_the_first_mask_loads_no_more_than_it_needs(photo: Path, weights: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    image = "image", photo, "--weights", weights, "--quiet"
    done = python("-c", SCRIPT, *image, env=environment)
    *loaded, policy = done.stderr.splitlines()
    assert not NEVER_FOR_A_PHOTO & set(loaded)
    # Waiting threads sleep: spinning ones took several times the processor time on a busy machine.
    assert policy == "PASSIVE"
