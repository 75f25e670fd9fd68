"""Reading, finding and writing photos, on real files."""

import io
import logging
import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import find_images, natural_key, write_atomically
from amd_seg.media.images import photo_from_array, read_image, save_image
from tests.clips import PATCHES, pq_patches
from tests.hostile import png, png_chunk

WIDTH, HEIGHT = 24, 16
COLOUR = (200, 100, 50)
LOSSLESS, LOSSY = 0.51, 4.0


def mean_colour(source: object) -> list[float]:
    pixels = read_image(source).pixels  # type: ignore[arg-type]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (HEIGHT, WIDTH, 3))
    return pixels.reshape(-1, 3).mean(axis=0).tolist()


def plain(mode: str = "RGB", value: object = COLOUR) -> Image.Image:
    return Image.new(mode, (WIDTH, HEIGHT), value)  # type: ignore[arg-type]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def raw_png(depth: int, kind: int, pixels: bytes, clear: bytes = b"") -> bytes:
    """A PNG of any header, its pixels repeated: Pillow itself writes no 16-bit colour."""
    values = {0: 1, 2: 3, 4: 2, 6: 4}[kind] * WIDTH
    rows = (b"\0" + (pixels * WIDTH * depth)[: values * depth // 8]) * HEIGHT
    extra = png_chunk(b"tRNS", clear) if clear else b""
    return png(WIDTH, HEIGHT, rows, depth=depth, kind=kind, extra=extra)


def raw_tiff(
    pixels: bytes, depth: int, *, bands: int = 1, photometric: int = 1, sample_format: int = 1
) -> bytes:
    """A TIFF of any header, uncompressed, some whole pixels repeated: Pillow writes few kinds.

    `photometric` is 0 where white is 0, 1 where black is, 2 for RGB; `sample_format` 3 for floats.
    """
    data = (pixels * WIDTH * HEIGHT)[: WIDTH * HEIGHT * bands * depth // 8]
    tags = {256: WIDTH, 257: HEIGHT, 258: depth, 259: 1, 262: photometric, 273: 8}
    tags |= {277: bands, 278: HEIGHT, 279: len(data), 339: sample_format}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(data))
    return header + data + struct.pack("<H", len(tags)) + directory + bytes(4)


def two_frames(form: str) -> bytes:
    second = plain(value=(0, 0, 255))
    return encoded(plain(), form, save_all=True, append_images=[second], duration=100)


def half_palette() -> Image.Image:
    """Left half the colour, right half an index that files call transparent."""
    image = Image.fromarray(np.indices((HEIGHT, WIDTH), np.uint8)[1] // np.uint8(WIDTH // 2))
    image.putpalette([*COLOUR, 255, 255, 255])
    return image


OVER_GREY = [(c * 100 + 128 * 155) / 255 for c in COLOUR]
HALF_CLEAR = [(c + 128) / 2 for c in COLOUR]
WIDE = tuple(c * 257 for c in COLOUR)

# What `MODES` below does not make. Name: (bytes of the file, mean colour, tolerance).
FILES: dict[str, tuple[bytes, object, float]] = {
    **{
        f"{form} of frames": (two_frames(form), COLOUR, LOSSY)
        for form in ("MPO", "WEBP", "AVIF", "GIF", "PNG", "TIFF")
    },
    "png RGBA clear": (encoded(plain("RGBA", (*COLOUR, 0)), "PNG"), (128,) * 3, 0),
    "png P one clear": (encoded(half_palette(), "PNG", transparency=1), HALF_CLEAR, LOSSLESS),
    "png P soft": (encoded(half_palette(), "PNG", transparency=b"\xff\0"), HALF_CLEAR, LOSSLESS),
    "gif P clear": (encoded(half_palette(), "GIF", transparency=1), HALF_CLEAR, LOSSLESS),
    "png RGB 16": (raw_png(16, 2, struct.pack(">3H", *WIDE)), COLOUR, 0),
    "png RGBA 16": (raw_png(16, 6, struct.pack(">4H", *WIDE, 25700)), OVER_GREY, LOSSLESS),
    "png LA 16": (raw_png(16, 4, struct.pack(">2H", 51400, 25700)), (OVER_GREY[0],) * 3, LOSSLESS),
    "tiff I;16B": (encoded(plain("I;16B", 25700), "TIFF"), (100,) * 3, 0),
    "tiff RGB 16": (raw_tiff(struct.pack("<3H", *WIDE), 16, bands=3, photometric=2), COLOUR, 0),
    "tiff 12 bits": (raw_tiff(b"\x64\x66\x46", 12), (100,) * 3, 0),  # two pixels of 1606
    "tiff L white is 0": (raw_tiff(b"\x9b", 8, photometric=0), (100,) * 3, 0),
    "tiff I;16 white is 0": (raw_tiff(b"\x9b\x9b", 16, photometric=0), (100,) * 3, 0),
    "png damaged EXIF": (encoded(plain(), "PNG", exif=b"Exif\0\0no"), COLOUR, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_pixel_type_comes_out_with_its_colour(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "amd_seg")
    data, colour, tolerance = FILES[name]
    (tmp_path / "photo").write_bytes(data)
    for source in (tmp_path / "photo", data, Image.open(io.BytesIO(data))):
        assert mean_colour(source) == pytest.approx(colour, abs=tolerance)
    assert ("several frames, the first is taken" in caplog.text) == ("of frames" in name)


# mode: a value, the colour that it is, and the formats that hold it
MODES: dict[str, tuple[object, object, str]] = {
    "1": (1, (255,) * 3, "PNG JPEG TIFF GIF BMP PPM"),
    "L": (90, (90,) * 3, "PNG JPEG WEBP AVIF TIFF GIF BMP JPEG2000 PPM"),
    "LA": ((200, 100), (OVER_GREY[0],) * 3, "PNG WEBP AVIF TIFF JPEG2000"),
    "P": (0, COLOUR, "PNG WEBP AVIF TIFF GIF BMP"),
    "PA": ((0, 255), COLOUR, "TIFF"),
    "RGB": (COLOUR, COLOUR, "PNG JPEG WEBP AVIF TIFF GIF BMP JPEG2000 PPM QOI"),
    "RGBA": ((*COLOUR, 100), OVER_GREY, "PNG WEBP AVIF TIFF JPEG2000 QOI"),
    "RGBX": ((*COLOUR, 0), COLOUR, "JPEG WEBP AVIF TIFF"),
    "CMYK": ((55, 155, 205, 0), COLOUR, "JPEG TIFF"),
    "YCbCr": ((124, 86, 182), COLOUR, "JPEG TIFF JPEG2000"),
    "LAB": ((138, 164, 174), COLOUR, "TIFF"),
    "HSV": ((0, 255, 200), (200, 0, 0), ""),
    "RGBa": ((100, 50, 25, 128), (164, 114, 89), ""),
    "I;16": (25700, (100,) * 3, "PNG TIFF JPEG2000 PPM"),
    "I": (25700, (100,) * 3, "TIFF PPM"),
    "F": (0.2, (51,) * 3, "TIFF PPM"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_its_colour_in_every_format(mode: str) -> None:
    value, colour, forms = MODES[mode]
    image = plain(mode, value)
    if mode in ("P", "PA"):
        image.putpalette([*COLOUR, 255, 255, 255])
    assert mean_colour(image) == pytest.approx(colour, abs=LOSSY)
    for form in forms.split():
        quality = {"quality": 95} if form in ("JPEG", "WEBP") else {}
        data = encoded(image, form, save_all=False, **quality)
        is_exact = form not in ("JPEG", "WEBP", "AVIF", "JPEG2000") and mode not in ("YCbCr", "LAB")
        expected = pytest.approx(colour, abs=LOSSLESS if is_exact else LOSSY)
        for source in (data, Image.open(io.BytesIO(data))):
            assert mean_colour(source) == expected, form


@pytest.mark.parametrize(
    ("depth", "pixels", "clear", "others"),
    [
        (1, "55", [0], 255),
        (2, "77", [1], 255),
        (4, "3f", [3], 255),
        (8, "3c ff", [0x3C], 255),
        (16, "3c01 3c02", [0x3C01], 60),
        (8, "12c020 12c021", [0x12, 0xC0, 0x20], [0x12, 0xC0, 0x21]),
        (16, "1240c0402040 1240c0402140", [0x1240, 0xC040, 0x2040], [0x12, 0xC0, 0x21]),
    ],
)
def test_the_one_clear_colour_of_a_png_is_in_the_depth_of_the_file(
    depth: int, pixels: str, clear: list[int], others: object
) -> None:
    trns = struct.pack(f">{len(clear)}H", *clear)
    data = raw_png(depth, 2 if len(clear) == 3 else 0, bytes.fromhex(pixels), trns)
    for source in (data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        found = read_image(source).pixels
        assert (found[:, ::2] == 128).all()
        assert (found[:, 1::2] == others).all()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    # Broad patches survive JPEG; all four corners differ, so no two orientations look alike.
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[:8, :8], values[:8, 16:], values[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    pixels = read_image(data).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < 12
    if form == "PNG":
        np.testing.assert_array_equal(read_image(image).pixels, expected)


def test_a_profile_is_kept_only_where_it_describes_rgb(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_image(encoded(plain(), "JPEG", icc_profile=profile)).icc_profile == profile
    for_ink = profile[:16] + b"CMYK" + profile[20:]
    ink = read_image(encoded(plain("CMYK", 0), "JPEG", icc_profile=for_ink))
    assert ink.icc_profile is None
    for mode, kept in (("RGBA", profile), ("L", None)):
        save_image(plain(mode, 0), tmp_path / "a.png", icc_profile=profile)
        assert read_image(tmp_path / "a.png").icc_profile == kept


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution_goes_with_the_photo_and_turns_with_it(form: str, tmp_path: Path) -> None:
    exif, path = Image.Exif(), tmp_path / f"out.{form.lower()}"
    exif[0x0112] = 6
    photo = read_image(encoded(plain(), form, dpi=(300, 150), exif=exif))
    save_image(Image.fromarray(photo.pixels), path, resolution=photo.resolution)
    for found in (photo, read_image(path)):
        turned = (300, 150) if form == "BMP" else (150, 300)  # BMP holds no EXIF.
        assert found.resolution == pytest.approx(turned, abs=0.1)
    image = plain()
    for nonsense in ((0, 0), (1e9, 300), (np.nan, 300), (72, np.nan), "ab", 7, (300,), None):
        image.info["dpi"] = nonsense
        assert read_image(image).resolution is None


@pytest.mark.parametrize("suffix", [".avif", ".png"])
@pytest.mark.parametrize("alpha", [False, True])
def test_hdr_is_shown_as_bt709(suffix: str, alpha: bool, tmp_path: Path) -> None:
    pixels = np.rint(pq_patches() / 257).astype(np.uint8)
    clear = np.full((128, 192, 1), 255, np.uint8)
    clear[:32] = 0
    image = Image.fromarray(np.dstack((pixels, clear)) if alpha else pixels)
    if suffix == ".avif":
        data = encoded(image, "AVIF", quality=100, subsampling="4:4:4")
        # Primaries, transfer: from sRGB's to those of BT.2020 and PQ.
        hdr = data.replace(b"colrnclx\0\x01\0\x0d", b"colrnclx\0\x09\0\x10")
    else:
        data = encoded(image, "PNG")
        hdr = data[:33] + png_chunk(b"cICP", b"\x09\x10\0\x01") + data[33:]  # after IHDR
    assert hdr != data
    (tmp_path / "photo").write_bytes(hdr)
    for source in (tmp_path / "photo", hdr):
        shown = read_image(source).pixels
        # An AVIF is a code off here and there: 14 levels of what is dark.
        far = np.abs(shown[64, 16::32].astype(int) - PATCHES)
        assert far.max() <= (16 if suffix == ".avif" else 8)
        assert far.mean() < 3
        assert (np.abs(shown[16].astype(int) - 128).max() <= 1) == alpha
    as_it_is = read_image(data).pixels
    assert np.abs(as_it_is[64, 16::32].astype(int) - PATCHES).max() > 40
    # With a map that makes it HDR, such a picture is none itself.
    if suffix == ".avif":
        np.testing.assert_array_equal(read_image(hdr + b"tmap").pixels, as_it_is)


def test_sources_are_read_from_their_beginning_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    plain().save(path)
    data = path.read_bytes()
    stream = io.BytesIO(data)
    stream.seek(0, io.SEEK_END)
    read, write = os.pipe()  # It has no beginning to go back to.
    with open(write, "wb") as end:
        end.write(data)
    with (
        open(path, "rb") as file,
        open(read, "rb") as pipe,
        tempfile.SpooledTemporaryFile() as upload,
    ):
        upload.write(data)
        for source in (data, bytearray(data), memoryview(data), stream, file, pipe, upload):
            assert read_image(source).source == f"image of {len(data)} bytes"  # type: ignore[arg-type]
    assert read_image(path).source == read_image(str(path)).source == str(path)
    assert read_image(plain()).source == "PIL image"
    with open(path, encoding="latin-1") as text:
        for other in (text, None, 3, ["a.png"], np.zeros((9, 9))):
            with pytest.raises(InputError, match=r"Give a path, the bytes.* in binary mode"):
                read_image(other)  # type: ignore[arg-type]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
FLOATS = struct.pack("<3f", *[0.2] * 3)
NO_PHOTOS: list[tuple[bytes, str]] = [
    (b"", "it is empty"),
    (b"Once upon a time there was no picture.", "no image of a known format"),
    (HEIC, r'pip install "amd-seg\[heic\]"'),
    *(
        (encoded(NOISE, form)[:size], "cut short: copy or download it again")
        for form in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP", "JPEG2000")
        for size in (30, 2000)
    ),
    *((encoded(plain("F", v), "TIFF"), r"outside 0\.\.1\. Scale") for v in (1.5, -0.1, np.nan)),
    *((encoded(plain("I", v), "TIFF"), r"outside 0\.\.65535\. Scale") for v in (-1, 70000)),
    (raw_tiff(FLOATS, 32, bands=3, photometric=2, sample_format=3), r"not known here\. Save it"),
    (raw_tiff(struct.pack("<d", 0.2), 64, sample_format=3), r"not known here\. Save it as RGB"),
    (encoded(plain().resize((65, 64)), "PNG"), r"it claims 65x64 .* raise max_pixels"),
    *(
        (encoded(Image.new("RGB", size), "PNG"), "Give an image of at least 8x8")
        for size in ((1, 1), (7, 100), (100, 7))
    ),
]


@pytest.mark.parametrize(("data", "message"), NO_PHOTOS, ids=range(len(NO_PHOTOS)))
def test_what_is_no_photo_is_one_clear_line(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that is None in sys.modules is one that cannot be imported.
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "line\nbreak.img"
    path.write_bytes(data)
    for source, name in ((path, "line.nbreak"), (data, f"image of {len(data)} bytes")):
        with pytest.raises(MediaError, match=rf"Cannot read .*{name}.*{message}") as error:
            read_image(source, max_pixels=64 * 64)
        assert str(error.value).isprintable()


def test_names_that_are_no_files_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "missing.png": "no such file. Check the name",
        "pipe.png": "a folder or a pipe",
        ".": "a folder or a pipe",
        "nul\0l.png": "null byte",
        "n" * 300: "name too long",
    }.items():
        with pytest.raises(MediaError, match=f"(?i){message}") as error:
            read_image(os.path.join(tmp_path, name))
        assert str(error.value).isprintable()


def test_heic_is_read(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    path = tmp_path / "phone.heic"
    heif.from_pillow(plain().resize((64, 48))).save(path)
    photo = read_image(path)
    assert photo.pixels.shape == (48, 64, 3)
    assert photo.pixels.mean(axis=(0, 1)) == pytest.approx(COLOUR, abs=LOSSY)


def test_arrays_of_every_layout_and_no_others() -> None:
    for shape in ((9, 10), (9, 10, 1), (9, 10, 3), (9, 10, 4)):
        array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected = array.reshape(9, 10, -1)  # One channel becomes three.
        if shape[2:] == (4,):
            array[..., 3] = 0
            expected = np.full((9, 10, 3), 128, np.uint8)
        photo = photo_from_array(np.asfortranarray(array)[::-1], source="frame 3")
        assert photo.source == "frame 3"
        np.testing.assert_array_equal(photo.pixels, np.broadcast_to(expected, (9, 10, 3))[::-1])
        for dtype, tolerance in ((np.float32, 0), (np.float64, 0), (np.float16, 1)):
            near = photo_from_array((array / 255).astype(dtype)).pixels.astype(int)
            assert np.abs(near - photo.pixels[::-1]).max() <= tolerance
    for array, message in (
        *((np.zeros((9, 9), dtype), "as uint8 or as float") for dtype in (np.uint16, np.bool_)),
        (np.zeros((3, 9, 9), np.uint8), r"give array\.transpose\(1, 2, 0\)"),
        *((np.zeros(shape, np.uint8), "Give .height, width.") for shape in ((2, 9, 9, 3), 9)),
        *((np.full((9, 9), value), r"outside 0\.\.1\. Scale them") for value in (1.01, np.nan)),
        *((np.zeros(shape), "at least 8x8") for shape in ((0, 9, 3), (7, 100), (100, 7))),
    ):
        with pytest.raises(InputError, match=f"Cannot use camera frame: .*{message}"):
            photo_from_array(array, source="camera frame")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_is_saved_comes_back(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 256, (9, 11, len(mode)), np.uint8)
    image = Image.fromarray(values.squeeze())
    for suffix in (".png", ".PNG", ".webp", ".tif", ".tiff", *[".bmp"] * (mode != "RGBA")):
        save_image(image, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as back:
            np.testing.assert_array_equal(back.convert(mode), image)
    for suffix in (".jpg", ".jpeg", ".avif"):
        save_image(plain(), tmp_path / f"out{suffix}")
        assert mean_colour(tmp_path / f"out{suffix}") == pytest.approx(COLOUR, abs=LOSSY)
    assert all(path.stem == "out" for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        *((name, plain(), r"unknown ending .*Use one of \.png, \.jpg") for name in ("out", ".png")),
        ("out.gif", plain(), r"unknown ending '\.gif'"),
        *(
            (f"out{end}", plain("RGBA", 0), r"no transparency\. Use \.png")
            for end in (".jpg", ".bmp")
        ),
        ("wide.webp", Image.new("L", (17000, 1)), r"Cannot write .*wide\.webp"),
        ("missing/a.png", plain(), "No such file or directory. Make its folder first"),
        ("file/a.png", plain(), "Not a directory. Make its folder first"),
        ("pipe.png", plain(), "it is a device or a pipe"),
        ("folder.png", plain(), r"it is a folder\. Give the name"),
        ("n" * 260 + ".png", plain(), "name too long"),
    ],
)
def test_what_cannot_be_written_is_one_clear_error(
    name: str, image: Image.Image, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(MediaError, match=f"(?i){message}"):
        save_image(image, tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_is_written_whole_through_links_and_keeps_its_permissions(tmp_path: Path) -> None:
    target, link = tmp_path / "target.bin", tmp_path / "link.bin"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)

    def fail(stream: io.BufferedIOBase) -> None:
        stream.write(b"half of the n")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_atomically(link, fail)
    assert target.read_bytes() == b"old"
    write_atomically(link, lambda stream: stream.write(b"new"))
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    assert target.stat().st_mode & 0o777 == 0o600
    write_atomically(tmp_path / "fresh.bin", lambda stream: None)
    (tmp_path / "plain").touch()
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("fresh.bin", "plain")}
    assert len(modes) == 1
    assert len(list(tmp_path.iterdir())) == 4


ALBUM = ["a[1].jpg", "img1.PNG", "img2.jpg", "img10.jpg", "lost.jpg"]
BELOW = ["sub/a.tif", "sub/b.webp", "sub/deep/c.avif"]
OTHERS = ["notes.txt", "odd.dat", "void/no.txt", ".hidden/d.jpg", "._img1.jpg"]


def test_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in map(Path, [*ALBUM[:-1], *BELOW, *OTHERS]):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    os.mkfifo("pipe.jpg")
    Path("lost.jpg").symlink_to("nowhere.jpg")
    Path("folder.jpg").symlink_to("void")
    for inputs, recursive, expected in (
        (["."], False, ALBUM),
        (["."], True, ALBUM + BELOW),
        (["sub", "img2.jpg"], False, [*BELOW[:2], "img2.jpg"]),
        (["odd.dat", "notes.txt"], False, ["odd.dat", "notes.txt"]),
        (["*"], False, ALBUM),
        (["**/*.avif"], False, ["sub/deep/c.avif"]),
        (["a[1].jpg"], False, ["a[1].jpg"]),
        (["img2.jpg", "./img2.jpg", "img*.jpg", "sub/../img2.jpg"], False, ALBUM[2:4]),
    ):
        assert [str(path) for path in find_images(inputs, recursive=recursive)] == expected
        # Everything that stands for nothing is named.
        with pytest.raises(InputError, match=r"gone\.jpg, \*\.gif, void\."):
            find_images([*inputs, "gone.jpg", "*.gif", "void"], recursive=recursive)
    odd = map(Path, ("b", "1", "a1b", "", "01", "a", "1a", "/", "\u0663", "a\u00b2", "a/1"))
    assert len(sorted(odd, key=natural_key)) == 11  # Any names can be ordered.
