"""What a run shows, and when it stops: picture sheets, the check for a collapse."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.errors import TrainingDivergedError
from amd_seg.media.render import GAP, LINE, TILE, region_palette
from amd_seg.model.amd import AMD
from amd_seg.training.masked_images import MaskBatch
from amd_seg.training.pairs import PairBatch
from amd_seg.training.run_log import CollapseCheck, draw_sheet
from tests.clips import moving_square
from tests.test_run import column, contents, train
from tests.tiny import TINY


def column_of(sheet: Image.Image, place: int) -> np.ndarray:
    """The first picture of a column of a sheet."""
    left = GAP + place * (TILE + GAP)
    return np.asarray(sheet)[LINE + GAP :, left : left + TILE][: round(TILE * 32 / 48)].astype(int)


def test_a_sheet_has_a_row_a_pair_and_a_column_a_thing() -> None:
    frames = torch.from_numpy(np.stack(moving_square(2, height=32, width=48))).permute(0, 3, 1, 2)
    first, second = (frame.expand(2, -1, -1, -1) for frame in frames)
    model = AMD(TINY)
    sheet = draw_sheet(model, PairBatch(first, second, ("a", "b")))
    height = round(TILE * 32 / 48)
    assert sheet.size == (GAP + 6 * (TILE + GAP), LINE + GAP + 2 * (height + LINE + GAP))
    shown = Image.fromarray(column_of(sheet, 0).astype(np.uint8)).resize((48, 32))
    source = frames[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(np.asarray(shown) - source).mean() < 8
    assert model.training


class Halves(AMD):
    """Region 1 is the left half, region 0 the right one."""

    def segment(self, frames: torch.Tensor) -> torch.Tensor:
        masks = torch.zeros(len(frames), 2, 4, 6)
        masks[:, 1, :, :3], masks[:, 0, :, 3:] = 1, 1
        return masks


@pytest.mark.parametrize("channel", [0, 1])
def test_a_sheet_of_masks_shows_the_region_that_is_taught_and_its_target(channel: int) -> None:
    targets = torch.zeros(1, 1, 32, 48)
    targets[..., :24] = 255
    batch = MaskBatch(torch.zeros(1, 3, 32, 48), targets, ("a:0",))
    sheet = draw_sheet(Halves(dataclasses.replace(TINY, regions=2)), batch, channel)
    # The bar under the regions gives each its share, region 0 first, wherever it is.
    bar, seen, target = column_of(sheet, 1)[-2], column_of(sheet, 2), column_of(sheet, 3)
    left, right = slice(TILE // 2 - 20), slice(TILE // 2 + 20, None)
    assert seen[:, (right, left)[channel]].min() == target[:, left].min() == 255
    assert seen[:, (left, right)[channel]].max() == target[:, right].max() == 0
    for half, colour in zip((left, right), region_palette(2).astype(int), strict=True):
        assert np.abs(bar[half] - colour).max() < 16


def test_a_run_draws_sheets_and_learns_the_same(clips: Path, tmp_path: Path) -> None:
    for every in (0, 2):
        train(clips, tmp_path / f"{every}", steps=4, sheet_every=every)
    assert column(tmp_path / "0") == column(tmp_path / "2")
    assert not (tmp_path / "0" / "sheets").exists()
    sheets = sorted(path.name for path in contents(tmp_path / "2" / "sheets"))
    assert sheets == ["step-000000002.png", "step-000000004.png"]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("largest_area", 0.999, "all pixels are in one region"),
        ("visible", 0.01, "nothing is visible"),
        ("entropy", 1e-5, "masks are saturated"),
        ("area", 0.0, "everything or nothing"),
    ],
)
def test_a_collapse_that_lasts_stops_the_run(part: str, value: float, message: str) -> None:
    healthy = {"largest_area": 0.5, "visible": 0.9, "entropy": 0.4, "area": 0.1}
    check = CollapseCheck(patience=3)
    for step in (1, 2, 3, 4, 5):
        check(step, healthy if step == 3 else {**healthy, part: value})
    with pytest.raises(TrainingDivergedError, match=f"{message}.*at step 6.*--set alarms=false"):
        check(6, {**healthy, part: value})
