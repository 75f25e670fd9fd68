"""Pictures of a result: mask, saliency, cutout, overlay, regions, and sheets of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageFilter, ImageOps

from amd_seg.errors import InputError
from amd_seg.media.images import BLOCK_PIXELS, Pixels, read_image, row_blocks

if TYPE_CHECKING:
    from PIL import ImageDraw

# Masks and saliency


def render_mask(mask: NDArray[np.bool_]) -> Image.Image:
    """Return (height, width) bool as a grey image: 255 on the object, 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def render_saliency(saliency: NDArray[np.float32]) -> Image.Image:
    """Return (height, width) saliency in 0..1 as a grey image, 0..255; it is never stretched."""
    grey = np.empty(saliency.shape, np.uint8)
    for rows in row_blocks(*saliency.shape):
        # Upsampling may leave 0..1 by a rounding error.
        grey[rows] = np.rint(np.clip(saliency[rows], 0, 1) * 255)
    return Image.fromarray(grey)


# Cutouts

WORK_EDGE = 256
"""Short edge, in pixels, at which the colours on both sides of an edge are estimated. They change
slowly, so this serves photos of any size."""

REACHES = (32, 8)
"""Reach of the two blurs, in pixels of that size: far for broad edges, then near."""

SHARPNESS = 4
"""Power of alpha that weights a pixel. The source has 1, which serves the narrow edges of a matte.
On an edge of a tenth of the picture 1 leaves a third of the halo, and 4 a tenth."""

# Keeps a window without any of the object, or of the background, from dividing by 0.
_LEAST = 1e-8

_Values: TypeAlias = NDArray[np.float32]


def otsu_threshold(saliency: NDArray[np.float32]) -> float:
    """Return the level that splits the histogram of `saliency` best, by Otsu's rule.

    Args:
        saliency: any shape, 0..1.

    Returns:
        An edge between two of 256 equal bins over 0..1; 0.5 where all values share one bin.

    Source: N. Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    counts, edges = np.histogram(saliency, bins=256, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = saliency.size - below
    mass_below = np.cumsum(counts * centres)[:-1]
    mass_above = (counts * centres).sum() - mass_below
    gap = mass_below / np.maximum(below, 1) - mass_above / np.maximum(above, 1)
    # As float64: the product of two counts of a large photo does not fit an int64's square.
    between = below.astype(np.float64) * above * gap**2
    best = np.flatnonzero(between == between.max())
    # Every edge of an empty stretch splits alike: its middle is the fair one.
    return float(edges[best[len(best) // 2] + 1]) if between.max() > 0 else 0.5


def opacity(saliency: NDArray[np.float32], threshold: float) -> Pixels:
    """Return an alpha, 0..255, that is soft where the saliency is near the threshold.

    Args:
        saliency: (height, width), 0..1.
        threshold: 0..1.

    Returns:
        (height, width), uint8: 2 * saliency - threshold, cut off at 0 and at 255.
    """
    alpha = np.empty(saliency.shape, np.uint8)
    for rows in row_blocks(*saliency.shape):
        alpha[rows] = np.rint(np.clip(2 * saliency[rows] - threshold, 0, 1) * 255)
    return alpha


def render_cutout(pixels: Pixels, alpha: Pixels) -> Image.Image:
    """Return the photo with an alpha, its edge freed of the background's colours.

    What alpha hides altogether is zero, so that no background travels along unseen.

    Args:
        pixels: (height, width, 3), RGB.
        alpha: (height, width), 0..255.

    Returns:
        An image of mode "RGBA".

    Raises:
        InputError: the two differ in size.
    """
    _require_same_size(pixels, alpha)
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    rgba[..., 3] = alpha
    for rows, colours in foreground_blocks(pixels, alpha):
        np.multiply(colours, alpha[rows, :, np.newaxis] > 0, out=rgba[rows, :, :3])
    return Image.fromarray(rgba)


def foreground_blocks(pixels: Pixels, alpha: Pixels) -> Iterator[tuple[slice, Pixels]]:
    """Yield the colours of the object alone, which leave no halo on another background.

    A pixel of a soft edge shows alpha of the object and 1 - alpha of the background. Both are
    estimated by averages of the neighbourhood, weighted by alpha and by its complement; the
    object's is corrected by what the two leave unexplained. An opaque pixel keeps its colour.

    Args:
        pixels: (height, width, 3), RGB.
        alpha: (height, width), 0..255.

    Yields:
        Some rows, and their colours (row, width, 3), RGB: what a large photo costs stays small.

    Source: Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021: blur fusion, twice.
    """
    height, width = alpha.shape
    factor = max(1, min(height, width) // WORK_EDGE)
    object_, background = _estimate_both(_reduced(pixels, factor), _reduced(alpha, factor))
    for rows in row_blocks(height, width):
        colours = pixels[rows].copy()
        is_soft = (alpha[rows] > 0) & (alpha[rows] < 255)
        if is_soft.any():
            near = _enlarged(object_, rows, width, factor)[is_soft]
            behind = _enlarged(background, rows, width, factor)[is_soft]
            seen, share = colours[is_soft].astype(np.float32), _shares(alpha[rows][is_soft])
            colours[is_soft] = np.rint(_fused(seen, share, near, behind))
        yield rows, colours


def _estimate_both(pixels: Pixels, alpha: Pixels) -> tuple[Image.Image, Image.Image]:
    """Return the smooth colours of the object and of the background around each pixel."""
    seen = pixels.astype(np.float32)
    share = _shares(alpha)
    object_ = background = seen
    for reach in REACHES:
        near = _weighted_mean(object_, share, reach)
        background = _weighted_mean(background, 1 - share, reach)
        object_ = _fused(seen, share, near, background)
    return _picture(near), _picture(background)


def _fused(
    seen: _Values, share: _Values, near: _Values | Pixels, behind: _Values | Pixels
) -> _Values:
    """Correct the object's smooth colour `near` by what it and `behind` do not explain."""
    fused: _Values = near + share * (seen - share * near - (1 - share) * behind)
    return np.clip(fused, 0, 255, out=fused)


def _shares(alpha: Pixels) -> _Values:
    return alpha[..., np.newaxis].astype(np.float32) / np.float32(255)


def _weighted_mean(values: _Values, weights: _Values, reach: int) -> _Values:
    sharp = weights**SHARPNESS
    return _window_sum(values * sharp, reach) / (_window_sum(sharp, reach) + _LEAST)


def _window_sum(values: _Values, reach: int) -> _Values:
    """Return the sums over squares of 2 * reach + 1 pixels, cut off at the border."""
    # Rows first; then, turned over, columns; the second turn puts the values upright again.
    for _ in range(2):
        length = len(values)
        sums = np.concatenate((np.zeros_like(values[:1], np.float64), values.cumsum(0, np.float64)))
        places = np.arange(length)
        last, first = np.minimum(places + reach + 1, length), np.maximum(places - reach, 0)
        values = (sums[last] - sums[first]).astype(np.float32).swapaxes(0, 1)
    return values


def _reduced(values: Pixels, factor: int) -> Pixels:
    """Average squares of factor x factor pixels; those at the border may be cut off."""
    step = factor * max(1, BLOCK_PIXELS // (factor * values.shape[1]))
    blocks = (values[top : top + step] for top in range(0, len(values), step))
    return np.concatenate([np.asarray(Image.fromarray(block).reduce(factor)) for block in blocks])


def _picture(values: _Values) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _enlarged(picture: Image.Image, rows: slice, width: int, factor: int) -> Pixels:
    """Return some rows of a reduced picture at the full size."""
    box = (0, rows.start / factor, width / factor, rows.stop / factor)
    size = (width, rows.stop - rows.start)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box))


# Behind a cutout

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
    if os.path.isfile(spec):
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


# Overlays and regions

# Colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), ordered so that the first five are
# those that differ most, for common and for dichromatic eyes. Their black is left out: on a photo
# it reads as shadow.
_OKABE_ITO = (
    (230, 159, 0),  # orange
    (0, 114, 178),  # blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)

TINT = (0, 114, 178)
"""Blue over the object in an overlay."""

CONTOUR = (240, 228, 66)
"""Yellow along its edge: far from the tint in lightness, so the line shows on any photo."""

TINT_SHARE = 0.45


def render_overlay(pixels: Pixels, mask: NDArray[np.bool_]) -> Image.Image:
    """Return the photo with the object tinted and its edge drawn; other pixels are as they were.

    The line runs inside the object, about 1/250 of the short edge wide, and not along the border
    of the picture.

    Args:
        pixels: (height, width, 3), RGB.
        mask: (height, width), bool.

    Returns:
        An image of mode "RGB".

    Raises:
        InputError: the two differ in size.
    """
    _require_same_size(pixels, mask)
    line = mask & ~_eroded(mask, max(1, round(min(mask.shape) / 250)))
    picture = np.empty_like(pixels)
    values = np.arange(256)
    for channel in range(3):
        tinted = np.rint((1 - TINT_SHARE) * values + TINT_SHARE * TINT[channel]).astype(np.uint8)
        plane = pixels[..., channel]
        picture[..., channel] = np.where(mask, tinted[plane], plane)
        picture[..., channel][line] = CONTOUR[channel]
    return Image.fromarray(picture)


def _eroded(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Keep the pixels whose square of 2 * reach + 1 lies in the mask; outside counts as in."""
    import cv2

    side = 2 * reach + 1
    # On 12 megapixels 0.03 s; Pillow's MinFilter looks at every pixel of the square and takes 14 s.
    square = np.ones((side, side), np.uint8)
    eroded: NDArray[np.uint8] = cv2.erode(mask.astype(np.uint8), square)
    return eroded.astype(np.bool_)


def render_regions(pixels: Pixels | None, regions: NDArray[np.float32]) -> Image.Image:
    """Return a picture with each pixel in the colour of the region that it belongs to most.

    Args:
        pixels: (height, width, 3), RGB, shown through in grey; None for the plain colours.
        regions: (region, height, width), 0..1.

    Returns:
        An image of mode "RGB".

    Raises:
        InputError: the two differ in size.
    """
    count, height, width = regions.shape
    if pixels is not None:
        _require_same_size(pixels, regions[0])
    palette = region_palette(count) if pixels is None else region_palette(count) // 2
    picture = np.empty((height, width, 3), np.uint8)
    for rows in row_blocks(height, width):
        picture[rows] = np.take(palette, _strongest(regions[:, rows]), axis=0)
        if pixels is not None:
            grey = np.asarray(Image.fromarray(pixels[rows]).convert("L"))
            picture[rows] += grey[..., np.newaxis] // 2
    return Image.fromarray(picture)


def region_palette(count: int) -> Pixels:
    """Return (count, 3) RGB colours, distinct up to 64, safe for colour-blind eyes up to seven.

    Beyond seven they come again, lighter and darker by turns.
    """
    colours = np.empty((count, 3), np.uint8)
    for region in range(count):
        turn, place = divmod(region, len(_OKABE_ITO))
        towards = 255 if turn % 2 else 0
        share = (turn + 1) // 2 / 6
        colour = np.array(_OKABE_ITO[place])
        colours[region] = np.rint(colour + share * (towards - colour))
    return colours


def _strongest(regions: NDArray[np.float32]) -> Pixels:
    """Return the index of the largest value along the first axis, the first where some are equal.

    A running maximum is faster than argmax, which strides over the long axes.
    """
    labels = np.zeros(regions.shape[1:], np.uint8)
    highest = regions[0]
    for index, region in enumerate(regions[1:], start=1):
        labels[region > highest] = index
        highest = np.maximum(highest, region)
    return labels


def _require_same_size(pixels: Pixels, values: NDArray[Any]) -> None:
    if pixels.shape != (*values.shape, 3):
        raise InputError(
            f"Cannot draw a map of shape {values.shape} on pixels of shape {pixels.shape}. "
            "Give both at one size: (height, width) and (height, width, 3)."
        )


# Sheets

TILE = 192
"""Width of a picture, in pixels."""
GAP = 4
LINE = 14
"""Height of a line of text."""


class Tile(NamedTuple):
    """One picture and what is written below it."""

    picture: Image.Image
    caption: str = ""


def tiled(headings: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Lay out rows of tiles, one a heading; all take the shape of the first picture.

    A caption too long for its tile keeps its end, where frame numbers are.

    Returns:
        An image of mode "RGB".
    """
    from PIL import ImageDraw  # a photo needs no letters

    first = rows[0][0].picture
    width, height = TILE + GAP, round(TILE * first.height / first.width) + LINE + GAP
    size = (GAP + len(headings) * width, LINE + GAP + len(rows) * height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for x, heading in enumerate(headings):
        pen.text((GAP + x * width, 2), _fitted(heading, pen), fill="black")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            left, top = GAP + x * width, LINE + GAP + y * height
            picture = tile.picture.convert("RGB").resize((TILE, height - LINE - GAP))
            sheet.paste(picture, (left, top))
            pen.text((left, top + picture.height + 1), _fitted(tile.caption, pen), fill="dimgrey")
    return sheet


def _fitted(text: str, pen: "ImageDraw.ImageDraw") -> str:
    # The font that comes with Pillow has no more letters than these for sure.
    text = text.encode("ascii", "replace").decode()
    if pen.textlength(text) <= TILE:
        return text
    while pen.textlength(f"..{text}") > TILE:
        text = text[1:]
    return f"..{text}"
