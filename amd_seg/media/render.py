"""Pictures of a result: mask, saliency, cutout, overlay, regions, and sheets of them."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageFilter, ImageOps

from amd_seg.errors import InputError
from amd_seg.media.images import BLOCK_PIXELS, Pixels, read_image, row_blocks

_Values: TypeAlias = NDArray[np.float32]


def require_same_size(pixels: Pixels, values: NDArray[Any]) -> None:
    """Raise InputError where a map does not fit the (height, width, 3) pixels below it."""
    if pixels.shape != (*values.shape, 3):
        raise InputError(
            f"Cannot draw a map of shape {values.shape} on pixels of shape {pixels.shape}. "
            "Give both at one size: (height, width) and (height, width, 3)."
        )


# Masks and saliency


def render_mask(mask: NDArray[np.bool_]) -> Image.Image:
    """Return (height, width) bool as a grey image: 255 on the object, 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def render_saliency(saliency: _Values) -> Image.Image:
    """Return (height, width) saliency in 0..1 as a grey image, 0..255; it is never stretched."""
    return Image.fromarray(_bytes(saliency, 1, 0))


def opacity(saliency: _Values, threshold: float) -> Pixels:
    """Return an alpha, 0..255, that is soft near the threshold: 2 * saliency - threshold."""
    return _bytes(saliency, 2, threshold)


def _bytes(values: _Values, factor: float, less: float) -> Pixels:
    scaled = np.empty(values.shape, np.uint8)
    for rows in row_blocks(*values.shape):
        # Upsampling may leave 0..1 by a rounding error.
        scaled[rows] = np.rint(np.clip(factor * values[rows] - less, 0, 1) * 255)
    return scaled


def otsu_threshold(saliency: _Values) -> float:
    """Return the level that splits `saliency` best, by Otsu's rule: an edge of 256 equal bins.

    It is 0.5 where all values share one bin.

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


# Cutouts

# Short edge, in pixels, at which colours beside an edge are estimated: they change slowly.
WORK_EDGE = 256
REACHES = (32, 8)  # of the two blurs, in pixels of that size: far for broad edges, then near
# Power of alpha that weights a pixel. The source has 1, for the narrow edges of a matte. On an edge
# of a tenth of the picture 1 leaves a third of the halo, and 4 a tenth.
SHARPNESS = 4


def render_cutout(pixels: Pixels, alpha: Pixels) -> Image.Image:
    """Return RGB pixels with an alpha, 0..255, the soft edge freed of the background's colours.

    A pixel of the edge shows alpha of the object and 1 - alpha of the background. Both colours are
    averages of the neighbourhood, weighted by alpha and by its complement; the object's is then
    corrected by what the two leave unexplained. What alpha hides altogether is zero, so that no
    background travels along unseen.

    Source: Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021: blur fusion, twice.
    """
    require_same_size(pixels, alpha)
    height, width = alpha.shape
    factor = max(1, min(height, width) // WORK_EDGE)
    seen, share = _reduced(pixels, factor).astype(np.float32), _shares(_reduced(alpha, factor))
    object_ = background = seen
    for reach in REACHES:
        near = _weighted_mean(object_, share, reach)
        background = _weighted_mean(background, 1 - share, reach)
        object_ = _corrected(near, background, seen, share)
    smooth = [Image.fromarray(np.rint(v).astype(np.uint8)) for v in (near, background)]
    rgba = np.dstack((pixels, alpha))
    for rows in row_blocks(height, width):
        colours, opaque = rgba[rows, :, :3], alpha[rows]
        colours[opaque == 0] = 0
        is_soft = (opaque > 0) & (opaque < 255)
        if is_soft.any():
            size = (width, rows.stop - rows.start)
            box = (0, rows.start / factor, width / factor, rows.stop / factor)
            both = (image.resize(size, Image.Resampling.BILINEAR, box) for image in smooth)
            near, behind = (np.asarray(image)[is_soft].astype(np.float32) for image in both)
            seen = colours[is_soft].astype(np.float32)
            colours[is_soft] = np.rint(_corrected(near, behind, seen, _shares(opaque[is_soft])))
    return Image.fromarray(rgba)


def _corrected(near: _Values, behind: _Values, seen: _Values, share: _Values) -> _Values:
    """Correct the object's smooth colour `near` by what it and `behind` do not explain."""
    colours: _Values = near + share * (seen - share * near - (1 - share) * behind)
    return colours.clip(0, 255)


def _shares(alpha: Pixels) -> _Values:
    return alpha[..., np.newaxis].astype(np.float32) / np.float32(255)


def _weighted_mean(values: _Values, weights: _Values, reach: int) -> _Values:
    """Return means of (height, width, 3) over squares of 2 * reach + 1 pixels."""
    import cv2

    sharp, side = weights**SHARPNESS, 2 * reach + 1
    sums: _Values = cv2.boxFilter(
        np.dstack((values * sharp, sharp)),
        ddepth=-1,
        ksize=(side, side),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    # The addend serves windows without any of the object, or of the background.
    return sums[..., :3] / (sums[..., 3:] + np.float32(1e-8))


def _reduced(values: Pixels, factor: int) -> Pixels:
    """Average squares of factor x factor pixels; those at the border may be cut off."""
    step = factor * max(1, BLOCK_PIXELS // (factor * values.shape[1]))
    blocks = (values[top : top + step] for top in range(0, len(values), step))
    return np.concatenate([np.asarray(Image.fromarray(block).reduce(factor)) for block in blocks])


# Behind a cutout

# From a frame and the object's alpha, of mode "L", to what is behind, of mode "RGB".
Background: TypeAlias = Callable[[Pixels, Image.Image], Image.Image]


def open_background(spec: str | os.PathLike[str], width: int, height: int) -> Background:
    """Return the background that `spec` names, for frames of one size.

    It is "blur", a colour as CSS writes it ("white", "#00ff00", "rgb(0,255,0)"), or the path of a
    picture, which is scaled and cropped to fill the frame; an InputError where it is none of these.
    """
    if spec == "blur":
        return _blurred
    if os.path.isfile(spec):
        photo = Image.fromarray(read_image(spec).pixels)
        picture = ImageOps.fit(photo, (width, height), Image.Resampling.BICUBIC)
    else:
        try:
            picture = Image.new("RGB", (width, height), ImageColor.getrgb(os.fspath(spec))[:3])
        except ValueError as cause:
            raise InputError(
                f"Unknown background {os.fspath(spec)!r}. Give blur, a colour such as white or "
                "#00ff00, or the path of a picture."
            ) from cause
    return lambda pixels, alpha: picture


def render_on(pixels: Pixels, cutout: Image.Image, background: Background) -> Image.Image:
    """Return the cutout (mode "RGBA") of a frame on a background, as an image of mode "RGB"."""
    alpha = cutout.getchannel("A")
    return Image.composite(cutout.convert("RGB"), background(pixels, alpha), alpha)


def _blurred(pixels: Pixels, alpha: Image.Image) -> Image.Image:
    """Blur what is around the object; the object's own colours do not spill into it."""
    # Never 0, or the inside of a large object would be left without any colour.
    surroundings = np.maximum(255 - np.asarray(alpha), 8)
    frame = Image.fromarray(np.dstack((pixels, surroundings)))
    # A short edge of 160 pixels holds all the detail that is left.
    small = frame.reduce(max(1, min(frame.size) // 160))
    # A face as high as the frame is not known any more.
    radius = min(small.size) / 25
    # With colours multiplied by alpha, blurring is a mean weighted by it.
    soft = small.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
    return soft.convert("RGB").resize(frame.size, Image.Resampling.BICUBIC)


# Overlays and regions

TINT, TINT_SHARE = (0, 114, 178), 0.45  # blue over the object in an overlay
# Yellow along its edge: far from the tint in lightness, so the line shows on any photo.
CONTOUR = (240, 228, 66)

# Colours of Okabe and Ito (https://jfly.uni-koeln.de/color/) but their black, which reads as shadow
# on a photo. The first five are those that differ most, also for colour-blind eyes.
_OKABE_ITO = (
    (230, 159, 0),  # orange
    (0, 114, 178),  # blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)


def render_overlay(pixels: Pixels, mask: NDArray[np.bool_]) -> Image.Image:
    """Return the photo (height, width, 3) with the object tinted and its edge drawn.

    The line runs inside the object, about 1/250 of the short edge wide, and not along the border
    of the picture. Other pixels are as they were.
    """
    import cv2

    require_same_size(pixels, mask)
    side = 2 * max(1, round(min(mask.shape) / 250)) + 1
    # On 12 megapixels 0.03 s; Pillow's MinFilter looks at every pixel of the square and takes 14 s.
    inside = cv2.erode(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    line = mask & (inside == 0)
    tints = (
        round((1 - TINT_SHARE) * value + TINT_SHARE * tint) for tint in TINT for value in range(256)
    )
    picture = Image.fromarray(pixels)
    picture.paste(picture.point([*tints]), mask=Image.fromarray(mask))
    picture.paste(CONTOUR, mask=Image.fromarray(line))
    return picture


def render_regions(pixels: Pixels | None, regions: _Values) -> Image.Image:
    """Return each pixel of `regions` (region, height, width) in the colour of its strongest.

    Pixels (height, width, 3) are shown through in grey.
    """
    count, height, width = regions.shape
    if pixels is not None:
        require_same_size(pixels, regions[0])
    palette = region_palette(count) if pixels is None else region_palette(count) // 2
    picture = np.empty((height, width, 3), np.uint8)
    for rows in row_blocks(height, width):
        # A running maximum is faster than argmax, which strides over the long axes.
        labels, highest = np.zeros(regions[0, rows].shape, np.uint8), regions[0, rows]
        for index, region in enumerate(regions[1:, rows], start=1):
            labels[region > highest] = index
            highest = np.maximum(highest, region)
        picture[rows] = np.take(palette, labels, axis=0)
        if pixels is not None:
            grey = np.asarray(Image.fromarray(pixels[rows]).convert("L"))
            picture[rows] += grey[..., np.newaxis] // 2
    return Image.fromarray(picture)


def region_palette(count: int) -> Pixels:
    """Return (count, 3) RGB colours, distinct up to 64, safe for colour-blind eyes up to seven.

    Beyond seven they come again, lighter and darker by turns.
    """
    turn, place = np.divmod(np.arange(count), len(_OKABE_ITO))
    towards, share = np.where(turn % 2, 255, 0)[:, None], ((turn + 1) // 2 / 6)[:, None]
    colours = np.array(_OKABE_ITO)[place]
    palette: Pixels = np.rint(colours + share * (towards - colours)).astype(np.uint8)
    return palette


# Sheets

TILE, GAP, LINE = 192, 4, 14  # width of a picture, of a gap, height of a line of text, in pixels

Tile: TypeAlias = tuple[Image.Image, str]  # a picture and what is written below it


def tiled(headings: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Lay out rows of tiles, one a heading; all take the shape of the first picture."""
    from PIL import ImageDraw  # a photo needs no letters

    first, _ = rows[0][0]
    width, height = TILE + GAP, round(TILE * first.height / first.width) + LINE + GAP
    size = (GAP + len(headings) * width, LINE + GAP + len(rows) * height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, colour: str) -> None:
        # The font that comes with Pillow has no more letters than these for sure.
        shown = text = text.encode("ascii", "replace").decode()
        # One too long loses its beginning: frame numbers are at the end.
        while pen.textlength(shown) > TILE:
            text = text[1:]
            shown = f"..{text}"
        pen.text((left, top), shown, fill=colour)

    for x, heading in enumerate(headings):
        write(heading, GAP + x * width, 2, "black")
    for y, row in enumerate(rows):
        for x, (picture, caption) in enumerate(row):
            left, top = GAP + x * width, LINE + GAP + y * height
            small = picture.convert("RGB").resize((TILE, height - LINE - GAP))
            sheet.paste(small, (left, top))
            write(caption, left, top + small.height + 1, "dimgrey")
    return sheet
