"""Everything a run needs to go on, in one file that is either whole or not there."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from amd_seg.errors import WeightsError

PATTERN = re.compile(r"step-(\d{9})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write `folder/step-<step>.pt` atomically, then delete all but the newest `keep`.

    Args:
        state: tensors, numbers, strings, and lists and dicts of them: what can be read back
            without running code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:09d}.pt"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".step-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if PATTERN.fullmatch(path.name))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; no code in the file is run.

    Raises:
        WeightsError: the file is missing, cut short or no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # torch raises its own, pickle's and zip's errors alike
        raise WeightsError(
            f"Cannot read checkpoint {path}: {cause}. Resume from another."
        ) from cause
    if not isinstance(state, dict) or "step" not in state:
        raise WeightsError(f"{path} is no checkpoint of amd-seg train. Resume from another.")
    return state
