"""What stands behind a cutout: a colour, a picture, or its own surroundings, blurred."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageColor, ImageFilter, ImageOps

from amd_seg.errors import InputError
from amd_seg.media.images import read_image
from amd_seg.media.pixels import Pixels

Background: TypeAlias = Callable[[Pixels, Image.Image], Image.Image]
"""From a frame and the object's alpha, of mode "L", to what is behind, of mode "RGB"."""

BLUR = "blur"

# Of the short edge: a face as high as the frame is not known any more.
_BLUR_RADIUS = 1 / 25

# Longest short edge, in pixels, at which the blur is computed: it holds no more detail.
_BLUR_EDGE = 160


def open_background(spec: str | os.PathLike[str], width: int, height: int) -> Background:
    """Return the background that `spec` names, for frames of one size.

    Args:
        spec: "blur", a colour as CSS writes it ("white", "#00ff00", "rgb(0,255,0)"), or the path
            of a picture, which is scaled and cropped to fill the frame.
        width, height: of the frames, in pixels.

    Raises:
        InputError: it is none of these.
        MediaError: the picture cannot be read.
    """
    if spec == BLUR:
        return _blurred
    if Path(spec).is_file():
        photo = Image.fromarray(read_image(spec).pixels)
        picture = ImageOps.fit(photo, (width, height), Image.Resampling.BICUBIC)
        return lambda pixels, alpha: picture
    try:
        plain = Image.new("RGB", (width, height), ImageColor.getrgb(os.fspath(spec))[:3])
    except ValueError as cause:
        raise InputError(
            f"Unknown background {os.fspath(spec)!r}. Give {BLUR}, a colour such as white or "
            "#00ff00, or the path of a picture."
        ) from cause
    return lambda pixels, alpha: plain


def render_on(pixels: Pixels, cutout: Image.Image, background: Background) -> Image.Image:
    """Return a cutout on a background, as an image of mode "RGB".

    Args:
        pixels: (height, width, 3), RGB, of the frame that the cutout is of.
        cutout: of mode "RGBA".
        background: for frames of this size.
    """
    alpha = cutout.getchannel("A")
    return Image.composite(cutout.convert("RGB"), background(pixels, alpha), alpha)


def _blurred(pixels: Pixels, alpha: Image.Image) -> Image.Image:
    """Blur what is around the object; the object's own colours do not spill into it."""
    # Never 0, or the inside of a large object would be left without any colour.
    surroundings = np.maximum(255 - np.asarray(alpha), 8)
    frame = Image.fromarray(np.dstack((pixels, surroundings)))
    small = frame.reduce(max(1, min(frame.size) // _BLUR_EDGE))
    radius = min(small.size) * _BLUR_RADIUS
    # With colours multiplied by alpha, blurring is a mean weighted by it.
    soft = small.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
    return soft.convert("RGB").resize(frame.size, Image.Resampling.BICUBIC)
