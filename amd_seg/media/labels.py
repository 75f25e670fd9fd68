"""Label maps: pictures whose values are classes, read from files and drawn in the classes' colours.

A label map is (height, width), uint8: label k is the k-th class, VOID does not count.
"""

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from amd_seg.classes import VOID, VOID_COLOUR, Classes, rgb, standard_colour
from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import some, write_atomically
from amd_seg.media.images import Pixels, load, opened

Labels = NDArray[np.uint8]

TINT_SHARE = 0.55
"""Share of the class's colour in an overlay, the rest is the photo."""

BACKGROUND = "background"
"""The class of this name is left untinted in an overlay, and out of its legend."""


def read_labels(path: Path, classes: Classes, *, by_colour: bool = False) -> Labels:
    """Read a label map: an indexed or a grey picture of 8 bits whose values are the labels.

    Args:
        path: the file.
        classes: what the labels may be, VOID besides.
        by_colour: the file is an RGB picture in the colours of the classes; VOC's colour of void
            (#e0e0c0) is void.

    Returns:
        (height, width), uint8.

    Raises:
        MediaError: the file cannot be read.
        InputError: it holds no labels, or labels or colours that no class has; all are named.
    """
    with opened(path) as image:
        load(image, str(path))
    if by_colour:
        return _from_colours(np.asarray(image.convert("RGB")), path, classes)
    if image.mode not in ("P", "L", "1"):
        raise InputError(_not_labels(path, image.mode))
    labels = np.asarray(image).astype(np.uint8)
    unknown = [int(v) for v in np.unique(labels) if v >= len(classes) and v != VOID]
    if unknown:
        raise InputError(
            f"{path} has labels beyond the {len(classes)} classes (0 to {len(classes) - 1}, {VOID} "
            f"is void): {some(unknown)}. Name as many classes as the masks have, the first for 0."
        )
    return labels


def colours_of_others(path: Path, labels: Iterable[int], classes: Classes) -> dict[int, int]:
    """Return the labels that an indexed picture's palette shows in another class's colour.

    Args:
        path: the file; only its palette is read.
        labels: those in question.
        classes: whose colours count.

    Returns:
        Label -> the other class's; empty for a grey picture, and where colours are no class's.

    Raises:
        MediaError: the file cannot be read.
    """
    with opened(path) as image:
        palette = image.getpalette() or []
    own = {label: tuple(palette[3 * label : 3 * label + 3]) for label in labels}
    by_colour = {colour: label for label, colour in enumerate(classes.palette)}
    others = {label: by_colour[colour] for label, colour in own.items() if colour in by_colour}
    return {label: other for label, other in others.items() if label != other}


def indexed_image(labels: Labels, classes: Classes) -> Image.Image:
    """Return a label map as an indexed picture in the classes' colours, void in VOC's."""
    image = Image.fromarray(labels)
    image.putpalette(_palette(classes))
    return image


def save_labels(labels: Labels, path: Path, classes: Classes) -> None:
    """Write a label map as an indexed PNG, whole or not at all.

    Its palette has the classes' colours, and its text "classes" their names, a line each.

    Raises:
        MediaError: the ending is not .png, or the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise MediaError(f"Cannot write {path}: labels are written as indexed .png files only.")
    image, options = indexed_image(labels, classes), png_options(classes)
    write_atomically(path, lambda stream: image.save(stream, "PNG", **options))


def png_options(classes: Classes) -> dict[str, Any]:
    """Return Pillow's options for a PNG of labels: their names travel with it."""
    names = PngInfo()
    lines = (f"{label} {name}" for label, name in enumerate(classes.names))
    names.add_itxt("classes", "\n".join(lines))
    return {"pnginfo": names, "compress_level": 6}


def render_labels_overlay(pixels: Pixels, labels: Labels, classes: Classes) -> Image.Image:
    """Return the photo tinted in the classes' colours, outlined, with a legend of their names.

    Args:
        pixels: (height, width, 3), RGB.
        labels: (height, width).
        classes: what the labels are; "background" and void stay as they are.

    Returns:
        An image of mode "RGB".

    Raises:
        InputError: the two differ in size.
    """
    if pixels.shape != (*labels.shape, 3):
        raise InputError(
            f"Cannot draw labels of shape {labels.shape} on pixels of shape {pixels.shape}. "
            "Give both at one size: (height, width) and (height, width, 3)."
        )
    picture = pixels.copy()
    colours = np.array([*classes.palette], np.float32)
    present = [int(label) for label in np.unique(labels) if label < len(classes)]
    present = [label for label in present if classes.names[label] != BACKGROUND]
    outline = _outline(labels)
    for label in present:
        inside = labels == label
        mixed = (1 - TINT_SHARE) * picture[inside] + TINT_SHARE * colours[label]
        picture[inside] = np.rint(mixed)
        picture[inside & outline] = colours[label]
    image = Image.fromarray(picture)
    _draw_legend(image, [(classes.names[label], classes.palette[label]) for label in present])
    return image


def _from_colours(pixels: Pixels, path: Path, classes: Classes) -> Labels:
    found, places = np.unique(_as_numbers(pixels), return_inverse=True)
    known = {_number(colour): label for label, colour in enumerate(classes.palette)}
    known.setdefault(_number(rgb(VOID_COLOUR)), VOID)
    unknown = [f"#{colour:06x}" for colour in found.tolist() if colour not in known]
    if unknown:
        raise InputError(
            f"{path} has {len(unknown)} colours that no class has: {some(unknown)}. Write each "
            "class's colour behind its name in the list of classes, as in: dog #400080."
        )
    labels = np.array([known[colour] for colour in found.tolist()], np.uint8)
    return labels[places].reshape(pixels.shape[:2])


def _as_numbers(pixels: Pixels) -> NDArray[np.int64]:
    wide = pixels.astype(np.int64)
    numbers: NDArray[np.int64] = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return numbers


def _number(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _not_labels(path: Path, mode: str) -> str:
    if mode in ("RGB", "RGBA"):
        return (
            f"{path} is a coloured picture, and labels are the values of an indexed one. If its "
            "colours are those of the classes, give --coloured-masks."
        )
    return (
        f"{path} is a picture of mode {mode}, which holds no labels. Save it as an indexed PNG, or "
        "as grey with 8 bits."
    )


@cache
def _palette(classes: Classes) -> bytes:
    colours = [*classes.palette]
    colours += [rgb(standard_colour(label)) for label in range(len(colours), 256)]
    return bytes(value for colour in colours for value in colour)


def _outline(labels: Labels) -> NDArray[np.bool_]:
    """Return where a pixel differs from its neighbour to the right or below."""
    outline = np.zeros(labels.shape, np.bool_)
    outline[:, :-1] = labels[:, :-1] != labels[:, 1:]
    outline[:-1] |= labels[:-1] != labels[1:]
    return outline


def _draw_legend(image: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]) -> None:
    """Write the names on a light strip at the top left, each behind a patch of its colour."""
    from PIL import ImageDraw, ImageFont  # a photo of one object needs no letters

    size = max(10, math.ceil(min(image.size) / 28))
    font = ImageFont.load_default(size)
    canvas = ImageDraw.Draw(image)
    line, gap = round(1.4 * size), size // 3
    for row, (name, colour) in enumerate(entries):
        top = row * line
        width = 3 * gap + size + math.ceil(canvas.textlength(name, font))
        canvas.rectangle((0, top, width, top + line - 1), fill=(245, 245, 245))
        canvas.rectangle((gap, top + gap, gap + size - 1, top + line - gap), fill=colour)
        canvas.text((2 * gap + size, top + line // 2), name, (0, 0, 0), font, anchor="lm")
