"""The authors' checkpoint, amd_pretrained.pth, as a folder of weights."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_seg.errors import WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights_folder import FILES, save_weights


def convert_official(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Convert the authors' checkpoint (amd_pretrained.pth, mmcv's format) to a weights folder.

    The file is a pickle; only tensors, plain values and numbers of numpy are taken from it, and
    nothing else in it is run. Values are kept in float32.

    Args:
        overwrite: replace weights that are in `folder`.

    Returns:
        The folder.

    Raises:
        WeightsError: the file cannot be read or is no such checkpoint, its wrong keys all named,
            or the folder has weights already.
    """
    path, folder = Path(path), Path(folder)
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not overwrite:
        raise WeightsError(
            f"Cannot write weights to {folder}: {' and '.join(taken)} exist there. "
            "Give another folder, or overwrite them (--overwrite)."
        )
    state = _official_state(path)
    model = _official_model(path, state)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    config = WeightsConfig(
        model=model.config,
        object_channel=0,
        input_size=392,
        name="amd-official",
        training={"converted_from": path.name, "sha256_of_that": digest},
    )
    return save_weights(folder, model, config, dtype=torch.float32)


def _official_state(path: Path) -> Mapping[str, Tensor]:
    """Read the `state_dict` of an mmcv checkpoint without running what else it may hold."""
    try:
        with torch.serialization.safe_globals(_numpy_values()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as cause:
        raise WeightsError(f"Cannot read {path}: {cause.strerror or cause}.") from cause
    # A damaged or hostile pickle raises whatever its bytes lead to.
    except Exception as cause:
        raise WeightsError(
            f"Cannot read {path}: it is damaged, no checkpoint of torch, or holds more than "
            f"tensors and plain values ({type(cause).__name__}). Download it again."
        ) from cause
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(
            f"Cannot convert {path}: it has no 'state_dict' with names, so it is not in mmcv's "
            "format. Give the authors' amd_pretrained.pth."
        )
    return state


def _numpy_values() -> list[Any]:
    """What a pickle needs to hold numbers and arrays of numbers of numpy, as `meta` may."""
    # numpy < 2 wrote the first of the two module names; neither is public, so ask the values.
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    renamed = [
        (function, f"numpy.{module}.multiarray.{name}")
        for module in ("core", "_core")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    return [*renamed, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLefd"}]


def _official_model(path: Path, state: Mapping[str, Tensor]) -> AMD:
    """Build the released model, with as many regions as the checkpoint has."""
    classifier = [k for k in state if k.removeprefix("module.") == "decode_head2.conv_seg.weight"]
    shape = getattr(state[classifier[0]], "shape", ()) if classifier else ()
    try:
        model = AMD(AMDConfig(regions=shape[0]) if shape else AMDConfig())
        model.load_official_state_dict(state)
    # ConfigError: a number of regions that no model has. RuntimeError: torch's wrong shapes.
    except (WeightsError, ValueError, RuntimeError) as cause:
        reason = " ".join(str(cause).split())
        raise WeightsError(f"Cannot convert {path}: {reason}") from cause
    return model
