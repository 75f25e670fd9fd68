"""What the page does, below its engine: sessions, limits, ports; a real tiny model, real files."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from amd_seg import Segmenter, VideoSegmenter, open_video
from amd_seg.choices import DEFAULT_REFINEMENT, OUTPUTS
from amd_seg.cli import cli
from amd_seg.demo.limits import MAX_SECONDS
from amd_seg.demo.pages import Pages
from amd_seg.demo.server import listen
from amd_seg.demo.session import Controls, Session
from amd_seg.errors import InputError, MediaError
from amd_seg.media.images import read_photo_size
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.loop import StepReport
from tests.clips import moving_patch, write_clip, write_lossless

CONTROLS = Controls(threshold=0.3, refine=DEFAULT_REFINEMENT, size=48)
LEARNING = AdaptationConfig(objective="photometric", steps=3, batch_size=2, size=0, scale=(0.9, 1))


@pytest.fixture
def segmenter(weights: Path) -> Segmenter:
    return Segmenter.from_pretrained(weights, device="cpu")


@pytest.fixture
def session(segmenter: Segmenter, tmp_path: Path) -> Session:
    return Session(segmenter, tmp_path / "page")


@pytest.fixture
def passes(segmenter: Segmenter) -> list[int]:
    """One entry for each pass of the network."""
    seen: list[int] = []
    segmenter.model.appearance.register_forward_hook(lambda *_: seen.append(1))
    return seen


def photo(folder: Path, name: str = "photo.png") -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    path = folder / "upload" / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).resize((112, 80)).save(path)
    return path


def clip(folder: Path, count: int = 12, rate: int = 10) -> Path:
    path = folder / "upload" / "clip.mkv"
    path.parent.mkdir(exist_ok=True)
    return write_lossless(path, list(moving_patch(count)[0]), rate=rate)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def nothing(*_: object) -> None:
    """Watch nothing."""


def test_the_pictures_are_those_of_the_command(
    session: Session, weights: Path, tmp_path: Path
) -> None:
    upload = photo(tmp_path)
    kept = Path(shutil.copy(upload, tmp_path / "kept.png"))
    session.open(upload)
    assert not upload.exists()
    shown = session.show(CONTROLS)
    assert set(shown.pictures) == set(OUTPUTS)
    for output, path in shown.pictures.items():
        assert path.name == f"photo.{output}.png"
        flags = ["--output", output, "--threshold", "0.3", "--size", "48", "--overwrite"]
        flags += ["--weights", str(weights), "--device", "cpu", "-o", str(tmp_path / "out.png")]
        assert CliRunner().invoke(cli, ["image", str(kept), *flags]).exit_code == 0
        assert path.read_bytes() == (tmp_path / "out.png").read_bytes()
    assert shown.facts["mask_share"] == pytest.approx(
        np.asarray(Image.open(shown.pictures["mask"])).mean() / 255, abs=1e-4
    )


def test_only_another_size_runs_the_network(
    session: Session, passes: list[int], tmp_path: Path
) -> None:
    session.open(photo(tmp_path))
    first = session.show(CONTROLS)
    assert len(passes) == 1
    moved = session.show(Controls(threshold=0.6, refine=DEFAULT_REFINEMENT, size=48))
    none = session.show(Controls(threshold=0.6, refine="none", size=48))
    assert len(passes) == 1
    assert moved.pictures["saliency"] == first.pictures["saliency"]
    assert moved.pictures["mask"] != first.pictures["mask"]
    assert not first.pictures["mask"].exists()
    assert none.pictures["regions"] == first.pictures["regions"]
    assert none.pictures["saliency"] != first.pictures["saliency"]
    session.show(Controls(threshold=0.6, refine="none", size=32))
    assert len(passes) == 2
    # One file an output, and the photo: a slider that is moved fills no disk.
    assert len(files_in(tmp_path / "page")) == len(OUTPUTS) + 1


def test_a_frame_is_chosen_by_its_time(session: Session, passes: list[int], tmp_path: Path) -> None:
    session.open(clip(tmp_path))
    assert session.last_time == pytest.approx(1.1)
    frames = list(open_video(session.source))
    for time, index in ((0.0, 0), (0.5, 5), (0.45, 5), (9.0, 0)):
        controls = Controls(threshold=0.3, refine="none", size=48, time=time)
        overlay = np.asarray(Image.open(session.show(controls).pictures["cutout"]))
        shown = overlay[..., 3] == 255
        expected = frames[index].pixels[shown]
        np.testing.assert_array_equal(overlay[..., :3][shown], expected)
    assert len(passes) == 4


def test_a_clip_is_adapted_to_and_written(session: Session, tmp_path: Path) -> None:
    session.open(clip(tmp_path))
    before = session.show(CONTROLS).pictures["saliency"].read_bytes()
    steps: list[StepReport] = []
    learned = session.adapt(CONTROLS, LEARNING, steps.append)
    assert [step.step for step in steps] == [1, 2, 3]
    assert "<svg" in learned.curve
    assert learned.page.name == "clip.report.html"
    assert {read_photo_size(path) for path in (learned.before, learned.after)} == {(72, 96)}
    is_adapted = "adapted weights" in learned.verdict
    assert learned.size == (LEARNING.adapted_size(48) if is_adapted else 48)
    assert is_adapted == (session.show(CONTROLS).pictures["saliency"].read_bytes() != before)
    counts: list[int] = []
    twin = session.write("mask", CONTROLS, lambda done, total: counts.append(done))
    assert counts == list(range(1, 13))
    assert twin.name == "clip.mask.mp4"
    assert len(list(open_video(twin))) == 12
    assert session.write("cutout", CONTROLS, nothing).name == "clip.cutout.webm"
    # Each time from the released weights.
    again = session.adapt(CONTROLS, LEARNING, nothing)
    assert again.before.read_bytes() == learned.before.read_bytes()
    # What was learned goes with the clip.
    session.open(clip(tmp_path))
    assert session.show(CONTROLS).pictures["saliency"].read_bytes() == before


def test_the_released_weights_stay_as_they_are(
    session: Session, segmenter: Segmenter, tmp_path: Path
) -> None:
    other = Session(segmenter, tmp_path / "other")
    other.open(clip(tmp_path))
    before = other.show(CONTROLS).pictures["saliency"].read_bytes()
    session.open(clip(tmp_path))
    session.adapt(CONTROLS, LEARNING, nothing)
    fresh = Session(segmenter, tmp_path / "fresh")
    fresh.open(clip(tmp_path))
    assert fresh.show(CONTROLS).pictures["saliency"].read_bytes() == before


def test_what_is_too_much_or_no_picture_is_named(session: Session, tmp_path: Path) -> None:
    long = write_clip(
        tmp_path / "long.mp4", list(moving_patch(2)[0]), times=[0, MAX_SECONDS + 2], rate=1
    )
    with pytest.raises(InputError, match=r"lasts .* more than the 30 s.*amd-seg video takes"):
        session.open(long)
    large = tmp_path / "large.png"
    Image.new("1", (8000, 5001)).save(large)
    with pytest.raises(MediaError, match=r"claims 8000x5001 = 40.0 million"):
        session.open(large)
    for name in ("text.jpg", "text.mp4"):
        (tmp_path / name).write_text("no picture " * 10)
        with pytest.raises(MediaError, match=name):
            session.open(tmp_path / name)
        assert session.source is None
    with pytest.raises(InputError, match="Drop a photo or a clip first"):
        session.show(CONTROLS)
    session.open(photo(tmp_path))
    with pytest.raises(InputError, match="There is no clip"):
        session.adapt(CONTROLS, LEARNING, nothing)


def animation(folder: Path, name: str, milliseconds: list[int]) -> Path:
    path = folder / "upload" / name
    path.parent.mkdir(exist_ok=True)
    first, *rest = (Image.fromarray(frame) for frame in moving_patch(len(milliseconds))[0])
    if rest:
        first.save(path, save_all=True, append_images=rest, duration=milliseconds)
    else:
        first.save(path)
    return path


@pytest.mark.parametrize("ending", ["gif", "webp", "webm"])
def test_a_clip_that_does_not_tell_how_long_it_is(
    session: Session, tmp_path: Path, ending: str
) -> None:
    def made(milliseconds: list[int]) -> Path:
        name = f"clip.{ending}"
        if ending != "webm":
            return animation(tmp_path, name, milliseconds)
        (tmp_path / "upload").mkdir(exist_ok=True)
        times = [sum(milliseconds[:place]) / 1000 for place in range(len(milliseconds))]
        frames = list(moving_patch(len(times))[0])
        return write_clip(
            tmp_path / "upload" / name, frames, times=times, codec="libvpx", live=True
        )

    session.open(made([200, 300, 400]))
    assert session.clip is not None
    assert session.clip.duration is None
    assert session.last_time == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InputError, match=r"lasts more than the 30 s of this page.*amd-seg video"):
        session.open(made([200, 31_000, 100]))


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_image_of_one_frame_is_a_photo(session: Session, tmp_path: Path, ending: str) -> None:
    session.open(animation(tmp_path, f"still.{ending}", [100]))
    assert session.clip is None
    assert session.last_time == 0
    assert set(session.show(CONTROLS).pictures) == set(OUTPUTS)
    broken = tmp_path / f"broken.{ending}"
    broken.write_bytes(b"GIF89a")
    with pytest.raises(MediaError, match="broken"):
        session.open(broken)


def test_a_closed_page_stops_its_work_and_leaves_nothing(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    pages = Pages(segmenter, tmp_path / "pages")
    with pages.session("b") as other:
        other.open(photo(tmp_path))
    begun, ended = threading.Event(), threading.Event()
    config = AdaptationConfig(objective="photometric", steps=100_000, batch_size=2, size=0)

    def adapt() -> None:
        with pages.session("a") as session:
            session.open(clip(tmp_path))
            session.adapt(CONTROLS, config, lambda step: begun.set())
        ended.set()

    thread = threading.Thread(target=adapt)
    thread.start()
    assert begun.wait(60)
    pages.close("a")
    assert ended.wait(1)
    thread.join()
    assert {path.parts[-3] for path in files_in(tmp_path / "pages")} == {"page-1"}
    pages.close_all()
    pages.close("never opened")
    assert list((tmp_path / "pages").iterdir()) == []


def test_a_port_in_use_is_one_line() -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(InputError, match=f"Port {port} is in use. Give another one with"):
            listen(port)


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    # A finder that knows no Gradio stands for an environment without it.
    code = (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Without:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name != 'gradio':\n"
        "            return PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if f is not PathFinder] + [Without]\n"
        "from amd_seg.cli import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "demo"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "Error: The page needs Gradio, which is not installed. "
        'Install it with: pip install "amd-seg[demo]"'
    ]


def test_its_versions_are_those_of_all_but_for_pillow() -> None:
    root = Path(__file__).parents[1]
    plain, own = (
        {line for line in (root / name).read_text().splitlines() if not line.startswith("#")}
        for name in ("constraints.txt", "constraints-demo.txt")
    )
    assert {line.partition("==")[0] for line in plain - own} == {"pillow"}
    assert {line.partition("==")[0] for line in own - plain} == {"pillow", "gradio", "selenium"}


def test_a_threshold_is_changed_without_new_maps(weights: Path) -> None:
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    result = segmenter(image, threshold=0.4)
    saliency = result.saliency
    other = result.thresholded(0.6)
    assert other.saliency is saliency
    np.testing.assert_array_equal(other.mask, segmenter(image, threshold=0.6).mask)
    assert (result.threshold, other.threshold) == (0.4, 0.6)
    assert result.thresholded("otsu").threshold == segmenter(image, threshold="otsu").threshold


def test_the_weights_in_use_are_those_of_the_clip(weights: Path, tmp_path: Path) -> None:
    video = VideoSegmenter.from_pretrained(weights, device="cpu")
    session = Session(video.segmenter, tmp_path / "page")
    session.open(clip(tmp_path))
    session.adapt(CONTROLS, LEARNING, nothing)
    video.adapt(session.source, LEARNING)
    (expected, *_) = video(session.source, size=48, threshold=0.3)
    written = Image.open(session.show(CONTROLS).pictures["saliency"])
    np.testing.assert_array_equal(np.asarray(written), np.asarray(expected.render("saliency")))
