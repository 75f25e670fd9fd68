"""Pictures of a result: mask, saliency, cutout, overlay, regions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError
from amd_seg.media.foreground import foreground_blocks
from amd_seg.media.pixels import Pixels, row_blocks

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


def render_mask(mask: NDArray[np.bool_]) -> Image.Image:
    """Return (height, width) bool as a grey image: 255 on the object, 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def render_saliency(saliency: NDArray[np.float32]) -> Image.Image:
    """Return (height, width) saliency in 0..1 as a grey image, 0..255; it is never stretched."""
    return Image.fromarray(_to_bytes(saliency))


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


def render_cutout(pixels: Pixels, alpha: Pixels, *, keep_rgb: bool = False) -> Image.Image:
    """Return the photo with an alpha, its edge freed of the background's colours.

    What alpha hides altogether is zero, so that no background travels along unseen.

    Args:
        pixels: (height, width, 3), RGB.
        alpha: (height, width), 0..255.
        keep_rgb: leave all colours as they are in the photo, hidden ones too.

    Returns:
        An image of mode "RGBA".

    Raises:
        InputError: the two differ in size.
    """
    _require_same_size(pixels, alpha)
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    rgba[..., 3] = alpha
    if keep_rgb:
        rgba[..., :3] = pixels
        return Image.fromarray(rgba)
    for rows, colours in foreground_blocks(pixels, alpha):
        np.multiply(colours, alpha[rows, :, np.newaxis] > 0, out=rgba[rows, :, :3])
    return Image.fromarray(rgba)


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
    line = mask & ~_erode(mask, max(1, round(min(mask.shape) / 250)))
    picture = np.empty_like(pixels)
    values = np.arange(256)
    for channel in range(3):
        tinted = np.rint((1 - TINT_SHARE) * values + TINT_SHARE * TINT[channel]).astype(np.uint8)
        plane = pixels[..., channel]
        picture[..., channel] = np.where(mask, tinted[plane], plane)
        picture[..., channel][line] = CONTOUR[channel]
    return Image.fromarray(picture)


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


def _to_bytes(saliency: NDArray[np.float32]) -> Pixels:
    grey = np.empty(saliency.shape, np.uint8)
    for rows in row_blocks(*saliency.shape):
        # Upsampling may leave 0..1 by a rounding error.
        grey[rows] = np.rint(np.clip(saliency[rows], 0, 1) * 255)
    return grey


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


def _erode(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Keep the pixels whose square of 2 * reach + 1 lies in the mask; outside counts as in."""
    window = 2 * reach + 1
    # Rows first; then, turned over, columns; the second turn puts the mask upright again.
    for _ in range(2):
        runs = np.pad(mask, ((reach, reach), (0, 0)), constant_values=True)
        covered = 1
        # Doubling what a place has seen takes log2(window) passes instead of `window`.
        while covered < window:
            step = min(covered, window - covered)
            runs = runs[:-step] & runs[step:]
            covered += step
        mask = runs.T
    return mask


def _require_same_size(pixels: Pixels, values: NDArray[Any]) -> None:
    if pixels.shape != (*values.shape, 3):
        raise InputError(
            f"Cannot draw a map of shape {values.shape} on pixels of shape {pixels.shape}. "
            "Give both at one size: (height, width) and (height, width, 3)."
        )
