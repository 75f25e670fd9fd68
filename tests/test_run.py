"""`train` on real clips: it goes on to the bit where it was stopped, and says why it stops."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from amd_seg.cli import cli
from amd_seg.errors import (
    ConfigError,
    InputError,
    MediaError,
    TrainingDivergedError,
    WeightsError,
)
from amd_seg.model.amd import AMD
from amd_seg.model.config import AMDConfig, WeightsConfig
from amd_seg.training.clips import find_clips
from amd_seg.training.config import PRESETS, TrainingConfig
from amd_seg.training.loop import StepReport, StopTraining
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.run import train
from amd_seg.training.run_folder import RunFolder, list_checkpoints, load_checkpoint
from amd_seg.weights import load_weights, save_weights
from tests.clips import moving_square, write_clip, write_folder
from tests.tiny import TINY_SETTINGS, settings

SETTINGS = TrainingConfig(
    steps=6, batch_size=2, short_edge=32, crop=(32, 48), checkpoint_every=2, log_every=1, keep=10
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of two short clips of a moving square."""
    folder = tmp_path_factory.mktemp("clips")
    for number, step in enumerate(((0, 2), (1, 0))):
        write_clip(folder / f"clip-{number}.mp4", moving_square(6, step=step))
    return str(folder)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_weights(run: Path, other: Path) -> None:
    newest = [load_checkpoint(list_checkpoints(path / "checkpoints")[-1]) for path in (run, other)]
    for name, value in newest[0]["objective"].items():
        assert torch.equal(value, newest[1]["objective"][name]), name


def stop_after(step: int):
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise StopTraining("enough")

    return on_step


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_ends_as_if_it_had_never_stopped(
    clips: str, tiny_config: AMDConfig, tmp_path: Path, ema_decay: float
) -> None:
    config = dataclasses.replace(SETTINGS, ema_decay=ema_decay)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train([clips], whole, model=tiny_config, config=config, device="cpu")
    with pytest.raises(StopTraining):
        train([clips], parts, model=tiny_config, config=config, device="cpu", on_step=stop_after(3))
    train([clips], parts, model=tiny_config, config=config, device="cpu", resume=True)
    assert losses(parts) == losses(whole)
    assert_same_weights(whole, parts)
    digests = [load_weights(run / "weights").config.sha256 for run in (whole, parts)]
    assert digests[0] == digests[1]


def test_a_killed_run_goes_on_to_the_same_curve(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "amd_seg.cli", "train", clips, "--device", "cpu"]
    command += ["--objective", "photometric", "--checkpoint-every", "2", "--steps", "40"]
    command += ["--batch-size", "2", "--minutes", "0", "--crop", "32x48"]
    command += [*TINY_SETTINGS, *settings("keep=3")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*command, "--out", killed], env=environment, stderr=subprocess.PIPE)
    while len(list_checkpoints(killed / "checkpoints")) < 2 and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    for extra in (["--out", str(whole)], ["--out", str(killed), "--resume"]):
        subprocess.run([*command, *extra], env=environment, check=True, capture_output=True)
    assert losses(killed) == losses(whole)
    assert_same_weights(whole, killed)


def test_sigterm_ends_with_a_checkpoint_and_a_clear_line(clips: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amd_seg.cli", "train", clips, "--out", tmp_path / "run"]
    command += ["--objective", "photometric", "--checkpoint-every", "100000", "--device", "cpu"]
    command += ["--steps", "100000", "--minutes", "0", "--batch-size", "2", "--crop", "32x48"]
    command += TINY_SETTINGS
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 1) and run.poll() is None:
        time.sleep(0.02)
    run.terminate()
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Stopped by SIGTERM" in errors
    assert "--resume" in errors
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "clips").mkdir()
    first = write_clip(tmp_path / "clips" / "0.mp4", moving_square(24, height=96, width=128))
    for number in range(1, 40):
        shutil.copy(first, first.with_stem(str(number)))
    command = [sys.executable, "-m", "amd_seg.cli", "train", tmp_path / "clips", "--device", "cpu"]
    run = subprocess.Popen(
        [*command, "--out", tmp_path / "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "run" / "targets").glob("masks/*")) and run.poll() is None:
        time.sleep(0.02)
    # A terminal sends Ctrl-C to those that help, too.
    kill = os.killpg if name == "SIGINT" else os.kill
    kill(run.pid, getattr(signal, name))
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Stopped before the first step" in errors
    # A helper that has not begun yet has its own word for Ctrl-C.
    assert name == "SIGINT" or "Traceback" not in errors
    assert len(list((tmp_path / "run" / "targets" / "masks").iterdir())) < 40


def test_a_run_writes_weights_that_load_and_settings_that_can_be_read(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    folder = train([clips], tmp_path / "run", model=tiny_config, config=SETTINGS, device="cpu")
    weights = load_weights(folder)
    assert weights.config.model == tiny_config
    assert weights.config.training["steps"] == SETTINGS.steps
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["training"]["batch_size"] == SETTINGS.batch_size
    layout = settings["training"]["memory_layout"]
    assert layout in ("channels-first", "channels-last")
    taken = dataclasses.replace(SETTINGS, memory_layout=layout)
    assert TrainingConfig(**settings["training"]) == taken


def test_the_loss_falls_on_a_moving_square(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        SETTINGS,
        steps=40,
        learning_rate=5e-3,
        objective="dense",
        checkpoint_every=100,
        scale=(1, 1),
    )
    train([clips], tmp_path / "run", model=tiny_config, config=config, device="cpu")
    curve = losses(tmp_path / "run")
    assert np.mean(curve[-5:]) < 0.9 * np.mean(curve[:5])


def test_weights_start_a_run(clips: str, tiny_config: AMDConfig, tmp_path: Path) -> None:
    one_step = dataclasses.replace(SETTINGS, steps=1)
    first = train([clips], tmp_path / "a", model=tiny_config, config=one_step, device="cpu")
    train(
        [clips], tmp_path / "b", model=tiny_config, config=one_step, device="cpu", init=str(first)
    )
    other = dataclasses.replace(tiny_config, regions=6)
    with pytest.raises(ConfigError, match="regions 5 instead of 6"):
        train([clips], tmp_path / "c", model=other, config=one_step, init=str(first))


def test_a_resumed_run_knows_what_it_started_from(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    options = {"model": tiny_config, "device": "cpu"}
    one_step = dataclasses.replace(SETTINGS, steps=1)
    first = train([clips], tmp_path / "first", config=one_step, **options)
    card = first / "config.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "object_channel": 2}))
    run = tmp_path / "second"
    train([clips], run, config=one_step, **options, init=str(first))
    shutil.rmtree(tmp_path / "first")  # the checkpoint has all its values
    folder = train([clips], run, config=SETTINGS, **options, resume=True)
    settings = json.loads((run / "config.json").read_text())
    for origin in (load_weights(folder).config.training, settings):
        assert (origin["init"], origin["init_channel"]) == (str(first), 2)


def test_a_resumed_run_learns_from_its_own_masks_by_its_own_seed(
    tiny_config: AMDConfig, tmp_path: Path
) -> None:
    clip, run, whole = (tmp_path / name for name in ("0.mp4", "run", "whole"))
    clips = find_clips([str(mover_clip(clip))])
    targets, others = tmp_path / "targets", tmp_path / "others"
    write_motion_masks(clips, targets, workers=1)
    write_motion_masks(clips, others, MotionMaskConfig(every=1), workers=1)
    config = dataclasses.replace(SETTINGS, objective="motion-masks", short_edge=96)
    options = {"model": tiny_config, "device": "cpu"}
    # Images with masks are enough: no clip is given.
    train([], whole, config=config, targets=[targets], **options)
    with pytest.raises(StopTraining):
        train([], run, config=config, targets=[targets], on_step=stop_after(3), **options)
    before = contents(run)
    with pytest.raises(InputError, match=r"images without 0 \(\d+ masks\) and with 0 \("):
        train([], run, config=config, targets=[others], resume=True, **options)
    reseeded = dataclasses.replace(config, seed=7)
    with pytest.raises(ConfigError, match=r"begun with seed=0, now seed=7\. Leave out"):
        train([], run, config=reseeded, resume=True, **options)
    assert contents(run) == before
    train([], run, config=config, resume=True, **options)
    assert losses(run) == losses(whole)
    # They lie elsewhere now.
    targets = targets.rename(tmp_path / "moved")
    longer = dataclasses.replace(config, steps=7)
    train([], run, config=longer, targets=[targets], resume=True, **options)
    assert json.loads((run / "config.json").read_text())["targets"] == [str(targets)]


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"regions": 4}, {}, r"another model \(.*\(3, 4, 1, 1\), now \(4, 4, 1, 1\)"),
        ({}, {"optimizer": "sgd"}, "another optimiser"),
        ({}, {"objective": "motion-masks"}, "another objective"),
        ({}, {"seed": 1}, "seed=0, now seed=1"),
    ],
)
def test_a_run_is_not_resumed_as_another_and_keeps_its_settings(
    clips: str,
    tiny_config: AMDConfig,
    tmp_path: Path,
    model: dict[str, Any],
    training: dict[str, Any],
    message: str,
) -> None:
    tiny_config = dataclasses.replace(tiny_config, regions=3)
    train([clips], tmp_path, model=tiny_config, config=SETTINGS, device="cpu")
    settings = (tmp_path / "config.json").read_text()
    config = dataclasses.replace(SETTINGS, steps=8, **training)
    other = dataclasses.replace(tiny_config, **model)
    with pytest.raises(ConfigError, match=message):
        train([clips], tmp_path, model=other, config=config, device="cpu", resume=True)
    assert (tmp_path / "config.json").read_text() == settings


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OBJECTIVES = {
    "pairs in memory": {},
    "pairs as they are drawn": {"frames": "loader", "workers": 0},
    "motion masks": {"objective": "motion-masks", "short_edge": 96},
}


def mover_clip(path: Path, seed: int = 0) -> Path:
    """Write a clip in which a patch of noise moves on its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frames = []
    for number in range(12):
        frame = np.asarray(Image.fromarray(noise).resize((160, 120)))[:96, 2 : 2 + 128].copy()
        frame[20:60, 10 + 4 * number : 50 + 4 * number] = frame[50:90, 60:100][::-1]
        frames.append(frame)
    return write_clip(path, frames, rate=24)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_goes_on_with_its_own_clips_only_wherever_they_lie(
    tiny_config: AMDConfig, tmp_path: Path, objective: str
) -> None:
    home, run, whole = (tmp_path / name for name in ("home", "run", "whole"))
    home.mkdir()
    for number in range(2):
        mover_clip(home / f"{number}.mp4", seed=number)
    write_folder(home / "walk", moving_square(5, height=96, width=128))
    config = dataclasses.replace(SETTINGS, **OBJECTIVES[objective])
    options = {"model": tiny_config, "config": config, "device": "cpu"}
    train([str(home)], whole, **options)
    with pytest.raises(StopTraining):
        train([str(home)], run, on_step=stop_after(3), **options)
    before = contents(run)

    def refused(message: str, *roots: Path) -> None:
        with pytest.raises(InputError, match=message):
            train([*map(str, roots)], run, resume=True, **options)
        assert contents(run) == before

    size = (home / "1.mp4").stat().st_size
    (home / "1.mp4").rename(home / "2.mp4")
    refused(rf"clips without 1\.mp4 \({size} bytes\) and with 2\.mp4 \({size} bytes\)\.", home)
    (home / "2.mp4").rename(home / "1.mp4")
    (home / "walk" / "00004.png").rename(tmp_path / "frame.png")
    refused(r"walk \(5 frames, 0+\.png to 0+4\.png\) and with walk \(4 frames", home)
    (tmp_path / "frame.png").rename(home / "walk" / "00004.png")
    places = home / "1.mp4", home / "0.mp4", home / "walk"
    refused("clips in another order", *places)
    home.rename(tmp_path / "elsewhere")
    train([str(tmp_path / "elsewhere")], run, resume=True, **options)
    assert losses(run) == losses(whole)


def test_a_run_without_a_record_of_its_clips_goes_on_and_has_one_then(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    options = {"model": tiny_config, "device": "cpu"}
    train([clips], tmp_path, config=dataclasses.replace(SETTINGS, steps=2), **options)
    record = json.loads((tmp_path / "data.json").read_text())
    assert [item.partition(" ")[0] for item in record["clips"]] == ["clip-0.mp4", "clip-1.mp4"]
    (tmp_path / "data.json").unlink()
    train([clips], tmp_path, config=SETTINGS, resume=True, **options)
    assert json.loads((tmp_path / "data.json").read_text()) == record


def test_what_is_given_when_a_run_is_resumed_counts(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    fast = dataclasses.replace(SETTINGS, learning_rate=1e-2)
    train([clips], tmp_path, model=tiny_config, config=fast, device="cpu")
    before = load_weights(tmp_path / "weights").model.state_dict()
    # A step that changes next to nothing: an average of it is the model that the run had.
    config = dataclasses.replace(
        SETTINGS, steps=7, learning_rate=1e-9, final_learning_rate=0, ema_decay=0.5, weight_decay=0
    )
    train([clips], tmp_path, model=tiny_config, config=config, device="cpu", resume=True)
    after = load_weights(tmp_path / "weights").model.state_dict()
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(value, after[name], atol=1e-6), name
    saved = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
    assert saved["optimizer"]["param_groups"][0]["weight_decay"] == 0


def test_the_channel_of_the_weights_is_kept_unless_another_moves_clearly_more(
    clips: str, tiny_config: AMDConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = AMD(tiny_config)
    # No region moves: then none is clear.
    for value in model.motion.region_flow[1].parameters():
        torch.nn.init.zeros_(value)
    start = save_weights(tmp_path / "w", model, WeightsConfig(model=tiny_config, object_channel=3))
    config = dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-9, final_learning_rate=0)
    options = {"model": tiny_config, "config": config, "device": "cpu", "init": str(start)}
    with caplog.at_level("INFO"):
        folder = train([clips], tmp_path / "run", **options)
    assert load_weights(folder).config.object_channel == 3
    assert "The object is region 3." in caplog.text


def test_motion_masks_teach_the_object_of_the_weights(
    tiny_config: AMDConfig, tmp_path: Path
) -> None:
    model = AMD(tiny_config)
    with torch.no_grad():
        model.appearance.classifier.bias[3] += 9  # region 3 has nearly every pixel
    start = save_weights(tmp_path / "w", model, WeightsConfig(model=tiny_config, object_channel=3))
    clip, run = str(mover_clip(tmp_path / "mover.mp4")), tmp_path / "run"
    config = dataclasses.replace(
        SETTINGS, objective="motion-masks", short_edge=96, learning_rate=1e-5
    )
    options = {"model": tiny_config, "config": config, "device": "cpu"}
    with pytest.raises(StopTraining):
        train([clip], run, init=str(start), on_step=stop_after(3), **options)
    shutil.rmtree(start)
    folder = train([clip], run, resume=True, **options)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert min(line["area"] for line in lines) > 0.9
    assert load_weights(folder).config.object_channel == 3


def test_a_loss_that_is_not_finite_stops_before_the_step(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(SETTINGS, learning_rate=1e30, steps=50)
    with pytest.raises(TrainingDivergedError, match=r"at step \d+ .*clip-\d\.mp4:\d+-\d+"):
        train([clips], tmp_path / "run", model=tiny_config, config=config, device="cpu")


def test_a_run_folder_in_use_is_not_written_over(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    for name in ("notes.txt", "config.json", "report.html"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(InputError, match="--resume"):
            train([clips], folder, model=tiny_config, config=SETTINGS, device="cpu")
        assert (folder / name).read_text() == "mine"
    with pytest.raises(InputError, match="without --resume"):
        train([clips], tmp_path, model=tiny_config, config=SETTINGS, device="cpu", resume=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--targets", "nowhere"], "No such folder: nowhere"),
        (["--photos", "nowhere"], "--photos is gone: "),
        (["--objective", "photometric", "--targets", "."], "--objective motion-masks only"),
        (["--out", "notes.txt"], "notes.txt is a file. Give another --out"),
        (["--out", "notes.txt/run"], "notes.txt is a file. Give another --out"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_made(
    clips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    result = CliRunner().invoke(cli, ["train", clips, "--out", "run", "--device", "cpu", *flags])
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    nothing = CliRunner().invoke(cli, ["train", "--out", "run"])
    assert nothing.exit_code == 2
    assert "Give VIDEOS, or --targets" in nothing.stderr


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MediaError, match=r"Cannot write .*file/run: Not a directory\. Make its"):
        RunFolder(tmp_path / "file" / "run").write_settings({}, {})


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"amd_seg": "0.1.0"}')
    (run / "log.jsonl").write_text('{"step": 1, "loss": 99}\n')
    (run / ".0123.tmp").write_text('{"half')
    train([clips], run, model=tiny_config, config=SETTINGS, device="cpu")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, SETTINGS.steps + 1))
    assert lines[0]["loss"] != 99


def test_a_checkpoint_cut_short_is_named(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    train([clips], tmp_path / "run", model=tiny_config, config=SETTINGS, device="cpu")
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=newest.name):
        train(
            [clips], tmp_path / "run", model=tiny_config, config=SETTINGS, device="cpu", resume=True
        )


def test_old_checkpoints_make_room(clips: str, tiny_config: AMDConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, keep=1)
    train([clips], tmp_path / "run", model=tiny_config, config=config, device="cpu")
    kept = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == ["step-000000006.pt"]


def test_a_run_by_motion_masks_finds_them_first(tiny_config: AMDConfig, tmp_path: Path) -> None:
    clip = mover_clip(tmp_path / "mover.mp4")
    config = dataclasses.replace(SETTINGS, objective="motion-masks", short_edge=96)
    out = tmp_path / "run"
    folder = train([str(clip)], out, model=tiny_config, config=config, device="cpu")
    found = sorted((out / "targets" / "masks" / "mover").glob("*.png"))
    mask = np.asarray(Image.open(found[0]))
    assert mask[25:55, 15:45].mean() > 2 * mask[70:, 100:].mean()
    assert load_weights(folder).config.object_channel == 0


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of a clip that no machine can hold; of its frames only the first is there."""
    folder = tmp_path_factory.mktemp("vast")
    (folder / "clip").mkdir()
    Image.new("RGB", (4096, 4096)).save(folder / "clip" / "0.png")
    names = " ".join(f"{number}.png" for number in range(100_000))
    (folder / "list.txt").write_text(f"clip {names}\n")
    return folder / "list.txt"


def test_frames_that_do_not_fit_are_refused_before_any_is_decoded_or_written(
    vast: Path, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(SETTINGS, objective="photometric", short_edge=4096)
    # Three bytes a pixel of 100,000 frames of 4096x4096.
    with pytest.raises(InputError, match=r"need 4\.69e\+03 GiB, .*--set frames=loader"):
        train([str(vast)], tmp_path / "run", model=tiny_config, config=config, device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_paper_s_recipe_takes_clips_that_do_not_fit_the_memory(
    vast: Path, tmp_path: Path
) -> None:
    # It goes on to the frames, of which only the first is there.
    command = ["train", str(vast), "--preset", "paper", "--out", str(tmp_path / "run")]
    size = ["--crop", "32x32", "--batch-size", "2", "--workers", "0"]
    result = CliRunner().invoke(cli, [*command, *size, "--device", "cpu"])
    assert result.exit_code == 1
    assert "GiB" not in result.stderr
    assert ".png: no such file" in result.stderr


def test_streamed_frames_give_the_run_that_frames_in_memory_give(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    for frames, workers in (("memory", 0), ("loader", 0), ("loader", 1)):
        config = dataclasses.replace(SETTINGS, frames=frames, workers=workers)
        out = tmp_path / f"{frames}-{workers}"
        train([clips], out, model=tiny_config, config=config, device="cpu")
    assert losses(tmp_path / "loader-0") == losses(tmp_path / "memory-0")
    assert losses(tmp_path / "loader-1") == losses(tmp_path / "memory-0")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_its_first_steps(clips: str, tmp_path: Path, preset: str) -> None:
    command = ["train", clips, "--preset", preset, "--out", str(tmp_path / "run")]
    # The recipe is the preset's; only the amount of work is not.
    command += settings("stage_widths=8,8,16,16 head_channels=8")
    command += ["--steps", "3", "--minutes", "0", "--batch-size", "2", "--crop", "32x32"]
    command += ["--device", "cpu", "--workers", "0"]
    command += settings("short_edge=32 motion_size=64x64 log_every=1 sheet_every=1")
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'run' / 'weights'}\n"
    assert max(map(len, result.stderr.splitlines()[:4])) <= 100
    assert re.search(
        rf"model: backbone={PRESETS[preset]().model.backbone} .* crop=32,32",
        " ".join(result.stderr.split()),
    )
    assert load_weights(tmp_path / "run" / "weights").config.training["steps"] == 3


def test_a_run_takes_the_model_of_the_weights_it_starts_from(
    clips: str, tiny_config: AMDConfig, tmp_path: Path
) -> None:
    first = train([clips], tmp_path / "a", model=tiny_config, config=SETTINGS, device="cpu")
    command = [
        "train",
        clips,
        "--out",
        str(tmp_path / "b"),
        "--init",
        str(first),
        "--set",
        "dropout=0",
    ]
    command += ["--steps", "1", "--minutes", "0", "--batch-size", "2", "--crop", "32x32"]
    command += ["--device", "cpu", "--quiet"]
    command += settings("short_edge=32 log_every=1")
    result = CliRunner().invoke(cli, command)
    assert (result.exit_code, result.stderr) == (0, "")
    trained = load_weights(tmp_path / "b" / "weights").config
    assert trained.model == dataclasses.replace(tiny_config, dropout=0)
    assert trained.training["init"] == str(first)
    result = CliRunner().invoke(
        cli, [*command[:3], str(tmp_path / "c"), *command[4:6], "--set", "regions=6"]
    )
    assert result.exit_code == 2
    assert "regions 5 instead of 6" in result.stderr


def test_the_motion_pathway_of_weights_is_begun_anew_where_asked(
    tiny_config: AMDConfig, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mp4", moving_square(6))
    clips, runs = [str(tmp_path / "clip.mp4")], {}
    first = train(clips, tmp_path / "a", model=tiny_config, config=SETTINGS, device="cpu")
    for init in ("released", "kaiming"):
        config = dataclasses.replace(SETTINGS, motion_init=init, steps=1, objective="dense")
        out, rate = tmp_path / init, {"learning_rate": 1e-12, "final_learning_rate": 0}
        config = dataclasses.replace(config, **rate)
        folder = train(clips, out, model=tiny_config, config=config, init=str(first), device="cpu")
        runs[init] = load_weights(folder).model.state_dict()
    begun = load_weights(first).model.state_dict()
    for name, value in begun.items():
        torch.testing.assert_close(runs["released"][name], value, rtol=1e-3, atol=1e-6)
        if name.startswith("motion."):
            assert not torch.equal(runs["kaiming"][name], runs["released"][name]), name
        else:
            torch.testing.assert_close(runs["kaiming"][name], value, rtol=1e-3, atol=1e-6)
