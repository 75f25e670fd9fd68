"""Where the parts of a run lie, and its log."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from amd_seg.errors import ConfigError, InputError, MediaError
from amd_seg.media.files import make_folder, some, write_atomically
from amd_seg.training.checkpoints import list_checkpoints

ORIGIN = ("init", "init_channel", "init_backbone", "start")
"""Settings that say what a run started from, which is not asked for again when it is resumed."""


@dataclass(frozen=True)
class RunFolder:
    """Where the parts of a run lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / "config.json"

    @property
    def data(self) -> Path:
        """What the run learns from, file by file."""
        return self.path / "data.json"

    @property
    def log(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What the run goes on from."""
        return self.path / "checkpoints"

    @property
    def sheets(self) -> Path:
        """Pictures of what the model makes of the run's first pairs."""
        return self.path / "sheets"

    @property
    def page(self) -> Path:
        """The loss and the sheets so far, to open in a browser."""
        return self.path / "report.html"

    @property
    def board(self) -> Path:
        """TensorBoard's files, where it is installed."""
        return self.path / "tensorboard"

    @property
    def targets(self) -> Path:
        """The motion masks that the object channel learns from."""
        return self.path / "targets"

    @property
    def weights(self) -> Path:
        """The trained model, as `from_pretrained` reads it."""
        return self.path / "weights"

    def require_usable(self, resume: bool) -> None:
        """Tell a run to go on from one to start.

        Raises:
            InputError: there is nothing to go on from, the folder is in use, or it is a file.
            MediaError: it may not be written to.
        """
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(
                f"Cannot use {self.path} as a run folder: {there} is a file. Give another --out."
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise MediaError(f"Cannot write to the run folder {self.path}. Give another --out.")
        if resume and not list_checkpoints(self.checkpoints):
            raise InputError(
                f"Cannot resume {self.path}: it has no checkpoint. Start it without --resume."
            )
        in_use = self.path.exists() and set(self.path.iterdir()) - self._renewed()
        if in_use and not resume:
            raise InputError(
                f"The run folder {self.path} is not empty. "
                "Give --resume to go on, or another --out."
            )

    def _renewed(self) -> set[Path]:
        """What may lie in the folder of a run that starts.

        Targets are used. The rest is what a run leaves that was killed before its first
        checkpoint, from which nothing goes on: it is written anew. A run's first file is its
        config.json, and what lies beside another one is not ours to replace.
        """
        found = {self.targets, *self.path.glob(".*.tmp")}
        if self._has_settings() and not list_checkpoints(self.checkpoints):
            found |= {self.config, self.data, self.log, self.checkpoints, self.sheets}
            found |= {self.board, self.page}
        return found

    def _has_settings(self) -> bool:
        try:
            return "amd_seg" in self.read_settings()
        except InputError:
            return False

    def read_settings(self) -> dict[str, Any]:
        """What config.json says; nothing where it is not there.

        Raises:
            InputError: it is no JSON object.
        """
        return self._read(self.config)

    def write_settings(
        self, settings: dict[str, Any], data: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Write config.json, and data.json, with which `require_same_data` compares."""
        make_folder(self.path)
        _write(self.config, json.dumps(settings, indent=2) + "\n")
        if data is not None:
            _write(self.data, json.dumps(data, indent=1) + "\n")

    def require_same_seed(self, seed: int) -> None:
        """Raise a ConfigError where a run would go on with another seed than it was begun with."""
        before = self.read_settings().get("training", {}).get("seed", seed)
        if before != seed:
            raise ConfigError(
                f"Cannot resume {self.path}: it was begun with seed={before}, now seed={seed}. "
                "Leave out --seed."
            )

    def require_same_data(self, data: Mapping[str, Sequence[str]]) -> None:
        """Raise where a run would go on from other data than it was begun with.

        A run that left no record of its data is taken at its word.

        Args:
            data: kind ("clips") -> its items in order, each named so that another is told from it.

        Raises:
            InputError: they are others, or in another order.
        """
        before = self._read(self.data)
        faults = [
            f"{kind} {_difference(before[kind], data[kind])}"
            for kind in data
            if kind in before and before[kind] != list(data[kind])
        ]
        if faults:
            raise InputError(
                f"Cannot resume {self.path} with other data than it was begun with: "
                f"{'; '.join(faults)}. Give the same, wherever they lie now, or begin another run "
                "with another --out."
            )

    def _read(self, path: Path) -> dict[str, Any]:
        """The JSON object in a file of this folder; nothing where it is not there."""
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as cause:
            raise InputError(
                f"Cannot resume {self.path}: its {path.name} cannot be read ({cause}). "
                "Give the folder of a run, or start without --resume."
            ) from cause

    def write_line(self, line: dict[str, Any]) -> None:
        """Append a line to the log.

        Raises:
            MediaError: the disk is full, or the file cannot be written.
        """
        try:
            with self.log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as cause:
            raise MediaError(
                f"Cannot write the log {self.log}: {cause.strerror or cause}. Free some space."
            ) from cause

    def read_lines(self) -> list[dict[str, Any]]:
        """The lines of the log, up to one that a kill cut short."""
        lines: list[dict[str, Any]] = []
        if self.log.is_file():
            for line in self.log.read_text().splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    break
        return lines

    def take_back_lines_after(self, step: int) -> Sequence[dict[str, Any]]:
        """Cut the log at a step: what came after it happens again. Returns what is kept."""
        kept = [*itertools.takewhile(lambda line: line["step"] <= step, self.read_lines())]
        if self.log.is_file():
            _write(self.log, "".join(json.dumps(line) + "\n" for line in kept))
        return kept


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Say how two lists differ that are not equal."""
    gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
    parts = [
        f"{word} {some(items.elements())}"
        for word, items in (("without", gone), ("with", new))
        if items
    ]
    return " and ".join(parts) or "in another order"


def _write(path: Path, text: str) -> None:
    def write(file: BinaryIO) -> None:
        file.write(text.encode())

    write_atomically(path, write)
