"""What all tests share: the data folder, tiny weights, one thread a worker."""

from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from hypothesis import settings

from tests.clips import moving_square, write_clip
from tests.labelled import make_voc2012
from tests.tiny import tiny_weights

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


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Tiny labelled photos in the layout of PASCAL VOC 2012."""
    return make_voc2012(tmp_path / "VOC2012")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """One tab of headless Chromium, and the folder that it downloads to."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra demo-test")
    binary, driver = which("chromium"), which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs the Debian packages chromium and chromium-driver")
    downloads, options = tmp_path_factory.mktemp("downloads"), webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,940"):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    tab = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield tab, downloads
    tab.quit()
