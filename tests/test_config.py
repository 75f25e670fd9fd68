"""Settings: checked when they are made, changed by --set, taken back from a run's record."""

import dataclasses
from pathlib import Path

import pytest

from amd_seg.errors import ConfigError
from amd_seg.model.config import AMDConfig, SemanticConfig
from amd_seg.training import config
from amd_seg.training.config import AdaptationConfig, FinetuneConfig, TrainingConfig
from tests.processes import good, invoke, refused


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"steps=0 \(1 or more\), .*crop=\(8, 8\) \(two sizes"):
        TrainingConfig(steps=0, crop=(8, 8))
    with pytest.raises(ConfigError, match=r"final_learning_rate=0\.01 \(0 to learning_rate=0\.001"):
        TrainingConfig(learning_rate=1e-3, final_learning_rate=1e-2)
    with pytest.raises(ConfigError, match=r"batch_size=9 \(a multiple of accumulate=2\)"):
        TrainingConfig(batch_size=9, accumulate=2)
    with pytest.raises(ConfigError, match=r"blend=0 \(above 0, up to 1\)"):
        AdaptationConfig(blend=0)
    with pytest.raises(ConfigError, match=r"scale=\(0\.5,\) \(2 numbers\)"):
        FinetuneConfig(scale=(0.5,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batch-size 0", "batch_size=0 (1 or more)"),
        ("--crop 128", "crop=(128,) (2 numbers)"),
        ("--crop 128xa", "crop=128xa cannot be used: give numbers, such as 128x192"),
        ("--set regions=1", "regions=1 (2 to 64)"),
        ("--objective magic", "'magic' is not one of"),
        (f"--seed {2**70}", f"seed={2**70} (0 to 4294967295)"),
        ("--minutes inf", "minutes=inf (a finite number)"),
        ("--set scale=nan,1", "scale=(nan, 1.0) (a finite number)"),
        ("--set optimizer=magic", "optimizer='magic' (one of adam, adamw, sgd)"),
        ("--set flip=maybe", "flip=maybe cannot be used: give true or false"),
        ("--set keep=1.5", "keep=1.5 cannot be used: give a whole number"),
        ("--set keep", "--set keep is no KEY=VALUE"),
        ("--set ema_decy=0.9", "There is no setting 'ema_decy'. Did you mean ema_decay or "),
        ("--ema-decay=0.99", "--ema-decay is no flag: write --set ema_decay=VALUE"),
        ("--no-flip", "--no-flip is no flag: write --set flip=false"),
    ],
)
def test_wrong_settings_get_exit_code_2(tmp_path: Path, words: str, message: str) -> None:
    result = invoke("train", tmp_path, "--out", tmp_path / "run", *words.split())
    assert message in refused(result)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "kinds", "line"),
    [
        ("train", (TrainingConfig, AMDConfig), "\nmotion_size=128,192\n    Height and width, in"),
        ("finetune", (FinetuneConfig, SemanticConfig), "\nflip=true\n    Mirror half of the"),
    ],
)
def test_settings_and_defaults_are_listed(command: str, kinds: tuple[type, ...], line: str) -> None:
    result = good(invoke(command, "--set", "help"))
    paper = good(invoke(command, "--set", "help", "--preset", "paper")).stdout
    assert paper == good(invoke(command, "--preset", "paper", "--set", "help")).stdout
    assert paper.startswith("Settings, as preset paper has them")
    assert line in result.stdout
    listed = {line.partition("=")[0] for line in result.stdout.splitlines() if "=" in line}
    for kind in (*kinds, AdaptationConfig):
        names = {field.name for field in dataclasses.fields(kind)}
        assert kind is AdaptationConfig or names - {"classes"} <= listed
        assert names <= config.descriptions(kind).keys() | {"classes"}
