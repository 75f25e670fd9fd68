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
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.weights import save_weights
from tests.clips import moving_square

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
    full = [key for key in found if key not in ("mae", "f_mean", "f_mean_per_image", "e_mean")]
    assert all(found[key] == pytest.approx(1, abs=2e-3) for key in full)
    assert found["iou_otsu"] == found["f_max"] == 1
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


def test_a_model_adapts_to_each_sequence(
    davis: Path, photos: Path, weights: Path, tmp_path: Path
) -> None:
    for step, sequence in (((0, 2), "cow"), ((1, 0), "goat")):
        for index, frame in enumerate(moving_square(5, height=HEIGHT, width=WIDTH, step=step)):
            write(davis / f"JPEGImages/480p/{sequence}/{index:05}.jpg", frame)
    adapting = ("--weights", weights, "--device", "cpu", "--adapt", "--objective", "photometric")
    flags = (*adapting, "--steps", "2", "--every", "2")
    drawn = evaluate("davis2016", davis, *flags, "--json", "-", "--sheet", tmp_path / "drawn.png")
    assert drawn.exit_code == 0, drawn.stderr
    found = json.loads(drawn.stdout)
    assert found["method"] == f"{weights}, adapted (photometric)"
    assert found["count"] == 6
    # The sheet shows the masks that were scored: no clip is adapted to once more for it.
    assert drawn.stderr.count("2 steps in") == 2
    for sequence in ("cow", "goat"):
        assert any(line.startswith(f"{sequence}: ") for line in drawn.stderr.splitlines())
    assert (tmp_path / "drawn.png").exists()
    assert "no clips" in evaluate("ecssd", photos, *flags).stderr
    mixed = evaluate("davis2016", davis, "--method", "centre-prior", "--adapt")
    assert mixed.exit_code == 2
    assert "--adapt is for a network" in mixed.stderr


def test_torch_is_not_loaded_for_predictions(photos: Path) -> None:
    code = (
        "import sys; from amd_seg.cli import cli; "
        f"cli(['evaluate', 'ecssd', {str(photos)!r}, '--predictions', {str(photos / 'masks')!r}], "
        "standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_missing_and_extra_files_are_named(photos: Path) -> None:
    (photos / "masks" / "1.png").rename(photos / "masks" / "7.png")
    result = evaluate("ecssd", photos, "--method", "centre-prior")
    assert result.exit_code == 2
    assert "have no mask in" in result.stderr
    assert "have no file in" in result.stderr
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


def test_a_ground_truth_of_another_size_than_its_picture_is_no_number(photos: Path) -> None:
    write(photos / "masks" / "1.png", square(2)[::2, ::2])
    result = evaluate("ecssd", photos, "--method", "centre-prior")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "1.jpg is 32x24, but its ground truth" in result.stderr
    assert "1.png is 16x12" in result.stderr
    assert scores("ecssd", photos, "--method", "centre-prior", "--resize-masks")["mae"] > 0


def test_a_wrong_folder_is_told_its_layout(tmp_path: Path) -> None:
    result = evaluate("davis2016", tmp_path, "--method", "centre-prior")
    assert result.exit_code == 2
    assert "ImageSets/480p/val.txt" in result.stderr


def test_folders_without_images_are_told_apart(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for masks, fault in (("empty", "there is no image in it"), ("nowhere", "no such folder")):
        result = evaluate("--images", photos / "images", "--masks", tmp_path / masks)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{tmp_path / masks}: {fault}. Check the name" in result.stderr


def test_any_folders_can_be_scored(photos: Path) -> None:
    folders = ["--images", photos / "images", "--masks", photos / "masks"]
    assert scores(*folders, "--predictions", photos / "masks")["iou_half"] == 1
    assert scores("--masks", photos / "masks", "--method", "centre-prior")["mae"] > 0
    result = evaluate("ecssd", *folders)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--images and --masks" in result.stderr


def test_results_are_written_as_asked(davis: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "png")}
    result = evaluate(
        *("davis2016", davis, "--method", "centre-prior", "--per-sequence"),
        *("--json", files["json"], "--sheet", files["png"], "--threshold", "otsu"),
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("DAVIS 2016 val 32x24 copy subset (10 of 1,376 frames)")
    assert "centre-prior, threshold otsu" in result.stdout
    assert "AMD, per image              45.7  none" in result.stdout
    assert "* not checked against its own paper" in result.stdout
    assert result.stdout.count("goat") == 1
    report = json.loads(files["json"].read_text())
    assert report["sequences"].keys() == {"cow", "goat"}
    assert report["scores"]["j_frames"] == pytest.approx(report["scores"]["j_all"])
    with Image.open(files["png"]) as sheet:
        assert sheet.size == (4 * 498, 3 * 202)


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--json", "no/out.json", "there is no folder"),
        ("--sheet", "out.gif", "has no known ending. Use one of .png"),
        ("--json", "old.png", "old.png exists. Give another name, or overwrite it (--overwrite)."),
        ("--sheet", "old.png", "Two reports would share"),
    ],
)
def test_a_report_that_cannot_be_written_is_told_before_the_run(
    photos: Path, tmp_path: Path, flag: str, name: str, message: str
) -> None:
    (tmp_path / "old.png").write_text("old")
    # Without weights of this name a run would fail with another message.
    command: list[str | Path] = ["ecssd", photos, "--weights", "nowhere"]
    if "share" in message:
        command += ["--json", tmp_path / name]
    result = evaluate(*command, flag, tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert (tmp_path / "old.png").read_text() == "old"


def test_first_and_last_frames_count_where_davis_2017_counts_them(
    davis: Path, tmp_path: Path
) -> None:
    for index in range(5):
        for sequence in ("cow", "goat"):
            mask = square(2 * index) if 0 < index < 4 else np.zeros((HEIGHT, WIDTH), np.uint8)
            write(tmp_path / "mine" / sequence / f"{index:05}.png", mask)
    found = scores("davis2016", davis, "--predictions", tmp_path / "mine")
    assert (found["j_mean"], found["j_all"]) == (1, pytest.approx(0.6))


def test_grey_predictions_of_a_folder_are_read_alike(davis: Path, tmp_path: Path) -> None:
    def score_values(*values: int) -> dict[str, float]:
        for sequence in ("cow", "goat"):
            for index in range(5):
                mask = (square(2 * index) > 0) * np.uint8(values[index % len(values)])
                write(tmp_path / "mine" / sequence / f"{index:05}.png", mask)
        return scores("davis2016", davis, "--predictions", tmp_path / "mine")

    assert score_values(1)["j_all"] == score_values(255)["j_all"] == 1
    # A soft map that is next to nothing is no mask.
    assert score_values(255, 255, 1, 255, 0)["j_all"] == pytest.approx(0.6)
    with pytest.raises(AssertionError, match=r"none is above 2, in .*cow/00001\.png.*indexed PNG"):
        score_values(1, 2)


def test_workers_change_nothing(photos: Path) -> None:
    command = ["ecssd", photos, "--method", "centre-prior"]
    assert scores(*command, "--workers", "2") == scores(*command)


def test_a_worker_tells_its_error(photos: Path, tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / "mine" / f"{index}.png", square(2)[:20])
    command = ["ecssd", photos, "--predictions", tmp_path / "mine", "--workers", "2"]
    result = evaluate(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "0.png is 32x20" in result.stderr


def test_extra_predictions_are_named(photos: Path) -> None:
    write(photos / "masks-of-mine" / "x.png", square(2))
    for index in range(3):
        write(photos / "masks-of-mine" / f"{index}.mask.png", square(2))
    result = evaluate("ecssd", photos, "--predictions", photos / "masks-of-mine")
    assert result.exit_code == 0
    assert "1 files in" in result.stderr
    assert "belong to no sample: x." in result.stderr
    write(photos / "masks-of-mine" / "0.saliency.png", square(2))
    result = evaluate("ecssd", photos, "--predictions", photos / "masks-of-mine")
    assert "are for one picture" in result.stderr


def test_origins_of_masks_do_not_mix(photos: Path) -> None:
    result = evaluate("ecssd", photos, "--method", "centre-prior", "--weights", "w")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--method and --weights are two origins" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "centre-prior", "--refine", "guided"], "--refine is for a network. Drop it."),
        (["--predictions", "masks", "--refine", "none"], "--refine is for a network. Drop it."),
        (
            ["--predictions", "masks", "--size", "96", "--device", "cpu"],
            "--device and --size are for a network. Drop them.",
        ),
        (["--method", "centre-prior", "--precision", "bfloat16"], "--precision is for a network."),
        (["--method", "centre-prior", "--threshold", "0.5"], "--threshold is for videos."),
        (["--method", "centre-prior", "--per-sequence"], "--per-sequence is for videos."),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    photos: Path, options: list[str], message: str
) -> None:
    options = [str(photos / "masks") if option == "masks" else option for option in options]
    result = evaluate("ecssd", photos, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_the_network_needs_pictures(photos: Path) -> None:
    result = evaluate("--masks", photos / "masks", "--weights", "anything")
    assert result.exit_code == 2
    assert "holds no pictures for 0, 1, 2" in result.stderr
