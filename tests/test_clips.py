"""Where clips lie: found in files, folders, data sets and split files."""

from pathlib import Path

import pytest

from amd_seg.errors import InputError
from amd_seg.training.clips import find_clips
from tests.clips import moving_square, write_clip, write_folder

FRAMES = moving_square(2)


def names_of(root: Path) -> list[str]:
    return [clip.name for clip in find_clips([str(root)])]


def test_videos_and_folders_at_any_depth(tmp_path: Path) -> None:
    for name in ("clip10.mp4", "clip2.mp4"):
        write_clip(tmp_path / name, FRAMES)
    write_folder(tmp_path / "more" / "walk", FRAMES)
    (tmp_path / "README.md").write_text("about")
    assert names_of(tmp_path) == ["clip2.mp4", "clip10.mp4", "more/walk"]
    assert names_of(tmp_path / "clip2.mp4") == ["clip2.mp4"]
    assert names_of(tmp_path / "more" / "walk") == ["walk"]


def test_data_set_layouts_give_frames_and_no_masks(tmp_path: Path) -> None:
    youtube, davis = tmp_path / "youtube-vos", tmp_path / "davis"
    write_folder(youtube / "train_all_frames" / "JPEGImages" / "0a1", FRAMES, ".jpg")
    write_folder(youtube / "train" / "Annotations" / "0a1", FRAMES)
    for folder in ("JPEGImages/480p", "JPEGImages/1080p", "Annotations/480p"):
        write_folder(davis / folder / "bear", FRAMES)
    assert names_of(youtube) == ["train_all_frames/JPEGImages/0a1"]
    assert names_of(davis) == ["JPEGImages/480p/bear"]
    assert find_clips([str(davis)])[0].frames == ("00000.png", "00001.png")


def test_split_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "JPEGImages" / "bear", moving_square(4), ".jpg")
    split = tmp_path / "lists" / "train.txt"
    split.parent.mkdir()
    split.write_text("JPEGImages/bear/ 00001.jpg 00002.jpg\n\nJPEGImages/bear 00003 00000\n")
    first, second = find_clips([str(split)])
    assert (first.name, first.frames) == ("JPEGImages/bear", ("00001.jpg", "00002.jpg"))
    assert second.frames == ("00003.jpg", "00000.jpg")
    assert first.open().frame_count == 2
    for text, message in (
        (b"elsewhere/bear 00001.jpg\n", "elsewhere/bear"),
        (b"JPEGImages/bear 00001.jpg\nJPEGImages/bear\n", r"no frame of JPEGImages/bear\."),
        (b"\xff\xfe\x00", "Give a text file"),
    ):
        split.write_bytes(text)
        with pytest.raises(InputError, match=message):
            find_clips([str(split)])


def test_roots_without_a_clip_are_refused(tmp_path: Path) -> None:
    for root, message in ((tmp_path / "c.mp4", "No such file"), (tmp_path, "No clip")):
        with pytest.raises(InputError, match=message):
            find_clips([str(root)])
