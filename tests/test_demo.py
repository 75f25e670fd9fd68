"""What the page does, below Gradio: files, limits, ports; a real tiny model, real files."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg import Segmenter, open_video
from amd_seg.choices import DEFAULT_REFINEMENT, OUTPUTS
from amd_seg.demo import MAX_SECONDS, Page, listen
from amd_seg.errors import InputError, MediaError
from amd_seg.training.config import AdaptationConfig
from tests.clips import moving_patch, write_clip, write_lossless
from tests.processes import invoke, refused, runner

LEARNING = AdaptationConfig(objective="photometric", steps=3, batch_size=2, size=0, scale=(0.9, 1))


@pytest.fixture
def page(weights: Path, tmp_path: Path) -> Page:
    return Page(Segmenter.from_pretrained(weights, device="cpu"), tmp_path / "page")


def show(page: Page, threshold: float = 0.3, refine: str = "none", size: int = 48, time: float = 0):
    return page.show(threshold, refine, size, time)


def photo(path: Path, size: tuple[int, int] = (112, 80)) -> Path:
    Image.effect_noise(size, 60).convert("RGB").save(path)
    return path


def clip(folder: Path) -> Path:
    return write_lossless(folder / "clip.mkv", list(moving_patch(12)[0]), rate=10)


def test_the_files_are_those_of_the_command(page: Page, weights: Path, tmp_path: Path) -> None:
    upload = photo(tmp_path / "photo.png")
    kept = Path(shutil.copy(upload, tmp_path / "kept.png"))
    page.open(upload)
    assert not upload.exists()
    written = page.save(show(page, refine=DEFAULT_REFINEMENT))
    assert set(written) == set(OUTPUTS)
    for output, path in written.items():
        assert path.name == f"photo.{output}.png"
        flags = ["--output", output, "--threshold", 0.3, "--size", 48, "--overwrite"]
        assert runner("image", weights)(kept, *flags, "-o", tmp_path / "out.png").exit_code == 0
        assert path.read_bytes() == (tmp_path / "out.png").read_bytes()
    page.save(show(page))
    # One file an output, and the photo: a slider that is moved fills no disk.
    files = [path for path in (tmp_path / "page").rglob("*") if path.is_file()]
    assert len(files) == len(OUTPUTS) + 1


def test_a_large_photo_is_shown_small_and_saved_whole_clicked(page: Page, tmp_path: Path) -> None:
    page.open(photo(tmp_path / "large.png", (2048, 1024)))
    before = show(page).saliency
    page.clicks[0.0] += [(True, (200.0, 100.0)), (False, (1800.0, 900.0))]
    whole = show(page)
    shown = page.reduced(whole)
    assert (shown.photo.pixels.shape, page.reduction) == ((512, 1024, 3), 2)
    assert (shown.include, shown.exclude) == (((100.0, 50.0),), ((900.0, 450.0),))
    assert (shown.mask[50, 100], shown.mask[450, 900]) == (True, False)
    for seen, size in ((shown, (1024, 512)), (whole, (2048, 1024))):
        with Image.open(page.save(seen, ("mask",))["mask"]) as picture:
            assert picture.size == size
    # Clicks are of one frame.
    assert not show(page, time=0.5).include
    page.clicks[0.0].clear()
    np.testing.assert_array_equal(show(page).saliency, before)


def test_a_clip_is_adapted_to_and_written(page: Page, tmp_path: Path) -> None:
    assert page.open(clip(tmp_path)) == pytest.approx(1.1)
    frames = list(open_video(page.source))
    for time, index in ((0.0, 0), (0.5, 5), (0.45, 5), (9.0, 0)):
        np.testing.assert_array_equal(show(page, time=time).photo.pixels, frames[index].pixels)
    before = show(page).saliency
    steps: list[int] = []
    told, report, size = page.adapt(LEARNING, lambda step: steps.append(step.step), threshold=0.3)
    # Eq. 7 tries again where it loses the object.
    assert steps in ([1, 2, 3], 2 * [1, 2, 3])
    assert "<svg" in told
    assert report.name == "clip.report.html"
    is_adapted = "adapted weights" in told
    assert size == 48  # What eq. 7 learns from is smaller.
    assert is_adapted == (show(page).saliency != before).any()
    counts: list[int] = []
    written = page.write("mask", lambda done, total: counts.append(done), threshold=0.3)
    assert counts == list(range(1, 13))
    assert (written.name, len(list(open_video(written)))) == ("clip.mask.mp4", 12)
    assert page.write("cutout", lambda *_: None).name == "clip.cutout.webm"
    # What was learned goes with the clip, and is no other page's.
    page.open(clip(tmp_path))
    np.testing.assert_array_equal(show(page).saliency, before)


def test_what_is_too_much_or_no_picture_is_named(page: Page, tmp_path: Path) -> None:
    times = [0, MAX_SECONDS + 2]
    long = write_clip(tmp_path / "long.mp4", list(moving_patch(2)[0]), times=times, rate=1)
    with pytest.raises(InputError, match=r"up to 30 s and 9 million pixels.*amd-seg video takes"):
        page.open(long)
    Image.new("1", (8000, 5001)).save(tmp_path / "large.png")
    with pytest.raises(MediaError, match=r"claims 8000x5001 = 40.0 million"):
        page.open(tmp_path / "large.png")
    for name in ("text.jpg", "text.mp4", "broken.gif"):
        (tmp_path / name).write_text("GIF89a no picture " * 10)
        with pytest.raises(MediaError, match=name):
            page.open(tmp_path / name)
        assert page.source is None


@pytest.mark.parametrize("milliseconds", [[200], [200, 300, 400], [200, 31_000, 100]])
def test_an_animation_may_be_a_clip(page: Page, tmp_path: Path, milliseconds: list[int]) -> None:
    first, *rest = (Image.fromarray(frame) for frame in moving_patch(len(milliseconds))[0])
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=milliseconds)
    if sum(milliseconds) > 30_000:
        with pytest.raises(InputError, match="takes clips of up to 30 s"):
            page.open(tmp_path / "a.gif")
    else:
        last = sum(milliseconds[:-1]) / 1000
        assert page.open(tmp_path / "a.gif") == pytest.approx(last, abs=0.01)
        assert (page.clip is not None) == bool(rest)


def test_a_closed_page_stops_its_work_and_leaves_nothing(page: Page, tmp_path: Path) -> None:
    page.open(clip(tmp_path))
    begun = threading.Event()
    config = AdaptationConfig(objective="photometric", steps=100_000, batch_size=2, size=0)

    def adapt() -> None:
        with pytest.raises(InputError, match="The page was closed"):
            page.adapt(config, lambda step: begun.set())

    thread = threading.Thread(target=adapt)
    thread.start()
    assert begun.wait(60)
    page.close()
    thread.join(60)
    assert not thread.is_alive()
    assert not (tmp_path / "page").exists()


def test_what_the_command_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(0) as taken:
        host, port = taken.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"Port {port} cannot be taken: .* in use. Give anoth"):
            listen(port)
    monkeypatch.setattr("amd_seg.demo.find_spec", lambda name: None)
    told = "Error: The page needs Gradio, which is not installed. Install it with: pip install "
    assert refused(invoke("demo")) == told + '"amd-seg[demo]"'
