"""One page about a run: HTML that holds its pictures in itself and asks for nothing else."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from amd_seg.errors import InputError
from amd_seg.media.files import check_target, write_atomically
from amd_seg.media.render import Tile

ENDINGS = (".html", ".htm")

# Whatever a name in it may hold, a browser runs no script here and fetches nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

CURVE_STYLE = """
.curve { width: 100%; max-width: 45rem; height: auto; font: 12px system-ui, sans-serif; }
.curve .grid { stroke: #8884; }
.curve .axis { fill: #888; }
.curve polyline { fill: none; stroke: #0072b2; stroke-width: 2.5; stroke-linejoin: round; }
.curve polyline.raw { stroke-width: 1; opacity: .45; }
.curve circle { fill: #d55e00; }
.curve text.mark { fill: currentColor; }
"""
"""Of what `curve.draw_curve` draws, wherever it stands."""

_STYLE = f"""
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: .15rem 1.5rem .15rem 0;
  overflow-wrap: anywhere; }}
th {{ font-weight: 500; white-space: nowrap; }}
.pictures th, .pictures td {{ padding: 0 .5rem .7rem 0; font-size: .85rem; }}
img {{ display: block; max-width: 100%; height: auto; }}
{CURVE_STYLE}"""


def section(heading: str, *parts: str) -> str:
    """Return parts of a page below a heading."""
    return f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(rows: Mapping[str, object]) -> str:
    """Return names and their values, one pair a line."""
    lines = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(lines)}</table>"


def pictures(headings: Sequence[str], rows: Sequence[Sequence[Tile]]) -> str:
    """Return pictures side by side, one column a heading, captions below them.

    Pictures are kept as JPEG, which has no transparency.
    """
    top = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = ("".join(f"<td>{_figure(tile)}</td>" for tile in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="pictures"><tr>{top}</tr>{body}</table>'


def check_page(path: Path, *, overwrite: bool) -> None:
    """Raise where `write_page` shall not write, before there is anything to write.

    Raises:
        InputError: the ending is not that of a page, its folder is not there, or a file is there
            and `overwrite` not set.
        MediaError: it is a folder or a device.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"Cannot write {path}: a page ends in {' or '.join(ENDINGS)}.")
    check_target(path, overwrite=overwrite)


def write_page(path: Path, title: str, *parts: str) -> None:
    """Write a page, whole or not at all.

    Args:
        path: replaced where it is there.
        title: plain text.
        parts: what the functions of this module and of `curve` return.

    Raises:
        MediaError: the file cannot be written.
    """
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n"
    )

    def write(stream: BinaryIO) -> None:
        # A file's name may hold bytes that are no text.
        stream.write(text.encode(errors="replace"))

    write_atomically(path, write)


def thumbnail(picture: Image.Image, edge: int) -> Image.Image:
    """Return a picture whose longer side is at most `edge` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((edge, edge))
    return small


def _figure(tile: Tile) -> str:
    file = io.BytesIO()
    tile.picture.convert("RGB").save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    width, height = tile.picture.size
    caption = escape(tile.caption)
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{caption}">{caption}'
    )
