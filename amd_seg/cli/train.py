"""`amd-seg train`: clips in, a run folder with weights out."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from amd_seg.cli import terminal
from amd_seg.cli.fields import given, options_of
from amd_seg.cli.runs import announce, saved_settings, watched_run
from amd_seg.model.config import AMDConfig
from amd_seg.training.presets import PRESETS, Preset, TrainingConfig


@click.command()
@click.argument("videos", nargs=-1, metavar="[VIDEOS...]")
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
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Images with masks (DIR/images, DIR/masks) to learn from, beside VIDEOS or without; "
    "may be given several times.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT.")
@options_of(TrainingConfig)
@options_of(AMDConfig)
@terminal.quiet_option
@terminal.debug_option
def train(
    videos: tuple[str, ...],
    out: Path,
    preset: str,
    init: str | None,
    init_backbone: Path | None,
    targets: tuple[Path, ...],
    device: str,
    resume: bool,
    **overrides: Any,
) -> None:
    """Train a model on clips, without any label.

    VIDEOS are video files, folders of frames, folders of either, data sets in the layout of
    YouTube-VOS or DAVIS, or split files.
    The settings are the preset's (with --resume: those of the run; with --init the model is that
    of the weights), changed by the flags given.

    \b
    Presets: paper (eq. 7; 8 GPUs, days), single-gpu (25 minutes), cpu (2 hours);
    the last two are taught by what moves.
    """
    start = _saved_settings(out) if resume else _preset(preset, init)
    config = start.training.with_changes(**given(TrainingConfig, overrides))
    model = dataclasses.replace(start.model, **given(AMDConfig, overrides))

    from amd_seg.training import run
    from amd_seg.training.distributed import is_first_process

    announce(model=model, training=config)
    with watched_run(config, "pairs") as on_step:
        weights = run.train(
            videos,
            out,
            model=model,
            config=config,
            init=init,
            init_backbone=init_backbone,
            targets=targets,
            device=device,
            resume=resume,
            on_step=on_step,
        )
    if is_first_process():
        terminal.put(str(weights))


def _preset(name: str, init: str | None) -> Preset:
    preset = PRESETS[name]()
    if init is None:
        return preset
    from amd_seg.weights import load_weights

    return dataclasses.replace(preset, model=load_weights(init).config.model)


def _saved_settings(out: Path) -> Preset:
    model, training = saved_settings(out, AMDConfig, TrainingConfig)
    return Preset(model=model, training=training, about="resumed")
