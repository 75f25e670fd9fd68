"""What a run shows, and when it stops: picture sheets, the check for a collapse."""

from pathlib import Path

import pytest
from PIL import Image

from amd_seg.errors import TrainingDivergedError
from amd_seg.media.render import GAP, LINE, TILE
from amd_seg.training.run_log import CollapseCheck
from tests.test_run import column, train


def test_a_run_draws_sheets_and_learns_the_same(clips: Path, tmp_path: Path) -> None:
    for every in (0, 2):
        train(clips, tmp_path / f"{every}", steps=4, sheet_every=every)
    assert column(tmp_path / "0") == column(tmp_path / "2")
    assert not (tmp_path / "0" / "sheets").exists()
    sheets = sorted((tmp_path / "2" / "sheets").iterdir())
    assert [path.stem for path in sheets] == ["step-000000002", "step-000000004"]
    height = round(TILE * 32 / 48)
    with Image.open(sheets[0]) as sheet:  # a row for each of two pairs, with six pictures
        assert sheet.size == (GAP + 6 * (TILE + GAP), LINE + GAP + 2 * (height + LINE + GAP))


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
