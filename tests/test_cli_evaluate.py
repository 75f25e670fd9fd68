import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from tests.clips import moving_square
from tests.processes import good, invoke, refused

HEIGHT, WIDTH = 24, 32
SEQUENCES = ("cow", "goat")
PRIOR = ("--method", "centre-prior")


def evaluate(*args: str | Path) -> Result:
    return invoke("evaluate", *args)


def scores(*args: str | Path) -> dict[str, float]:
    result = good(evaluate(*args, "--json", "-"))
    found: dict[str, float] = json.loads(result.stdout)["scores"]
    return found


def told(*args: str | Path) -> str:
    return refused(evaluate(*args))


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:18, left : left + 12] = 255
    return mask


def write(folder: Path, pictures: Sequence[np.ndarray], name: str = "{}.png") -> Path:
    for index, pixels in enumerate(pictures):
        path = folder / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: three pictures with a square each, as the subsets are laid out."""
    write(tmp_path / "photos/masks", [square(left) for left in (2, 10, 18)])
    noise = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH, 3), np.uint8)
    write(tmp_path / "photos/images", noise, "{}.jpg")
    monkeypatch.chdir(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five frames in DAVIS 2016's layout; the square moves to the right."""
    root = tmp_path / "DAVIS"
    for sequence in SEQUENCES:
        frames = moving_square(5, height=HEIGHT, width=WIDTH)
        write(root / f"JPEGImages/480p/{sequence}", frames, "{:05}.jpg")
        masks = [square(2 * index) for index in range(5)]
        write(root / f"Annotations/480p/{sequence}", masks, "{:05}.png")
    names = (f"480p/{s}/{index:05}" for s, index in itertools.product(SEQUENCES, range(5)))
    lines = "".join(f"/JPEGImages/{name}.jpg /Annotations/{name}.png\n" for name in names)
    (root / "ImageSets/480p").mkdir(parents=True)
    (root / "ImageSets/480p/val.txt").write_text(lines)
    return root


def test_perfect_masks_score_full_marks_however_they_are_given(photos: Path, davis: Path) -> None:
    found = scores("ecssd", ".", "--predictions", "masks")
    assert found["mae"] == 0
    full = [key for key in found if key not in ("mae", "f_mean", "f_mean_per_image", "e_mean")]
    assert all(found[key] == pytest.approx(1, abs=2e-3) for key in full)
    assert found["iou_otsu"] == found["f_max"] == 1
    folders = ("--images", "images", "--masks", "masks", "--predictions", "masks")
    assert scores(*folders, "--workers", "2") == found
    found = scores("davis2016", davis, "--predictions", davis / "Annotations/480p")
    assert (found["j_mean"], found["j_decay"], found["f_frames"]) == (1, 0, 1)
    output = evaluate("ecssd", ".", *PRIOR, "--limit", "2").stdout
    assert output.startswith("ECSSD subset (2 of 1,000 images), centre-prior")
    assert scores("--masks", "masks", *PRIOR)["mae"] > 0


def test_the_network_is_scored_on_what_a_user_would_write(photos: Path, weights: Path) -> None:
    options = ["--weights", str(weights), "--device", "cpu"]
    good(invoke("image", "images", "-o", "out", "--output", "saliency", *options))
    assert scores("ecssd", ".", *options) == scores("ecssd", ".", "--predictions", "out")


def test_a_model_adapts_to_each_sequence(davis: Path, photos: Path, weights: Path) -> None:
    adapting = ("--weights", weights, "--device", "cpu", "--adapt", "--objective", "photometric")
    flags = (*adapting, "--steps", "2", "--every", "2")
    drawn = good(evaluate("davis2016", davis, *flags, "--json", "-", "--sheet", "drawn.png"))
    found = json.loads(drawn.stdout)
    assert (found["method"], found["count"]) == (f"{weights}, adapted (photometric)", 6)
    # The sheet shows the masks that were scored: no clip is adapted to once more for it.
    assert drawn.stderr.count("2 steps in") == 2
    assert all(f"{sequence}: 2 steps in" in drawn.stderr for sequence in SEQUENCES)
    assert Path("drawn.png").exists()
    assert "--adapt is for a network and clips" in told("ecssd", ".", *flags)


def test_results_are_written_as_asked(davis: Path, photos: Path) -> None:
    flags = ("--per-sequence", "--threshold", "otsu", "--json", "o.json", "--sheet", "o.png")
    result = good(evaluate("davis2016", davis, *PRIOR, *flags))
    assert result.stdout.startswith("DAVIS 2016 val 32x24 copy subset (10 of 1,376 frames)")
    for part in ("centre-prior, threshold otsu", "45.7  none", "* not checked against", "goat"):
        assert result.stdout.count(part) == 1
    report = json.loads(Path("o.json").read_text())
    assert report["sequences"].keys() == set(SEQUENCES)
    assert report["scores"]["j_frames"] == pytest.approx(report["scores"]["j_all"])
    with Image.open("o.png") as sheet:
        assert sheet.size == (8 * 196 + 4, 3 * 162 + 18)


def test_files_that_are_missing_or_extra_are_named(photos: Path) -> None:
    command = ("ecssd", ".", "--predictions", write(Path("mine"), [square(2)]))
    assert "2 of 3 predictions are missing" in told(*command)
    write(Path("mine"), [square(2)] * 4)
    assert "belong to no sample: 3." in evaluate(*command).stderr
    write(Path("mine"), [square(2)], "{}.saliency.png")
    assert "are for one picture" in told(*command)


def test_another_size_is_named_or_resized(photos: Path) -> None:
    write(Path("mine"), [square(left).repeat(2, 0).repeat(2, 1) for left in (2, 10, 18)])
    command = ("ecssd", ".", "--predictions", "mine")
    for workers in ("1", "2"):
        message = told(*command, "--workers", workers)
        assert "0.png is 64x48, but its ground truth" in message
        assert "--resize-masks" in message
    assert scores(*command, "--resize-masks")["iou_half"] == 1
    write(Path("masks"), [square(2)[::2, ::2]])
    assert "0.jpg is 32x24, but its ground truth" in told("ecssd", ".", *PRIOR)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # Without weights of this name a run would fail with another message.
        (". --weights nowhere --json no/out.json", "there is no folder"),
        (". --weights nowhere --sheet out.gif", "has no known ending. Use one of .png"),
        (". --weights nowhere --json old.png", "Give another name, or overwrite it (--overwrite)."),
        (". --weights nowhere --json two.png --sheet two.png", "Two reports would share two.png"),
        (". --weights nowhere --method centre-prior", "--method and --weights are two origins"),
        ("--images images --masks masks", "--images and --masks"),
        # What would change nothing.
        (". --predictions masks --size 96 --device cpu", "and --size are for a network."),
        (". --method centre-prior --refine none", "--refine is for a network. Drop it."),
        (". --method centre-prior --threshold 0.5", "--threshold is for videos."),
        (". --method centre-prior --per-sequence", "--per-sequence is for videos."),
    ],
)
def test_wrong_usage_is_told_before_the_run(photos: Path, flags: str, message: str) -> None:
    Path("old.png").write_text("old")
    assert message in told("ecssd", *flags.split())
    assert Path("old.png").read_text() == "old"
    without = told("--masks", "masks", "--weights", "anything")
    assert "holds no pictures for 3 masks" in without


# A soft map that is next to nothing is no mask.
@pytest.mark.parametrize(
    ("values", "j_mean", "j_all"),
    [
        ((1, 1, 1, 1, 1), 1, 1),
        ((255, 255, 255, 255, 255), 1, 1),
        ((255, 255, 1, 255, 0), 2 / 3, 0.6),
        # First and last frames count where DAVIS 2017 counts them.
        ((0, 255, 255, 255, 0), 1, 0.6),
        ((1, 2, 1, 2, 1), None, None),
    ],
)
def test_grey_predictions_of_a_folder_are_read_alike(
    davis: Path, tmp_path: Path, values: Sequence[int], j_mean: float | None, j_all: float | None
) -> None:
    masks = [square(2 * k) // 255 * np.uint8(value) for k, value in enumerate(values)]
    for sequence in SEQUENCES:
        write(tmp_path / "mine" / sequence, masks, "{:05}.png")
    command = ("davis2016", davis, "--predictions", tmp_path / "mine")
    if j_mean is None:
        assert "none is above 2, in " in (message := told(*command))
        assert "cow/00001.png" in message
    else:
        found = scores(*command)
        assert (found["j_mean"], found["j_all"]) == pytest.approx((j_mean, j_all))
