"""The mean of weights, on tiny models."""

import dataclasses
from pathlib import Path

import pytest
import torch

from amd_seg.errors import InputError, WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.soup import average_weights, main
from amd_seg.weights import load_weights
from amd_seg.weights_files import save_weights


def written(folder: Path, config: WeightsConfig, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AMD(config.model)
    model.appearance.backbone.bn1.running_mean.uniform_()
    return save_weights(folder, model, config, dtype=torch.float32)


def test_a_soup_is_the_mean_of_all_parameters_and_statistics(
    tiny_config: AMDConfig, tmp_path: Path
) -> None:
    config = WeightsConfig(model=tiny_config, object_channel=1, input_size=64)
    folders = [str(written(tmp_path / str(seed), config, seed)) for seed in range(3)]
    main([str(tmp_path / "soup"), *folders])
    soup = load_weights(tmp_path / "soup")
    states = [load_weights(folder).model.state_dict() for folder in folders]
    for name, found in soup.model.state_dict().items():
        parts = [state[name].double() for state in states]
        expected = (parts[0] + parts[1] + parts[2]) / 3
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert (soup.config.object_channel, soup.config.input_size) == (1, 64)
    assert soup.config.training["mean_of"] == [load_weights(f).config.sha256 for f in folders]


def test_shares_and_a_motion_pathway_of_its_own(tiny_config: AMDConfig, tmp_path: Path) -> None:
    config = WeightsConfig(model=tiny_config, object_channel=1)
    moving = dataclasses.replace(tiny_config, motion_size=(64, 96), normalised_volume=True)
    folders = [str(written(tmp_path / str(seed), config, seed)) for seed in range(2)]
    motion = written(tmp_path / "motion", WeightsConfig(model=moving, object_channel=1), 2)
    flags = ["--shares", "3", "1", "--motion", str(motion)]
    main([str(tmp_path / "soup"), *folders, *flags])
    soup = load_weights(tmp_path / "soup")
    assert soup.config.model == moving
    first, second, third = (
        load_weights(folder).model.state_dict() for folder in (*folders, motion)
    )
    for name, found in soup.model.state_dict().items():
        expected = 0.75 * first[name].double() + 0.25 * second[name].double()
        if name.startswith("motion."):
            expected = third[name].double()
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert soup.config.training["shares"] == [3, 1]
    assert soup.config.training["motion_of"] == load_weights(motion).config.sha256


@pytest.mark.parametrize("shares", [["1"], ["1", "0"], ["1", "nan"], ["1", "-1"]])
def test_shares_that_do_not_fit_are_refused(
    shares: list[str], tiny_config: AMDConfig, tmp_path: Path
) -> None:
    folder = str(written(tmp_path / "a", WeightsConfig(model=tiny_config), 0))
    with pytest.raises(InputError, match="one above 0 for each"):
        main([str(tmp_path / "soup"), folder, folder, "--shares", *shares])
    assert not (tmp_path / "soup").exists()


def test_weights_without_a_common_past_are_refused(tiny_config: AMDConfig, tmp_path: Path) -> None:
    config = WeightsConfig(model=tiny_config)
    wide = dataclasses.replace(tiny_config, head_channels=16)
    first = written(tmp_path / "a", config, 0)
    for other in (
        WeightsConfig(model=wide),
        dataclasses.replace(config, object_channel=1),
    ):
        second = written(tmp_path / "b", other, 1)
        with pytest.raises(WeightsError, match=r"b cannot be averaged with .*a: .*differ"):
            average_weights([first, second], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
