"""The .onnx file computes what the model does, or is not written."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amd_seg import export_onnx
from amd_seg.errors import ConfigError
from amd_seg.model.amd import AMD
from amd_seg.onnx import BAR, largest_difference
from amd_seg.weights import load_weights, save_weights
from tests.processes import good, invoke, refused

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def file(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an .onnx file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_onnx(path, weights) < 1e-5
    return path


def session(path: Path) -> Any:
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_the_file_gives_the_regions_of_the_model_and_of_no_other(file: Path, weights: Path) -> None:
    model = load_weights(weights).model
    for batch, height, width in ((1, 40, 60), (3, 61, 37), (1, 30, 300), (2, 500, 401)):
        frames = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width), np.uint8)
        (regions,) = session(file).run(["regions"], {"frames": frames})
        with torch.inference_mode():
            np.testing.assert_allclose(regions, model.segment(torch.from_numpy(frames)), atol=1e-5)
    torch.manual_seed(1)
    assert largest_difference(file, AMD(model.config).eval()) > 10 * BAR


@pytest.mark.slow
def test_the_released_weights_are_exported(tmp_path: Path) -> None:
    assert export_onnx(tmp_path / "model.onnx") < 1e-5


def test_the_file_says_what_it_is(file: Path, tmp_path: Path, weights: Path) -> None:
    said = session(file).get_modelmeta().custom_metadata_map
    assert json.loads(said.pop("config")) == json.loads((weights / "config.json").read_text())
    assert (said["object_channel"], said["input_size"], said["threshold"]) == ("1", "48", "0.25")
    # Nothing of the machine that made it.
    assert str(Path(__file__).parents[1]).encode() not in file.read_bytes()
    local = shutil.copytree(weights, tmp_path / "me@here" / "tiny")
    export_onnx(tmp_path / "model.onnx", local)
    assert session(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map["weights"] == "tiny"


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript"])
def test_without_the_extra_the_message_says_how_to_get_it(
    name: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"{name}, which is not .*pip install \"amd-seg\[onnx\]"):
        export_onnx(tmp_path / "a.onnx", weights)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_writes_a_file_that_is_right_or_none(weights: Path, tmp_path: Path) -> None:
    export, path = partial(invoke, "export", "onnx"), tmp_path / "model.onnx"
    path.write_text("old")
    given = "-o", path, "--weights", weights
    for name, words in (("m.pt", "must end in .onnx"), ("no/m.onnx", "there is no folder")):
        assert words in refused(export("-o", tmp_path / name, "--weights", "nowhere"))
    assert "--overwrite" in refused(export(*given))
    # Softmax takes away what all logits share; its rounding stays, each runtime's own.
    found = load_weights(weights)
    with torch.no_grad():
        found.model.appearance.classifier.weight.add_(1e6)
    wrong = save_weights(tmp_path / "wrong", found.model, found.config, dtype=torch.float32)
    result = export("-o", path, "--weights", wrong, "--overwrite")
    assert re.search(r"Nothing is written .* differs .* 0\.0001 is allowed", refused(result, 1))
    assert path.read_text() == "old"
    result = good(export(*given, "--overwrite"))
    assert result.stdout == f"{path}\n"
    told = re.fullmatch(r"Largest difference .*: (\S+) \(allowed: 0.0001\)\.\n", result.stderr)
    assert 0 <= float(told[1]) < 1e-5
    assert sorted(name.name for name in tmp_path.iterdir()) == ["model.onnx", "wrong"]
