import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from amd_seg.cli import cli
from tests.clips import moving_square

HEIGHT, WIDTH = 24, 32


def evaluate(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, args)])


def scores(*args: str | Path) -> dict[str, float]:
    result = evaluate(*args, "--json", "-")
    assert result.exit_code == 0, result.stderr
    found: dict[str, float] = json.loads(result.stdout)["scores"]
    return found


def refused(*args: str | Path) -> str:
    """What is said of a command that is wrong usage and gives no number."""
    result = evaluate(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    return " ".join(result.stderr.split())


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:18, left : left + 12] = 255
    return mask


def write_squares(folder: Path, lefts: tuple[int, ...] = (2, 10, 18)) -> Path:
    for index, left in enumerate(lefts):
        write(folder / f"{index}.png", square(left))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures with a square each, as the subsets are laid out."""
    write_squares(tmp_path / "photos" / "masks")
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        write(tmp_path / "photos" / "images" / f"{index}.jpg", noise)
    return tmp_path / "photos"


SEQUENCES = ("cow", "goat")


def write_sequences(folder: Path, masks: Sequence[np.ndarray], suffix: str = "png") -> Path:
    """Write the same frames for both sequences of `davis`."""
    for sequence, (index, mask) in itertools.product(SEQUENCES, enumerate(masks)):
        write(folder / sequence / f"{index:05}.{suffix}", mask)
    return folder


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five frames in DAVIS 2016's layout; the square moves to the right."""
    root = tmp_path / "DAVIS"
    frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 5
    write_sequences(root / "JPEGImages/480p", frames, "jpg")
    write_sequences(root / "Annotations/480p", [square(2 * index) for index in range(5)])
    names = (f"480p/{s}/{index:05}" for s in SEQUENCES for index in range(5))
    lines = "".join(f"/JPEGImages/{name}.jpg /Annotations/{name}.png\n" for name in names)
    (root / "ImageSets" / "480p").mkdir(parents=True)
    (root / "ImageSets" / "480p" / "val.txt").write_text(lines)
    return root


PRIOR = ("--method", "centre-prior")


def test_perfect_masks_score_full_marks(photos: Path, davis: Path) -> None:
    found = scores("ecssd", photos, "--predictions", photos / "masks")
    assert found["mae"] == 0
    full = [key for key in found if key not in ("mae", "f_mean", "f_mean_per_image", "e_mean")]
    assert all(found[key] == pytest.approx(1, abs=2e-3) for key in full)
    assert found["iou_otsu"] == found["f_max"] == 1
    output = evaluate("ecssd", photos, *PRIOR, "--limit", "2").stdout
    assert output.startswith("ECSSD subset (2 of 1,000 images), centre-prior")
    found = scores("davis2016", davis, "--predictions", davis / "Annotations" / "480p")
    assert (found["j_mean"], found["j_decay"], found["f_frames"]) == (1, 0, 1)


def test_the_network_is_scored_on_what_a_user_would_write(
    photos: Path, tmp_path: Path, weights: Path
) -> None:
    options = ["--weights", str(weights), "--device", "cpu"]
    written = ["image", f"{photos}/images", "-o", f"{tmp_path}/out", "--output", "saliency"]
    assert CliRunner().invoke(cli, [*written, *options]).exit_code == 0
    own = scores("ecssd", photos, *options)
    assert own == scores("ecssd", photos, "--predictions", tmp_path / "out")


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
    assert (found["method"], found["count"]) == (f"{weights}, adapted (photometric)", 6)
    # The sheet shows the masks that were scored: no clip is adapted to once more for it.
    assert drawn.stderr.count("2 steps in") == 2
    told = [line.partition(": ")[0] for line in drawn.stderr.splitlines()]
    assert {"cow", "goat"} <= set(told)
    assert (tmp_path / "drawn.png").exists()
    assert "no clips" in refused("ecssd", photos, *flags)
    assert "--adapt is for a network" in refused("davis2016", davis, *PRIOR, "--adapt")


def test_files_that_are_missing_or_extra_are_named(photos: Path, tmp_path: Path) -> None:
    mine = write_squares(tmp_path / "mine", (2,))
    assert "2 of 3 predictions are missing" in refused("ecssd", photos, "--predictions", mine)
    write_squares(mine)
    (mine / "0.png").rename(mine / "0.mask.png")
    write(mine / "x.png", square(2))
    result = evaluate("ecssd", photos, "--predictions", mine)
    assert result.exit_code == 0
    assert "1 files in" in result.stderr
    assert "belong to no sample: x." in result.stderr
    write(mine / "0.saliency.png", square(2))
    assert "are for one picture" in refused("ecssd", photos, "--predictions", mine)


def test_another_size_is_named_or_resized(photos: Path, tmp_path: Path) -> None:
    for index, left in enumerate((2, 10, 18)):
        write(tmp_path / "mine" / f"{index}.png", square(left).repeat(2, 0).repeat(2, 1))
    command = ["ecssd", photos, "--predictions", tmp_path / "mine"]
    for workers in ("1", "2"):
        message = refused(*command, "--workers", workers)
        assert "0.png is 64x48, but its ground truth" in message
        assert "--resize-masks" in message
    assert scores(*command, "--resize-masks")["iou_half"] == 1
    write(photos / "masks" / "1.png", square(2)[::2, ::2])
    assert "1.jpg is 32x24, but its ground truth" in refused("ecssd", photos, *PRIOR)


def test_any_folders_can_be_scored(photos: Path) -> None:
    folders = ["--images", photos / "images", "--masks", photos / "masks"]
    found = scores(*folders, "--predictions", photos / "masks", "--workers", "2")
    assert found == scores("ecssd", photos, "--predictions", photos / "masks")
    assert scores("--masks", photos / "masks", *PRIOR)["mae"] > 0
    assert "--images and --masks" in refused("ecssd", *folders)
    message = refused("--masks", photos / "masks", "--weights", "anything")
    assert "holds no pictures for 0, 1, 2" in message


def test_results_are_written_as_asked(davis: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "png")}
    result = evaluate(
        *("davis2016", davis, *PRIOR, "--per-sequence", "--threshold", "otsu"),
        *("--json", files["json"], "--sheet", files["png"]),
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
        assert sheet.size == (8 * 196 + 4, 3 * 162 + 18)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # Without weights of this name a run would fail with another message.
        ("--weights nowhere --json no/out.json", "there is no folder"),
        ("--weights nowhere --sheet out.gif", "has no known ending. Use one of .png"),
        ("--weights nowhere --json old.png", "Give another name, or overwrite it (--overwrite)."),
        ("--weights nowhere --sheet old.png --json old.png", "Two reports would share"),
        ("--weights nowhere --method centre-prior", "--method and --weights are two origins"),
        # What would change nothing.
        ("--method centre-prior --refine guided", "--refine is for a network. Drop it."),
        ("--predictions masks --refine none", "--refine is for a network. Drop it."),
        ("--predictions masks --size 96 --device cpu", "and --size are for a network. Drop them."),
        ("--method centre-prior --precision bfloat16", "--precision is for a network."),
        ("--method centre-prior --threshold 0.5", "--threshold is for videos."),
        ("--method centre-prior --per-sequence", "--per-sequence is for videos."),
    ],
)
def test_wrong_usage_is_told_before_the_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, flags: str, message: str
) -> None:
    monkeypatch.chdir(photos)
    (photos / "old.png").write_text("old")
    assert message in refused("ecssd", photos, *flags.split())
    assert (photos / "old.png").read_text() == "old"


def test_first_and_last_frames_count_where_davis_2017_counts_them(
    davis: Path, tmp_path: Path
) -> None:
    masks = [square(2 * index) * (0 < index < 4) for index in range(5)]
    mine = write_sequences(tmp_path / "mine", masks)
    found = scores("davis2016", davis, "--predictions", mine)
    assert (found["j_mean"], found["j_all"]) == (1, pytest.approx(0.6))


def test_grey_predictions_of_a_folder_are_read_alike(davis: Path, tmp_path: Path) -> None:
    command = ["davis2016", davis, "--predictions", tmp_path / "mine"]
    # A soft map that is next to nothing is no mask.
    for values, expected in (
        ((1, 1, 1, 1, 1), 1),
        ((255, 255, 255, 255, 255), 1),
        ((255, 255, 1, 255, 0), 0.6),
        ((1, 2, 1, 2, 1), None),
    ):
        masks = [square(2 * k) // 255 * np.uint8(value) for k, value in enumerate(values)]
        write_sequences(tmp_path / "mine", masks)
        if expected is not None:
            assert scores(*command)["j_all"] == pytest.approx(expected)
    message = refused(*command)
    assert "none is above 2, in " in message
    assert "cow/00001.png" in message
