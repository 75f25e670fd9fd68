"""The .onnx file: it computes what the model does, and says in one line why it cannot be used."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from amd_seg import Segmenter, VideoSegmenter, export_onnx
from amd_seg.cli import cli
from amd_seg.cli.export import SIZES as COMMAND_SIZES
from amd_seg.errors import ConfigError, DeviceError, InputError, WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.network_input import resize_for_network
from amd_seg.onnx_export import BAR, SIZES, largest_difference
from amd_seg.weights import load_weights, save_weights

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="session")
def file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an .onnx file."""
    return export_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx", weights).path


@pytest.fixture(scope="session")
def fixed(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for pictures of one size."""
    return export_onnx(tmp_path_factory.mktemp("onnx") / "fixed.onnx", weights, size="fixed").path


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def session(content: "Path | onnx.ModelProto") -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = content if isinstance(content, Path) else content.SerializeToString()
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# What it computes.


@pytest.fixture(scope="session")
def see() -> Any:
    """The part of the graph that resizes a photo."""
    from amd_seg.onnx_graph import SEE

    return session(onnx.inliner.inline_local_functions(onnx.parser.parse_model(SEE)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(16, 300), st.booleans())
@example(height=1, width=1, size=16, is_hard=False)
@example(height=3, width=4000, size=144, is_hard=True)
@example(height=2000, width=1, size=48, is_hard=True)
def test_the_graph_resizes_as_torch_does_bit_by_bit(
    see: Any, height: int, width: int, size: int, is_hard: bool
) -> None:
    pixels = photo(height, width)
    if is_hard:  # Edges of full contrast make the sums largest.
        pixels = (pixels > 127).astype(np.uint8) * 255
    inputs = {"image": pixels[None], "size": np.array(size)}
    np.testing.assert_array_equal(
        see.run(["frames"], inputs)[0][0], resize_for_network(pixels, size)
    )
    (as_it_is,) = see.run(["frames"], inputs | {"size": np.array(0)})
    np.testing.assert_array_equal(as_it_is[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(40, 60), (61, 37), (30, 300), (500, 401)])
def test_the_file_gives_the_saliency_and_the_regions_of_the_model(
    file: Path, weights: Path, shape: tuple[int, int]
) -> None:
    pixels = photo(*shape)
    saliency, regions = session(file).run(None, {"image": np.stack([pixels, pixels[::-1]])})
    for index, view in enumerate((pixels, pixels[::-1])):
        expected = Segmenter.from_pretrained(weights, device="cpu")(view, refine="none")
        np.testing.assert_allclose(saliency[index], expected.saliency, atol=1e-5)
        np.testing.assert_allclose(regions[index], expected.region_masks, atol=1e-5)


def test_the_size_that_the_network_sees_can_be_given(file: Path, weights: Path) -> None:
    pixels = photo(100, 140)
    (saliency,) = session(file).run(["saliency"], {"image": pixels[None], "size": np.array(80)})
    segmenter = Segmenter.from_pretrained(weights, device="cpu")
    expected = segmenter(pixels, size=80, refine="none").saliency
    np.testing.assert_allclose(saliency[0], expected, atol=1e-5)
    assert np.abs(saliency[0] - segmenter(pixels, refine="none").saliency).max() > 1e-3


def test_a_fixed_file_has_fixed_shapes(fixed: Path, weights: Path) -> None:
    opened = session(fixed)
    shapes = {value.name: value.shape for value in (*opened.get_inputs(), *opened.get_outputs())}
    assert shapes == {
        "image": [1, 48, 48, 3],
        "saliency": [1, 48, 48],
        "regions": [1, 5, 6, 6],
    }
    pixels = photo(48, 48)
    saliency, _ = opened.run(None, {"image": pixels[None]})
    expected = Segmenter.from_pretrained(weights, device="cpu")(pixels, refine="none").saliency
    np.testing.assert_allclose(saliency[0], expected, atol=1e-5)


def test_a_model_that_reflects_at_its_border(tmp_path: Path, tiny_config: AMDConfig) -> None:
    config = dataclasses.replace(tiny_config, padding="reflect")
    weights = WeightsConfig(model=config, input_size=48)
    folder = save_weights(tmp_path / "weights", AMD(config), weights)
    report = export_onnx(tmp_path / "model.onnx", folder)
    assert (report.pictures, report.difference < 1e-5) == (3, True)


def test_the_file_says_what_it_is(file: Path, tmp_path: Path, weights: Path) -> None:
    said = session(file).get_modelmeta().custom_metadata_map
    config = json.loads((weights / "config.json").read_text())
    assert json.loads(said["config"]) == config
    rest = {name: said[name] for name in ("object_channel", "input_size", "threshold", "licence")}
    assert rest == {
        "object_channel": "1",
        "input_size": "48",
        "threshold": "0.25",
        "licence": "not stated",
    }
    assert {"name", "revision", "weights", "sha256"} < set(said)
    # Nothing of the machine that made it.
    assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()
    local = shutil.copytree(weights, tmp_path / "me@here" / "tiny")
    exported = export_onnx(tmp_path / "model.onnx", local).path
    said = session(exported).get_modelmeta().custom_metadata_map
    assert (said["revision"], said["weights"]) == ("unknown", "tiny")


# As weights of a segmenter.


def test_a_segmenter_runs_the_file(file: Path, weights: Path) -> None:
    theirs, ours = (Segmenter.from_pretrained(source, device="cpu") for source in (file, weights))
    photos = [photo(40, 60), photo(40, 60, 1), photo(90, 31, 2), photo(200, 300, 3)]
    for call in ({}, {"size": 33, "refine": "none"}, {"tta": True, "batch_size": 3}):
        for one, other in zip(theirs(photos, **call), ours(photos, **call), strict=True):
            np.testing.assert_allclose(one.region_masks, other.region_masks, atol=1e-5)
            assert np.abs(one.saliency - other.saliency).max() < 1e-4
            assert (one.object_channel, one.threshold) == (other.object_channel, 0.25)


def test_the_command_takes_the_file_for_weights(file: Path, weights: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(80, 120)).save(tmp_path / "a.png")
    masks = []
    for source in (file, weights):
        out = tmp_path / f"{source.name}.png"
        arguments = ["image", str(tmp_path / "a.png"), "-o", str(out), "--output", "saliency"]
        result = CliRunner().invoke(cli, [*arguments, "--weights", str(source)])
        assert result.exit_code == 0, result.stderr
        with Image.open(out) as picture:
            masks.append(np.asarray(picture, np.int16))
    assert np.abs(masks[0] - masks[1]).max() <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda file: load_weights(file),
        lambda file: VideoSegmenter.from_pretrained(file).save("folder"),
        lambda file: Segmenter.from_pretrained(file, revision="main"),
        lambda file: Segmenter.from_pretrained(file, precision="bfloat16"),
        lambda file: Segmenter.from_pretrained(file).region_masks(torch.zeros(1, 3, 48, 48)),
    ],
    ids=["training", "saving", "revision", "bfloat16", "float frames"],
)
def test_what_a_file_cannot_do_is_said_in_one_line(file: Path, call: Any) -> None:
    with pytest.raises((WeightsError, InputError, DeviceError), match=r"Give|Leave|Take") as caught:
        call(file)
    assert len(str(caught.value).splitlines()) == 1


def test_adaptation_and_smoothing_need_the_model(file: Path, tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(photo(48, 64, index)).save(tmp_path / f"{index}.png")
    video = VideoSegmenter.from_pretrained(file)
    assert len(list(video(tmp_path))) == 3
    with pytest.raises(InputError, match="Smoothing needs the whole model"):
        list(video(tmp_path, smooth=True))
    with pytest.raises(InputError, match="Adaptation needs the whole model"):
        video.adapt(tmp_path)


@pytest.mark.parametrize("name", ["onnxruntime", "onnx"])
def test_without_the_extra_the_message_says_how_to_get_it(
    name: str, file: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "amd_seg.onnx_graph", raising=False)
    calls: dict[str, Callable[[], object]] = {
        "onnx": lambda: export_onnx(tmp_path / "a.onnx", weights),
        "onnxruntime": lambda: Segmenter.from_pretrained(file),
    }
    with pytest.raises(ConfigError, match=rf"{name}, which is not .*pip install \"amd-seg\[onnx\]"):
        calls[name]()
    assert list(tmp_path.iterdir()) == []


# The command.


def export(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["export", "onnx", *map(str, arguments)])


def test_the_command_prints_the_path_and_the_difference(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    assert COMMAND_SIZES == SIZES
    refused = export("-o", path, "--weights", weights)
    assert (refused.exit_code, path.read_text()) == (2, "old")
    assert "--overwrite" in refused.stderr
    result = export("-o", path, "--weights", weights, "--overwrite", "--size", "fixed")
    assert (result.exit_code, result.stdout) == (0, f"{path}\n")
    (number,) = re.fullmatch(
        r"Largest difference from the model on 3 pictures: (\S+) \(allowed: 0.0001\)\.\n",
        result.stderr,
    ).groups()
    assert 0 <= float(number) < 1e-5
    assert [name.name for name in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("model.pt", "must end in .onnx"), ("none/model.onnx", "there is no folder")],
)
def test_a_name_that_cannot_be_is_refused_before_any_work(
    tmp_path: Path, name: str, words: str
) -> None:
    result = export("-o", tmp_path / name, "--weights", "nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_a_file_that_computes_something_else_is_removed(
    tmp_path: Path, tiny_config: AMDConfig
) -> None:
    torch.manual_seed(0)
    model, config = AMD(tiny_config), WeightsConfig(model=tiny_config, input_size=48)
    with torch.no_grad():
        # What all logits share, softmax takes away; the rounding that it brings stays, and each
        # runtime adds up in an order of its own.
        model.appearance.classifier.weight.add_(1e6)
    folder = save_weights(tmp_path / "weights", model, config, dtype=torch.float32)
    (tmp_path / "model.onnx").write_text("old")
    result = export(
        *("-o", tmp_path / "model.onnx", "--weights", folder, "--size", "fixed", "--overwrite")
    )
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert re.search(r"Nothing is written .* differs .* 0\.0001 is allowed", result.stderr)
    assert (tmp_path / "model.onnx").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "weights"]


def test_the_check_finds_other_weights(file: Path, weights: Path, tmp_path: Path) -> None:
    assert largest_difference(file, load_weights(weights)) < 1e-5
    torch.manual_seed(1)
    config = load_weights(weights).config
    other = load_weights(save_weights(tmp_path / "other", AMD(config.model), config))
    assert largest_difference(file, other) > 10 * BAR


# Files that cannot be used.


def with_metadata(file: Path, **changes: str | None) -> bytes:
    model = onnx.load(file)
    said = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: v for key, v in said.items() if v is not None})
    return bytes(model.SerializeToString())


def with_config(file: Path, **changes: Any) -> bytes:
    (text,) = (entry.value for entry in onnx.load(file).metadata_props if entry.key == "config")
    return with_metadata(file, config=json.dumps(json.loads(text) | changes))


def foreign(inputs: str, body: str, config: str = "") -> bytes:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]>\ng ({inputs}) => (float[n,5,h,w] regions)\n'
        f"{{ {body} }}"
    )
    if config:
        onnx.helper.set_model_props(model, {"config": config})
    return bytes(model.SerializeToString())


def outside_data(file: Path) -> bytes:
    """The file with one of its numbers said to be in a file elsewhere."""
    model = onnx.load(file)
    tensor = next(t for t in model.graph.initializer if len(t.raw_data) > 100)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../../../etc/passwd")
    return bytes(model.SerializeToString())


HOSTILE = {
    "empty": (lambda file: b"", "Copy it again"),
    "text": (lambda file: b"<html>404</html>\n" * 50, "damaged or no ONNX file"),
    "pickle": (lambda file: b"\x80\x04\x95" + bytes(range(256)) * 4, "damaged or no ONNX file"),
    "cut short": (lambda file: file.read_bytes()[:-5000], "damaged or no ONNX file"),
    "bytes changed": (lambda file: b"\xff" * 40 + file.read_bytes()[40:], "damaged or no ONNX"),
    "data elsewhere": (outside_data, "damaged or no ONNX file"),
    "no metadata": (lambda file: with_metadata(file, config=None), "amd-seg did not write it"),
    "no JSON": (lambda file: with_metadata(file, config="{"), "metadata 'config' is not valid"),
    "deep JSON": (lambda file: with_metadata(file, config="[" * 99999), "is not valid"),
    "no such channel": (lambda file: with_config(file, object_channel=9), "object_channel=9"),
    "a newer version": (lambda file: with_config(file, format_version=9), "format_version 9"),
    "another network": (
        lambda file: foreign("float[n,5,h,w] x", "regions = Relu (x)", said(file)),
        "are not those",
    ),
    "other regions": (
        lambda file: with_config(file, model=json.loads(said(file))["model"] | {"regions": 7}),
        "are not those",
    ),
}


def said(file: Path) -> str:
    (text,) = (entry.value for entry in onnx.load(file).metadata_props if entry.key == "config")
    return str(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_cannot_be_used_gets_one_line(name: str, file: Path, tmp_path: Path) -> None:
    make, words = HOSTILE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(file))
    with pytest.raises(WeightsError) as caught:
        Segmenter.from_pretrained(path)
    message = str(caught.value)
    assert (words in message, len(message.splitlines()), str(path) in message) == (True, 1, True), (
        message
    )


def test_a_name_without_a_file_gets_one_line(fixed: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for path, words in (
        (tmp_path / "none.onnx", "there is no such file"),
        (tmp_path / "folder.onnx", "it is a folder"),
        (fixed, "it takes pictures of 48x48 pixels and no others"),
    ):
        result = CliRunner().invoke(cli, ["image", "-", "-o", "m.png", "--weights", str(path)])
        assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1), result.stderr
        assert words in result.stderr


def test_a_file_that_fails_when_it_runs_gets_one_line(file: Path, tmp_path: Path) -> None:
    # Gather from the fifth place of four: no check of the graph can see it.
    model = onnx.load(file)
    node = next(node for node in model.graph.node if node.op_type == "MatMulInteger")
    index = list(model.graph.node).index(node)
    extra = onnx.helper.make_node("Reshape", [node.input[0], "seven"], ["broken"])
    model.graph.node.insert(index, extra)
    model.graph.node[index + 1].input[0] = "broken"
    model.graph.initializer.append(
        onnx.helper.make_tensor("seven", onnx.TensorProto.INT64, (4,), [1, 1, 1, 7])
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match="onnxruntime failed on 1 images of") as caught:
        Segmenter.from_pretrained(path)(photo(60, 80))
    assert len(str(caught.value).splitlines()) == 1


# The released weights.


def test_the_released_weights_give_the_same_masks(tmp_path: Path, shared: Path) -> None:
    report = export_onnx(tmp_path / "model.onnx")
    assert report.difference < 1e-5
    photos = sorted((shared / "data" / "photos").glob("*.jpg"))[:4]
    theirs, ours = Segmenter.from_pretrained(report.path), Segmenter.from_pretrained(device="cpu")
    for one, other in zip(theirs(photos), ours(photos), strict=True):
        np.testing.assert_allclose(one.region_masks, other.region_masks, atol=1e-5)
        assert (one.mask != other.mask).mean() < 1e-3
