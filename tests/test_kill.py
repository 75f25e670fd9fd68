"""Commands that are cut off: killed at a random moment, or on a disk that is full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.kill import OUTPUTS, prepare
from tests.processes import invoke, python


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "video", "train"])
def test_a_killed_command_leaves_nothing_half_and_a_rerun_completes_it(kind: str) -> None:
    python("-m", "tests.kill", kind, 3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["image", "video", "train"])
def test_a_full_disk_is_a_line_and_exit_code_1(kind: str, small_disk: Path, tmp_path: Path) -> None:
    # Leave what holds the first cutout, and nothing of a clip or a checkpoint.
    filling = {"image": 70, "video": 290, "train": 200}[kind]
    (small_disk / "filling").write_bytes(bytes(filling << 10))
    result = invoke(*prepare(kind, tmp_path), small_disk / OUTPUTS[kind])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: Cannot write ")]
    assert errors
    assert all("No space left on device. Free some space" in line for line in errors)
    if kind == "image":
        assert lines[len(errors) :] == [f"{len(errors)} of 12 photos failed."]
        assert 0 < len(result.stdout.splitlines()) == 12 - len(errors)
        for path in result.stdout.splitlines():
            Image.open(path).load()
    else:
        assert lines == errors
    assert not list(small_disk.rglob(".*"))
