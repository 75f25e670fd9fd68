"""What a run shows, and when it stops: picture sheets, curves, the check for a collapse."""

import dataclasses
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.errors import TrainingDivergedError
from amd_seg.media.render import GAP, LINE, TILE, Tile, region_palette, tiled
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig
from amd_seg.training.config import TrainingConfig
from amd_seg.training.loop import StepReport
from amd_seg.training.masked_images import MaskBatch
from amd_seg.training.pairs import PairBatch
from amd_seg.training.run import train
from amd_seg.training.run_folder import RunFolder, list_checkpoints, load_checkpoint
from amd_seg.training.run_log import CollapseCheck, RunLog, draw_sheet, flow_colours
from tests.clips import moving_square, write_clip
from tests.tiny import settings

SETTINGS = TrainingConfig(
    steps=4, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "clip.mp4", moving_square(6))
    return str(folder)


def unit_flow(x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array((x, y), np.float32), (2, 3, 2))


@pytest.mark.parametrize(
    ("direction", "colour"),
    [
        ((3, 0), (255, 0, 0)),
        ((-3, 0), (0, 255, 255)),
        ((1, 3**0.5), (255, 255, 0)),
        ((-1, 3**0.5), (0, 255, 0)),
        ((-1, -(3**0.5)), (0, 0, 255)),
        ((0, 0), (255, 255, 255)),
    ],
)
def test_the_wheel_has_one_colour_for_each_direction(
    direction: tuple[float, float], colour: tuple[int, int, int]
) -> None:
    assert (flow_colours(unit_flow(*direction)) == colour).all()


def test_the_wheel_fades_with_the_length() -> None:
    flow = unit_flow(4, 0).copy()
    flow[0] = (2, 0)
    assert (flow_colours(flow)[0] == (255, 128, 128)).all()


def test_a_sheet_has_a_row_a_pair_and_a_column_a_thing(tiny_config: AMDConfig) -> None:
    frames = torch.from_numpy(np.stack(moving_square(2, height=32, width=48))).permute(0, 3, 1, 2)
    first, second = (frame.expand(2, -1, -1, -1) for frame in frames)
    model = AMD(tiny_config)
    sheet = draw_sheet(model, PairBatch(first, second, ("a", "b")))
    height = round(TILE * 32 / 48)
    top = LINE + GAP
    assert sheet.size == (GAP + 6 * (TILE + GAP), top + 2 * (height + LINE + GAP))
    tiles = np.asarray(sheet)[top : top + height]
    x = [GAP + place * (TILE + GAP) for place in range(6)]
    source = np.asarray(Image.fromarray(moving_square(1, height=32, width=48)[0]))
    shown = Image.fromarray(tiles[:, x[0] : x[0] + TILE]).resize((48, 32))
    assert np.abs(np.asarray(shown).astype(int) - source).mean() < 8
    assert model.training


def test_a_sheet_of_targets_shows_the_target(tiny_config: AMDConfig) -> None:
    targets = torch.zeros(1, 1, 32, 48)
    targets[..., :24] = 255
    batch = MaskBatch(torch.rand(1, 3, 32, 48) * 255, targets, ("a:0",))
    sheet = np.asarray(draw_sheet(AMD(tiny_config), batch))
    tile = sheet[LINE + GAP : -GAP - LINE, GAP + 3 * (TILE + GAP) : -GAP]
    assert tile[:, : TILE // 2 - 4].min() == 255
    assert tile[:, TILE // 2 + 4 :].max() == 0


class Halves(AMD):
    """Region 1 is the left half, region 0 the right one."""

    def segment(self, frames: torch.Tensor) -> torch.Tensor:
        masks = torch.zeros(len(frames), 2, 4, 6)
        masks[:, 1, :, :3], masks[:, 0, :, 3:] = 1, 1
        return masks


@pytest.mark.parametrize("channel", [0, 1])
def test_a_sheet_shows_the_region_that_is_taught(tiny_config: AMDConfig, channel: int) -> None:
    batch = MaskBatch(torch.zeros(1, 3, 32, 48), torch.zeros(1, 1, 32, 48), ("a:0",))
    model = Halves(dataclasses.replace(tiny_config, regions=2))
    sheet = np.asarray(draw_sheet(model, batch, channel))
    tile = sheet[LINE + GAP : -GAP - LINE, GAP + 2 * (TILE + GAP) :][:, :TILE]
    halves = tile[:, : TILE // 3], tile[:, 2 * TILE // 3 :]
    assert halves[1 - channel].min() == 255
    assert halves[channel].max() == 0


def test_a_sheet_gives_each_region_its_share(tiny_config: AMDConfig) -> None:
    batch = MaskBatch(torch.zeros(1, 3, 32, 48), torch.zeros(1, 1, 32, 48), ("a:0",))
    sheet = np.asarray(draw_sheet(Halves(dataclasses.replace(tiny_config, regions=2)), batch))
    bar = sheet[-GAP - LINE - 2, GAP + TILE + GAP :][:TILE].astype(int)
    colours = region_palette(2).astype(int)
    # Region 0 first, wherever it is in the frame.
    assert np.abs(bar[: TILE // 2 - 8] - colours[0]).max() < 16
    assert np.abs(bar[TILE // 2 + 8 :] - colours[1]).max() < 16


def test_captions_keep_their_end_and_any_name_can_be_one() -> None:
    picture = Image.new("RGB", (48, 32), "red")
    plain, long = (
        np.asarray(tiled(("a",), [[Tile(picture, f"{start}clip-\u732b:12-13")]]))
        for start in ("", "folder/" * 40)
    )
    assert plain.shape == long.shape
    inked = np.flatnonzero((long[-LINE - GAP :] < 200).all(axis=2).any(axis=0))
    assert GAP <= inked.min() <= inked.max() < GAP + TILE


def test_a_run_draws_sheets_and_learns_the_same(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    logs = []
    for every in (0, 2):
        config = dataclasses.replace(SETTINGS, sheet_every=every)
        train([clips], tmp_path / f"{every}", model=tiny_config, config=config, device="cpu")
        lines = (tmp_path / f"{every}" / "log.jsonl").read_text().splitlines()
        logs.append([line.partition('"seconds"')[0] for line in lines])
    assert logs[0] == logs[1]
    assert not (tmp_path / "0" / "sheets").exists()
    sheets = sorted(path.name for path in (tmp_path / "2" / "sheets").iterdir())
    assert sheets == ["step-000000002.png", "step-000000004.png"]


def test_curves_are_written_for_tensorboard(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    train([clips], tmp_path / "run", model=tiny_config, config=SETTINGS, device="cpu")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_curves_that_cannot_be_written_do_not_end_a_run(
    clips: str, tiny_config: AMDConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.curves.write_text("no folder")
    config = dataclasses.replace(SETTINGS, sheet_every=0)
    with RunLog(folder, config, iter(())) as log:
        log.after_step(AMD(tiny_config), StepReport(1, 0.5, {"loss": 0.5}, 1e-4, 1.0, 1.0, ()))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "log.jsonl has the same numbers" in caplog.text
    assert '"loss": 0.5' in folder.log.read_text()


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
    for step in (1, 2):
        check(step, {**healthy, part: value})
    check(3, healthy)
    for step in (4, 5):
        check(step, {**healthy, part: value})
    with pytest.raises(TrainingDivergedError, match=f"{message}.*at step 6.*--set alarms=false"):
        check(6, {**healthy, part: value})


def test_a_full_disk_ends_with_one_line_and_the_older_checkpoints(
    clips: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "amd_seg.cli", "train", clips, "--out", str(tmp_path / "run")]
    command += ["--steps", "3", "--minutes", "0", "--batch-size", "2", "--crop", "32x48"]
    command += ["--device", "cpu"]
    command += settings("stage_widths=8,8,8,8 motion_size=64x64")
    command += settings("short_edge=32 log_every=1")
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    kept = list_checkpoints(tmp_path / "run" / "checkpoints")
    limit = kept[0].stat().st_size // 2
    full = subprocess.run(
        [*command, "--resume", "--steps", "5"],
        capture_output=True,
        text=True,
        check=False,
        # No file may grow beyond the limit: the error a full disk gives, without a disk to fill.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1
    assert "step-000000005.pt: File too large. Free some space" in full.stderr
    assert f"last good checkpoint is {kept[-1]}; --resume goes on from it" in full.stderr
    assert "Traceback" not in full.stderr
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == kept
    assert load_checkpoint(kept[-1])["step"] == 3
