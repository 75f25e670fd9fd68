"""`train` on real clips: it goes on to the bit where it was stopped, and says why it stops."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amd_seg.errors import AmdSegError, ConfigError, InputError, TrainingDivergedError, WeightsError
from amd_seg.media.render import GAP, LINE, TILE
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training import run as runs
from amd_seg.training.clips import find_clips
from amd_seg.training.config import PRESETS, TrainingConfig
from amd_seg.training.loop import StepReport, StopTraining
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.run_folder import RunFolder, load_checkpoint
from amd_seg.training.run_log import CollapseCheck
from amd_seg.weights import load_weights, save_weights
from tests.clips import moving_patch, moving_square, write_clip, write_folder
from tests.processes import ENVIRONMENT, contents, good, invoke, refused, until
from tests.tiny import TINY, settings, tiny_weights

SETTINGS = TrainingConfig(
    steps=6, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1, keep=10
)
BY_MASKS = {"objective": "motion-masks", "short_edge": 96}
# Steps that change next to nothing.
STILL = {"learning_rate": 1e-9, "final_learning_rate": 0.0}
OPTIONS = ("model", "init", "targets", "resume", "on_step")


def mover_clip(path: Path, speed: int = 2) -> Path:
    """Write a clip in which a patch moves on its own."""
    frames, _ = moving_patch(12, height=96, width=128, side=40, speed=speed)
    return write_clip(path, frames, rate=24)


def train(roots: Path | list[Path], out: Path, **changes: Any) -> Path:
    """Train the tiny model by SETTINGS with some changes; return the folder of the weights."""
    options = {"model": TINY} | {name: changes.pop(name) for name in OPTIONS if name in changes}
    paths = roots if isinstance(roots, list) else [roots]
    config = dataclasses.replace(SETTINGS, **changes)
    return runs.train([*map(str, paths)], out, config=config, device="cpu", **options)


def stop_at_step_3(report: StepReport) -> None:
    if report.step == 3:
        raise StopTraining("enough")


def stopped(roots: Path | list[Path], out: Path, **changes: Any) -> None:
    with pytest.raises(StopTraining):
        train(roots, out, on_step=stop_at_step_3, **changes)


def column(run: Path, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (run / "log.jsonl").read_text().splitlines()]


def record(run: Path) -> Any:
    return json.loads((run / "config.json").read_text())


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder).model.state_dict()


def newest(run: Path) -> Path:
    return RunFolder(run).list_checkpoints()[-1]


def begin(clips: Path, out: Path, *words: str, processes: int = 1) -> "subprocess.Popen[str]":
    """Start `amd-seg train`, in a session of its own, by torchrun for several processes."""
    shared = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = [sys.executable, *(shared if processes > 1 else [])]
    command = [*launcher, "-m", "amd_seg.cli", "train", clips, "--out", out, "--device", "cpu"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *words], env=ENVIRONMENT, start_new_session=True, **pipes)


def test_the_faster_memory_layout_is_found_and_recorded(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stopped(clips, tmp_path / "found", steps=200)
    assert "A step takes" in caplog.text
    layout = record(tmp_path / "found")["training"]["memory_layout"]
    # The trial moves neither the stream of pairs nor the random numbers.
    stopped(clips, tmp_path / "asked", steps=200, memory_layout=layout)
    assert column(tmp_path / "found") == column(tmp_path / "asked")


def test_a_resumed_run_ends_as_if_it_had_never_stopped(clips: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(clips, whole, ema_decay=0.9)
    stopped(clips, parts, ema_decay=0.9)
    train(clips, parts, ema_decay=0.9, keep=1, resume=True)
    assert column(parts) == column(whole)
    first, second = (load_checkpoint(newest(run))["objective"] for run in (parts, whole))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    one, two = (load_weights(run / "weights").config for run in (whole, parts))
    assert one.sha256 == two.sha256
    assert (two.model, two.training["steps"]) == (TINY, SETTINGS.steps)
    # Older checkpoints made room, and the settings can be read.
    assert [path.stem for path in RunFolder(parts).list_checkpoints()] == ["step-000000006"]
    used = record(parts)["training"]
    changes = {"ema_decay": 0.9, "keep": 1, "memory_layout": used["memory_layout"]}
    assert TrainingConfig(**used) == dataclasses.replace(SETTINGS, **changes)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "clips").mkdir()
    first = write_clip(tmp_path / "clips" / "0.mp4", moving_square(24, height=96, width=128))
    for number in range(1, 40):
        shutil.copy(first, first.with_stem(str(number)))
    process = begin(tmp_path / "clips", tmp_path / "run")
    masks = tmp_path / "run" / "targets" / "masks"
    until(lambda: list(masks.glob("*")) or process.poll() is not None, "a mask")
    # A terminal sends Ctrl-C to those that help, too.
    kill = os.killpg if name == "SIGINT" else os.kill
    kill(process.pid, getattr(signal, name))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped before the first step" in errors
    # A helper that has not begun yet has its own word for Ctrl-C.
    assert name == "SIGINT" or "Traceback" not in errors
    assert len(list(masks.iterdir())) < 40


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"regions": 4}, {}, r"another model \(.*\(3, 4, 1, 1\), now \(4, 4, 1, 1\)"),
        ({}, {"optimizer": "sgd"}, "another optimiser"),
        ({}, {"objective": "motion-masks"}, "another objective"),
        ({}, {"seed": 1}, r"begun with seed=0, now seed=1\. Leave out"),
    ],
)
def test_a_run_is_not_resumed_as_another_and_keeps_its_settings(
    clips: Path, tmp_path: Path, model: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    three = dataclasses.replace(TINY, regions=3)
    train(clips, tmp_path, model=three, steps=1)
    before = record(tmp_path)
    other = dataclasses.replace(three, **model)
    with pytest.raises(ConfigError, match=message):
        train(clips, tmp_path, model=other, steps=8, resume=True, **training)
    assert record(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"frames": "loader", "workers": 1}, BY_MASKS],
    ids=["pairs in memory", "pairs as they are drawn", "motion masks"],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_a_run_goes_on_with_its_own_clips_anywhere(tmp_path: Path, changes: dict[str, Any]) -> None:
    home, run, whole = (tmp_path / name for name in ("home", "run", "whole"))
    home.mkdir()
    for number in range(2):
        mover_clip(home / f"{number}.mp4", speed=2 + number)
    walk = write_folder(home / "walk", moving_square(5, height=96, width=128))
    train(home, whole, **changes)
    stopped(home, run, **changes)
    before, size = contents(run), (home / "1.mp4").stat().st_size

    def refused(message: str, *roots: Path) -> None:
        with pytest.raises(InputError, match=message):
            train([*roots], run, resume=True, **changes)
        assert contents(run) == before

    (home / "1.mp4").rename(home / "2.mp4")
    refused(rf"clips without 1\.mp4 \({size} bytes\) and with 2\.mp4 \({size} bytes\)\.", home)
    (home / "2.mp4").rename(home / "1.mp4")
    (walk / "00004.png").rename(tmp_path / "frame.png")
    refused(r"walk \(5 frames, 0+\.png to 0+4\.png\) and with walk \(4 frames", home)
    (tmp_path / "frame.png").rename(walk / "00004.png")
    refused("clips in another order", home / "1.mp4", home / "0.mp4", walk)
    home.rename(tmp_path / "elsewhere")
    train(tmp_path / "elsewhere", run, resume=True, **changes)
    assert column(run) == column(whole)


def test_a_resumed_run_learns_from_its_own_masks(tmp_path: Path) -> None:
    run, whole, targets, others = (tmp_path / n for n in ("run", "whole", "targets", "others"))
    clip = find_clips([str(mover_clip(tmp_path / "0.mp4"))])
    write_motion_masks(clip, targets, MotionMaskConfig(), workers=1)
    write_motion_masks(clip, others, MotionMaskConfig(every=1), workers=1)
    # Images with masks are enough: no clip is given.
    train([], whole, targets=[targets], **BY_MASKS)
    stopped([], run, targets=[targets], **BY_MASKS)
    with pytest.raises(InputError, match=r"images without 0 \(\d+ masks\) and with 0 \("):
        train([], run, targets=[others], resume=True, **BY_MASKS)
    train([], run, resume=True, **BY_MASKS)
    assert column(run) == column(whole)
    # They lie elsewhere now.
    targets = targets.rename(tmp_path / "moved")
    train([], run, steps=7, targets=[targets], resume=True, **BY_MASKS)
    assert record(run)["targets"] == [str(targets)]


def test_what_is_given_when_a_run_is_resumed_counts(clips: Path, tmp_path: Path) -> None:
    before = state_of(train(clips, tmp_path, learning_rate=1e-2))
    # The average of a step that changes next to nothing is the model that the run had.
    changes = {**STILL, "ema_decay": 0.5, "weight_decay": 0}
    after = state_of(train(clips, tmp_path, steps=7, resume=True, **changes))
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(value, after[name], atol=1e-6), name
    saved = load_checkpoint(newest(tmp_path))
    assert saved["optimizer"]["param_groups"][0]["weight_decay"] == 0


def test_a_run_starts_from_weights_and_remembers_them(clips: Path, tmp_path: Path) -> None:
    first, run = tiny_weights(tmp_path / "first", object_channel=2), tmp_path / "run"
    other = dataclasses.replace(TINY, regions=6)
    with pytest.raises(ConfigError, match="regions 5 instead of 6"):
        train(clips, tmp_path / "other", model=other, init=str(first))
    # A command takes the model of the weights, too.
    words = ["--steps", 1, "--minutes", 0, "--batch-size", 2, "--crop", "32x32", "--device", "cpu"]
    words += ["--quiet", *settings("short_edge=32 dropout=0"), "--out", tmp_path / "third"]
    result = invoke("train", clips, "--init", first, *words)
    assert (result.exit_code, result.stderr) == (0, "")
    trained = load_weights(tmp_path / "third" / "weights").config
    assert trained.model == dataclasses.replace(TINY, dropout=0)
    # The motion pathway is begun anew where asked.
    begun, changes = state_of(first), {**STILL, "steps": 1, "init": str(first)}
    for way in ("released", "kaiming"):
        folder = train(clips, tmp_path / way, motion_init=way, objective="dense", **changes)
        for name, value in state_of(folder).items():
            is_kept = torch.allclose(value, begun[name], rtol=1e-3, atol=1e-6)
            assert is_kept != (way == "kaiming" and name.startswith("motion.")), name
    train(clips, run, **changes)
    shutil.rmtree(first)  # the checkpoint has all its values
    folder = train(clips, run, resume=True)
    for origin in (load_weights(folder).config.training, record(run)):
        assert (origin["init"], origin["init_channel"]) == (str(first), 2)


def test_the_channel_of_the_weights_is_kept_and_taught(
    clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    model = AMD(TINY)
    with torch.no_grad():
        model.appearance.classifier.bias[3] += 9  # region 3 has nearly every pixel
        for value in model.motion.region_flow[1].parameters():
            value.zero_()  # No region moves: then none clearly moves more.
    start = save_weights(tmp_path / "w", model, WeightsConfig(model=TINY, object_channel=3))
    folder = train(clips, tmp_path / "pairs", steps=1, init=str(start), **STILL)
    assert load_weights(folder).config.object_channel == 3
    assert "The object is region 3." in caplog.text
    # Motion masks are found first.
    clip, run = mover_clip(tmp_path / "mover.mp4"), tmp_path / "run"
    stopped(clip, run, init=str(start), learning_rate=1e-5, **BY_MASKS)
    mask = np.asarray(Image.open(min((run / "targets" / "masks" / "mover").glob("*.png"))))
    assert mask[25:55, 25:55].mean() > 2 * mask[70:, 100:].mean()
    shutil.rmtree(start)
    folder = train(clip, run, learning_rate=1e-5, resume=True, **BY_MASKS)
    assert min(column(run, "area")) > 0.9
    assert load_weights(folder).config.object_channel == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_its_first_steps(clips: Path, tmp_path: Path, preset: str) -> None:
    # The recipe is the preset's; only the amount of work is not.
    words = ["--steps", 3, "--minutes", 0, "--batch-size", 2, "--crop", "32x32", "--device", "cpu"]
    words += settings("stage_widths=8,8,16,16 head_channels=8 motion_size=64x64")
    words += ["--workers", 0, *settings("short_edge=32 log_every=1 sheet_every=1")]
    result = good(invoke("train", clips, "--preset", preset, "--out", tmp_path / "run", *words))
    assert result.stdout == f"{tmp_path / 'run' / 'weights'}\n"
    assert max(map(len, result.stderr.splitlines()[:4])) <= 100
    told = rf"model: backbone={PRESETS[preset].model.backbone} .* crop=32,32"
    assert re.search(told, " ".join(result.stderr.split()))
    assert load_weights(tmp_path / "run" / "weights").config.training["steps"] == 3


def test_a_loss_that_is_not_finite_names_pairs_and_checkpoint(clips: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 1e30, "final_learning_rate": 0, "checkpoint_every": 1}
    message = r"at step \d+ .*clip-\d\.mp4:\d+-\d+.*checkpoint is .*step-0"
    with pytest.raises(TrainingDivergedError, match=message) as caught:
        train(clips, tmp_path, steps=40, **changes)
    checkpoint = newest(tmp_path)
    assert str(checkpoint) in str(caught.value)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    message = rf"{checkpoint.name}: it is damaged.*Delete it: --resume goes on from the one before"
    with pytest.raises(WeightsError, match=message):
        train(clips, tmp_path, resume=True)


def test_clips_in_which_nothing_moves_are_refused(tmp_path: Path) -> None:
    still = write_folder(tmp_path / "still", moving_square(1) * 3)
    with pytest.raises(InputError, match="Nothing in the clips moves on its own"):
        train(still, tmp_path / "run", **BY_MASKS)


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "report.html"])
def test_a_run_folder_in_use_is_not_written_over(clips: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="without --resume"):
        train(clips, tmp_path, resume=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="--resume"):
        train(clips, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("CLIPS --targets nowhere", "no folders images/ and masks/ in nowhere"),
        ("CLIPS --objective photometric --targets .", "--objective motion-masks only"),
        ("CLIPS --out notes.txt", "notes.txt is a file. Give another --out"),
        ("CLIPS --out notes.txt/run", "notes.txt is a file. Give another --out"),
        ("", "Give VIDEOS, or --targets"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_made(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    given = words.replace("CLIPS", str(clips)).split()
    assert message in refused(invoke("train", "--out", "run", "--device", "cpu", *given))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_frames_that_do_not_fit_are_refused_before_any_is_read_or_written(tmp_path: Path) -> None:
    # A list of a clip that no machine can hold; of its frames only the first is there.
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (4096, 4096)).save(tmp_path / "clip" / "0.png")
    vast = tmp_path / "list.txt"
    vast.write_text(f"clip {' '.join(f'{number}.png' for number in range(100_000))}\n")
    # Three bytes a pixel of 100,000 frames of 4096x4096.
    with pytest.raises(InputError, match=r"need 4\.69e\+03 GiB, .*--set frames=loader"):
        train(vast, tmp_path / "run", short_edge=4096)
    assert not (tmp_path / "run").exists()
    # Decoded as they are drawn, it goes on to the frames.
    with pytest.raises(AmdSegError, match=r"\.png: no such file"):
        train(vast, tmp_path / "run", frames="loader", workers=0)


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
