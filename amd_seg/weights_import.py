"""Weights of others as a folder of ours: the authors' checkpoint, and ResNets trained elsewhere.

These files are pickles. Only tensors, plain values and numbers of numpy are taken from one, and
nothing else in it is run.
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from amd_seg.errors import WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights_files import FILES, Network, listed, save_weights

logger = logging.getLogger(__name__)

# Our names of tensors, as patterns, and those in the authors' checkpoint (mmcv's format).
FLOW = "decode_head.flownet"
OFFICIAL_NAMES = {
    r"appearance\.backbone\.": "backbone2.",
    r"appearance\.head\.": "decode_head2.convs.",
    r"appearance\.classifier\.": "decode_head2.conv_seg.",
    r"motion\.pyramid\.(\d)\.(\d)\.": rf"{FLOW}.feature_pyramid_extractor.convs.\1.\2.0.",
    r"motion\.reductions\.(\d)\.": rf"{FLOW}.conv_1x1.\1.0.",
    **{
        rf"motion\.{ours}\.{index}\.": f"{FLOW}.flow_estimators.{theirs}{index + 1}.0."
        for ours, theirs, count in (("estimator", "conv", 5), ("region_flow", "predict_flow", 2))
        for index in range(count)
    },
}

# Where MoCo, TimeCycle, DenseCL, DINO and their wrappers keep the ResNet.
BACKBONE_PREFIXES = (
    *("module.encoder_q.", "encoder_q.", "module.encoderVideo.", "encoderVideo."),
    *("module.backbone.", "backbone.", "module."),
)
CLASSIFIERS = ("fc.", "head.", "classifier.")


def convert_checkpoint(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Convert a checkpoint to a folder of weights, in float32; `overwrite` replaces those there.

    It is the authors' amd_pretrained.pth; or a ResNet by torchvision's names, such as MoCo and DINO
    release, .pth or .safetensors. Of a ResNet the folder has the backbone only: the rest is random,
    for `amd-seg train --init` and `amd-seg finetune --weights`.
    """
    path, folder = Path(path), Path(folder)
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not overwrite:
        raise WeightsError(
            f"Cannot write weights to {folder}: {' and '.join(taken)} exist there. "
            "Give another folder, or overwrite them (--overwrite)."
        )
    state = _read_checkpoint(path)
    if _is_official(state):
        name, classifier = "amd-official", "decode_head2.conv_seg.weight"
        shape = next((v.shape for k, v in state.items() if k.endswith(classifier)), ())
        try:
            model = AMD(AMDConfig(regions=shape[0]) if shape else AMDConfig())
            load_official_state_dict(model, state)
        # ConfigError: a number of regions that no model has. RuntimeError: torch's wrong shapes.
        except (WeightsError, ValueError, RuntimeError) as cause:
            reason = " ".join(str(cause).split())
            raise WeightsError(f"Cannot convert {path}: {reason}") from cause
    else:
        name = "backbone-only"
        has_bottlenecks = any(key.endswith("layer1.0.conv3.weight") for key in state)
        # The rest is the same each time, and the caller's random numbers stay where they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AMD(AMDConfig(backbone="resnet50" if has_bottlenecks else "resnet18"))
        load_backbone(model, path, state)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    source = {"converted_from": path.name, "sha256_of_that": digest}
    config = WeightsConfig(model=model.config, name=name, training=source)
    return save_weights(folder, model, config, dtype=torch.float32)


def load_backbone(
    model: Network, path: str | os.PathLike[str], state: Mapping[str, Tensor] | None = None
) -> None:
    """Copy the ResNet of a file, by torchvision's names, into the appearance pathway.

    Wrappers' prefixes and the classifier on top are left out; `state` is what the file holds.
    """
    state = _read_checkpoint(Path(path)) if state is None else state
    if _is_official(state):
        raise WeightsError(
            f"{path} is the authors' checkpoint. Convert it first, amd-seg weights convert "
            f"{path} -o DIR, and give that folder."
        )
    wanted = model.appearance.backbone.state_dict()
    first = next(iter(wanted))
    prefix = next((p for p in BACKBONE_PREFIXES if p + first in state), "")
    found = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    # TimeCycle's kernels (output, input, time, height, width) are one frame deep.
    found = {n: v.squeeze(2) if v.ndim == 5 and v.shape[2] == 1 else v for n, v in found.items()}
    # Old files lack these counters; at a fixed momentum they do nothing.
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    shapes = {n: (tuple(found[n].shape), tuple(wanted[n].shape)) for n in needed if n in found}
    faults = {
        "missing": [name for name in needed if name not in found],
        "unknown": [n for n in found if n not in wanted and not n.startswith(CLASSIFIERS)],
        "of another shape": [f"{n} {a} instead of {b}" for n, (a, b) in shapes.items() if a != b],
    }
    if any(faults.values()):
        raise WeightsError(
            f"{path} does not fit the backbone {model.config.backbone} with stage widths "
            f"{model.config.stage_widths} ({listed(faults, most=5)}). "
            "Give the checkpoint of such a ResNet."
        )
    model.appearance.backbone.load_state_dict({n: found.get(n, v) for n, v in wanted.items()})
    logger.info("The backbone comes from %s: its training data is part of yours.", path)


def load_official_state_dict(model: AMD, state: Mapping[str, Tensor]) -> None:
    """Fill a model with the state dict of the authors' checkpoint; all wrong keys are named."""
    state = {key.removeprefix("module."): value for key, value in state.items()}
    names = {official_name(ours): ours for ours in model.state_dict()}
    unknown = [key for key in state if key not in names]
    # Parts of the decode head that the authors' objective never reads; versions differ in them.
    unused = [key for key in unknown if key.startswith("decode_head.")]
    missing = [key for key in names if key not in state]
    faults = {"missing": missing, "unknown": [key for key in unknown if key not in unused]}
    if any(faults.values()):
        raise WeightsError(
            f"The keys are not those of the released AMD checkpoint ({listed(faults)}). "
            "Give the authors' amd_pretrained.pth."
        )
    if unused:
        logger.warning("Ignored keys that the model does not use: %s", ", ".join(unused))
    model.load_state_dict({ours: state[official] for official, ours in names.items()})


def official_name(ours: str) -> str:
    """Return the name that a tensor of ours has in the authors' checkpoint."""
    pattern, theirs = next(item for item in OFFICIAL_NAMES.items() if re.match(item[0], ours))
    return re.sub(pattern, theirs, ours, count=1)


def _is_official(state: Mapping[str, Tensor]) -> bool:
    return any(key.removeprefix("module.").startswith(("backbone2.", "decode_")) for key in state)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, without running what else it may hold."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(_numpy_values()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as cause:
        raise WeightsError(
            f"Cannot read {path}: {cause.strerror or 'no such file'}. Check the name."
        ) from cause
    # A damaged or hostile pickle raises whatever its bytes lead to.
    except Exception as cause:
        raise WeightsError(
            f"Cannot read {path}: it is damaged, no checkpoint of torch, or holds more than "
            f"tensors and plain values ({type(cause).__name__}). Download it again."
        ) from cause
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    state = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise WeightsError(
            f"Cannot use {path}: it holds no tensors by name. Give the authors' "
            "amd_pretrained.pth, or the checkpoint of a ResNet."
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
