"""Label maps: pictures whose values are classes, read from files and drawn in the classes' colours.

A label map is (height, width), uint8: label k is the k-th class, VOID does not count.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from amd_seg.classes import VOID, VOID_COLOUR, Classes, rgb, standard_colour
from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import some, write_atomically
from amd_seg.media.images import Pixels, load, opened
from amd_seg.media.render import require_same_size

Labels = NDArray[np.uint8]

TINT_SHARE = 0.55  # of the class's colour in an overlay; the rest is the photo


def read_labels(path: Path, classes: Classes, *, by_colour: bool = False) -> Labels:
    """Read a label map: an indexed or a grey picture of 8 bits whose values are the labels.

    With `by_colour` it is an RGB picture in the colours of the classes, void in VOC's (#e0e0c0).
    """
    with opened(path) as image:
        load(image, str(path))
    if by_colour:
        digits = np.array((1 << 16, 1 << 8, 1))  # a colour as one number, 0xrrggbb
        found, places = np.unique(np.asarray(image.convert("RGB")) @ digits, return_inverse=True)
        label_of = {int(rgb(VOID_COLOUR) @ digits): VOID}
        label_of |= {int(colour @ digits): k for k, colour in enumerate(classes.palette)}
        if others := [f"#{colour:06x}" for colour in found.tolist() if colour not in label_of]:
            raise InputError(
                f"{path} has {len(others)} colours that no class has: {some(others)}. Write each "
                "class's colour behind its name in the list of classes, as in: dog #400080."
            )
        coloured = np.array([label_of[colour] for colour in found.tolist()], np.uint8)
        return coloured[places].reshape(image.height, image.width)
    if image.mode not in ("P", "L", "1"):
        raise InputError(
            f"{path} is a picture of mode {image.mode}, which holds no labels. Save it as an "
            "indexed PNG, or as grey with 8 bits. If its colours are those of the classes, give "
            "--coloured-masks."
        )
    labels = np.asarray(image).astype(np.uint8)
    if unknown := [int(v) for v in np.unique(labels) if v >= len(classes) and v != VOID]:
        raise InputError(
            f"{path} has labels beyond the {len(classes)} classes (0 to {len(classes) - 1}, {VOID} "
            f"is void): {some(unknown)}. Name as many classes as the masks have, the first for 0."
        )
    return labels


def colours_of_others(path: Path, labels: Iterable[int], classes: Classes) -> dict[int, int]:
    """Return label -> other label where a picture's palette shows one in the other's colour."""
    with opened(path) as image:
        palette = image.getpalette() or []
    of: dict[tuple[int, ...], int] = {colour: k for k, colour in enumerate(classes.palette)}
    shown = ((label, of.get(tuple(palette[3 * label : 3 * label + 3]))) for label in labels)
    return {label: other for label, other in shown if other not in (None, label)}


def indexed_image(labels: Labels, classes: Classes) -> Image.Image:
    """Return a label map as an indexed picture in the classes' colours, void in VOC's."""
    colours = [*classes.palette]
    colours += [rgb(standard_colour(label)) for label in range(len(colours), 256)]
    image = Image.fromarray(labels)
    image.putpalette(bytes(value for colour in colours for value in colour))
    return image


def save_labels(labels: Labels, path: Path, classes: Classes) -> None:
    """Write a label map as `write_labels` does, whole or not at all."""
    if path.suffix.lower() != ".png":
        raise MediaError(f"Cannot write {path}: labels are written as indexed .png files only.")
    write_atomically(path, lambda stream: write_labels(labels, stream, classes))


def write_labels(labels: Labels, stream: BinaryIO, classes: Classes) -> None:
    """Write a label map as a PNG in the classes' colours; its text "classes" has their names."""
    names = PngInfo()
    names.add_itxt("classes", "\n".join(f"{k} {name}" for k, name in enumerate(classes.names)))
    indexed_image(labels, classes).save(stream, "PNG", pnginfo=names, compress_level=6)


def render_labels_overlay(pixels: Pixels, labels: Labels, classes: Classes) -> Image.Image:
    """Return the photo tinted in the classes' colours, outlined, with a legend of their names.

    The class "background" and void stay as they are.
    """
    from PIL import ImageDraw, ImageFont  # a photo of one object needs no letters

    require_same_size(pixels, labels)
    picture = pixels.copy()
    present = [int(label) for label in np.unique(labels) if label < len(classes)]
    present = [label for label in present if classes.names[label] != "background"]
    # Where a pixel differs from its neighbour to the right or below.
    outline = np.zeros(labels.shape, np.bool_)
    outline[:, :-1] = labels[:, :-1] != labels[:, 1:]
    outline[:-1] |= labels[:-1] != labels[1:]
    for label in present:
        inside, colour = labels == label, np.array(classes.palette[label], np.float32)
        picture[inside] = np.rint((1 - TINT_SHARE) * picture[inside] + TINT_SHARE * colour)
        picture[inside & outline] = colour
    image = Image.fromarray(picture)
    # The names on a light strip at the top left, each behind a patch of its colour.
    size = max(10, math.ceil(min(image.size) / 28))
    font = ImageFont.load_default(size)
    pen = ImageDraw.Draw(image)
    line, gap = round(1.4 * size), size // 3
    for row, label in enumerate(present):
        top, name = row * line, classes.names[label]
        width = 3 * gap + size + math.ceil(pen.textlength(name, font))
        pen.rectangle((0, top, width, top + line - 1), fill=(245, 245, 245))
        patch = (gap, top + gap, gap + size - 1, top + line - gap)
        pen.rectangle(patch, fill=classes.palette[label])
        pen.text((2 * gap + size, top + line // 2), name, (0, 0, 0), font, anchor="lm")
    return image
