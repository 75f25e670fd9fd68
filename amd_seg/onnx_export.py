"""Write a network as an .onnx file that is known to compute what the model does."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import ConfigError, ExportError, InputError
from amd_seg.media.files import check_target, replacing
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.onnx_network import CONFIG_KEY, open_session
from amd_seg.resampling import resize_pixels
from amd_seg.segmenter import Segmenter
from amd_seg.weights import Pretrained, load_weights

if TYPE_CHECKING:
    from onnx import ModelProto

SIZES = ("dynamic", "fixed")

BAR = 1e-4
"""Largest difference of a saliency or a region, 0..1, between the file and the model."""

PICTURES = ((97, 131), (233, 150), (83, 517))
"""Height and width of the pictures of the check: landscape, portrait, and beyond 1 to 4."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how far it is from the model."""

    path: Path
    difference: float
    """The largest one of a saliency or a region, 0..1, over the pictures of the check."""
    pictures: int
    """How many these were."""


def export_onnx(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    size: str = "dynamic",
    overwrite: bool = False,
) -> OnnxReport:
    """Write the network of some weights as an .onnx file; docs/onnx.md describes it.

    The file is run by onnxruntime on three pictures before it gets its name: it is there whole
    and right, or not at all.

    Args:
        path: the file to make; its folder exists.
        weights: as `Segmenter.from_pretrained` takes them, like `revision`.
        size: "dynamic" (pictures of any size, resized by the graph) or "fixed" (square pictures
            of the size that the network sees, one at a time, for runtimes that want all shapes
            beforehand).
        overwrite: replace a file that is there.

    Raises:
        InputError: `size` or the name cannot be used, or the file exists.
        ConfigError: the extra `onnx` is not installed.
        WeightsError: the weights cannot be had or are not valid.
        ExportError: the file does not compute what the model does; it is removed.
        MediaError: the file cannot be written.
    """
    path = Path(path)
    _check_request(path, size, overwrite)
    pretrained = load_weights(weights, revision=revision)
    is_fixed = size == "fixed"
    graph = _graph_of(pretrained, is_fixed)
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        difference = largest_difference(temporary, pretrained, is_fixed=is_fixed)
        # Written so that what is no number fails too.
        if not difference <= BAR:
            raise ExportError(
                f"Nothing is written to {path}: onnxruntime's result differs from the model's by "
                f"{difference:.2g}, and {BAR:g} is allowed. Install the versions of torch, onnx "
                "and onnxruntime in constraints.txt, or report it with amd-seg env."
            )
    return OnnxReport(path, difference, len(PICTURES))


def largest_difference(
    path: Path, pretrained: Pretrained[AMD, WeightsConfig], *, is_fixed: bool = False
) -> float:
    """Run a file and the model on the pictures of the check.

    Returns:
        The largest difference of a saliency or a region, 0..1; not a number where a result is
        none.
    """
    session = open_session(path)
    segmenter = Segmenter(pretrained.model, pretrained.config, device="cpu")
    edge = pretrained.config.input_size
    differences = []
    for picture in _pictures():
        pixels = _resized(picture, (edge, edge)) if is_fixed else picture
        saliency, regions = session.run(["saliency", "regions"], {"image": pixels[None]})
        expected = segmenter(pixels, refine="none")
        differences.append(np.abs(saliency[0] - expected.saliency).max())
        differences.append(np.abs(regions[0] - expected.region_masks).max())
    return float(np.max(differences))


def _check_request(path: Path, size: str, overwrite: bool) -> None:
    if size not in SIZES:
        raise InputError(f"size={size!r} cannot be used: give {' or '.join(SIZES)}.")
    if path.suffix.lower() != ".onnx":
        raise InputError(f"Cannot write {path}: its name must end in .onnx.")
    check_target(path, overwrite=overwrite)


def _graph_of(pretrained: Pretrained[AMD, WeightsConfig], is_fixed: bool) -> "ModelProto":
    try:
        from amd_seg.onnx_graph import build_model
    except ImportError as cause:
        raise ConfigError(
            f"Writing an .onnx file needs {cause.name}, which is not installed. "
            'Install it with: pip install "amd-seg[onnx]"'
        ) from cause
    config = pretrained.config
    return build_model(
        pretrained.model,
        channel=config.object_channel,
        size=config.input_size,
        is_fixed=is_fixed,
        metadata=_metadata(pretrained),
    )


def _metadata(pretrained: Pretrained[AMD, WeightsConfig]) -> dict[str, str]:
    """What the file says of itself, all of it text."""
    config, training = pretrained.config, pretrained.config.training
    of_weights = pretrained.commit or str(training.get("revision", "unknown"))
    return {
        "name": config.name,
        "object_channel": str(config.object_channel),
        "input_size": str(config.input_size),
        "threshold": str(config.threshold),
        "licence": str(training.get("licence", "not stated")),
        "revision": of_weights,
        "weights": Path(pretrained.source).name,
        "sha256": config.sha256,
        CONFIG_KEY: json.dumps(config.to_dict()),
    }


def _pictures() -> Iterator[NDArray[np.uint8]]:
    """Yield pictures (height, width, 3) of smooth shapes under noise, the same every time."""
    generator = np.random.default_rng(0)
    for height, width in PICTURES:
        coarse = generator.integers(0, 256, (5, 7, 3), np.uint8)
        noise = generator.normal(0, 12, (height, width, 3))
        smooth = _resized(coarse, (height, width))
        yield np.clip(smooth + noise, 0, 255).astype(np.uint8)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = resize_pixels(pixels, size).permute(1, 2, 0).contiguous().numpy()
    return resized
