"""Start the appearance pathway's backbone from a ResNet that was trained elsewhere."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from amd_seg.errors import WeightsError
from amd_seg.weights import Network

logger = logging.getLogger(__name__)

# Where self-supervised checkpoints keep their ResNet: MoCo, TimeCycle, DenseCL, DINO, wrappers.
PREFIXES = (
    *("module.encoder_q.", "encoder_q.", "module.encoderVideo.", "encoderVideo."),
    *("module.backbone.", "backbone.", "module."),
)
OFFICIAL_PREFIX = "backbone2."
HEADS = ("fc.", "head.", "classifier.")


def load_backbone(model: Network, path: str | os.PathLike[str]) -> None:
    """Copy a ResNet's weights, by torchvision's names, into the appearance pathway.

    The classifier on top is left out. The file's own wrapping (`state_dict`, `model`) and the
    prefixes of MoCo, TimeCycle, DenseCL and DINO are taken off; TimeCycle's kernels, which are
    one frame deep, lose that axis.

    Args:
        model: whose backbone is filled.
        path: a .safetensors file, or a .pth that torch reads without running code.

    Raises:
        WeightsError: the file cannot be read, or is of another network: all tensors named.
    """
    backbone = model.appearance.backbone
    wanted = backbone.state_dict()
    state = _read(Path(path))
    _refuse_official(state, Path(path))
    found = _plain_names(state, wanted)
    # Counters of old files may be missing; they do nothing at a fixed momentum.
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}
    missing = sorted(needed - set(found))
    unknown = sorted(n for n in set(found) - set(wanted) if not n.startswith(HEADS))
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(needed & set(found))
        if found[name].shape != wanted[name].shape
    ]
    faults = [
        f"{what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", misshapen),
        )
        if names
    ]
    if faults:
        raise WeightsError(
            f"{path} does not fit the backbone {model.config.backbone} ({'; '.join(faults)}). "
            "Give weights of this ResNet, or the --backbone and --stage-widths they are of."
        )
    backbone.load_state_dict({n: found.get(n, value) for n, value in wanted.items()})
    logger.info(
        "The backbone starts from %s: what it was trained on is part of this run's data.", path
    )


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged or hostile pickle raises whatever its bytes lead to, some of it without a word.
    except Exception as cause:
        reason = next(iter(str(cause).splitlines()), "") or type(cause).__name__
        raise WeightsError(
            f"Cannot read the backbone {path}: {reason}. "
            "Give a .safetensors file, or a .pth that holds nothing but tensors."
        ) from cause
    for key in ("state_dict", "model", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no tensors by name. Give a ResNet's state dict.")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: value for name, value in tensors.items() if isinstance(name, str)}


def _plain_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefix, if there is one, under which the ResNet's first tensor lies."""
    first = next(iter(wanted))
    for prefix in PREFIXES:
        if prefix + first in state:
            found = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            return {name: _flat(value) for name, value in found.items()}
    return dict(state)


def _flat(kernel: Tensor) -> Tensor:
    """Take the time axis of length 1 off a kernel (outputs, inputs, time, height, width)."""
    return kernel.squeeze(2) if kernel.ndim == 5 and kernel.shape[2] == 1 else kernel


def _refuse_official(state: Mapping[str, Tensor], path: Path) -> None:
    if any(name.removeprefix("module.").startswith(OFFICIAL_PREFIX) for name in state):
        raise WeightsError(
            f"{path} is the authors' checkpoint. Convert it first, amd-seg weights convert "
            f"{path} -o DIR, and give that folder."
        )
