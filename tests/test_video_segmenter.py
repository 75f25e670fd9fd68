"""A clip through the network: the same masks as of its frames alone, streamed."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg import InputError, MediaError, VideoSegmenter, open_video
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.loop import StepReport, StopTraining
from tests.clips import moving_square, write_clip, write_folder
from tests.processes import python


@pytest.fixture(scope="module")
def video(weights: Path) -> VideoSegmenter:
    return VideoSegmenter.from_pretrained(weights, device="cpu")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "clip", moving_square(11))


def test_masks_are_those_of_the_frames_alone(video: VideoSegmenter, clip: Path) -> None:
    part = open_video(clip, start=1 / 24, every=3)
    frames = list(video(part, batch_size=2, size=64, threshold=0.21, refine="grabcut"))
    assert [frame.index for frame in frames] == [0, 3, 6, 9]
    for frame, number in zip(frames, (1, 4, 7, 10), strict=True):
        assert frame.time == pytest.approx(number / 24)
        alone = video.segmenter(clip / f"{number:05d}.png", size=64, threshold=0.21)
        np.testing.assert_array_equal(frame.photo.pixels, alone.photo.pixels)
        np.testing.assert_allclose(frame.saliency, alone.saliency, atol=1e-5)
        assert frame.threshold == 0.21
    assert frames[2].source == f"{clip}, frame 6"


def test_leaving_early_and_errors_end_the_threads(video: VideoSegmenter, clip: Path) -> None:
    before = threading.active_count()
    frames = video(clip, batch_size=1)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    (clip / "00006.png").write_bytes(b"no image")
    with pytest.raises(MediaError, match=r"00006\.png"):
        list(video(clip, batch_size=1))
    with pytest.raises(MediaError, match=r"00006\.png"):
        video.write(clip, clip.parent / "twin.mp4")
    assert threading.active_count() == before
    assert [path.name for path in clip.parent.iterdir()] == ["clip"]
    with pytest.raises(InputError, match="cannot be used"):
        video(clip, threshold=2.0)
    with pytest.raises(InputError, match="Unknown output 'edges'"):
        video.write(clip, clip.parent / "twin.mp4", output="edges")


@pytest.mark.parametrize("output", ["mask", "saliency", "cutout", "overlay", "regions"])
def test_each_output_is_drawn_as_that_of_a_photo(
    video: VideoSegmenter, clip: Path, tmp_path: Path, output: str
) -> None:
    calls, frames = [], list(video(clip))
    report = video.write(clip, tmp_path / "t", output=output, on_frame=lambda *at: calls.append(at))
    assert calls == [(number, 11) for number in range(1, 12)]
    size = report.frames, report.width, report.height, report.is_truncated
    assert size == (11, 64, 48, False)
    assert report.mask_share == pytest.approx(np.mean([frame.mask for frame in frames]))
    assert report.confidence == pytest.approx(np.mean([frame.confidence for frame in frames]))
    for frame in frames:
        with Image.open(report.path / f"{frame.index:05d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(frame.render(output)))
    if output == "cutout":
        video.write(clip, tmp_path / "white", output=output, background="white")
        alpha = frame.alpha[..., np.newaxis] / 255
        assert 0 < alpha.mean() < 1
        expected = alpha * np.asarray(frame.cutout().convert("RGB")) + (1 - alpha) * 255
        with Image.open(tmp_path / "white" / "00010.png") as image:
            assert np.abs(np.asarray(image) - expected).max() <= 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip(weights: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs /proc to watch the memory of a process")
    still = np.full((240, 320, 3), 90, np.uint8)
    write_clip(tmp_path / "long.mp4", [still] * 500, codec="mpeg4", audio=True)
    code = """
import re, sys
from pathlib import Path
from amd_seg import VideoSegmenter
peaks = {}
def watch(done, total):
    if done in (100, total):
        peaks[done] = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
video = VideoSegmenter.from_pretrained(sys.argv[1], device="cpu")
video.write("long.mp4", "twin.mp4", output="overlay", on_frame=watch)
print(peaks[500] - peaks[100])
"""
    told = python("-c", code, weights, cwd=tmp_path)
    # In KiB; the 400 frames in between are 92 MB as pixels, and twice that as saliency.
    assert int(told.stdout) < 20_000


QUICK = AdaptationConfig(objective="photometric", steps=2, size=48, learning_rate=1e-2, guard=False)


def test_adapting_begins_with_released_weights(weights: Path, clip: Path, tmp_path: Path) -> None:
    video = VideoSegmenter.from_pretrained(weights, device="cpu")
    released = masks_of(video, clip)
    report = video.adapt(clip, QUICK, channel=2)
    assert (report.steps, report.channel, video.segmenter.config.object_channel) == (2, 2, 2)
    adapted = masks_of(video, clip)
    assert np.abs(adapted - released).max() > 1e-4

    def stop(report: StepReport) -> None:
        raise StopTraining

    other = write_folder(tmp_path / "other", moving_square(9, step=(1, 0)))
    assert video.adapt(open_video(other), QUICK, steps=50, on_step=stop).steps == 1
    assert video.segmenter.config.name.endswith("-adapted")
    video.adapt(clip, QUICK, channel=2)
    np.testing.assert_array_equal(masks_of(video, clip), adapted)

    saved = VideoSegmenter.from_pretrained(video.save(tmp_path / "mine"), device="cpu")
    np.testing.assert_allclose(masks_of(saved, clip), adapted, atol=5e-3)
    assert saved.segmenter.config.object_channel == 2
    video.reset()
    np.testing.assert_array_equal(masks_of(video, clip), released)


def test_adapting_in_bfloat16_learns_as_in_float32(weights: Path, clip: Path) -> None:
    video = VideoSegmenter.from_pretrained(weights, device="cpu")
    config = AdaptationConfig(steps=12, size=48, learning_rate=1e-2, guard=False)
    losses = {
        precision: video.adapt(clip, replace(config, precision=precision)).losses
        for precision in ("float32", "bfloat16")
    }
    # Steps that see the first step's weights diverge by more than this from the second on.
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


def masks_of(video: VideoSegmenter, clip: Path) -> np.ndarray:
    return np.stack([frame.region_masks for frame in video(clip, size=48)])
