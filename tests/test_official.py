"""The released checkpoint's names become ours, and every wrong one is named."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from amd_seg.errors import WeightsError
from amd_seg.model.official import _official_to_ours, rename_official_keys


def official_state() -> dict[str, Tensor]:
    """Every released key, with a tensor that tells it from the others."""
    return {key: torch.tensor(n) for n, (key, _) in enumerate(_official_to_ours())}


def test_the_table_has_exactly_the_released_keys(shared: Path) -> None:
    lines = (shared / "reference" / "official_state_dict.tsv").read_text().splitlines()[1:]
    released = {line.split("\t")[0] for line in lines}
    assert {official for official, _ in _official_to_ours()} == released
    assert len({ours for _, ours in _official_to_ours()}) == len(released) == 380


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("backbone2.conv1.weight", "appearance.backbone.conv1.weight"),
        (
            "backbone2.layer3.5.bn3.num_batches_tracked",
            "appearance.backbone.layer3.5.bn3.num_batches_tracked",
        ),
        (
            "backbone2.layer4.0.downsample.1.running_var",
            "appearance.backbone.layer4.0.downsample.1.running_var",
        ),
        ("decode_head2.convs.1.bn.running_mean", "appearance.head.1.bn.running_mean"),
        ("decode_head2.conv_seg.bias", "appearance.classifier.bias"),
        (
            "decode_head.flownet.feature_pyramid_extractor.convs.5.1.0.weight",
            "motion.pyramid.5.1.weight",
        ),
        ("decode_head.flownet.conv_1x1.0.0.weight", "motion.reductions.0.weight"),
        ("decode_head.flownet.flow_estimators.conv1.0.bias", "motion.estimator.0.bias"),
        (
            "decode_head.flownet.flow_estimators.predict_flow2.0.weight",
            "motion.region_flow.1.weight",
        ),
    ],
)
def test_a_released_name_becomes_ours(official: str, ours: str) -> None:
    state = official_state()
    assert rename_official_keys(state)[ours] is state[official]


def test_the_prefix_of_a_parallel_wrapper_is_stripped() -> None:
    state = official_state()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    assert rename_official_keys(wrapped) == rename_official_keys(state)


def test_unknown_keys_of_the_decode_head_are_reported_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = official_state() | {"decode_head.conv_seg.weight": torch.zeros(1)}
    with caplog.at_level(logging.WARNING):
        renamed = rename_official_keys(state)
    assert len(renamed) == 380
    assert "decode_head.conv_seg.weight" in caplog.text


def test_all_wrong_keys_are_in_one_message() -> None:
    state = official_state() | {"neck.0.weight": torch.zeros(1), "decode_head2.x": torch.zeros(1)}
    del state["backbone2.bn1.bias"], state["decode_head2.conv_seg.weight"]
    state["backbone2.conv1.weight"] = "not a tensor"  # type: ignore[assignment]
    with pytest.raises(WeightsError, match=r"amd_pretrained\.pth") as caught:
        rename_official_keys(state)
    message = str(caught.value)
    assert "missing: backbone2.bn1.bias, decode_head2.conv_seg.weight;" in message
    assert "unknown: neck.0.weight, decode_head2.x;" in message
    assert "not tensors: backbone2.conv1.weight)" in message
