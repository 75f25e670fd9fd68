"""`amd-seg train`: clips in, a run folder with weights out."""

import dataclasses
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from amd_seg.cli import boundary
from amd_seg.cli.fields import Numbers, given, options_of
from amd_seg.errors import InputError
from amd_seg.model.config import AMDConfig
from amd_seg.training.presets import PRESETS, Preset, TrainingConfig

if TYPE_CHECKING:
    from tqdm import tqdm

    from amd_seg.training.loop import StepReport


@click.command()
@click.argument("videos", nargs=-1, required=True, metavar="VIDEOS...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="cpu", show_default=True)
@click.option("--init", metavar="W", help="Weights to start from: a name, folder or file.")
@click.option(
    "--init-backbone",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="ResNet weights to start the backbone from: a .safetensors or .pth file.",
)
@click.option(
    "--targets",
    type=click.Path(path_type=Path),
    help="Motion masks that are there for --objective mover; else they are found, in OUT/targets.",
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Stills that --objective mover learns from beside the clips.",
)
@click.option(
    "--photo-targets",
    type=click.Path(path_type=Path),
    help="Masks of --photos that are there; else they are found, in OUT/photo_targets.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT.")
@click.option(
    "--evaluate",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Score every region on a data set in the layout of DAVIS, and keep the best in OUT/best.",
)
@click.option(
    "--ablate-regions",
    type=Numbers(int, None),
    help="Train once for each number of regions, in OUT/regions-N, and print a table.",
)
@options_of(TrainingConfig)
@options_of(AMDConfig)
@boundary.quiet_option
@boundary.debug_option
def train(
    videos: tuple[str, ...],
    out: Path,
    preset: str,
    init: str | None,
    init_backbone: Path | None,
    targets: Path | None,
    photos: Path | None,
    photo_targets: Path | None,
    device: str,
    resume: bool,
    evaluate: Path | None,
    ablate_regions: tuple[int, ...] | None,
    **overrides: Any,
) -> None:
    """Train a model on clips, without any label.

    VIDEOS are video files, folders of frames, folders of either, data sets in the layout of
    YouTube-VOS or DAVIS, or split files; PATH@2 draws the clips of a root twice as often.
    The settings are the preset's (with --resume: those of the run), changed by the flags given.

    \b
    Presets: paper (8 GPUs, days), single-gpu (25 minutes), cpu (2 hours).
    """
    goes_on = resume and ablate_regions is None
    start = _saved_settings(out) if goes_on else PRESETS[preset]()
    config = dataclasses.replace(start.training, **given(TrainingConfig, overrides))
    model = dataclasses.replace(start.model, **given(AMDConfig, overrides))

    from amd_seg.training import ablation, run
    from amd_seg.training.distributed import is_first_process, is_launched

    with (
        boundary.progress(config.steps, "step") as bar,
        _stopped_by_signals(is_launched()) as received,
    ):

        def on_step(report: "StepReport") -> None:
            _show(bar, report, config)
            if received:
                raise run.StopTraining(f"{received[0]} after step {report.step}")

        options: dict[str, Any] = {
            "config": config,
            "init": init,
            "init_backbone": init_backbone,
            "targets": targets,
            "photos": photos,
            "photo_targets": photo_targets,
            "device": device,
            "resume": resume,
            "evaluate": evaluate,
            "on_step": on_step,
        }
        try:
            if ablate_regions is None:
                printed = str(run.train(videos, out, model=model, **options))
            else:
                rows = ablation.ablate_regions(ablate_regions, videos, out, model=model, **options)
                printed = ablation.as_table(rows)
        except run.StopTraining as stop:
            message = f"Stopped by {stop}; a checkpoint is saved. Give --resume to go on."
            boundary.fail(message, boundary.INTERRUPTED)
    if is_first_process():
        boundary.put(printed)


def _saved_settings(out: Path) -> Preset:
    path = out / "config.json"
    try:
        saved = json.loads(path.read_text())
        return Preset(
            model=AMDConfig(**saved["model"]),
            training=TrainingConfig(**saved["training"]),
            about="resumed",
        )
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise InputError(
            f"Cannot resume {out}: its config.json cannot be read ({cause}). "
            "Give the folder of a run, or start without --resume."
        ) from cause


def _show(bar: "tqdm[Any]", report: "StepReport", config: TrainingConfig) -> None:
    bar.update(report.step - bar.n)
    pairs = report.step * config.batch_size / report.seconds
    bar.set_postfix(loss=f"{report.parts['loss']:.4f}", pairs_s=f"{pairs:.1f}", refresh=False)


@contextmanager
def _stopped_by_signals(passed_on: bool) -> Iterator[list[str]]:
    """Give a list that Ctrl-C or SIGTERM puts its name into: the step in progress is finished.

    Args:
        passed_on: torchrun sends each signal on, so that a second one is no second wish.
    """
    received: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if received and not passed_on:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, remember) for number in handled]
    try:
        yield received
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
