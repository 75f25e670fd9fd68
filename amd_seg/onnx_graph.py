"""The ONNX graph of a network: photos of any size in, saliency at their size out.

Resizing is spelt out in whole numbers, as torch does it for bytes. The operator Resize of ONNX
leaves its rounding to the runtime, and onnxruntime's differs by up to 7 of 255 in some pixels:
the masks would not be the same.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import onnx_ir.passes.common
import torch
from onnx import ModelProto
from onnx.compose import add_prefix, merge_models
from onnx.inliner import inline_local_functions
from onnx.parser import parse_model
from torch import Tensor, nn

from amd_seg import __version__
from amd_seg.errors import ExportError
from amd_seg.model.amd import AMD
from amd_seg.network_input import LONGEST_ASPECT

OPSET = 18
IR_VERSION = 10
POWERS = ", ".join(f"{2.0**bits}" for bits in range(1, 23))

# From a photo to the frame that the network sees: `network_input.network_size`, then what
# `resampling.resize_pixels` does. A size of 0 leaves the photo as it is.
# Source of the arithmetic: torch, ATen/native/cpu/UpSampleKernel.cpp: a tent filter whose weights,
# of double precision, are rounded to 15 bits and applied to whole numbers along the width, then
# along the height. MatMulInteger takes bytes, so that the weights go in two halves.
SEE = f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}, "amd_seg" : 1]>
see (uint8[batch,height,width,3] image, int64 size)
    => (uint8[batch,3,h,w] frames, int64[2] photo_size)
{{
    photo_size = Shape <start = 1, end = 3> (image)
    edges = Cast <to = 11> (photo_size)
    short_edge = ReduceMin <keepdims = 0> (edges)
    long_edge = ReduceMax <keepdims = 0> (edges)
    aspect = Constant <value_int = {LONGEST_ASPECT}> ()
    size_as_double = Cast <to = 11> (size)
    short_factor = Div (size_as_double, short_edge)
    longest = Mul (size, aspect)
    longest_as_double = Cast <to = 11> (longest)
    long_factor = Div (longest_as_double, long_edge)
    factor = Min (short_factor, long_factor)
    half = Constant <value = double {{0.5}}> ()
    scaled = Mul (edges, factor)
    raised = Add (scaled, half)
    floored = Floor (raised)
    rounded = Cast <to = 7> (floored)
    least = Div (size, aspect)
    reduced_size = Max (rounded, least)
    nothing = Constant <value_int = 0> ()
    is_as_it_is = Equal (size, nothing)
    seen_size = Where (is_as_it_is, photo_size, reduced_size)
    h, w = Split <num_outputs = 2> (seen_size)
    pixels = Transpose <perm = [0, 3, 1, 2]> (image)
    narrow = amd_seg.resize_last_axis (pixels, w)
    turned = Transpose <perm = [0, 1, 3, 2]> (narrow)
    small = amd_seg.resize_last_axis (turned, h)
    frames = Transpose <perm = [0, 1, 3, 2]> (small)
}}
<domain: "amd_seg", opset_import: ["" : {OPSET}]>
resize_last_axis (values, length) => (resized)
{{
    zero = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    one = Constant <value = double {{1.0}}> ()
    half = Constant <value = double {{0.5}}> ()
    cells = Squeeze (length)
    length_before = Shape <start = 3> (values)
    pixels = Squeeze (length_before)

    cells_as_double = Cast <to = 11> (cells)
    pixels_as_double = Cast <to = 11> (pixels)
    scale = Div (pixels_as_double, cells_as_double)
    reach = Max (scale, one)
    cell_numbers = Range (zero, cells, step)
    cells_from_0 = Cast <to = 11> (cell_numbers)
    middles = Add (cells_from_0, half)
    centres = Mul (scale, middles)
    pixel_numbers = Range (zero, pixels, step)
    pixels_from_0 = Cast <to = 11> (pixel_numbers)
    rows = Constant <value_ints = [1]> ()
    places = Unsqueeze (pixels_from_0, rows)
    offsets = Sub (places, centres)
    distances = Add (offsets, half)
    inverse_reach = Div (one, reach)
    shares_of_reach = Mul (distances, inverse_reach)
    lengths = Abs (shares_of_reach)
    heights = Sub (one, lengths)
    tents = Relu (heights)
    columns = Constant <value_ints = [0]> ()
    totals = ReduceSum <keepdims = 1> (tents, columns)
    weights = Div (tents, totals)

    largest = ReduceMax <keepdims = 0> (weights)
    powers_of_2 = Constant <value = double[22] {{{POWERS}}}> ()
    enlarged = Mul (largest, powers_of_2)
    raised = Add (enlarged, half)
    floored = Floor (raised)
    too_large = Constant <value = double {{32768.0}}> ()
    fits = Less (floored, too_large)
    ones = Cast <to = 11> (fits)
    bits = ReduceSum <keepdims = 0> (ones)
    two = Constant <value = double {{2.0}}> ()
    unit = Pow (two, bits)

    weights_in_units = Mul (weights, unit)
    weights_raised = Add (weights_in_units, half)
    weights_floored = Floor (weights_raised)
    whole = Cast <to = 6> (weights_floored)
    byte = Constant <value = int32 {{256}}> ()
    high_part = Div (whole, byte)
    low_part = Mod (whole, byte)
    high = Cast <to = 2> (high_part)
    low = Cast <to = 2> (low_part)
    sums_of_high = MatMulInteger (values, high)
    sums_of_low = MatMulInteger (values, low)
    sums_shifted = Mul (sums_of_high, byte)
    sums = Add (sums_shifted, sums_of_low)

    whole_unit = Cast <to = 6> (unit)
    whole_two = Constant <value = int32 {{2}}> ()
    half_unit = Div (whole_unit, whole_two)
    sums_raised = Add (sums, half_unit)
    means = Div (sums_raised, whole_unit)
    white = Constant <value = int32 {{255}}> ()
    limited = Min (means, white)
    resized = Cast <to = 2> (limited)
}}
"""

# The same of pictures that have the network's size, square, already.
SEE_AS_IT_IS = f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
see (uint8[1,%(size)d,%(size)d,3] image)
    => (uint8[1,3,%(size)d,%(size)d] frames, int64[2] photo_size)
{{
    frames = Transpose <perm = [0, 3, 1, 2]> (image)
    photo_size = Constant <value_ints = [%(size)d, %(size)d]> ()
}}
"""

# From the regions to the object at the photo's size: `upsampling.upsample`.
ENLARGE = f"""
<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
enlarge (float[batch,region,rows,columns] regions, int64[2] photo_size)
    => (float[batch,height,width] saliency)
{{
    channel = Constant <value_ints = [%(channel)d]> ()
    object = Gather <axis = 1> (regions, channel)
    batch_and_map = Shape <start = 0, end = 2> (object)
    all_sizes = Concat <axis = 0> (batch_and_map, photo_size)
    enlarged = Resize <mode = "linear", coordinate_transformation_mode = "align_corners">
        (object, , , all_sizes)
    zero = Constant <value = float {{0.0}}> ()
    one = Constant <value = float {{1.0}}> ()
    bounded = Clip (enlarged, zero, one)
    axes = Constant <value_ints = [1]> ()
    saliency = Squeeze (bounded, axes)
}}
"""


def build_model(
    model: AMD, *, channel: int, size: int, is_fixed: bool, metadata: Mapping[str, str]
) -> ModelProto:
    """Return the graph of a model, from a photo's bytes to its saliency.

    Inputs:
        image: (batch, height, width, 3), RGB, uint8, of any size; fixed: (1, size, size, 3).
        size: a number, int64, that may be left out: the short edge, in pixels, that the network
            sees; 0 shows it the image as it is. Not there where the size is fixed.

    Outputs:
        saliency: (batch, height, width), float32, 0..1, without refinement.
        regions: (batch, region, ceil(h / 8), ceil(w / 8)) for the h x w that the network saw.

    Args:
        model: in eval mode, float32, on the CPU.
        channel: the region that is the object.
        size: the default of `size`, or the fixed edge.
        metadata: what the file says of itself.
    """
    see = parse_model(SEE_AS_IT_IS % {"size": size} if is_fixed else SEE)
    enlarge = parse_model(ENLARGE % {"channel": channel})
    network = export_network(model, (size, size) if is_fixed else None)
    graph = merge_models(
        inline_local_functions(see),
        add_prefix(network, "network_", rename_inputs=False, rename_outputs=False),
        io_map=[("frames", "frames")],
        outputs=["regions", "photo_size"],
    )
    shared = [(name, name) for name in ("regions", "photo_size")]
    merged = merge_models(graph, enlarge, io_map=shared, outputs=["saliency", "regions"])
    # First what a caller of one output wants.
    merged.graph.output.sort(key=lambda output: output.name != "saliency")
    if not is_fixed:
        default = onnx.helper.make_tensor("size", onnx.TensorProto.INT64, (), [size])
        merged.graph.initializer.append(default)
    merged.producer_name, merged.producer_version = "amd-seg", __version__
    onnx.helper.set_model_props(merged, dict(metadata))
    onnx.checker.check_model(merged, full_check=True)
    return merged


class _Regions(nn.Module):
    """A model's eq. 1 as a module of its own, which the exporter wants."""

    def __init__(self, model: AMD) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        return self.model.segment(frames)


def export_network(model: AMD, size: tuple[int, int] | None) -> ModelProto:
    """Return the graph from frames (batch, 3, h, w), uint8, to regions, by torch's exporter.

    Args:
        model: in eval mode, float32, on the CPU.
        size: h and w of the one frame that it takes; None takes any batch of any size.

    Raises:
        ExportError: the exporter cannot do it.
    """
    # Two of each, and unequal, or the exporter takes them for constants or for one another.
    least = model.appearance.least_size
    example = torch.zeros(2, 3, least + 32, least + 48, dtype=torch.uint8)
    names = {0: "batch", 2: "h", 3: "w"}
    shapes = {axis: torch.export.Dim(name, min=max(least, 2)) for axis, name in names.items()}
    shapes[0] = torch.export.Dim("batch")
    if size is not None:
        example = torch.zeros(1, 3, *size, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                _Regions(model).eval(),
                (example,),
                input_names=["frames"],
                output_names=["regions"],
                dynamic_shapes=(shapes,) if size is None else None,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as cause:
        raise ExportError(
            f"torch {torch.__version__} cannot export this model: {str(cause).splitlines()[0]} "
            "Install the versions of torch and onnxscript in constraints.txt."
        ) from cause
    assert program is not None
    # It holds the paths of this machine.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    network = program.model_proto
    network.ir_version = IR_VERSION
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on torch's own insides and on torchvision to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
