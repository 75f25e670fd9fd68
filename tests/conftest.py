"""What all tests share: the data folder, a tiny model, one thread a worker."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from amd_seg.model.config import AMDConfig
from tests.clips import moving_square, write_clip
from tests.tiny import TINY, tiny_weights

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Tests run in parallel on few cores: threads of one would only wait for those of another.
torch.set_num_threads(1)

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers and data sets, or a skip."""
    if not (SHARED / "FACTS.md").is_file():
        pytest.skip(f"needs {SHARED}, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def tiny_config() -> AMDConfig:
    """A real model small enough for a test: 1/8 masks, two motion levels."""
    return TINY


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of the tiny model."""
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two short clips of a moving square."""
    folder = tmp_path_factory.mktemp("clips")
    for number, step in enumerate(((0, 2), (1, 0))):
        write_clip(folder / f"clip-{number}.mp4", moving_square(6, step=step))
    return folder
