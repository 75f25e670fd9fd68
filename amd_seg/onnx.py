"""Export `AMD.segment` as an .onnx file: frames in, soft regions out, checked against torch."""

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from amd_seg.errors import ConfigError, ExportError, InputError
from amd_seg.media.files import check_target, replacing
from amd_seg.model.amd import AMD
from amd_seg.weights import load_weights

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18

BAR = 1e-4  # largest difference of a region, 0..1, that the file may have from the model

# Batch, height and width of the frames of the check: single and several, odd, long and high.
CHECKED = ((1, 96, 131), (2, 150, 97), (1, 83, 300))


def export_onnx(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> float:
    """Write some weights as an .onnx file; return its largest difference from the model, 0..1.

    They are named as for `Segmenter.from_pretrained`. The input `frames` is (batch, 3, height,
    width), RGB, uint8, of any size; the output `regions` is what `AMD.segment` gives. Metadata say
    which region is the object. The file gets its name after onnxruntime has run it: it is there
    whole and right, or not at all.

    Raises:
        ConfigError: the extra `onnx` is not installed.
        ExportError: the file does not compute what the model does; it is removed.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise InputError(f"Cannot write {path}: its name must end in .onnx.")
    check_target(path, overwrite=overwrite)
    pretrained = load_weights(weights)
    config = pretrained.config
    graph = _graph(pretrained.model)
    metadata = {
        **{key: getattr(config, key) for key in ("name", "object_channel", "input_size")},
        "threshold": config.threshold,
        "licence": config.training.get("licence", "not stated"),
        "weights": Path(pretrained.source).name,
        "config": json.dumps(config.to_dict()),
    }
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
        difference = largest_difference(temporary, pretrained.model)
        # Written so that what is no number fails too.
        if not difference <= BAR:
            raise ExportError(
                f"Nothing is written to {path}: onnxruntime's result differs from the model's by "
                f"{difference:.2g}, and {BAR:g} is allowed. Install the versions of torch, onnx "
                "and onnxruntime in constraints.txt, or report it with amd-seg env."
            )
    return difference


def largest_difference(path: Path, model: AMD) -> float:
    """Run a file and the model on random frames; return the largest difference of a region."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch, height, width in CHECKED:
        size = (batch, 3, height, width)
        frames = torch.randint(256, size, generator=generator, dtype=torch.uint8)
        (regions,) = session.run(["regions"], {"frames": frames.numpy()})
        with torch.inference_mode():
            differences.append((torch.from_numpy(regions) - model.segment(frames)).abs().max())
    return float(torch.stack(differences).max())


class _Regions(nn.Module):
    """A model's eq. 1 as a module of its own, which the exporter wants."""

    def __init__(self, model: AMD) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        return self.model.segment(frames)


def _graph(model: AMD) -> "ModelProto":
    try:
        import onnx_ir.passes.common
        import onnxruntime  # noqa: F401 -- that it lacks is told before the work, not after it
        import onnxscript  # noqa: F401
    except ImportError as cause:
        raise ConfigError(
            f"Writing an .onnx file needs {cause.name}, which is not installed. "
            'Install it with: pip install "amd-seg[onnx]"'
        ) from cause
    # Two frames, and unequal edges, or the exporter takes them for constants or for one another.
    example = torch.zeros(2, 3, 33, 49, dtype=torch.uint8)
    least = {"batch": 1, "height": 2, "width": 2}
    batch, height, width = (torch.export.Dim(name, min=size) for name, size in least.items())
    remarks = logging.getLogger("torch.onnx")  # on torch's own insides
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Regions(model).eval(),
                (example,),
                input_names=["frames"],
                output_names=["regions"],
                dynamic_shapes=({0: batch, 2: height, 3: width},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as cause:
        raise ExportError(
            f"torch {torch.__version__} cannot export this model: {str(cause).splitlines()[0]} "
            "Install the versions of torch and onnxscript in constraints.txt."
        ) from cause
    finally:
        remarks.setLevel(level)
    assert program is not None
    # It holds the paths of this machine.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto
