"""Files: find images, pair them with masks, write a file whole or record by record."""

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from amd_seg.errors import AmdSegError, InputError, MediaError

# Images in

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp"}
    | {".tif", ".tiff", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".qoi"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".pfm"}
)
"""Endings, in lower case, by which a file in a folder counts as an image."""


def find_images(inputs: Sequence[str], *, recursive: bool = False) -> list[Path]:
    """Return the image files that names, folders and globs stand for, each once.

    A name that exists is no glob, even with brackets in it, and its file is taken whatever its
    ending. A folder, `recursive` or not, or a glob gives its files with an image's ending, hidden
    ones left out, in natural order (2 before 10). InputError names all that stand for no image.
    """
    found: dict[str, Path] = {}
    without: list[str] = []
    for name in inputs:
        path, paths = Path(name), list[Path]()
        if os.path.isdir(name):  # Not the path: of "" that is the working folder.
            paths = _images_in(path, "**/*" if recursive else "*")
        elif os.path.exists(name):
            paths = [path]
        elif glob.has_magic(name):
            matches = map(Path, glob.iglob(name, recursive=True))
            paths = sorted(filter(_is_image_file, matches), key=natural_key)
        if not paths:
            without.append(name or "''")
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    if without:
        hint = "" if recursive else ", or add --recursive for sub-folders"
        raise InputError(f"No image found at: {', '.join(without)}. Check the names{hint}.")
    return list(found.values())


def _images_in(folder: Path, pattern: str = "*") -> list[Path]:
    found = (path for path in folder.glob(pattern) if _is_image_file(path))
    shown = (p for p in found if not any(n[0] == "." for n in p.relative_to(folder).parts))
    return sorted(shown, key=natural_key)


def _is_image_file(path: Path) -> bool:
    # A dangling link counts, so that reading names it; a pipe does not, for it would block.
    is_file = os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))
    return is_file and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the image files of one folder, hidden ones left out, in natural order."""
    found = _images_in(folder)
    if not found:
        lacks = "there is no image in it" if os.path.isdir(folder) else "no such folder"
        raise InputError(
            f"Cannot take the images of {folder}: {lacks}. Check the name, or copy the files again."
        )
    return found


def by_stem(folder: Path) -> dict[str, Path]:
    """Return a folder's images by name without ending, in natural order."""
    paths: dict[str, Path] = {}
    for path in images_in(folder):
        if path.stem in paths:
            raise InputError(
                f"{paths[path.stem]} and {path} have one name. Keep one of them in the folder."
            )
        paths[path.stem] = path
    return paths


def require_same_names(
    pictures: Iterable[str], truths: Iterable[str], images: Path, masks: Path
) -> None:
    """Raise InputError that lists the names which only one of two folders has."""
    pictures, truths = dict.fromkeys(pictures), dict.fromkeys(truths)
    faults = []
    if without := [name for name in pictures if name not in truths]:
        faults.append(f"{len(without)} files of {images} have no mask in {masks}: {some(without)}")
    if extra := [name for name in truths if name not in pictures]:
        faults.append(f"{len(extra)} masks of {masks} have no file in {images}: {some(extra)}")
    if faults:
        raise InputError(f"{'; '.join(faults)}. Add or remove files until the names agree.")


def some(names: Iterable[object], shown: int = 5) -> str:
    """Return the first few of some names for a message, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def in_shard(name: str, index: int, count: int) -> bool:
    """Tell whether a file is in part `index`, from 1 to `count`, of any list that it is in."""
    # A digest decides, so that a name's part stays the same when the list changes.
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) % count == index - 1


def natural_key(path: Path) -> list[list[str | int]]:
    """Return a sort key: frame2 comes before frame10, and the files of a folder stay together."""
    # Text is at the even places of every list and numbers are at the odd ones, so keys compare.
    return [
        [int(piece) if place % 2 else piece for place, piece in enumerate(re.split(r"(\d+)", part))]
        for part in path.parts
    ]


# Files out

_ADVICE = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "Make its folder first."),
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG), "Free some space, or write elsewhere."),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to."
    ),
    errno.EINVAL: "Give another ending, or a folder.",
    errno.ENAMETOOLONG: "Shorten the name, or give another with -o.",
}


@contextmanager
def write_errors(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn an OSError, or one of `others`, into a MediaError: what to do to write `path`."""
    errors: tuple[type[Exception], ...] = (OSError, *others)
    try:
        yield
    except AmdSegError:
        raise
    except errors as cause:
        reason = getattr(cause, "strerror", None) or cause
        advice = _ADVICE.get(getattr(cause, "errno", 0), "Check the name and the folder.")
        raise MediaError(f"Cannot write {path}: {reason}. {advice}") from cause


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list that are not empty; an InputError says what is wrong with it."""
    try:
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"Cannot read the list {path}: {cause}. Save it as UTF-8.") from cause


def require_possible_name(path: Path) -> None:
    """Raise MediaError where no file can have this name, as where it is too long."""
    with write_errors(path, ValueError), suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise where a file shall not or cannot be written, before there is anything to write."""
    require_possible_name(path)
    if not os.path.isdir(path.parent):
        raise InputError(f"Cannot write {path}: there is no folder {path.parent}. Make it first.")
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{path} exists. Give another name, or overwrite it (--overwrite).")
    _require_replaceable(path)


def _require_replaceable(target: Path) -> None:
    # Moved over /dev/null by a superuser, a file would take the place of the device.
    if os.path.exists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "a device or a pipe"
        raise MediaError(f"Cannot write {target}: it is {kind}. Give the name of a file.")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where it is not there yet."""
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def name_beside(target: Path) -> Path:
    """Return a hidden name in the folder of `target` that nothing has."""
    return target.with_name(f".{secrets.token_hex(8)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to, and move the file over `path` if all went well.

    A link is followed, and an old file's permissions are kept.
    """
    require_possible_name(path)
    target = Path(os.path.realpath(path))
    temporary = name_beside(target)
    with write_errors(path):
        _require_replaceable(target)
        try:
            yield temporary
            with suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_atomically(path: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file as `replacing` does: text as UTF-8, bytes, or what a function writes."""
    with replacing(path) as temporary, open(temporary, "xb") as stream:
        if callable(content):
            content(stream)
        else:
            stream.write(content.encode() if isinstance(content, str) else content)


class PartFile:
    """What a run has made so far, one JSON object a line in FILE.part, until FILE is written.

    So memory stays flat, a run that was killed can be resumed, and FILE is the old one or the
    whole new one.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        """Begin with the records of FILE.part or FILE to `resume`, and with none to `overwrite`."""
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.done: dict[str, int] = {}  # "file_name" of each record -> its place in FILE.part
        there = next((p for p in (self.part, path) if p.exists()), None)
        if there is not None and not (overwrite or resume):
            raise InputError(
                f"{there} exists. Use --overwrite to replace it, or --resume to go on."
            )
        kept: Iterable[dict[str, Any]] = ()
        if there is not None and not overwrite:
            kept = _whole_lines(there) if there == self.part else self.read_finished()
        make_folder(path.parent)
        with replacing(self.part) as temporary, open(temporary, "xb") as self._stream:
            self._append({"settings": settings})
            for record in kept:
                if "settings" in record:
                    _require_same(record["settings"], settings, path)
                else:
                    self.add_record(record)
        with write_errors(self.part):
            self._stream = open(self.part, "ab")  # noqa: SIM115 - open until FILE is written

    def read_finished(self) -> Iterator[dict[str, Any]]:
        """Yield the settings, {"settings": ...}, and the records of FILE."""
        raise NotImplementedError

    def add_record(self, record: dict[str, Any]) -> None:
        """Add a record, in place of an earlier one with its "file_name"."""
        place = self._stream.tell()
        self._append(record)
        self.done[record["file_name"]] = place

    def _append(self, record: dict[str, Any]) -> None:
        with write_errors(self.part):
            self._stream.write(json.dumps(record).encode() + b"\n")
            self._stream.flush()

    def records(self, places: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records at some places of FILE.part, or all in their order."""
        with open(self.part, "rb") as lines:
            for place in self.done.values() if places is None else places:
                lines.seek(place)
                yield json.loads(lines.readline())

    def close(self, *, remove: bool = False) -> None:
        """Close it: once FILE is written it is removed, else another run can go on."""
        self._stream.close()
        if remove or not self.done:
            self.part.unlink(missing_ok=True)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file up to the one that a kill cut short."""
    with open(path, "rb") as lines, suppress(ValueError):
        for line in lines:
            yield json.loads(line)


def _require_same(theirs: dict[str, Any], mine: dict[str, Any], path: Path) -> None:
    differing = [
        f"{key} {theirs.get(key, 'unset')} there, {mine.get(key, 'unset')} now"
        for key in {**mine, **theirs}
        if key != "date_created" and theirs.get(key) != mine.get(key)
    ]
    if differing:
        raise InputError(
            f"The masks in {path} were made by other settings: {some(differing, 3)}. "
            "Give the same ones, or another file."
        )


def write_rows(
    stream: BinaryIO, rows: Iterable[Any], as_json: Callable[[Any], str] = json.dumps
) -> None:
    """Write the rows of a JSON list, each on a line of its own."""
    for number, row in enumerate(rows):
        stream.write((b",\n" if number else b"\n") + as_json(row).encode())
