import dataclasses
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as runs

from amd_seg import VideoSegmenter, open_video
from amd_seg.weights import load_weights
from tests.clips import moving_square, truncate, write_clip, write_folder
from tests.processes import Run, good, interrupted, names, refused, runner, start
from tests.tiny import TINY, tiny_weights

CLIPS = {"clip.mp4", "frames"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Channels last, oneDNN (torch 2.13, AVX-512) crashes in the backward pass of a strided 1x1
    # convolution of 8 channels, which the tiny model has; no released one has so few.
    model = dataclasses.replace(TINY, stage_widths=(16, 16, 16, 16))
    return tiny_weights(tmp_path_factory.mktemp("weights"), model=model, threshold=0.2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a clip and a folder of frames in it."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4", moving_square(20), audio=True)
    write_folder(tmp_path / "frames", moving_square(5))
    return tmp_path


@pytest.fixture
def run(folder: Path, weights: Path) -> Run:
    return runner("video", weights)


def test_a_clip_gives_masks_beside_it(run: Run, folder: Path, weights: Path) -> None:
    result = run("clip.mp4")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "clip.mask.mp4\n", "")
    assert names(folder) == CLIPS | {"clip.mask.mp4"}
    frames = VideoSegmenter.from_pretrained(weights, device="cpu")("clip.mp4")
    for written, frame in zip(open_video("clip.mask.mp4"), frames, strict=True):
        assert written.time == frame.time
        np.testing.assert_array_equal(written.pixels[..., 0] > 127, frame.mask)
    with av.open("clip.mp4") as clip, av.open("clip.mask.mp4") as masks:
        context = masks.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        sounds = ([bytes(p) for p in c.demux(audio=0) if p.dts is not None] for c in (clip, masks))
        assert next(sounds) == next(sounds)


@pytest.mark.parametrize(
    ("args", "output"),
    [
        ("clip.mp4 --output cutout", "clip.cutout.webm"),
        ("clip.mp4 --output cutout --background blur", "clip.cutout.mp4"),
        ("clip.mp4 -o out.gif --output overlay --every 4", "out.gif"),
        ("clip.mp4 -o clip.json", "clip.json"),
        ("frames --output saliency --frame-rate 30000/1001", "frames.saliency.mp4"),
        ("frames/ -o masks/", "masks"),
        ("frames/*.png -o masks", "masks"),
    ],
)
def test_the_output_goes_where_it_is_told(run: Run, folder: Path, args: str, output: str) -> None:
    result = good(run(*args.split()))
    assert result.stdout.strip().rstrip("/") == output
    assert run(*args.split()).exit_code == 2
    assert run(*args.split(), "--overwrite").exit_code == 0
    assert names(folder) == CLIPS | {output}


def test_a_part_of_the_clip(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("clip.mp4", "--start", "0:00.5", "--end", "1.3", "--every", "2", "--json")
    facts = json.loads(result.stdout)
    expected = {"input": "clip.mp4", "output": "clip.mask.mp4", "status": "done", "frames": 4}
    assert facts.items() >= (expected | {"width": 64, "height": 48}).items()
    assert facts["object"] == (0 < facts["mask_share"] <= 1)
    assert 0 <= facts["confidence"] <= 1
    times = [frame.time for frame in open_video("clip.mask.mp4")]
    assert times == pytest.approx([0, 0.2, 0.4, 0.6])
    monkeypatch.chdir(folder / "frames")
    assert run(".").stdout == f"{folder}/frames.mask.mp4\n"


def test_a_json_file_holds_the_masks_of_all_frames(run: Run, folder: Path) -> None:
    for out in ("masks", "clip.json"):
        assert run("clip.mp4", "-o", out).exit_code == 0
    content = json.loads((folder / "clip.json").read_text())
    (video,), (annotation,) = content["videos"], content["annotations"]
    assert {"version", "weights"} <= content["info"].keys()
    encoded, pictures = annotation["segmentations"], sorted((folder / "masks").iterdir())
    assert video["length"] == len(video["file_names"]) == len(pictures)
    assert video["file_names"][1] == "clip/00001.jpg"
    assert annotation["video_id"] == video["id"]
    assert 0 <= annotation["score"] <= 1
    assert [not one for one in encoded] == [not box for box in annotation["bboxes"]]
    for one, path in zip(encoded, pictures, strict=True):
        with Image.open(path) as picture:
            mask = np.asarray(picture) > 0
        assert (mask == (runs.decode(one) if one else 0)).all()
    assert run("clip.mp4", "-o", "few.json", "--every", "3").exit_code == 0
    (few,) = json.loads((folder / "few.json").read_text())["videos"]
    assert few["file_names"][:2] == ["clip/00000.jpg", "clip/00003.jpg"]


def test_a_truncated_file_gives_what_it_has_and_exit_code_1(run: Run, folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    truncate(write_clip(folder / "broken.mp4", list(noise)), 0.6)
    result = run("broken.mp4", "--json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (1, "truncated")
    damage, last = result.stderr.splitlines()
    assert "broken.mp4 is damaged" in damage
    count = len(list(open_video("broken.mask.mp4")))
    assert last == f"broken.mp4 is cut short: the {count} frames it has were written."


@pytest.mark.parametrize("name", ["notes.txt", "missing.mp4"])
def test_what_is_no_video_is_told_in_one_line(run: Run, folder: Path, name: str) -> None:
    (folder / "notes.txt").write_text("no video at all\n" * 50)
    result = run(name, "-o", "out.mp4", "--json")
    error = result.stderr.removeprefix("Error: ").removesuffix("\n")
    assert result.exit_code == 1
    assert error.startswith(f"Cannot read {name}: ")
    assert json.loads(result.stdout) == {"input": name, "status": "failed", "error": error}
    assert names(folder) == CLIPS | {"notes.txt"}


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        ("clip.mp4 -o out.avi", "Use one of .mp4"),
        ("clip.mp4 -o out.mp4 --output cutout", "or give a background"),
        ("clip.mp4 -o out.json --output cutout", "holds masks. Drop the output cutout"),
        ("clip.mp4 -o clip.mp4 --overwrite", "the clip itself"),
        ("clip.mp4 -o frames", "--overwrite"),
        ("- -o out.mp4", "Error: A clip goes through no pipe"),
        ("clip.mp4 --background white", "goes behind a cutout"),
        ("clip.mp4 --start noon", "Give seconds, or M:S, or H:M:S"),
        ("clip.mp4 --start 5", "No frame of clip.mp4"),
        ("frames --frame-rate 0", "Give frames a second, 0.001 to 1000"),
        ("frames --frame-rate 1e12", "Give frames a second, 0.001 to 1000"),
        ("clip.mp4 --steps 5", "--steps is for --adapt"),
        ("clip.mp4 --save-adapted w", "--save-adapted is for --adapt"),
        ("clip.mp4 --adapt --save-adapted clip.mp4", "Weights are saved in one"),
        ("clip.mp4 --adapt -o missing/out.mp4", "there is no folder missing"),
        ("clip.mp4 --adapt -o clip.mp4/out.mp4", "there is no folder clip.mp4"),
        ("clip.mp4 --overwrite -o /dev/null", "it is no folder"),
        ("clip.mp4 --report page.html", "--report is for --adapt"),
        ("clip.mp4 --adapt --report page.mp4", "page.mp4: a page ends in .html or .htm"),
        ("clip.mp4 --include 0:5,5", "--include is for --adapt"),
        ("clip.mp4 --adapt --exclude 1m:5,5", "12.5s:320,240"),
        ("frames/*.png", "Give -o"),
    ],
)
def test_wrong_usage_leaves_all_as_it_was(run: Run, folder: Path, args: str, advice: str) -> None:
    assert advice in refused(run(*args.split()))
    assert names(folder) == CLIPS


ADAPT = ("--adapt", "--objective", "photometric", "--save-adapted", "learned", "--steps")


def test_adapting_is_told_and_its_weights_are_kept(run: Run, folder: Path) -> None:
    result = good(run("clip.mp4", *ADAPT, "2", "--channel", "2", "--seed", "3", "--json"))
    facts = json.loads(result.stdout)["adaptation"]
    assert facts.items() >= {"steps": 2, "channel": 2, "objective": "photometric"}.items()
    assert facts["loss_before"] > 0
    assert "has weights" in run("clip.mp4", *ADAPT, "2", "-o", "out.mp4").stderr
    assert load_weights(folder / "learned").config.object_channel == 2
    assert run("clip.mp4", "--weights", "learned", "-o", "out.mp4").exit_code == 0


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_ctrl_c_leaves_what_was_there(folder: Path, weights: Path, out: str) -> None:
    write_clip(folder / "long.mp4", moving_square(8) * 500, codec="mpeg4")
    before = names(folder)
    with start("video", "long.mp4", "--weights", weights, "-o", out) as process:
        while not any(name.endswith(".tmp") for name in names(folder)):
            assert process.poll() is None
        assert interrupted(process)[-1] == "Interrupted."
    assert names(folder) == before


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_learned(folder: Path, weights: Path) -> None:
    with start("video", "clip.mp4", *ADAPT, "100000", "--weights", weights) as process:
        while not process.stderr.readline().startswith(b"Learning"):
            assert process.poll() is None
        assert "steps is in learned: give it to --weights." in interrupted(process)[-1]
    assert names(folder) == CLIPS | {"learned"}
    assert load_weights(folder / "learned").config.name.endswith("-adapted")
