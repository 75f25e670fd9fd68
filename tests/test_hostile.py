"""What means harm is refused in one line, and never stops what is beside it."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amd_seg.errors import AmdSegError, MediaError
from amd_seg.media.images import read_image
from amd_seg.media.video import open_video
from tests.clips import moving_square, write_clip
from tests.hostile import bombs, good_clips, good_pictures, hostile_files, mutate
from tests.processes import runner

PICTURES = good_pictures()
LIMIT = 1_000_000  # Pixels: no example may take a test's time to decode.


@pytest.fixture(autouse=True)
def pillow_may_warn() -> Iterator[None]:
    """Pillow warns of damaged metadata; whether that is shown is up to the program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_a_damaged_picture_is_a_photo_or_one_line(random: Random) -> None:
    (_, data), told = mutate(PICTURES, random), ""
    try:
        photo = read_image(data, max_pixels=LIMIT, least=5)
        assert photo.pixels.shape[:2] == photo.size  # What is read reduced is no less whole.
    except AmdSegError as error:
        told = str(error)
    assert told.isprintable()


def test_a_damaged_clip_is_read_or_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    outcomes = set()
    for name, data in hostile_files(good_clips(tmp_path), 50):
        path = tmp_path / f"hostile{Path(name).suffix}"
        path.write_bytes(data)
        try:
            outcomes |= {frame.pixels.ndim for frame in open_video(path)}
        except AmdSegError as error:
            outcomes.add(str(error).isprintable())
    assert outcomes == {3, True}


@pytest.mark.parametrize("name", bombs())
def test_small_files_that_claim_a_lot_are_refused(name: str) -> None:
    data = bombs()[name]
    assert len(data) < 100_000
    message = "It is damaged" if name == "text.png" else "pixels, more than the 200.0 allowed"
    with pytest.raises(MediaError, match=message):
        read_image(data)


def test_a_folder_of_them_is_done_or_named_one_by_one(tmp_path: Path, weights: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    good = {f"good {number}.png": data for number, data in enumerate(PICTURES.values())}
    files = good | dict(hostile_files(PICTURES, 60)) | bombs()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    flags = "-o", out, "--json", "--quiet", "--max-pixels", LIMIT
    result = runner("image", weights)(folder, *flags)
    assert result.exit_code == 1, result.stderr
    told = [json.loads(line) for line in result.stdout.splitlines()]
    done = {Path(entry["input"]).name for entry in told if entry["status"] == "done"}
    assert len(told) == len([name for name in files if not name.startswith(".")])
    assert done >= set(good)
    *errors, last = result.stderr.splitlines()
    assert last == f"{len(errors)} of {len(told)} photos failed."
    assert len(errors) == len(told) - len(done)
    assert all(line.startswith("Error: Cannot read ") and line.isprintable() for line in errors)
    masks = [Image.open(io.BytesIO(path.read_bytes())).mode for path in out.iterdir()]
    assert masks == ["L"] * len(done)


def test_no_file_makes_a_reader_open_others_or_start_programs(tmp_path: Path) -> None:
    write_clip(tmp_path / "private.mp4", moving_square(3))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nprivate.mp4\n#EXT-X-ENDLIST\n"
    # Pillow would run Ghostscript on this one, whatever its ending.
    printed = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    for name, text, message in (
        ("list.m3u8", playlist, "not a video that FFmpeg knows"),
        ("list.avi", playlist, "not a video that FFmpeg knows"),
        ("list.mp4", "ffconcat version 1.0\nfile private.mp4\n", "not a video that FFmpeg knows"),
        ("frames/0.png", printed, "no image of a known format"),
        ("frames", "", "no image of a known format"),
    ):
        (tmp_path / "frames").mkdir(exist_ok=True)
        if text:
            (tmp_path / name).write_text(text)
        with pytest.raises(MediaError, match=message):
            open_video(tmp_path / name)
