"""The example for a million photos: a killed worker loses nothing and doubles nothing."""

import io
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amd_seg import Segmenter
from tests.processes import ENVIRONMENT, ROOT

pytest.importorskip("ray", reason="needs the extra ray, which CI does not install: it is large")
pyarrow = pytest.importorskip("pyarrow", reason="needs the extra ray")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra ray")

MARK = "AMD_SEG_TEST_RUN"
PHOTOS = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, large enough to keep two workers busy, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for index in range(PHOTOS):
        pixels = np.random.default_rng(index).integers(0, 255, (900, 1200, 3), np.uint8)
        name = f"{index}.png" if index % 2 else f"deep/{index}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=0)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def start(*arguments: object, mark: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "examples/batch_over_a_dataset.py", *map(str, arguments)]
    how = {"cwd": ROOT, "env": ENVIRONMENT | {MARK: mark}, "text": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def finish(run: subprocess.Popen[str], out: Path) -> tuple[str, list[dict[str, object]]]:
    """Return the last line of stdout of a run that fails on the broken photo only, and its rows."""
    text, errors = run.communicate(timeout=400)
    assert (run.returncode, "broken.jpg: " in errors) == (1, True), errors
    return text.splitlines()[-1], rows(out)


def rows(out: Path) -> list[dict[str, object]]:
    parts = sorted(out.glob("part-*.parquet"))
    return [row for part in parts for row in parquet.read_table(part).to_pylist()]


def workers(mark: str) -> Iterator[int]:
    """Yield the processes of the workers of the run that was started with `mark`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((folder / n).read_bytes() for n in ("cmdline", "environ"))
        except OSError:  # It ended meanwhile, or is not ours.
            continue
        is_worker = command.startswith(b"ray::") and b"SegmentPhotos" in command
        if is_worker and f"{MARK}={mark}".encode() in environment.split(b"\0"):
            yield int(folder.name)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds workers by /proc")
def test_after_a_kill_each_photo_is_there_once(photos: Path, weights: Path, tmp_path: Path) -> None:
    out, mark = tmp_path / "out", uuid.uuid4().hex
    options = ("--weights", weights, "--workers", 2, "--batch-size", 3)
    run = start(photos, out, *options, mark=mark)
    while not (list(out.glob("part-*")) and len(list(workers(mark))) == 2):
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    os.kill(next(workers(mark)), signal.SIGKILL)
    assert 0 < len(rows(out)) < PHOTOS
    last, found = finish(run, out)
    assert last == f"{PHOTOS} done, 1 failed, 0 were done before"
    uris = [str(row["uri"]) for row in found]
    assert sorted(uris) == sorted(str(path.resolve()) for path in photos.rglob("*.png"))
    for row, result in zip(found, Segmenter.from_pretrained(weights)(uris), strict=True):
        with Image.open(io.BytesIO(row["saliency"])) as picture:
            drawn = np.asarray(picture, np.int16)
        assert np.abs(drawn - np.asarray(result.render("saliency"), np.int16)).max() <= 1
        assert row["confidence"] == pytest.approx(result.confidence, abs=2e-4)


def test_a_run_goes_on_where_it_was_stopped(photos: Path, weights: Path, tmp_path: Path) -> None:
    """By a list of URIs, into PNGs; then the same photos in a parquet file."""
    names = [f"{photos}/broken.jpg", *(f"file://{path}" for path in sorted(photos.glob("*.png")))]
    (tmp_path / "list.txt").write_text("\n".join([*names[:10], "", names[1]]) + "\n")
    contents = [Path(name.removeprefix("file://")).read_bytes() for name in names[:20]]
    table = pyarrow.table({"uri": names[:20], "bytes": contents})
    parquet.write_table(table, tmp_path / "photos.parquet")
    out, options = tmp_path / "out", ("--png", "--weights", weights, "--batch-size", 4)
    last, _ = finish(start(tmp_path / "list.txt", out, *options), out)
    assert last == "9 done, 1 failed, 0 were done before"
    last, found = finish(start(tmp_path / "photos.parquet", out, *options), out)
    assert last == "10 done, 1 failed, 9 were done before"
    assert sorted(str(row["uri"]) for row in found) == sorted(names[1:20])
    for row in found:
        with Image.open(out / str(row["png"])) as picture:
            assert (picture.mode, picture.size) == ("L", (1200, 900))
