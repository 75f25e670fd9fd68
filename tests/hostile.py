"""Files that mean harm, made from good ones; a number is always the same file."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageCms

from tests.clips import moving_square, write_clip

ODD_NAMES = (
    *("with space{}", "-leading-dash{}", "ümläut 写真{}", "per%cent{}", "new\nline{}", ".hidden{}"),
    *("back\\slash{}", "quote'\"{}", "two.endings.jpg{}", "x" * 200 + "{}"),
    *("\x1b[31mred{}", os.fsdecode(b"no text \xff{}"), "*?[a]{}", "~{}", "$HOME{}"),
)
ENDINGS = (".png", ".jpg", ".webp", ".tif", ".avif", ".gif", ".bmp", ".jp2", ".ppm", ".qoi")

# Values that sizes, counts and offsets are wrong by.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def good_pictures() -> dict[str, bytes]:
    """Small files of every format, with metadata, animation, palette and transparency."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 255, (5, 6, 3), np.uint8)).resize((48, 40))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [smooth.rotate(90)]}
    wanted: dict[str, tuple[str, dict[str, object]]] = {
        "rgb.png": ("RGB", {"icc_profile": profile, "exif": exif}),
        "palette.png": ("P", {"transparency": 3}),
        "deep.png": ("I;16", {}),
        "animated.png": ("RGBA", frames),
        "rgb.jpg": ("RGB", {"icc_profile": profile, "exif": exif, "dpi": (300, 300)}),
        "progressive.jpg": ("RGB", {"progressive": True}),
        "ink.jpg": ("CMYK", {}),
        "lossy.webp": ("RGBA", {"exif": exif}),
        "lossless.webp": ("RGB", {"lossless": True}),
        "animated.webp": ("RGB", frames),
        "plain.tif": ("RGB", {"exif": exif}),
        "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
        "jpeg.tif": ("RGB", {"compression": "jpeg"}),
        "float.tif": ("F", {}),
        "animated.gif": ("RGB", frames),
    }
    wanted |= {f"rgb.{ending}": ("RGB", {}) for ending in ("avif", "bmp", "jp2", "ppm", "qoi")}
    files = {}
    for name, (mode, options) in wanted.items():
        image = smooth.convert("L") if mode == "I;16" else smooth
        if mode == "F":
            image = Image.fromarray(np.asarray(smooth.convert("L"), np.float32) / 255)
        stream = io.BytesIO()
        form = Image.registered_extensions()[Path(name).suffix]
        image.convert(mode).save(stream, form, **options)
        files[name] = stream.getvalue()
    return files


def good_clips(folder: Path) -> dict[str, bytes]:
    """Small clips of every container, with sound, rotation and a variable rate."""
    frames = moving_square(6, height=32, width=48, side=10)
    times = [0, 0.1, 0.15, 0.4, 0.5, 0.9]
    clips = [
        write_clip(folder / "sound.mp4", frames, audio=True),
        write_clip(folder / "turned.mp4", frames, rotation=90),
        write_clip(folder / "variable.mov", frames, times=times),
        write_clip(folder / "lossless.mkv", frames, codec="ffv1", pixel_format="bgr0"),
        write_clip(folder / "vp9.webm", frames, codec="libvpx-vp9", options={"cpu-used": "8"}),
        write_clip(folder / "old.avi", frames, codec="mpeg4"),
    ]
    first, *others = (Image.fromarray(frame) for frame in frames)
    clips.append(folder / "animated.gif")
    first.save(clips[-1], save_all=True, append_images=others)
    return {clip.name: clip.read_bytes() for clip in clips}


DAMAGE = ("cut", "flip bits", "break the header", "lie", "drop a piece", "repeat one", "blank one")


def damage(data: bytearray, kind: str, random: Random) -> None:
    """Do some harm of one kind to a file."""
    if kind == "cut":
        del data[random.randrange(len(data)) :]
    elif kind == "flip bits":
        for _ in range(random.randint(1, 16)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == "break the header":
        for _ in range(random.randint(1, 8)):
            data[random.randrange(min(64, len(data)))] = random.randrange(256)
    elif kind == "lie":  # An extreme where a size, a count or an offset may stand.
        size, order = random.choice((1, 2, 4)), random.choice("<>")
        value = random.choice(_EXTREMES) & (1 << 8 * size) - 1
        place = random.randrange(max(1, len(data) - size))
        data[place : place + size] = struct.pack(f"{order}{' BH I'[size]}", value)
    else:
        place = random.randrange(len(data))
        if kind == "drop a piece":
            del data[place : place + random.randint(1, 64)]
        elif kind == "repeat one":
            piece = data[place : place + random.randint(1, 256)]
            data[place:place] = piece * random.randint(1, 20)
        else:
            length = min(random.randint(1, 256), len(data) - place)
            data[place : place + length] = bytes([random.choice((0, 255))]) * length


def mutate(good: dict[str, bytes], random: Random) -> tuple[str, bytes]:
    """Return the name of a good file, and its bytes after one to three kinds of damage."""
    name = random.choice(sorted(good))
    data = bytearray(good[name])
    if random.random() < 0.1:
        # The head of one format, the body of another.
        other = good[random.choice(sorted(good))]
        cut = random.randrange(min(len(data), len(other)))
        data = bytearray(data[:cut] + other[cut:])
    for kind in random.choices(DAMAGE, k=random.randint(1, 3)):
        if data:
            damage(data, kind, random)
    return name, bytes(data)


def bombs() -> dict[str, bytes]:
    """Small files that claim a lot."""
    jpeg = bytearray(good_pictures()["rgb.jpg"])
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    gif = bytearray(good_pictures()["animated.gif"])
    gif[6:10] = b"\xff\xff\xff\xff"
    comment = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 1))
    return {
        "huge.png": png(60_000, 60_000, b""),
        "vast.jpg": bytes(jpeg),
        "wide.gif": bytes(gif),
        "text.png": png(8, 8, bytes(9) * 8, extra=comment),
    }


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, kind: int = 0, extra: bytes = b""
) -> bytes:
    """A PNG with these rows, each after its filter's number, and an extra chunk before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows, 1))
    body = png_chunk(b"IHDR", header) + extra + pixels + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hostile_files(good: dict[str, bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """Give names, all different, and bytes; some have an odd name or a wrong ending."""
    for number in range(count):
        random = Random(number)
        name, data = mutate(good, random)
        ending = Path(name).suffix
        if ending in ENDINGS and random.random() < 0.1:
            ending = random.choice(ENDINGS)
        stem = random.choice(ODD_NAMES) if random.random() < 0.1 else "{}"
        yield stem.format(f"-{number}{ending}"), data
