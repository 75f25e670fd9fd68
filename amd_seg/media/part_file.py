"""A file that a long run makes record by record, and that another run can go on with."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from amd_seg.errors import InputError
from amd_seg.media.files import make_folder, replacing, some, write_errors


class PartFile:
    """What a run has made so far, one JSON object a line in FILE.part, until FILE is written.

    So memory stays flat, a run that was killed can be resumed, and FILE is the old one or the
    whole new one.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        """Begin with the records of FILE.part, else of FILE, else none.

        Where there are some, they are kept to `resume`, if they were made by the same settings,
        dropped to `overwrite`, and else an InputError.
        """
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.done: set[str] = set()
        """The "file_name" of each record."""
        kept: Iterable[dict[str, Any]] = ()
        there = next((p for p in (self.part, path) if p.exists()), None)
        if there is not None and not overwrite:
            if not resume:
                raise InputError(
                    f"{there} exists. Use --overwrite to replace it, or --resume to go on."
                )
            kept = _whole_lines(there) if there == self.part else self.read_finished()
        make_folder(path.parent)
        with replacing(self.part) as temporary, open(temporary, "xb") as stream:
            stream.write(_line({"settings": settings}))
            for record in kept:
                if "settings" in record:
                    _require_same(record["settings"], settings, path)
                elif record["file_name"] not in self.done:
                    self.done.add(record["file_name"])
                    stream.write(_line(record))
        with write_errors(self.part):
            self._stream = open(self.part, "ab")  # noqa: SIM115 - open until FILE is written

    def read_finished(self) -> Iterator[dict[str, Any]]:
        """Yield the settings, {"settings": ...}, and the records of FILE."""
        raise NotImplementedError

    def add_record(self, record: dict[str, Any]) -> None:
        """Add a record, which has a "file_name"; MediaError where the disk is full."""
        with write_errors(self.part):
            self._stream.write(_line(record))
            self._stream.flush()
        self.done.add(record["file_name"])

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield all records in their order."""
        return (record for _, record in self.items())

    def items(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield where in FILE.part each record is, and the record."""
        with open(self.part, "rb") as lines:
            place = len(lines.readline())  # the settings
            for line in lines:
                yield place, json.loads(line)
                place += len(line)

    def at(self, places: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the records at these places."""
        with open(self.part, "rb") as lines:
            for place in places:
                lines.seek(place)
                yield json.loads(lines.readline())

    def close(self, *, remove: bool = False) -> None:
        """Close it: once FILE is written it is removed, else another run can go on."""
        self._stream.close()
        if remove:
            self.part.unlink()


def write_rows(
    stream: BinaryIO, rows: Iterable[Any], as_json: Callable[[Any], str] = json.dumps
) -> None:
    """Write the rows of a JSON list, each on a line of its own."""
    for number, row in enumerate(rows):
        stream.write((b",\n" if number else b"\n") + as_json(row).encode())


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file up to the one that a kill cut short."""
    with open(path, "rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                return
            yield record


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


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
