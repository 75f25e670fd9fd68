"""Everything a run needs to go on, in one file that is either whole or not there."""

import io
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from amd_seg.errors import WeightsError
from amd_seg.media.files import make_folder, write_atomically

PATTERN = re.compile(r"step-(\d{9})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write `folder/step-<step>.pt` atomically, then delete all but the newest `keep`.

    Args:
        state: tensors, numbers, strings, and lists and dicts of them: what can be read back
            without running code.

    Raises:
        MediaError: the disk is full, or the file cannot be written; older ones are untouched.
    """
    path = folder / f"step-{step:09d}.pt"
    # In memory first: torch's own writer turns a full disk into an error without a reason.
    buffer = io.BytesIO()
    torch.save(state, buffer)

    def write(file: BinaryIO) -> None:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())

    make_folder(path.parent)
    for left_by_a_kill in path.parent.glob(".*.tmp"):
        left_by_a_kill.unlink(missing_ok=True)
    write_atomically(path, write)
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
