"""Reading clips of every kind, from real files that FFmpeg and Pillow encoded."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from amd_seg.errors import InputError, MediaError
from amd_seg.media.images import to_bt709
from amd_seg.media.video import Frame, VideoReader, open_video
from tests import clips
from tests.clips import moving_square, write_clip, write_folder

CASES = Path(__file__).parent / "cases"


def noisy(count: int) -> list[clips.Pixels]:
    """Frames that do not compress, so that bytes of the file are spread over its frames."""
    chance = np.random.default_rng(0)
    shades = [frame // 2 + chance.integers(0, 120, frame.shape) for frame in moving_square(count)]
    return [shade.astype(np.uint8) for shade in shades]


def times(frames: list[Frame]) -> list[float]:
    return [round(frame.time, 3) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("clip.mp4", "libx264", "yuv420p", {"crf": "10"}),
        ("clip.mp4", "libx264", "yuvj420p", {"crf": "10"}),
        ("clip.mov", "libx264", "yuv444p", {"crf": "10"}),
        ("clip.mp4", "libx264", "yuv420p10le", {"crf": "10"}),
        ("interlaced.mp4", "libx264", "yuv420p", {"flags": "+ilme+ildct", "x264-params": "tff=1"}),
        ("clip.webm", "libvpx-vp9", "yuva420p", {"crf": "10"}),
        ("clip.mov", "prores_ks", "yuva444p10le", {}),
        ("clip.avi", "mpeg4", "yuv420p", {}),
        ("old.flv", "libx264", "yuv420p", {}),
        ("old.wmv", "wmv2", "yuv420p", {}),
        ("old.ts", "libx264", "yuv420p", {}),
        ("old.mpg", "mpeg2video", "yuv420p", {}),
        ("old.ogv", "libvpx", "yuv420p", {}),
        ("odd.mkv", "ffv1", "yuv420p", {}),
        ("odd.mkv", "ffv1", "yuv444p", {}),
    ],
)
def test_every_format_gives_the_same_pictures_and_times(
    tmp_path: Path, name: str, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    frames = moving_square(12, **({"height": 47, "width": 65} if name == "odd.mkv" else {}))
    how = {"codec": codec, "pixel_format": pixel_format, "options": options, "rate": 25}
    clip = open_video(write_clip(tmp_path / name, frames, **how))
    read = list(clip)
    assert (len(read), clip.is_truncated) == (12, False)
    np.testing.assert_allclose(np.diff(times(read)), 0.04, atol=0.002)
    assert np.abs(read[2].pixels.astype(int) - frames[2]).mean() < 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_start_end_and_every(tmp_path: Path, suffix: str) -> None:
    frames, path = moving_square(20), tmp_path / f"clip{suffix}"
    # Lossless frames come back bit for bit.
    how = {"codec": "ffv1", "pixel_format": "bgr0"} if suffix == ".mkv" else {}
    clip = open_video(write_clip(path, frames, **how))
    assert next(iter(clip)).index == 0  # A pass may be left early.
    read = list(clip)
    assert (clip.width, clip.height, clip.frame_rate, clip.is_truncated) == (64, 48, 10, False)
    # Not those of the recorder's clock, which does not begin at 0 in a .ts.
    assert times(read) == [round(number / 10, 3) for number in range(20)]
    if how:
        np.testing.assert_array_equal([frame.pixels for frame in read], frames)
    assert len(list(open_video(path, every=3))) == 7
    if suffix == ".mp4":
        assert open_video(path, every=3).frame_count == 7
    part = open_video(path, start=0.7, end=1.35, every=3)
    assert [(frame.index, round(frame.time, 3)) for frame in part] == [(0, 0.7), (3, 1), (6, 1.3)]
    assert part.frame_count is None


def test_short_edge_shrinks_without_aliasing_and_never_enlarges(tmp_path: Path) -> None:
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    path = clips.write_lossless(tmp_path / "stripes.mkv", [stripes] * 2)
    folder = write_folder(tmp_path / "stripes", [stripes] * 2)
    for source in (path, folder):
        clip = open_video(source, short_edge=16)
        assert (clip.height, clip.width) == (16, 24)
        inside = next(iter(clip)).pixels[1:-1, 1:-1].astype(int)
        assert abs(inside - 127).max() < 5
        assert open_video(source, short_edge=500).height == 64


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "sound.mkv", "clip.gif"])
def test_a_truncated_file_yields_what_it_has(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / name
    if name.endswith("gif"):
        first, *others = (Image.fromarray(frame) for frame in noisy(30))
        first.save(path, save_all=True, append_images=others)
    else:
        # Sound may outlast the picture: then only the size of the file tells.
        write_clip(path, noisy(30), audio=name == "sound.mkv")
    clip = open_video(path)
    assert (len(list(clip)), clip.is_truncated, caplog.messages) == (30, False, [])
    cut = open_video(clips.truncate(path, 0.61))
    assert (10 < len(list(cut)) < 25, cut.is_truncated) == (True, True)
    (message,) = caplog.messages
    assert f"{name} is damaged" in message


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.avi"])
def test_a_last_frame_that_stays_is_no_damage(tmp_path: Path, name: str) -> None:
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(Path(name).suffix, "libx264")
    path, how = tmp_path / name, {"codec": codec, "options": {"bf": "0"}}
    clip = VideoReader(write_clip(path, moving_square(8), durations=[0.1] * 7 + [2.0], **how))
    assert (len(list(clip)), clip.is_truncated) == (8, False)
    assert clip.duration == pytest.approx(2.7)
    write_clip(path, noisy(60), durations=[0.1] * 59 + [2.0], **how)
    if not name.endswith("mov"):  # Its index is at its end.
        clip = VideoReader(clips.truncate(path, 0.6))
        assert (3 < len(list(clip)) < 50, clip.is_truncated) == (True, True)
    if name.endswith("mkv"):  # It need not tell how long the last frame stays.
        write_clip(path, moving_square(8))
        told = [struct.pack(">3sd", b"\x44\x89\x88", duration) for duration in (800, 2700)]
        path.write_bytes(path.read_bytes().replace(*told))
        clip = VideoReader(path)
        assert (len(list(clip)), clip.duration, clip.is_truncated) == (8, 2.7, False)


def test_what_is_no_video_is_told_in_one_line(tmp_path: Path) -> None:
    for name, text in (("empty.mp4", ""), ("text.mp4", "no video\n" * 50), ("notes.txt", "none")):
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    film = write_clip(tmp_path / "new.mp4", moving_square(3), audio=True)
    with av.open(film) as source, av.open(tmp_path / "sound.m4a", "w") as out:
        sound = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                out.mux(packet)
    film.write_bytes(film.read_bytes().replace(b"avc1", b"avcX"))
    for name, message in (
        ("missing.mp4", "no such file"),
        ("*.jpg", "no such file"),
        ("empty.mp4", "not a video that FFmpeg knows"),
        ("text.mp4", "not a video that FFmpeg knows"),
        ("notes.txt", "not a video that FFmpeg knows"),
        ("sound.m4a", "no video stream"),
        ("new.mp4", "no video stream"),
        ("folder", "no image in the folder"),
        ("photo.png", "single image"),
        ("*.*", r"empty\.mp4 among its 6 matches is no image"),
    ):
        with pytest.raises(MediaError, match=message) as caught:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    for how in ({"start": -1}, {"start": 2, "end": 1}, {"end": float("nan")}, {"every": 0}):
        with pytest.raises(InputError, match="End after the start"):
            open_video(tmp_path / "photo.png", **how)
    with pytest.raises(InputError, match=r"0\.001 to 1000"):
        open_video(tmp_path / "*.png", frame_rate=0)


@pytest.mark.parametrize("name", ["12:30:45.mp4", "pipe:0.mp4", "-dash.mp4", "a%03d [1].mp4"])
def test_a_name_is_that_of_a_file_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_clip(tmp_path / name, moving_square(3))
    monkeypatch.chdir(tmp_path)
    clip = open_video(name)
    assert (clip.source, len(list(clip))) == (name, 3)


def test_frames_are_read_upright_in_natural_order(tmp_path: Path) -> None:
    frames, exif = moving_square(12), Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{number}.png", exif=exif)
    (tmp_path / "notes.txt").write_text("about")
    for source in (tmp_path, str(tmp_path / "*.png")):
        clip = open_video(source, frame_rate=20, start=0.05, every=2)
        assert times(list(clip)) == [0.05, 0.15, 0.25, 0.35, 0.45, 0.55]
        assert (clip.height, clip.width) == (64, 48)
        np.testing.assert_array_equal(list(clip)[5].pixels, np.rot90(frames[11], -1))


def test_frames_of_a_folder_have_one_size_and_are_intact(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clip", moving_square(3))
    Image.new("RGB", (20, 10)).save(folder / "00001.png")
    with pytest.raises(MediaError, match=r"00001\.png is 20x10, its first frame 64x48"):
        list(open_video(folder))
    clips.truncate(folder / "00001.png", 0.5)
    with pytest.raises(MediaError, match=r"00001\.png"):
        list(open_video(folder))


def test_frames_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = write_clip(tmp_path / "small.h264", moving_square(4), rate=24)
    large = write_clip(tmp_path / "large.h264", moving_square(4, height=96), rate=24)
    growing = tmp_path / "growing.h264"
    growing.write_bytes(small.read_bytes() + large.read_bytes())
    folder = write_folder(tmp_path / "clip", moving_square(2, height=96))
    monkeypatch.setattr("amd_seg.media.video.MAX_FRAME_PIXELS", 64 * 48)
    for source in (large, folder):
        with pytest.raises(MediaError, match=r"claims 64x96 .* Make it smaller first"):
            open_video(source)
    clip = open_video(growing)
    assert {frame.pixels.shape for frame in clip} == {(48, 64, 3)}
    assert clip.is_truncated


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_images(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(6)
    first, *others = (Image.fromarray(frame) for frame in frames)
    path = tmp_path / f"clip{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    # Browsers give a frame that asks for next to no time a tenth of a second.
    durations = [10, 20, 0, 500, 10, 10]
    first.save(path, save_all=True, append_images=others, duration=durations, **options)
    read = list(open_video(path))
    assert times(read) == [0, 0.1, 0.12, 0.22, 0.72, 0.82]
    assert np.abs(read[4].pixels.astype(int) - frames[4]).mean() < 6
    every = open_video(path, every=2)
    assert (times(list(every)), every.frame_count) == (times(read[::2]), 3)


# From a stored point to a shown one, (a, b, c, d) of FFmpeg's display matrix, by orientation.
MATRICES = {1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1)}
MATRICES |= {5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0)}


@pytest.mark.parametrize("orientation", MATRICES)
def test_a_display_matrix_may_turn_and_mirror(tmp_path: Path, orientation: int) -> None:
    (a, b, c, d), fixed = MATRICES[orientation], 1 << 16
    matrix = struct.pack(">9i", -fixed, 0, 0, 0, fixed, 0, 192 * fixed, 0, 1 << 30)
    data, path = (CASES / "hflip.mp4").read_bytes(), tmp_path / "phone.mp4"
    assert data.count(matrix) == 1
    other = struct.pack(">9i", *(fixed * part for part in (a, b, 0, c, d, 0, 0, 0, 1 << 14)))
    path.write_bytes(data.replace(matrix, other))
    clip, corners = VideoReader(path), np.empty((2, 2, 3))
    stored = {(-1, -1): (200, 30, 30), (1, -1): (30, 180, 30)}  # x, y: colour of a corner
    stored |= {(-1, 1): (30, 30, 200), (1, 1): (230, 230, 230)}
    for (x, y), colour in stored.items():
        corners[(b * x + d * y) // 2, (a * x + c * y) // 2] = colour  # -1 // 2 is the last
    pixels = next(iter(clip)).pixels.astype(int)
    size = (192, 128) if orientation > 4 else (128, 192)
    assert (clip.orientation, (clip.height, clip.width)) == (orientation, size)
    assert pixels.shape[:2] == size
    assert np.abs(pixels[[[-16], [16]], [-16, 16]] - corners).max() < 10


def test_times_go_on_where_a_clock_begins_anew_or_jumps(tmp_path: Path) -> None:
    early = [number / 25 for number in range(25)]
    one, late = (
        write_clip(tmp_path / "a.ts", moving_square(25), rate=25, times=stamps).read_bytes()
        for stamps in (early, [time + 3600 for time in early])
    )
    path = tmp_path / "clip.ts"
    for data in ((CASES / "joined.ts").read_bytes(), one * 2, one + late, late + one):
        path.write_bytes(data)
        clip = VideoReader(path)
        stamps = np.array(times(list(clip)))
        assert len(stamps) == 50
        np.testing.assert_allclose(np.diff(stamps), 0.04, atol=0.002)
        np.testing.assert_allclose(clip.timestamps(), stamps, atol=0.001)
        assert (clip.can_seek, clip.is_truncated) == (False, False)
        part = times(list(open_video(path, start=1.5, end=1.7)))
        assert part == [time for time in stamps if 1.5 <= time < 1.7]


def test_stamps_that_repeat_are_frames_that_follow_each_other(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mkv", moving_square(6), rate=10, options={"bf": "0"})
    data = path.read_bytes()
    # The block of the second frame of a cluster, its time and its flags: now it has the first's.
    assert data.count(b"\x81\x00\x64") == 1
    path.write_bytes(data.replace(b"\x81\x00\x64", b"\x81\x00\x00"))
    stamps = times(list(open_video(path)))
    assert len(stamps) == 6
    assert (np.diff(stamps) > 0).all()
    assert stamps[2:] == [0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("form", ["yuv420p10le", "yuv444p10le"])
def test_hdr_and_colours_of_10_bits_are_shown_as_bt709(tmp_path: Path, form: str) -> None:
    row = np.repeat(clips.PATCHES.astype(np.uint8), 32, axis=0)
    plain, hdr = np.tile(row, (128, 1, 1)), clips.pq_patches()
    how = {"codec": "ffv1", "pixel_format": form}
    write_clip(tmp_path / "pq.mkv", [hdr] * 2, layout="rgb48le", colours=(9, 16, 1), **how)
    write_clip(tmp_path / "limited.mkv", [plain] * 2, colours=(1, 1, 1), **how)
    write_clip(tmp_path / "full.mkv", [plain] * 2, colours=(1, 1, 2), **how)
    for path, kind, tolerance in (
        (CASES / "hdr_arib-std-b67.mp4", "HLG", 8),
        (tmp_path / "pq.mkv", "PQ", 8),
        (tmp_path / "limited.mkv", None, 4),
        (tmp_path / "full.mkv", None, 4),
    ):
        clip = open_video(path)
        patches = next(iter(clip)).pixels[64, 16::32].astype(int)
        assert (clip.hdr, np.abs(patches - clips.PATCHES).max() <= tolerance) == (kind, True)


def test_tone_mapping_rises_and_keeps_highlights_apart() -> None:
    grey = np.repeat(np.arange(0, 65536, 64, dtype=np.uint16), 3).reshape(1, -1, 3)
    for hdr in ("HLG", "PQ"):
        shown = to_bt709(grey, hdr, True)[0].astype(int)
        assert (np.diff(shown[:, 1]) >= 0).all()
        assert np.ptp(shown, axis=1).max() <= 1  # Grey stays grey.
        assert (shown[0, 0], shown[-1, 0]) == (0, pytest.approx(255, abs=3))
        assert len(np.unique(shown[:, 1])) > 200


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "qtrle", "argb"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.apng", "apng", "rgba"),
        ("a.gif", None, ""),
        ("a.webp", None, ""),
        ("a.avif", None, ""),
    ],
)
def test_clear_pixels_are_grey_in_clips_and_animations_as_in_photos(
    tmp_path: Path, name: str, codec: str | None, pixel_format: str
) -> None:
    picture = np.full((48, 64, 4), (200, 60, 50, 255), np.uint8)
    picture[:, :32, 3] = 0
    other = picture.copy()
    other[40:, 40:, :3] = 90
    path = tmp_path / name
    if codec is None:
        first, last = Image.fromarray(picture), Image.fromarray(other)
        options = {"lossless": True} if name.endswith("webp") else {}
        first.save(path, save_all=True, append_images=[last], duration=100, **options)
    else:
        options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
        how = {"codec": codec, "pixel_format": pixel_format, "options": options}
        write_clip(path, [picture, other], layout="rgba", **how)
    first, last = (frame.pixels.astype(int) for frame in open_video(path))
    for pixels in (first, last):
        assert np.abs(pixels[:, 2:26] - 128).max() <= 2
    assert np.abs(first[10:30, 40:60].mean(axis=(0, 1)) - (200, 60, 50)).max() < 6


def test_the_best_video_stream_is_taken() -> None:
    for clip in (VideoReader(CASES / "animated.avif"), open_video(CASES / "animated.avif")):
        assert times(list(clip)) == [0, 0.04, 0.12, 0.24, 0.28]
