"""Weights on disk: what is written comes back, and what is wrong is refused in one message."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from amd_seg.errors import InputError, WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights import bundled_weights, load_weights, save_weights
from amd_seg.weights_import import convert_checkpoint
from tests.processes import invoke, names, refused
from tests.tiny import TINY


@pytest.fixture
def model() -> AMD:
    model = AMD(TINY)
    model.get_buffer("appearance.backbone.bn1.num_batches_tracked").fill_(2**40 + 1)
    return model


@pytest.fixture
def config() -> WeightsConfig:
    return WeightsConfig(model=TINY, object_channel=3, name="tiny", training={"steps": 7})


@pytest.fixture
def folder(tmp_path: Path, model: AMD, config: WeightsConfig) -> Path:
    return save_weights(tmp_path / "tiny", model, config)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    change_config(folder, sha256="")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_come_back_as_they_were_saved(
    tmp_path: Path, model: AMD, config: WeightsConfig, dtype: torch.dtype
) -> None:
    overflowing = "appearance.backbone.bn1.running_var"
    model.get_buffer(overflowing).fill_(1e6)
    folder = save_weights(tmp_path / "a" / "b", model, config, dtype=dtype)
    assert names(folder) == {"config.json", "model.safetensors"}
    generator = torch.get_rng_state()
    loaded = load_weights(folder)
    assert loaded.source == str(folder)
    assert load_weights(str(folder / "model.safetensors")).config == loaded.config
    assert torch.equal(generator, torch.get_rng_state())
    assert not loaded.model.training
    found, expected = loaded.model.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        is_reduced = value.is_floating_point() and key != overflowing
        assert found[key].dtype == value.dtype
        wanted = value.to(dtype).to(value.dtype) if is_reduced else value
        assert torch.equal(found[key], wanted), key
    assert (loaded.config.object_channel, loaded.config.training) == (3, {"steps": 7})


def test_saving_replaces_weights_alone(folder: Path, model: AMD, config: WeightsConfig) -> None:
    (folder / "README.md").write_text("card")
    with torch.no_grad():
        model.get_parameter("appearance.classifier.bias").fill_(0.5)
    save_weights(folder, model, config)
    assert (load_weights(folder).model.get_parameter("appearance.classifier.bias") == 0.5).all()
    assert names(folder) == {"README.md", "config.json", "model.safetensors"}
    for target in (folder / "README.md", folder / "README.md" / "deeper"):
        with pytest.raises(WeightsError, match="Give another folder"):
            save_weights(target, model, config)
    with pytest.raises(InputError, match="is not the model's config"):
        save_weights(folder.parent / "new", model, WeightsConfig(model=AMDConfig()))
    model.get_buffer("appearance.backbone.bn1.running_mean")[0] = torch.inf
    with pytest.raises(WeightsError, match=r"not finite in appearance\.backbone\.bn1"):
        save_weights(folder.parent / "new", model, config)
    assert names(folder.parent) == {"tiny"}


def test_bundled_weights_are_found_by_name_before_a_folder_of_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder, folder.parent / "bundled" / "amd-resnet18")
    (folder.parent / "bundled" / "README.md").write_text("card")
    monkeypatch.setattr("amd_seg.weights.BUNDLED_IN_WHEEL", folder)
    assert bundled_weights() == {}
    assert "Install amd-seg again" in refusal(None)
    monkeypatch.setattr("amd_seg.weights.BUNDLED_IN_WHEEL", folder.parent / "bundled")
    assert list(bundled_weights()) == ["amd-resnet18"]
    assert load_weights().source == load_weights("amd-resnet18").source == "amd-resnet18"
    assert caplog.text == ""
    command("list", told="amd-resnet18\n")
    row = {"name": "amd-resnet18", "folder": str(bundled_weights()["amd-resnet18"])}
    command("list", "--json", told=json.dumps(row | {"default": True}) + "\n")
    monkeypatch.chdir(folder.parent)
    folder.rename("amd-resnet18")
    assert load_weights("amd-resnet18").source == "amd-resnet18"
    assert "write ./amd-resnet18 for the folder" in caplog.text
    assert load_weights("./amd-resnet18").source == "./amd-resnet18"
    assert load_weights(Path("amd-resnet18")).source == "amd-resnet18"


def command(*arguments: str, told: str = "") -> str:
    done = invoke("weights", *arguments)
    assert done.stdout == told or not told
    return done.stdout


def test_info_prints_the_config_of_checked_weights(folder: Path) -> None:
    values = json.loads(command("info", str(folder), "--json"))
    assert (values["name"], values["object_channel"], values["source"]) == ("tiny", 3, str(folder))
    assert values["parameters"] > 0
    lines = {*command("info", str(folder)).splitlines()}
    assert {"model.backbone: resnet18", "training.steps: 7", "model.motion_size: 32, 48"} < lines
    told = refused(invoke("weights", "info", __file__), 3)
    assert "test_weights.py: it is damaged or no safetensors file." in told


def refusal(source: str | Path | None) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(source)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("source", ["nothing-here", "./org/name", "../up/down", "/a/b", "x" * 999])
def test_a_source_that_is_nowhere_says_what_was_tried(source: str) -> None:
    message = refusal(source)
    assert "no bundled weights have that name" in message
    assert f"{os.path.abspath(source)} does not exist" in message
    assert "no repository 'org/name'" in message
    assert "Give the weights that it was made of" in refusal("model.onnx")


def test_all_wrong_tensors_are_in_one_message(folder: Path) -> None:
    norm = "appearance.backbone.bn1"

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors["appearance.classifier.weight"], tensors["motion.estimator.0.bias"]
        tensors["appearance.classifier.bias"] = torch.zeros(6)
        tensors["fc.weight"] = torch.zeros(1)
        tensors[f"{norm}.bias"] = torch.zeros(8, dtype=torch.int64)
        tensors[f"{norm}.num_batches_tracked"] = torch.zeros(())

    change_tensors(folder, change)
    assert (
        "(missing: appearance.classifier.weight, motion.estimator.0.bias; unexpected: fc.weight; "
        "wrong shape: appearance.classifier.bias (6,) instead of (5,); "
        f"wrong type: {norm}.bias I64, {norm}.num_batches_tracked F32)"
    ) in refusal(folder)


def test_values_that_are_not_finite_are_refused(folder: Path) -> None:
    for value in (torch.nan, torch.inf):
        change_tensors(folder, lambda t: t["motion.estimator.1.bias"].fill_(value))  # noqa: B023
        assert "not finite in motion.estimator.1.bias" in refusal(folder)


def test_files_that_are_missing_or_swapped_are_named(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    change_tensors(other, lambda t: t["motion.estimator.1.bias"].add_(1))
    shutil.copy(other / "model.safetensors", folder)
    assert "config.json says" in refusal(folder)
    (folder / "config.json").unlink()
    assert "config.json: No such file" in refusal(folder)
    assert "config.json: No such file" in refusal(folder / "model.safetensors")
    (other / "model.safetensors").unlink()
    assert "model.safetensors: No such file" in refusal(other)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9223372036854775807, 9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "../../etc", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)
def test_a_truncated_file_and_a_hostile_header_are_refused(folder: Path, header: bytes) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    sizes = (n.to_bytes(8, "little") for n in (len(header), 2**63, 99_000_000))
    hostile = [size + header + bytes(4) for size in sizes]
    for content in (*hostile, *(whole[:size] for size in (0, 7, 8, 9, 100, -1))):
        path.write_bytes(content)
        assert "Copy or download it again" in refusal(folder)


def test_a_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    legacy = pickle.dumps(Trap())
    torch.save(Trap(), tmp_path / "zipped.pth")
    for content in (legacy, (tmp_path / "zipped.pth").read_bytes()):
        (folder / "model.safetensors").write_bytes(content)
        assert "amd-seg weights convert" in refusal(folder)
    assert "amd-seg weights convert" in refusal(tmp_path / "zipped.pth")
    with pytest.raises(WeightsError, match="holds more than tensors and plain values"):
        convert_checkpoint(tmp_path / "zipped.pth", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *((text, "not valid JSON") for text in ("", "{", "[" * 100_000, '{"name": "\xe9"}')),
        ('{"format_version": ' + "9" * 5000 + "}", "not valid JSON"),
        ("null", "not a JSON object"),
        ('{"format_version": 2}', "format_version 2"),
        (" " * 1_000_001, "larger than"),
        ({"object_channel": 5}, "object_channel=5"),
        ({"object_channel": "0"}, "object_channel='0'"),
        ({"input_size": 1e308}, "input_size="),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"sha256": 7}, "sha256=7"),
        ({"colour": 1}, "colour"),
        ({"model": None}, "model is missing"),
        ({"model": {"regions": True}}, "regions=True"),
        ({"model": {"backbone": "../x"}}, "backbone='../x'"),
        *(
            ({"model": {"stage_widths": [8, 8, 8, width]}}, message)
            for width, message in (
                (10**30, "stage_widths="),
                (-4, "widths="),
                (4096, "wrong shape"),
            )
        ),
        ({"model": {"pyramid_channels": [4] * 9}}, "pyramid_channels"),
        ({"model": {"motion_size": [32, 50]}}, "motion_size=(32, 50)"),
    ],
)
def test_a_bad_config_is_refused(folder: Path, values: Any, message: str) -> None:
    path = folder / "config.json"
    if isinstance(values, str):
        path.write_bytes(values.encode("latin-1"))
    else:
        if isinstance(values.get("model"), dict):
            values = {"model": json.loads(path.read_text())["model"] | values["model"]}
        change_config(folder, **values)
    assert message in refusal(folder)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.data())
def test_damage_anywhere_is_refused_or_harmless(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    original = (folder / name).read_bytes()
    # Half of the damage goes to the header, where it can mislead a parser.
    end = data.draw(st.sampled_from([min(2000, len(original)), len(original)]))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(damaged)
    try:
        load_weights(folder)
    except WeightsError:
        return
    finally:
        (folder / name).write_bytes(original)
    assert name == "config.json" or damaged == original
