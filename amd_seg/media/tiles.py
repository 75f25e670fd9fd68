"""Pictures side by side: columns under headings, a caption below each picture."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

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


def _fitted(text: str, pen: ImageDraw.ImageDraw) -> str:
    # The font that comes with Pillow has no more letters than these for sure.
    text = text.encode("ascii", "replace").decode()
    if pen.textlength(text) <= TILE:
        return text
    while pen.textlength(f"..{text}") > TILE:
        text = text[1:]
    return f"..{text}"
