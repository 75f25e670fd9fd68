"""The format of weights on disk: a folder with model.safetensors and config.json."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
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
from amd_seg.model.config import (
    AMDConfig,
    SemanticConfig,
    SemanticWeightsConfig,
    WeightsConfig,
    stored_config,
)

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
    refuses.

    Args:
        dtype: of the stored parameters; one whose values overflow it is stored as it is.

    Returns:
        The folder.

    Raises:
        InputError: `config.model` is not the model's own.
        WeightsError: a value is not finite, or the folder cannot be written.
    """
    folder = Path(folder)
    if config.model != model.config:
        raise InputError(
            f"Cannot save weights to {folder}: config.model is not the model's config. "
            "Pass WeightsConfig(model=model.config, ...)."
        )
    state = model.state_dict()
    _require_finite(state, f"Cannot save weights to {folder}")
    tensors = {key: _stored(value.detach().cpu(), dtype) for key, value in state.items()}
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    config = dataclasses.replace(config, sha256=hashlib.sha256(data).hexdigest())
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    try:
        _replace_files(folder, {WEIGHTS_FILE: data, CONFIG_FILE: text.encode()})
    except OSError as cause:
        raise WeightsError(
            f"Cannot write weights to {folder}: {cause.strerror or cause}. Give another folder."
        ) from cause
    return folder


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    # Variances of early layers can pass float16's 65504.
    if value.is_floating_point() and torch.isfinite(cast := value.to(dtype)).all():
        value = cast
    return value.contiguous()


def _replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside their targets, then move them in place."""
    exists = folder.is_dir()
    if not exists:
        folder.parent.mkdir(parents=True, exist_ok=True)
    # Inside an existing folder, because its parent may be another file system.
    place = folder if exists else folder.parent
    with TemporaryDirectory(prefix=".amd-seg-", dir=place) as scratch:
        fresh = Path(scratch) / "weights"
        fresh.mkdir()
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if not exists:
            fresh.rename(folder)
            return
        for name in files:
            (fresh / name).replace(folder / name)


def read_weights(source: Path) -> tuple[Network, NetworkConfig]:
    """Read a model of either kind, strictly: all its tensors, of their shapes, finite, none more.

    Args:
        source: a folder, or a .safetensors file with config.json beside it.

    Returns:
        The model, in eval mode, float32, on the CPU; and its config.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the other.
    """
    file = source / WEIGHTS_FILE if source.is_dir() else source
    _require_safetensors(file)
    config = read_config(file.parent / CONFIG_FILE)
    # On the meta device a model takes no memory: a hostile config is found out before it does.
    with torch.device("meta"), _NoRandomValues():
        expected = _new_model(config.model).state_dict()
    try:
        with safe_open(str(file), framework="pt") as handle:
            _check_header(file, expected, handle)
            _check_digest(file, config.sha256)
            stored = {key: handle.get_tensor(key) for key in expected}
    except WeightsError:
        raise
    except (SafetensorError, OSError) as cause:
        raise WeightsError(
            f"Cannot read {file}: it is damaged or no safetensors file ({cause}). "
            "Copy or download it again."
        ) from cause
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in stored.items()}
    _require_finite(tensors, f"Cannot use {file}")
    with _NoRandomValues():
        model = _new_model(config.model)
    model.load_state_dict(tensors)
    return model.eval(), config


def read_config(path: Path) -> NetworkConfig:
    """Read and check a config.json.

    Raises:
        WeightsError: it is missing, no JSON, of another version, or holds wrong values.
    """
    advice = f"Take the {CONFIG_FILE} that came with these weights."
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"it is larger than {MAX_CONFIG_BYTES} bytes.")
        return stored_config(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as cause:
        raise WeightsError(
            f"Cannot read weights in {path.parent}: {CONFIG_FILE} is missing there. "
            f"Put the {CONFIG_FILE} that came with {WEIGHTS_FILE} beside it."
        ) from cause
    except OSError as cause:
        raise WeightsError(
            f"Cannot read {path}: {cause.strerror or cause}. Check the file."
        ) from cause
    # Order matters: a ConfigError is a ValueError, and so is what is wrong with JSON or UTF-8.
    except ConfigError as cause:
        raise WeightsError(
            f"Cannot use {path}: {str(cause).removesuffix('.')}. {advice}"
        ) from cause
    except (ValueError, RecursionError) as cause:
        reason = f"it is not valid JSON ({cause})"
        raise WeightsError(f"Cannot read {path}: {reason}. {advice}") from cause


def listed(faults: Mapping[str, Iterable[str]], *, most: int | None = None) -> str:
    """Put names of wrong tensors into one text, kind by kind, `most` of each."""
    kinds = {kind: list(names) for kind, names in faults.items()}
    return "; ".join(
        f"{kind}: {', '.join(names[:most])}{', ...' if len(names[:most]) < len(names) else ''}"
        for kind, names in kinds.items()
        if names
    )


def _require_safetensors(file: Path) -> None:
    """Give missing files, pickles and others their own sentence, before any parser sees them."""
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except FileNotFoundError as cause:
        raise WeightsError(
            f"Cannot read weights in {file.parent}: {file.name} is missing there. "
            f"Give a folder with {WEIGHTS_FILE} and {CONFIG_FILE}."
        ) from cause
    except OSError as cause:
        raise WeightsError(
            f"Cannot read {file}: {cause.strerror or cause}. Check the file."
        ) from cause
    # Safetensors is a length in 8 bytes, then JSON. Pickles are zip files, or begin with 0x80.
    if head[8:9] == b"{":
        return
    if head.startswith((b"PK", b"\x80")) or file.suffix == ".pth":
        raise WeightsError(
            f"Cannot load {file}: it is a pickle, which can run code when it is read. "
            f"Convert it first: amd-seg weights convert {file} -o DIR"
        )
    raise WeightsError(
        f"Cannot read {file}: it is damaged or no safetensors file. Copy or download it again."
    )


class _NoRandomValues(TorchFunctionMode):
    """Leave out the drawing of first values, which the weights replace anyway.

    It would change the global generator, and on the meta device load sympy: 4 seconds.
    """

    # Of torch.nn.init and of Tensor.
    FUNCTIONS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the tensor as it is, in place of drawing into it."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.FUNCTIONS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _new_model(config: AMDConfig | SemanticConfig) -> Network:
    return SemanticNetwork(config) if isinstance(config, SemanticConfig) else AMD(config)


def _check_header(file: Path, expected: Mapping[str, Tensor], handle: Any) -> None:
    """Compare names, shapes and kinds, and name all that differ in one message."""
    found = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 -- no mapping
    wrong_shape, wrong_type = [], []
    for key in expected.keys() & found.keys():
        shape, to_be = tuple(found[key].get_shape()), tuple(expected[key].shape)
        if shape != to_be:
            wrong_shape.append(f"{key} {shape} instead of {to_be}")
        is_float, kind = expected[key].is_floating_point(), found[key].get_dtype()
        if kind not in (("F16", "BF16", "F32", "F64") if is_float else ("I64",)):
            wrong_type.append(f"{key} {kind}")
    faults = {
        "missing": [key for key in expected if key not in found],
        "unexpected": sorted(found.keys() - expected.keys()),
        "wrong shape": sorted(wrong_shape),
        "wrong type": sorted(wrong_type),
    }
    if any(faults.values()):
        raise WeightsError(
            f"Cannot use {file}: it does not fit the model of {CONFIG_FILE} ({listed(faults)}). "
            f"Take both files from the same place."
        )


def _check_digest(file: Path, sha256: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 and found != sha256:
        raise WeightsError(
            f"Cannot use {file}: its sha256 is {found}, and {CONFIG_FILE} says {sha256}. "
            "Delete both files, then copy or download them again."
        )


def _require_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise WeightsError(
            f"{what}: values that are not finite in {', '.join(broken)}. "
            "Take a model from before the training diverged."
        )
