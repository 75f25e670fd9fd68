"""What a run leaves on disk: settings, the record of its data, checkpoints."""

import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from amd_seg.errors import ConfigError, InputError, MediaError, WeightsError
from amd_seg.media.files import make_folder, replacing, some, write_atomically


class RunFolder:
    """Where the parts of a run lie, and what may be done with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"  # the resolved settings
        self.data = path / "data.json"  # what the run learns from, file by file
        self.log = path / "log.jsonl"  # one JSON object a logged step
        self.checkpoints = path / "checkpoints"  # what the run goes on from
        self.sheets = path / "sheets"  # pictures of what the model makes of its first batch
        self.curves = path / "tensorboard"  # where TensorBoard is installed
        self.targets = path / "targets"  # the motion masks that the object channel learns from
        self.weights = path / "weights"  # the trained model, as `from_pretrained` reads it

    def require_usable(self, seed: int, data: Mapping[str, Sequence[str]], *, resume: bool) -> None:
        """Raise where a run cannot start in the folder, or cannot go on with a seed and data.

        The data are kind ("clips") -> items in order, each named so that another is told from it.
        """
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(
                f"Cannot use {self.path} as a run folder: {there} is a file. Give another --out."
            )
        if not os.access(there, os.W_OK | os.X_OK):
            raise MediaError(f"Cannot write to the run folder {self.path}. Give another --out.")
        checkpoints = self.list_checkpoints()
        if resume:
            if not checkpoints:
                raise InputError(
                    f"Cannot resume {self.path}: it has no checkpoint. Start it without --resume."
                )
            self._require_same(seed, data)
            return
        # Motion masks are used. What a run leaves that was killed before its first checkpoint is
        # written anew; what lies beside another config.json than a run's is not ours to replace.
        renewed = {self.targets, self.curves, *self.path.glob(".*.tmp")}
        with suppress(InputError):
            if not checkpoints and "amd_seg" in self.read_settings():
                renewed |= {self.config, self.data, self.log, self.checkpoints, self.sheets}
        if self.path.exists() and set(self.path.iterdir()) - renewed:
            raise InputError(
                f"The run folder {self.path} is in use. Give --resume to go on, or another --out."
            )

    def read_settings(self) -> dict[str, Any]:
        """What config.json says; nothing where it is not there."""
        return self._read(self.config)

    def write_settings(self, settings: dict[str, Any], data: Mapping[str, Sequence[str]]) -> None:
        """Write config.json, and data.json, with which `require_usable` compares."""
        make_folder(self.path)
        write_atomically(self.config, json.dumps(settings, indent=2) + "\n")
        write_atomically(self.data, json.dumps(data, indent=1) + "\n")

    def _require_same(self, seed: int, data: Mapping[str, Sequence[str]]) -> None:
        # A run that left no record is taken at its word.
        begun = self.read_settings().get("training", {}).get("seed", seed)
        if begun != seed:
            raise ConfigError(
                f"Cannot resume {self.path}: it was begun with seed={begun}, now seed={seed}. "
                "Leave out --seed."
            )
        for kind, before in self._read(self.data).items():
            now = list(data.get(kind, before))
            if now != before:
                gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
                sides = [("without", gone), ("with", new)]
                words = [f"{side} {some(items.elements())}" for side, items in sides if items]
                raise InputError(
                    f"Cannot resume {self.path} with other data than it was begun with: {kind} "
                    f"{' and '.join(words) or 'in another order'}. Give the same, wherever they "
                    "lie now, or begin another run with another --out."
                )

    def list_checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self.checkpoints.glob("step-*.pt"))

    def save_checkpoint(self, step: int, state: dict[str, Any], *, keep: int) -> None:
        """Write `step-<step>.pt` atomically, then delete all but the newest `keep`.

        The state holds what can be read back without running code: tensors, numbers, texts.
        """
        # In memory first: torch's own writer turns a full disk into an error without a reason.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        make_folder(self.checkpoints)
        for left_by_a_kill in self.checkpoints.glob(".*.tmp"):
            left_by_a_kill.unlink(missing_ok=True)
        path = self.checkpoints / f"step-{step:09d}.pt"
        with replacing(path) as temporary, temporary.open("xb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        for old in self.list_checkpoints()[:-keep]:
            old.unlink(missing_ok=True)

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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `RunFolder.save_checkpoint` wrote; no code in the file is run."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "step" not in state:
            raise ValueError("it is of another program")
        return state
    except Exception as cause:  # torch raises its own, pickle's and zip's errors alike
        raise WeightsError(
            f"Cannot read checkpoint {path}: it is damaged, or of another program "
            f"({type(cause).__name__}). Delete it: --resume goes on from the one before."
        ) from cause
