"""The format of weights on disk: a folder with model.safetensors and config.json."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from amd_seg.errors import ConfigError, InputError, WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticWeightsConfig, WeightsConfig, stored_config

Network: TypeAlias = AMD | SemanticNetwork
NetworkConfig: TypeAlias = WeightsConfig | SemanticWeightsConfig

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FILES = (WEIGHTS_FILE, CONFIG_FILE)

# A config is a few hundred bytes; more is another file, or an attempt to fill the memory.
MAX_CONFIG_BYTES = 1_000_000


def save_weights(
    folder: str | os.PathLike[str],
    model: Network,
    config: NetworkConfig,
    *,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """Write `model` and `config` to `folder`, replacing weights that are there.

    A folder that was not there appears whole. In one that was, model.safetensors is replaced
    first: a kill between the two files leaves a digest that does not fit, which `read_weights`
    refuses. A parameter whose values overflow `dtype` is stored as it is.
    """
    folder = Path(folder)
    if config.model != model.config:
        raise InputError(
            f"Cannot save weights to {folder}: config.model is not the model's config. "
            "Pass WeightsConfig(model=model.config, ...)."
        )
    tensors = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    _require_finite(tensors, f"Cannot save weights to {folder}")
    for key, value in tensors.items():
        # Variances of early layers can pass float16's 65504.
        if value.is_floating_point() and torch.isfinite(value.to(dtype)).all():
            value = value.to(dtype)
        tensors[key] = value.contiguous()
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    config = dataclasses.replace(config, sha256=hashlib.sha256(data).hexdigest())
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        exists = folder.is_dir()
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inside an existing folder, because its parent may be another file system.
        with TemporaryDirectory(prefix=".amd-seg-", dir=folder if exists else folder.parent) as at:
            fresh = Path(at, "weights")
            fresh.mkdir()
            (fresh / WEIGHTS_FILE).write_bytes(data)
            (fresh / CONFIG_FILE).write_text(text, "utf-8")
            if exists:
                for name in FILES:
                    (fresh / name).replace(folder / name)
            else:
                fresh.rename(folder)
    except OSError as cause:
        raise WeightsError(
            f"Cannot write weights to {folder}: {cause.strerror or cause}. Give another folder."
        ) from cause
    return folder


def read_weights(source: Path) -> tuple[Network, NetworkConfig]:
    """Read a model of either kind, strictly: all its tensors, of their shapes, finite, none more.

    It is in eval mode, float32, on the CPU. `source` is a folder, or a .safetensors file with
    config.json beside it; what is missing, damaged or does not fit is a WeightsError.
    """
    file = source / WEIGHTS_FILE if source.is_dir() else source
    try:
        _require_safetensors(file)
        config = _read_config(file.with_name(CONFIG_FILE))
        # On the meta device a model takes no memory: a hostile config is found out before it does.
        with torch.device("meta"):
            expected = _new_model(config).state_dict()
        with safe_open(str(file), framework="pt") as handle:
            _check_header(file, expected, handle)
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if config.sha256 and digest != config.sha256:
                raise WeightsError(
                    f"Cannot use {file}: its sha256 is {digest}, and {CONFIG_FILE} says "
                    f"{config.sha256}. Delete both files, then copy or download them again."
                )
            # Copies: a tensor of the file's own dtype would be a view into the file.
            tensors = {
                key: handle.get_tensor(key).to(value.dtype, copy=True)
                for key, value in expected.items()
            }
    except WeightsError:
        raise
    except SafetensorError as cause:
        raise _damaged(file, f" ({cause})") from cause
    except OSError as cause:
        raise WeightsError(
            f"Cannot read {cause.filename or file}: {cause.strerror or cause}. Give a folder with "
            f"{WEIGHTS_FILE} and {CONFIG_FILE}."
        ) from cause
    _require_finite(tensors, f"Cannot use {file}")
    model = _new_model(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval(), config


def _new_model(config: NetworkConfig) -> Network:
    """Make a model without the drawing of first values, which the weights replace anyway.

    It would change the global generator, and on the meta device load sympy: 4 seconds.
    """
    with _NoRandomValues():
        if isinstance(config, SemanticWeightsConfig):
            return SemanticNetwork(config.model)
        return AMD(config.model)


class _NoRandomValues(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        drawing = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_")
        if getattr(func, "__name__", "") in drawing:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _require_safetensors(file: Path) -> None:
    """Give pickles and other files their own sentence, before any parser sees them."""
    with file.open("rb") as stream:
        head = stream.read(9)
    # Safetensors is a length in 8 bytes, then JSON. Pickles are zip files, or begin with 0x80.
    if head[8:9] == b"{":
        return
    if head.startswith((b"PK", b"\x80")) or file.suffix == ".pth":
        raise WeightsError(
            f"Cannot load {file}: it is a pickle, which can run code when it is read. "
            f"Convert it first: amd-seg weights convert {file} -o DIR"
        )
    raise _damaged(file)


def _damaged(file: Path, reason: str = "") -> WeightsError:
    return WeightsError(
        f"Cannot read {file}: it is damaged or no safetensors file{reason}. "
        "Copy or download it again."
    )


def _read_config(path: Path) -> NetworkConfig:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"it is larger than {MAX_CONFIG_BYTES} bytes.")
        return stored_config(json.loads(path.read_text(encoding="utf-8")))
    # A ConfigError is a ValueError, and so is what is wrong with JSON or UTF-8.
    except (ValueError, RecursionError) as cause:
        reason = str(cause).removesuffix(".")
        if not isinstance(cause, ConfigError):
            reason = f"it is not valid JSON ({reason})"
        raise WeightsError(
            f"Cannot use {path}: {reason}. Take the {CONFIG_FILE} that came with these weights."
        ) from cause


def _check_header(file: Path, expected: Mapping[str, Tensor], handle: Any) -> None:
    """Compare names, shapes and kinds, and name all that differ in one message."""
    found = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 -- no mapping
    wrong_shape, wrong_type = [], []
    for key in sorted(expected.keys() & found.keys()):
        shape, to_be = tuple(found[key].get_shape()), tuple(expected[key].shape)
        if shape != to_be:
            wrong_shape.append(f"{key} {shape} instead of {to_be}")
        kinds = "F16 BF16 F32 F64" if expected[key].is_floating_point() else "I64"
        if found[key].get_dtype() not in kinds.split():
            wrong_type.append(f"{key} {found[key].get_dtype()}")
    faults = {
        "missing": [key for key in expected if key not in found],
        "unexpected": sorted(found.keys() - expected.keys()),
        "wrong shape": wrong_shape,
        "wrong type": wrong_type,
    }
    if any(faults.values()):
        raise WeightsError(
            f"Cannot use {file}: it does not fit the model of {CONFIG_FILE} ({listed(faults)}). "
            f"Take both files from the same place."
        )


def listed(faults: Mapping[str, Iterable[str]], *, most: int | None = None) -> str:
    """Put names of wrong tensors into one text, kind by kind, `most` of each."""
    kinds = {kind: list(names) for kind, names in faults.items()}
    return "; ".join(
        f"{kind}: {', '.join(names[:most])}{', ...' if len(names[:most]) < len(names) else ''}"
        for kind, names in kinds.items()
        if names
    )


def _require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    if broken := [key for key, value in tensors.items() if not torch.isfinite(value).all()]:
        raise WeightsError(
            f"{what}: values that are not finite in {', '.join(broken)}. "
            "Take a model from before the training diverged."
        )
