"""The checkpoints of others become weights of ours, and every wrong tensor is named."""

import dataclasses
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from amd_seg.errors import WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.weights import load_weights
from amd_seg.weights_import import convert_checkpoint, load_backbone, official_name
from tests.processes import invoke
from tests.tiny import TINY

FLOW = "decode_head.flownet"
State = dict[str, Tensor]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for a converted checkpoint, up to 122 MB, that does not stay."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def refused(content: object, tmp_path: Path) -> str:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture(scope="module")
def official_state() -> State:
    """A checkpoint with its real keys and shapes, one value a tensor: a small file."""
    shapes = AMD(AMDConfig(regions=4)).state_dict()
    state: State = OrderedDict()
    for number, (ours, tensor) in enumerate(shapes.items(), start=1):
        value = number / 400 if tensor.is_floating_point() else number
        state[official_name(ours)] = torch.tensor(value, dtype=tensor.dtype).expand(tensor.shape)
    return state


def test_the_table_has_exactly_the_released_keys(shared: Path) -> None:
    lines = (shared / "reference" / "official_state_dict.tsv").read_text().splitlines()[1:]
    names = [official_name(ours) for ours in AMD(AMDConfig()).state_dict()]
    assert len(names) == len(set(names)) == 380
    assert set(names) == {line.split("\t")[0] for line in lines}


def test_a_released_name_becomes_ours() -> None:
    for official, ours in (
        ("backbone2.layer3.5.bn3.bias", "appearance.backbone.layer3.5.bn3.bias"),
        ("decode_head2.convs.1.bn.running_mean", "appearance.head.1.bn.running_mean"),
        ("decode_head2.conv_seg.bias", "appearance.classifier.bias"),
        (f"{FLOW}.feature_pyramid_extractor.convs.5.1.0.weight", "motion.pyramid.5.1.weight"),
        (f"{FLOW}.conv_1x1.0.0.weight", "motion.reductions.0.weight"),
        (f"{FLOW}.flow_estimators.conv1.0.bias", "motion.estimator.0.bias"),
        (f"{FLOW}.flow_estimators.predict_flow2.0.weight", "motion.region_flow.1.weight"),
    ):
        assert official_name(ours) == official


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_the_official_checkpoint_is_converted(
    official_state: State, tmp_path: Path, out: Path, is_zip: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # What mmcv writes beside the tensors: plain values, and numbers of numpy.
    meta = {"CLASSES": ("a", "b"), "iter": 5, "best": np.float64(0.5), "PALETTE": np.eye(2)}
    # A wrapper's prefix, and a part of the decode head that only some versions have.
    state = {f"module.{key}": value for key, value in official_state.items()} if is_zip else None
    state = state or (official_state | {"decode_head.conv_seg.weight": torch.zeros(1)})
    checkpoint = {"meta": meta, "state_dict": state, "optimizer": {"state": {}}}
    torch.save(checkpoint, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    command = "weights", "convert", tmp_path / "a.pth", "-o", out
    assert invoke(*command).stdout == f"{out}\n"
    assert ("decode_head.conv_seg.weight" in caplog.text) is not is_zip

    loaded = load_weights(out)
    assert (loaded.config.object_channel, loaded.config.input_size) == (0, 392)
    assert loaded.config.model == AMDConfig(regions=4)
    found = loaded.model.state_dict()
    for ours, value in found.items():
        assert torch.equal(value, official_state[official_name(ours)]), ours

    again = invoke(*command)
    assert (again.exit_code, "--overwrite" in again.stderr) == (3, True)


def test_another_checkpoint_is_refused(official_state: State, tmp_path: Path) -> None:
    assert "holds no tensors by name" in refused({"model": {}}, tmp_path)
    assert "holds no tensors by name" in refused([1], tmp_path)
    state = dict(official_state)
    del state["backbone2.bn1.bias"]
    state["neck.weight"] = torch.zeros(1)
    state["decode_head2.conv_seg.bias"] = "not a tensor"  # type: ignore[assignment]
    told = "missing: backbone2.bn1.bias, decode_head2.conv_seg.bias; unknown: neck.weight"
    assert told in refused({"state_dict": state}, tmp_path)

    for change, words in (
        ({"backbone2.bn1.bias": torch.zeros(3)}, "bn1.bias"),
        ({"decode_head2.conv_seg.weight": torch.zeros(1).expand(999, 256, 1, 1)}, "regions=999"),
        ({"decode_head2.conv_seg.bias": torch.full((4,), torch.nan)}, "not finite"),
    ):
        assert words in refused({"state_dict": official_state | change}, tmp_path)


def test_a_checkpoint_that_is_damaged_or_absent_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-1], b"\x80\x02", b"h\x05"):
        for name in ("a.pth", "a.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightsError, match=r"Cannot read .*a\..*Download it again"):
                convert_checkpoint(tmp_path / name, tmp_path / "out")
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(WeightsError, match=r"(?i)no such file"):
            convert_checkpoint(tmp_path / name, tmp_path / "out")


@pytest.mark.slow
def test_a_resnet_becomes_weights_to_start_from(tmp_path: Path, out: Path) -> None:
    source = AMD(AMDConfig(backbone="resnet18")).appearance.backbone.state_dict()
    state = {f"module.encoder_q.{n}": v for n, v in source.items()}
    state |= {"module.encoder_q.fc.weight": torch.zeros(3, 8), "module.queue": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "moco.pth")
    generator = torch.get_rng_state()
    loaded = load_weights(convert_checkpoint(tmp_path / "moco.pth", out))
    assert torch.equal(generator, torch.get_rng_state())
    assert loaded.config.model == AMDConfig(backbone="resnet18")
    assert loaded.config.name == "backbone-only"
    assert_equal(loaded.model, source)


def assert_equal(model: AMD, backbone: dict[str, Tensor]) -> None:
    for name, value in model.appearance.backbone.state_dict().items():
        assert torch.equal(backbone[name], value), name


def test_a_backbone_is_filled_from_a_file(tmp_path: Path) -> None:
    source = AMD(TINY).appearance.backbone.state_dict()
    state = source | {"fc.weight": torch.zeros(3, 8)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        load_backbone(model := AMD(TINY), tmp_path / name)
        assert_equal(model, source)
    other = AMD(dataclasses.replace(TINY, stage_widths=(8, 8, 8, 16)))
    for content, told in (
        (other.appearance.backbone.state_dict(), r"layer4.*\(16, 8, 3, 3\)"),
        ({"epoch": torch.zeros(3)}, r"missing: .*bn1\.weight"),
    ):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=rf"does not fit the backbone .*{told}"):
            load_backbone(model, tmp_path / "a.pth")
