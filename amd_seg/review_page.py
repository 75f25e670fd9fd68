"""The page on which a person looks through masks: doubtful ones first, accept or reject by key.

It is one HTML file that holds its pictures and asks for nothing else; of more than 5,000 photos,
several that link to each other.
"""

import base64
import json
import re
from collections.abc import Iterator
from functools import partial
from html import escape
from importlib.resources import files
from io import BytesIO
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amd_seg.errors import InputError
from amd_seg.media.files import PartFile, write_atomically, write_rows
from amd_seg.media.render import render_overlay

PHOTOS_A_PAGE = 5000
_DATA = re.compile(rb'<script type="application/json" id="(\w+)">(.*?)</script>', re.DOTALL)


def small_overlay(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], cell: tuple[int, int]
) -> Image.Image:
    """Return the photo with its mask drawn over it, no larger than `cell` (width, height).

    It is made small first: so the outline keeps its width, and a large photo costs no more.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail(cell, reducing_gap=2)
    outline = Image.fromarray(mask).convert("L").resize(picture.size, Image.Resampling.BOX)
    return render_overlay(np.asarray(picture), np.asarray(outline) >= 128)


def picture_of(
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    size: tuple[int, int] = (320, 240),
    quality: int = 60,
) -> str:
    """Return the photo with its mask, within a size, as a JPEG in base64: by default some 10 KB."""
    file = BytesIO()
    small_overlay(pixels, mask, size).save(file, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


class ReviewPage(PartFile):
    """The page, written photo by photo; in its place when it is finished, see `PartFile`."""

    def __init__(
        self, path: Path, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Begin it, as `PartFile` does; `settings` are what the masks depend on."""
        if path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path} is no name of a page. End it in .html.")
        self._settings = settings
        super().__init__(path, settings, resume=resume, overwrite=overwrite)

    def add(self, name: str, facts: dict[str, Any], picture: str) -> None:
        """Add a photo by the path that the saved lists shall have, and its `picture_of`.

        Of the facts it shows "width", "height" and "confidence".
        """
        shown = {key: facts[key] for key in ("width", "height", "confidence")}
        self.add_record({"file_name": name, **shown, "picture": picture})

    def finish(self) -> list[Path]:
        """Write the page, or the pages, and return their paths."""
        rows = zip(self.done.values(), self.records(), strict=True)
        order = [place for _, place in sorted((row["confidence"], at) for at, row in rows)]
        paths = [_page(self.path, k) for k in range(max(1, -(-len(order) // PHOTOS_A_PAGE)))]
        # The first page last: until it is there, the old ones or FILE.part hold everything.
        for number in reversed(range(len(paths))):
            places = order[number * PHOTOS_A_PAGE : (number + 1) * PHOTOS_A_PAGE]
            write_atomically(paths[number], partial(self._write, places, paths, number))
        self.close(remove=True)
        return paths

    def _write(self, places: list[int], paths: list[Path], page: int, stream: BinaryIO) -> None:
        """Write one of the pages, with the photos at these places of FILE.part."""
        links = [f'<a href="{escape(p.name)}">{n}</a>' for n, p in enumerate(paths, 1)]
        links[page] = f"<b>{page + 1}</b>"
        template = files("amd_seg").joinpath("review_page.html").read_text("utf-8")
        template = template.replace("<!--pages-->", " ".join(links) if len(links) > 1 else "")
        template = template.replace("<!--settings-->", _in_script(self._settings))
        head, tail = template.encode().split(b"<!--photos-->")
        stream.write(head + b"[")
        write_rows(stream, self.records(places), _in_script)
        stream.write(b"\n]" + tail)

    def read_finished(self) -> Iterator[dict[str, Any]]:
        """Yield the settings and the photos of finished pages."""
        for page in takewhile(Path.exists, (_page(self.path, number) for number in count())):
            try:
                data = {name: json.loads(text) for name, text in _DATA.findall(page.read_bytes())}
                yield {"settings": data[b"settings"]}
                yield from data[b"photos"]
                if len(data[b"photos"]) < PHOTOS_A_PAGE:
                    return  # What follows is not of this run.
            except (OSError, ValueError, KeyError) as cause:
                text = f"{page} is no page of this command. Give another name."
                raise InputError(text) from cause


def _in_script(value: Any) -> str:
    # A file's name may hold </script>, at which a browser would stop reading the data.
    return json.dumps(value).replace("<", "\\u003c")


def _page(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_stem(f"{path.stem}-{number + 1}")
