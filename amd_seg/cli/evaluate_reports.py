"""The files that `amd-seg evaluate` writes: checked before a run, written after it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from amd_seg.cli import terminal
from amd_seg.cli.jobs import STANDARD_STREAM

if TYPE_CHECKING:
    from amd_seg.evaluation.run import Evaluation

_OPTIONS = ("json_file", "csv_file", "markdown_file", "sheet")


def asks_for_reports(options: dict[str, Any]) -> bool:
    """Tell whether more than the table on stdout is wished for."""
    return options["per_sequence"] or any(options[option] is not None for option in _OPTIONS)


def check_reports(options: dict[str, Any]) -> None:
    """Raise where a file could not be written: a run may take hours.

    Raises:
        click.UsageError: the sheet has no picture's ending, or two reports share a file.
        InputError: a folder is not there, or a file is there and is not to be overwritten.
        MediaError: a name is a folder's.
    """
    from amd_seg.media.files import check_target
    from amd_seg.media.images import WRITERS

    sheet, paths = options["sheet"], list(_files(options).values())
    if sheet is not None and Path(sheet).suffix.lower() not in WRITERS:
        known = ", ".join(WRITERS)
        raise click.UsageError(f"--sheet {sheet} has no known ending. Use one of {known}.")
    for path in paths:
        if paths.count(path) > 1:
            raise click.UsageError(f"Two reports would share {path}. Give each its own name.")
        check_target(path, overwrite=options["overwrite"])


def write_reports(result: "Evaluation", options: dict[str, Any]) -> None:
    """Print the table, or JSON where `--json -` asks for it, and write the files."""
    from amd_seg.evaluation import report

    per_sequence, plain = options["per_sequence"], report.as_json(result)
    is_json = options["json_file"] == STANDARD_STREAM
    terminal.put(plain if is_json else report.table(result, per_sequence=per_sequence))
    for option, path in _files(options).items():
        if option == "json_file":
            _write(path, json.dumps(plain, indent=2) + "\n")
        elif option == "csv_file":
            _write(path, report.csv_text(result))
        elif option == "markdown_file":
            _write(path, report.markdown(result, per_sequence=per_sequence))
        else:
            from amd_seg.evaluation.sheet import write_sheet

            write_sheet(result, path)


def _files(options: dict[str, Any]) -> dict[str, Path]:
    """Return the files that were asked for, by their options; JSON on stdout is none."""
    files = {name: Path(options[name]) for name in _OPTIONS if options[name] is not None}
    if options["json_file"] == STANDARD_STREAM:
        del files["json_file"]
    return files


def _write(path: Path, text: str) -> None:
    from amd_seg.media.files import write_atomically

    def write(stream: BinaryIO) -> None:
        stream.write(text.encode())

    write_atomically(path, write)
