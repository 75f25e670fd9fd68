"""Find, read and write weights: bundled, in a folder, on the Hub, or the authors' checkpoint."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amd_seg.errors import InputError, WeightsError
from amd_seg.hub import fetch_snapshot, push_folder
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights_folder import CONFIG_FILE, WEIGHTS_FILE, read_weights, save_weights

__all__ = [
    "DEFAULT_WEIGHTS",
    "Pretrained",
    "bundled_folder",
    "bundled_names",
    "convert_official",
    "download_weights",
    "load_weights",
    "push_to_hub",
    "save_weights",
]

logger = logging.getLogger(__name__)

DEFAULT_WEIGHTS = "amd-resnet18"

FILES = (WEIGHTS_FILE, CONFIG_FILE)

# In the wheel; in a source checkout the same folders lie in weights/.
BUNDLED_IN_WHEEL = Path(__file__).parent / "_pretrained"
BUNDLED_IN_SOURCE = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights and what is known of them."""

    model: AMD
    """In eval mode, float32, on the CPU."""
    config: WeightsConfig
    source: str
    """Where the weights came from, for people: a name, a path, or org/name@commit."""


def load_weights(
    source: str | os.PathLike[str] | None = None, *, revision: str | None = None
) -> Pretrained:
    """Load weights, strictly.

    Args:
        source: looked for in this order: a bundled name (None is the default one), a local
            folder or .safetensors file with config.json beside it, a repository "org/name" on
            the Hub. Write "./name" for a local folder that is called like bundled weights.
        revision: branch, tag or commit of a repository on the Hub.

    Raises:
        InputError: a revision of something that is not on the Hub.
        WeightsError: there are no such weights, they cannot be fetched, or they are not valid.
    """
    path, label = _locate(source, revision)
    model, config = read_weights(path)
    return Pretrained(model, config, label)


def download_weights(repo: str, *, revision: str | None = None) -> Path:
    """Fetch the weights of a repository on the Hub into its cache, and check them.

    Returns:
        The folder in the cache.

    Raises:
        WeightsError: they cannot be fetched, or they are not valid.
    """
    folder = fetch_snapshot(repo, FILES, revision=revision)
    read_weights(folder)
    return folder


def push_to_hub(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Check the weights in `folder` and upload them, with their README.md where there is one.

    Returns:
        The repository's address.

    Raises:
        WeightsError: the weights are not valid, or the Hub refuses them.
    """
    read_weights(Path(folder))
    return push_folder(Path(folder), repo, (*FILES, "README.md"), private=private)


def bundled_names() -> list[str]:
    """Names of the weights that came with this installation, sorted."""
    root = _bundled_root()
    if not root.is_dir():
        return []
    complete = (f for f in root.iterdir() if all((f / name).is_file() for name in FILES))
    return sorted(folder.name for folder in complete)


def bundled_folder(name: str) -> Path:
    """Folder of the bundled weights `name`.

    Raises:
        WeightsError: no bundled weights have that name.
    """
    if name not in bundled_names():
        raise WeightsError(
            f"No bundled weights are called {name!r}: {_bundled_root()} has "
            f"{', '.join(bundled_names()) or 'none'}. "
            "Install amd-seg again, or give a folder or a repository on the Hub."
        )
    return _bundled_root() / name


def _bundled_root() -> Path:
    return BUNDLED_IN_WHEEL if BUNDLED_IN_WHEEL.is_dir() else BUNDLED_IN_SOURCE


def _locate(source: str | os.PathLike[str] | None, revision: str | None) -> tuple[Path, str]:
    """Return where the files are, fetched if need be, and the name of that place for people."""
    name = DEFAULT_WEIGHTS if source is None else os.fspath(source)
    local = os.path.expanduser(name)
    is_bundled = source is None or (isinstance(source, str) and name in bundled_names())
    if (is_bundled or os.path.exists(local)) and revision is not None:
        raise InputError(
            f"revision={revision!r} cannot be used with {name!r}, which is not on the Hub. "
            "Leave the revision out."
        )
    if is_bundled:
        if source is not None and os.path.exists(local):
            logger.warning("%r is taken as bundled weights; write ./%s for the folder", name, name)
        return bundled_folder(name), name
    if os.path.exists(local):
        return Path(local), name
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _fetch(name, revision)
    raise WeightsError(
        f"No weights at {name!r}: no bundled weights have that name (there are "
        f"{', '.join(bundled_names()) or 'none'}), {os.path.abspath(local)} does not exist, and it "
        "is no repository 'org/name' of the Hub. Give one of these."
    )


def _fetch(repo: str, revision: str | None) -> tuple[Path, str]:
    try:
        folder = fetch_snapshot(repo, FILES, revision=revision)
    except WeightsError as cause:
        raise WeightsError(
            f"{cause} (Looked before for bundled weights and for a folder {repo!r} here.)"
        ) from cause
    return folder, f"{repo}@{folder.name}"


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
