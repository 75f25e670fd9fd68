import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from amd_seg.cli import cli
from amd_seg.cli.evaluate import METHODS
from amd_seg.evaluation import run as evaluation_run
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights import save_weights

HEIGHT, WIDTH = 24, 32


def evaluate(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, args)])


def scores(*args: str | Path) -> dict[str, float]:
    result = evaluate(*args, "--json", "-")
    assert result.exit_code == 0, result.stderr
    found: dict[str, float] = json.loads(result.stdout)["scores"]
    return found


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:18, left : left + 12] = 255
    return mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures with a square each, as the subsets are laid out."""
    for index, left in enumerate((2, 10, 18)):
        noise = np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        write(tmp_path / "photos" / "images" / f"{index}.jpg", noise)
        write(tmp_path / "photos" / "masks" / f"{index}.png", square(left))
    return tmp_path / "photos"


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five frames in DAVIS 2016's layout; the square moves to the right."""
    root, lines = tmp_path / "DAVIS", []
    for sequence in ("cow", "goat"):
        for index in range(5):
            name = f"480p/{sequence}/{index:05}"
            lines.append(f"/JPEGImages/{name}.jpg /Annotations/{name}.png\n")
            write(root / f"JPEGImages/{name}.jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
            write(root / f"Annotations/{name}.png", square(2 * index))
    (root / "ImageSets" / "480p").mkdir(parents=True)
    (root / "ImageSets" / "480p" / "val.txt").write_text("".join(lines))
    return root


def test_perfect_masks_score_full_marks(photos: Path, davis: Path) -> None:
    found = scores("ecssd", photos, "--predictions", photos / "masks")
    assert found["mae"] == 0
    assert {v for key, v in found.items() if key not in ("mae", "f_mean", "f_mean_per_image")} == {
        1.0
    }
    found = scores("davis2016", davis, "--predictions", davis / "Annotations" / "480p")
    assert (found["j_mean"], found["j_decay"], found["f_frames"]) == (1, 0, 1)


def test_a_part_is_named_as_such(photos: Path) -> None:
    output = evaluate("ecssd", photos, "--method", "centre-prior", "--limit", "2").stdout
    assert output.startswith("ECSSD subset (2 of 1,000 images), centre-prior")


def test_the_network_is_scored_on_what_a_user_would_write(
    photos: Path, tmp_path: Path, tiny_config: AMDConfig
) -> None:
    torch.manual_seed(0)
    config = WeightsConfig(model=tiny_config, object_channel=1, input_size=48)
    weights = save_weights(tmp_path / "weights", AMD(tiny_config), config)
    options = ["--weights", str(weights), "--device", "cpu"]
    written = ["image", f"{photos}/images", "-o", f"{tmp_path}/out", "--output", "saliency"]
    assert CliRunner().invoke(cli, [*written, *options]).exit_code == 0
    assert scores("ecssd", photos, *options) == scores(
        "ecssd", photos, "--predictions", tmp_path / "out"
    )


def test_torch_is_not_loaded_for_predictions(photos: Path) -> None:
    code = (
        "import sys; from amd_seg.cli import cli; "
        f"cli(['evaluate', 'ecssd', {str(photos)!r}, '--predictions', {str(photos / 'masks')!r}], "
        "standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_command_knows_the_methods() -> None:
    assert METHODS == evaluation_run.METHODS


def test_missing_and_extra_files_are_named(photos: Path) -> None:
    (photos / "masks" / "1.png").rename(photos / "masks" / "7.png")
    result = evaluate("ecssd", photos, "--method", "centre-prior")
    assert result.exit_code == 2
    assert "1 pictures have no mask" in result.stderr
    assert "have no picture" in result.stderr
    assert result.stdout == ""


def test_a_missing_prediction_gives_no_number(photos: Path, tmp_path: Path) -> None:
    write(tmp_path / "mine" / "0.png", square(2))
    result = evaluate("ecssd", photos, "--predictions", tmp_path / "mine")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "2 of 3 predictions are missing" in result.stderr


def test_a_mask_of_another_size_is_named_or_resized(photos: Path, tmp_path: Path) -> None:
    for index, left in enumerate((2, 10, 18)):
        write(tmp_path / "mine" / f"{index}.png", square(left).repeat(2, 0).repeat(2, 1))
    result = evaluate("ecssd", photos, "--predictions", tmp_path / "mine")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "0.png is 64x48, but its ground truth" in result.stderr
    assert "--resize-masks" in result.stderr
    found = scores("ecssd", photos, "--predictions", tmp_path / "mine", "--resize-masks")
    assert found["iou_half"] == 1


def test_a_wrong_folder_is_told_its_layout(tmp_path: Path) -> None:
    result = evaluate("davis2016", tmp_path, "--method", "centre-prior")
    assert result.exit_code == 2
    assert "ImageSets/480p/val.txt" in result.stderr
