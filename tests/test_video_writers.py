"""A clip's twin in every form: what comes back from the file is what was put in."""

import resource
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image, ImageSequence

from amd_seg.errors import InputError, MediaError
from amd_seg.media.images import save_image
from amd_seg.media.video import FrameReader, VideoReader, open_video
from amd_seg.media.video_writer import check_target, open_writer
from tests.clips import Pixels, moving_square, remux, write_clip, write_folder, write_lossless
from tests.processes import contents

CASES = Path(__file__).parent / "cases"
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
of_every_video = pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames, ten a second, with sound."""
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", moving_square(20), audio=True)


def copy(clip: FrameReader, target: Path, error: type[BaseException] | None = None) -> Path:
    """Write the clip's own frames as its twin, up to an error if one is given."""
    frames = list(clip)
    origin = frames[0].time if clip.span.start is not None else 0.0
    with open_writer(target, clip, origin=origin) as writer:
        for frame in frames:
            writer.write(writer.prepare(frame.pixels), frame.index, frame.time)
            if error is not None:
                raise error
    assert writer.frames == len(frames) or target.suffix == ".gif"
    return target


def draw(pictures: Sequence[np.ndarray], target: Path, *, has_alpha: bool = False) -> Path:
    """Write pictures as the twin of a folder of frames at 10 a second."""
    rgb = np.zeros((*pictures[0].shape[:2], 3), np.uint8)
    clip = open_video(write_folder(target.parent / "source", [rgb] * len(pictures)), frame_rate=10)
    with open_writer(target, clip, has_alpha=has_alpha) as writer:
        for index, picture in enumerate(pictures):
            writer.write(writer.prepare(picture), index, index / 10)
    return target


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """The packets of the first stream of a kind: time in seconds, and content."""
    with av.open(path) as container:
        stream = next(s for s in container.streams if s.type == kind)
        found = [packet for packet in container.demux(stream) if packet.dts is not None]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in found]


def decoded(path: Path, layout: str, codec: str | None = None) -> list[np.ndarray]:
    """The frames of a file, by a decoder of one's choice: FFmpeg's own for VP9 drops alpha."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        decoder = av.CodecContext.create(codec, "r") if codec else stream.codec_context
        frames = [f for packet in container.demux(stream) for f in decoder.decode(packet)]
        return [frame.to_ndarray(format=layout) for frame in frames]


def length(path: Path) -> float:
    with av.open(path) as container:
        return float(container.duration / av.time_base)


@of_every_video
def test_times_are_kept_to_the_last_frame(tmp_path: Path, suffix: str) -> None:
    twin, source = tmp_path / f"twin{suffix}", tmp_path / "clip.mp4"
    uneven = [0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.3, 2.0]
    copy(open_video(write_clip(source, moving_square(8), times=uneven)), twin)
    assert [float(time) for time, _ in packets(twin, "video")] == uneven
    # The last frame is shown as long as the one before it, for nothing else is known.
    assert length(twin) == pytest.approx(2.7)
    write_clip(source, moving_square(8), options={"bf": "0"}, durations=[0.1] * 7 + [2.0])
    spans = (({}, 2.7), ({"start": 0.5}, 2.2), ({"every": 3}, 2.7), ({"end": 0.4}, 0.4))
    for how, seconds in spans:
        assert length(copy(open_video(source, **how), twin)) == pytest.approx(seconds), how
    if suffix in (".mp4", ".mov"):  # The others count in milliseconds.
        rate = Fraction(30000, 1001)
        copy(open_video(write_clip(source, moving_square(8), rate=rate)), twin)
        assert [time for time, _ in packets(twin, "video")] == [n / rate for n in range(8)]
        with av.open(twin) as container:
            stream = container.streams.video[0]
            assert (stream.average_rate, stream.duration * stream.time_base) == (rate, 8 / rate)


def test_a_recorders_clock_is_taken_off(tmp_path: Path) -> None:
    clip = VideoReader(write_clip(tmp_path / "tv.ts", moving_square(20), audio=True))
    assert clip.start_time > 0
    twin = copy(clip, tmp_path / "twin.mp4")
    offset = Fraction(clip.start_time).limit_denominator(90_000)
    for kind in ("video", "audio"):
        source, copied = (sorted(packets(path, kind)) for path in (tmp_path / "tv.ts", twin))
        shifts = [float(a - b - offset) for (a, _), (b, _) in zip(source, copied, strict=True)]
        assert np.abs(shifts).max() < 1e-4


def test_a_part_begins_at_zero_with_its_sound(film: Path, tmp_path: Path) -> None:
    part = copy(open_video(film, start=0.5, end=1.3, every=3), tmp_path / "part.mp4")
    assert [float(time) for time, _ in packets(part, "video")] == [0, 0.3, 0.6]
    begin, end = Fraction(1, 2), Fraction(13, 10)
    wanted = [(t - begin, content) for t, content in packets(film, "audio") if begin <= t < end]
    assert packets(part, "audio") == wanted


def test_sound_that_webm_does_not_hold_is_encoded_anew_in_step(film: Path, tmp_path: Path) -> None:
    def waveform(path: Path, codec: str) -> np.ndarray:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=8000)
        with av.open(path) as container:
            assert container.streams.audio[0].codec_context.name == codec
            parts = [p for f in container.decode(audio=0) for p in resampler.resample(f)]
        return np.concatenate([part.to_ndarray()[0] for part in parts])

    encoded = waveform(copy(open_video(film), tmp_path / "twin.webm"), "opus")
    inside = waveform(film, "aac")[2000:12000]
    likeness = [float(inside @ encoded[2000 + lag : 12000 + lag]) for lag in range(-40, 41)]
    assert abs(int(np.argmax(likeness)) - 40) <= 1
    assert max(likeness) > 0.95 * float(inside @ inside)


def test_tracks_that_a_container_does_not_take_are_left_out(
    film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = tmp_path / "lines.srt"
    lines.write_text("1\n00:00:00,200 --> 00:00:00,900\nHello\n")
    silent = write_clip(tmp_path / "silent.mp4", moving_square(10))
    french = lambda _, twins: twins[1].metadata.update(language="fra")  # noqa: E731
    empty = lambda out, _: out.add_stream("ac3", rate=48_000, layout="stereo")  # noqa: E731
    told = remux(tmp_path / "told.mkv", silent, lines, begin=french)
    tv = remux(tmp_path / "tv.ts", film, begin=empty)
    data, odd = bytearray(film.read_bytes().replace(b"mp4a", b"zzzz")), tmp_path / "odd.mp4"
    # The type of object in the descriptor of the stream: 0x40 would be AAC.
    data[data.index(0x40, data.index(b"esds"))] = 0x99
    odd.write_bytes(data)
    for source, suffix, kinds, warning in (
        (told, ".mkv", ["video", "subtitle"], ""),
        (told, ".mp4", ["video"], "Subtitles of"),
        (tv, ".mp4", ["video", "audio"], "is left out: it is empty"),
        (tv, ".webm", ["video", "audio"], "is left out: it is empty"),
        (odd, ".mp4", ["video"], "of an unknown codec"),
    ):
        caplog.clear()
        twin = copy(open_video(source), tmp_path / f"twin{suffix}")
        with av.open(twin) as container:
            assert [stream.type for stream in container.streams] == kinds
            assert [stream.language for stream in container.streams.subtitles] in ([], ["fra"])
        assert len(caplog.messages) == bool(warning)
        assert warning in caplog.text
        if "subtitle" in kinds:
            assert packets(twin, "subtitle") == [(Fraction(1, 5), b"Hello")]


def test_flags_languages_and_titles_of_tracks_are_kept(film: Path, tmp_path: Path) -> None:
    for suffix, german in ((".mp4", "deu"), (".mov", "ger")):
        with av.open(copy(open_video(CASES / "tracks.mp4"), tmp_path / f"a{suffix}")) as container:
            sounds, subtitles = container.streams.audio, container.streams.subtitles
            assert [bool(s.disposition & Disposition.default) for s in sounds] == [False, True]
            if suffix == ".mp4":  # QuickTime's do not tell forced ones.
                forced = [bool(s.disposition & Disposition.forced) for s in subtitles]
                assert forced == [True, False]
            assert [s.language for s in (*sounds, *subtitles)] == ["eng", german, "fra", "spa"]
    names = {"title": "Comments", "language": "deu"}
    begin = lambda _, twins: twins[1].metadata.update(names)  # noqa: E731
    clip = open_video(remux(tmp_path / "named.mkv", film, begin=begin))
    for suffix in (".mkv", ".webm"):
        with av.open(copy(clip, tmp_path / f"twin{suffix}")) as container:
            (sound,) = container.streams.audio
            assert names.items() <= {**sound.metadata, "language": sound.language}.items()


@pytest.mark.parametrize("delay", [-0.5, 0.7])
@of_every_video
def test_sound_is_copied_in_step(film: Path, tmp_path: Path, suffix: str, delay: float) -> None:
    def is_wanted(packet: av.Packet) -> bool:
        # The picture waits for sound that is early.
        if (packet.stream.type == "audio") == (delay > 0):
            ticks = round(abs(delay) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return True

    clip = remux(tmp_path / "clip.mkv", film, is_wanted=is_wanted)
    twin = copy(open_video(clip), tmp_path / f"twin{suffix}")
    picture, sound = (float(packets(twin, kind)[0][0]) for kind in ("video", "audio"))
    assert sound - picture == pytest.approx(delay, abs=0.14)
    if suffix != ".webm":  # It holds no AAC.
        source, copied = ([content for _, content in packets(p, "audio")] for p in (clip, twin))
        assert copied == source


@of_every_video
def test_colours_greys_and_masks_come_back(tmp_path: Path, suffix: str) -> None:
    frames = moving_square(4)
    twin = copy(open_video(write_lossless(tmp_path / "a.mkv", frames)), tmp_path / f"a{suffix}")
    back = list(open_video(twin))[2].pixels
    assert np.abs(back.astype(int) - frames[2]).mean() < 3
    with av.open(twin) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)  # BT.709, limited
    masks = np.where(np.stack(frames)[..., 0] > 200, 255, 0).astype(np.uint8)
    read = decoded(draw(masks, tmp_path / f"mask{suffix}"), "gray")
    np.testing.assert_array_equal(np.stack(read) > 127, masks > 127)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (32, 1))
    (back, _) = decoded(draw([ramp, ramp], tmp_path / f"ramp{suffix}"), "gray")
    assert np.abs(back.astype(int) - ramp).max() <= (12 if suffix == ".webm" else 6)


def test_odd_sizes_and_frames_in_a_folder(tmp_path: Path) -> None:
    frames = moving_square(6, height=47, width=65)
    clip = open_video(write_lossless(tmp_path / "clip.mkv", frames), every=2)
    for suffix, size in ((".mp4", (48, 66)), (".webm", (47, 65))):
        read = decoded(copy(clip, tmp_path / f"twin{suffix}"), "rgb24")
        padded = np.pad(frames[4], [(0, size[0] - 47), (0, size[1] - 65), (0, 0)], mode="edge")
        assert read[2].shape == padded.shape
        assert np.abs(read[2].astype(int) - padded).mean() < 3
    folder = copy(clip, tmp_path / "new" / "twin")  # The names are those of DAVIS.
    assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00002.png", "00004.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "00004.png")), frames[4])


def ghosts(count: int = 4, height: int = 45, width: int = 67) -> list[Pixels]:
    """RGBA pictures of a soft blob; what is clear altogether is black."""
    y, x = np.mgrid[:height, :width]
    pictures = []
    for number in range(count):
        alpha = np.clip(400 - 20 * np.hypot(x - 20 - 4 * number, y - 22), 0, 255).astype(np.uint8)
        picture = np.dstack((np.full_like(alpha, 200), x * 2, y * 3, alpha)).astype(np.uint8)
        picture[alpha == 0] = 0
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize(
    ("suffix", "codec", "off"), [(".webm", "libvpx-vp9", 12), (".mov", None, 2)]
)
def test_alpha_comes_back(tmp_path: Path, suffix: str, codec: str | None, off: int) -> None:
    pictures = ghosts()
    twin = draw(pictures, tmp_path / f"twin{suffix}", has_alpha=True)
    for picture, back in zip(pictures, decoded(twin, "rgba", codec), strict=True):
        assert np.abs(back[..., 3].astype(int) - picture[..., 3]).max() <= off
        solid = picture[..., 3] == 255
        assert np.abs(back.astype(int) - picture)[solid].mean() < 4
    with av.open(twin) as container:
        stream = container.streams.video[0]
        assert stream.metadata.get("alpha_mode") == "1" or "a" in stream.pix_fmt


def test_a_gif_has_clear_pixels_times_in_hundredths_and_no_more_than_50_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = ghosts()
    with Image.open(draw(pictures, tmp_path / "ghosts.gif", has_alpha=True)) as image:
        for back, picture in zip(ImageSequence.Iterator(image), pictures, strict=True):
            alpha = np.asarray(back.convert("RGBA"))[..., 3]
            np.testing.assert_array_equal(alpha > 0, picture[..., 3] >= 128)
    frames, source = moving_square(12), tmp_path / "clip.mp4"
    clip = open_video(write_clip(source, frames[:8], rate=30), start=0.05)
    with Image.open(copy(clip, tmp_path / "twin.gif")) as image:
        frames_of = ImageSequence.Iterator(image)
        assert [frame.info["duration"] for frame in frames_of] == [30, 40, 30, 30, 40, 40]
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[7]).mean() < 8
        assert image.info["loop"] == 0
    clip = open_video(write_clip(source, frames, rate=100))
    with Image.open(copy(clip, tmp_path / "twin.gif")) as image:
        assert image.n_frames == 6
    assert "leaves out 6 of 12 frames" in caplog.text


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif"])
@pytest.mark.parametrize(
    ("aspect", "rotation"), [(Fraction(16, 11), 0), (Fraction(16, 11), 90), (Fraction(1, 2), 0)]
)
def test_the_aspect_is_kept(tmp_path: Path, suffix: str, aspect: Fraction, rotation: int) -> None:
    how = {"aspect": aspect, "rotation": rotation}
    source = write_clip(tmp_path / "tv.mp4", moving_square(2), **how)
    twin = open_video(copy(open_video(source), tmp_path / f"twin{suffix}"))
    shape = float(twin.pixel_aspect * twin.width / twin.height)
    expected = float(aspect) * 64 / 48
    assert shape == pytest.approx(1 / expected if rotation else expected, rel=0.02)
    assert twin.width * twin.height >= 64 * 48  # No pixel is lost.


TARGETS = ("twin.mp4", "twin.webm", "twin.gif", "twin")


@pytest.mark.parametrize("name", TARGETS)
def test_an_error_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    clip = open_video(write_folder(tmp_path / "clip", moving_square(3)))
    if name != "twin":
        with pytest.raises(MediaError, match="Make its folder first"):
            copy(clip, tmp_path / "none" / name)
    copy(clip, tmp_path / name)
    before = contents(tmp_path)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            copy(clip, tmp_path / name, error)
        assert contents(tmp_path) == before
    copy(open_video(tmp_path / "clip", every=2), tmp_path / name)
    assert contents(tmp_path) != before
    assert not any(".tmp" in name for name in contents(tmp_path))


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    clip = open_video(write_folder(tmp_path / "clip", [noise] * 12))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails a write halfway, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        for name in TARGETS:
            with pytest.raises(MediaError, match=rf"Cannot write .*{name}: .* Free some space"):
                copy(clip, tmp_path / name)
        with pytest.raises(MediaError, match="Free some space"):
            save_image(Image.fromarray(noise), tmp_path / "photo.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", moving_square(3))
    frames = write_folder(tmp_path / "frames", moving_square(3))
    (tmp_path / "photos").mkdir()
    for path in ("photos/holiday.png", "old.mp4"):
        (tmp_path / path).touch()
    over, alpha = {"overwrite": True}, {"has_alpha": True}
    for name, source, how, message in (
        ("twin.avi", clip, {}, r"unknown ending '\.avi'. Use one of \.mp4"),
        ("twin.mp4", clip, alpha, r"no transparency. Use \.webm or \.mov"),
        ("twin.mkv", clip, alpha, r"no transparency. Use \.webm or \.mov"),
        ("clip.mp4", clip, over, "the clip itself"),
        ("frames", frames, over, "the clip itself"),
        ("frames", frames / "*.png", over, "the clip itself"),
        ("old.mp4", clip, {}, "--overwrite"),
        ("frames", clip, {}, "--overwrite"),
        ("photos", clip, over, r"more than frames, such as holiday\.png"),
    ):
        with pytest.raises(InputError, match=message):
            check_target(tmp_path / name, str(source), **how)
    for name in ("n" * 252 + ".mp4", "n" * 256):
        with pytest.raises(MediaError, match=r"too long\. Shorten the name"):
            check_target(tmp_path / name, str(clip))
    for name in ("old.mp4", "frames", "twin.MOV", "new"):
        check_target(tmp_path / name, str(clip), overwrite=True)
    with pytest.raises(MediaError, match=r"8x16400 pixels, as .*source has\. Give -o a folder"):
        draw([np.zeros((16400, 8), np.uint8)], tmp_path / "twin.mp4")


@pytest.mark.parametrize("suffix", [*VIDEO_SUFFIXES, ".gif", ""])
def test_each_frame_of_broken_recordings_is_kept(film: Path, tmp_path: Path, suffix: str) -> None:
    # The sound of the last one does not tell how it is encoded, which Matroska needs to know.
    (tmp_path / "film.mp4").write_bytes(film.read_bytes().replace(b"esds", b"free"))
    for source, count, end, sounds in (
        (CASES / "joined.ts", 50, 2.0, 80),
        (CASES / "frag_every_frame.mp4", 25, 1.0, 20),
        (tmp_path / "film.mp4", 20, 2.0, 0),
    ):
        target = copy(open_video(source), tmp_path / f"{source.stem}{suffix}")
        if not suffix:
            assert len(list(target.iterdir())) == count
            continue
        stamps = np.array(sorted(float(time) for time, _ in packets(target, "video")))
        assert len(stamps) == count
        assert np.diff(stamps).min() > 0
        assert stamps[-1] == pytest.approx(end, abs=0.12)
        if sounds and suffix != ".gif":
            heard = packets(target, "audio")
            assert len(heard) > sounds
            assert float(heard[-1][0]) == pytest.approx(end, abs=0.12)
