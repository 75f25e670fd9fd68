"""A network in an .onnx file, as `amd-seg export onnx` writes it, run by onnxruntime."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from amd_seg.errors import ConfigError, InputError, WeightsError
from amd_seg.model.config import WeightsConfig

CONFIG_KEY = "config"
"""The entry of the metadata with what a config.json would say."""


class OnnxNetwork(nn.Module):
    """The part of an `AMD` that segments; it runs on the CPU and cannot be trained.

    It is a module without parameters, so that it can stand where a model does.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session
        self._options = _runtime().RunOptions()
        self._options.only_execute_path_to_fetches = True

    def segment(self, frames: Tensor) -> Tensor:
        """As `AMD.segment`, for frames of uint8 on the CPU.

        Raises:
            InputError: the frames are of another type.
            WeightsError: the runtime failed.
        """
        if frames.dtype is not torch.uint8:
            raise InputError(f"An .onnx file takes no frames of {frames.dtype}. Give torch.uint8.")
        image = frames.permute(0, 2, 3, 1).contiguous().numpy()
        # 0: the frames have the network's size.
        inputs = {"image": image, "size": torch.tensor(0).numpy()}
        try:
            (regions,) = self._session.run(["regions"], inputs, self._options)
        # The runtime's errors share no base but this, and a file can bring about any of them.
        except Exception as cause:
            raise WeightsError(
                f"onnxruntime failed on {len(frames)} images of {frames.shape[3]}x"
                f"{frames.shape[2]} pixels: {one_line(cause)}. Use a smaller batch size, or "
                "export the file again."
            ) from cause
        return torch.from_numpy(regions)


def is_onnx(source: str | os.PathLike[str] | None) -> TypeGuard[str | os.PathLike[str]]:
    """Tell whether weights are asked for by the name of an .onnx file."""
    return source is not None and os.fspath(source).lower().endswith(".onnx")


def read_onnx(
    source: str | os.PathLike[str], revision: str | None = None
) -> tuple[OnnxNetwork, WeightsConfig]:
    """Open a file of `amd-seg export onnx`; as many threads run it as torch is set to use.

    Raises:
        InputError: a revision of a file.
        ConfigError: onnxruntime is not installed.
        WeightsError: there is no such file, it is damaged or not ours, or takes one size only.
    """
    path = Path(os.path.expanduser(source))
    if revision is not None:
        raise InputError(
            f"revision={revision!r} cannot be used with {path}, which is not on the Hub. "
            "Leave the revision out."
        )
    session = open_session(path)
    metadata = session.get_modelmeta().custom_metadata_map
    config = _config_of(path, metadata)
    _require_our_face(path, session, config)
    return OnnxNetwork(session), config


def open_session(path: Path) -> Any:
    """Return the InferenceSession of an .onnx file, on the CPU.

    Raises:
        ConfigError: onnxruntime is not installed.
        WeightsError: there is no such file, or the runtime cannot read it.
    """
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # Its errors are raised too.
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(f"Cannot read {path}: {what}. Check the name.")
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # As above.
    except Exception as cause:
        raise WeightsError(
            f"Cannot read {path}: it is damaged or no ONNX file ({one_line(cause)}). "
            "Copy it again, or write it with: amd-seg export onnx"
        ) from cause


def one_line(error: Exception) -> str:
    """Return what an error of the runtime says, short and on one line."""
    text = " ".join(str(error).split()).removesuffix(".")
    return text if len(text) <= 200 else text[:197] + "..."


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as cause:
        raise ConfigError(
            "An .onnx file needs onnxruntime, which is not installed. "
            'Install it with: pip install "amd-seg[onnx]"'
        ) from cause
    return onnxruntime


def _config_of(path: Path, metadata: Mapping[str, str]) -> WeightsConfig:
    if CONFIG_KEY not in metadata:
        raise WeightsError(
            f"Cannot use {path}: amd-seg did not write it, and it does not say which region is "
            "the object. Write one with: amd-seg export onnx"
        )
    try:
        return WeightsConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    # Order as in weights_folder: a ConfigError is a ValueError, and so is what is wrong with JSON.
    except (ConfigError, ValueError, RecursionError) as cause:
        raise WeightsError(
            f"Cannot use {path}: its metadata {CONFIG_KEY!r} is not valid ({one_line(cause)}). "
            "Write the file again with: amd-seg export onnx"
        ) from cause


def _require_our_face(path: Path, session: Any, config: WeightsConfig) -> None:
    """Raise unless inputs and outputs are those of an exported file that takes any size."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    sizes = {value.name for value in session.get_overridable_initializers()}
    image, regions = inputs.get("image"), outputs.get("regions")
    is_ours = (
        set(inputs) == {"image"}
        and image is not None
        and image.type == "tensor(uint8)"
        and len(image.shape) == 4
        and regions is not None
        and regions.type == "tensor(float)"
        and list(regions.shape[1:2]) == [config.model.regions]
    )
    if not is_ours:
        raise WeightsError(
            f"Cannot use {path}: its inputs and outputs are not those that amd-seg export onnx "
            f"gives a file ({', '.join([*inputs, *outputs])}). Write it again."
        )
    assert image is not None
    if "size" not in sizes:
        _, height, width, _ = image.shape
        raise WeightsError(
            f"Cannot use {path}: it takes pictures of {width}x{height} pixels and no others. "
            "Write one for all sizes with: amd-seg export onnx --size dynamic"
        )
