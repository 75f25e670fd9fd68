"""`amd-seg train` and `amd-seg finetune`: data in, a run folder with weights out."""

import dataclasses
import difflib
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from amd_seg.choices import PRECISIONS
from amd_seg.cli import terminal
from amd_seg.cli.options import PATH, several
from amd_seg.cli.terminal import Command
from amd_seg.errors import InputError
from amd_seg.model.config import AMDConfig, AppearanceConfig, SemanticConfig, build
from amd_seg.training.config import (
    FINETUNE_PRESETS,
    PRESETS,
    FinetuneConfig,
    Objective,
    RunConfig,
    TrainingConfig,
    descriptions,
)

if TYPE_CHECKING:
    from amd_seg.training.loop import OnStep, StepReport

# What `--set` of a command changes: how it trains, and the model.
SETTINGS: dict[str, tuple[type, type]] = {
    "train": (TrainingConfig, AMDConfig),
    "finetune": (FinetuneConfig, SemanticConfig),
}


class RunCommand(click.Command):
    """A command that says how a setting is given that has no flag of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            flag = error.option_name
            name = flag.removeprefix("--no-").removeprefix("--").replace("-", "_")
            if name not in _fields(*SETTINGS[self.name or ""]):
                raise
            value = "false" if flag.startswith("--no-") else "VALUE"
            text = f"{flag} is no flag: write --set {name}={value}."
            raise click.UsageError(text, ctx) from error


def _list_settings(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """Print all settings where one of them is "help": what --set takes, with its default."""
    if "help" not in texts:
        return texts
    preset = ctx.params.get("preset") or "cpu"
    is_train = ctx.command.name == "train"
    groups = PRESETS[preset][::-1] if is_train else (FINETUNE_PRESETS[preset], SemanticConfig())
    click.echo(f"Settings, as preset {preset} has them:")
    for group in groups:
        kind: type = type(group)
        for name, field in _fields(kind).items():
            text = descriptions(kind).get(name, "")
            if get_origin(field.type) is Literal:
                text += f" ({', '.join(get_args(field.type))})"
            click.echo(f"\n{name}={_text(getattr(group, name))}")
            click.echo(textwrap.indent(textwrap.fill(text, 92), "    "))
    return ctx.exit()


def run_options(presets: Iterable[str]) -> Callable[[Command], Command]:
    """Add the options that both kinds of run have."""
    preset = click.Choice(list(presets))
    return several(
        click.option("--out", required=True, type=PATH, help="The run folder."),
        click.option("--preset", type=preset, default="cpu", show_default=True, is_eager=True),
        click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps."),
        click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT."),
        click.option("--precision", type=click.Choice(PRECISIONS)),
        click.option("--steps", type=int, help="Of the whole run."),
        click.option("--minutes", type=float, help="End by the clock."),
        click.option("--batch-size", type=int, help="Items a step, over all processes."),
        click.option("--accumulate", type=int, help="Micro-batches a step."),
        click.option("--learning-rate", type=float),
        click.option("--crop", metavar="HxW", help="What the network sees, in pixels."),
        click.option("--seed", type=int),
        click.option("--workers", type=int, help="Processes that read data."),
        click.option("--checkpoint-every", type=int, help="Steps between checkpoints."),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_list_settings,
            help="Any other setting; may be given several times. --set help lists all.",
        ),
        terminal.quiet_option,
    )


@click.command(cls=RunCommand)
@click.argument("videos", nargs=-1, metavar="[VIDEOS...]")
@click.option("--init", metavar="W", help="Weights to start from: a name, folder or file.")
@click.option("--objective", type=click.Choice(get_args(Objective)))
@click.option(
    "--targets",
    type=PATH,
    multiple=True,
    metavar="DIR",
    help="Images with masks (DIR/images, DIR/masks) to learn from, beside VIDEOS or without.",
)
@run_options(PRESETS)
def train(
    videos: tuple[str, ...],
    out: Path,
    preset: str,
    init: str | None,
    targets: tuple[Path, ...],
    device: str,
    resume: bool,
    changes: tuple[str, ...],
    **flags: Any,
) -> None:
    """Train a model on clips, without any label.

    VIDEOS are video files, folders of frames, folders of either, data sets in the layout of
    YouTube-VOS or DAVIS, or split files. The settings are the preset's (with --resume: those of
    the run; with --init the model is that of the weights), changed by the flags given.

    \b
    Presets: paper (eq. 7; 8 GPUs, days), single-gpu (25 minutes), cpu (2 hours);
    the last two learn from masks of what moves.
    """
    of_training, of_model = _changed(changes, TrainingConfig, AMDConfig, flags=flags)

    from amd_seg.training import run
    from amd_seg.weights import load_weights

    if resume:
        model, config = _saved_settings(out, AMDConfig, TrainingConfig)
    else:
        model, config = PRESETS[preset]
        model = model if init is None else load_weights(init).config.model
    config = dataclasses.replace(config, **of_training)
    model = dataclasses.replace(model, **of_model)
    start: dict[str, Any] = {"init": init, "targets": targets, "device": device, "resume": resume}
    with _watched_run(out, config, model, "pairs") as on_step:
        run.train(videos, out, model=model, config=config, on_step=on_step, **start)


@click.command(cls=RunCommand)
@click.argument(
    "dataset", metavar="[voc2012 DIR |", required=False, type=click.Choice(["voc2012", "coco"])
)
@click.argument("folder", type=PATH, metavar="coco JSON", required=False)
@click.argument("photos", type=PATH, metavar="IMAGES]", required=False)
@click.option("--images", type=PATH, help="Any folder of photos,")
@click.option("--masks", type=PATH, help="their label maps, by name, and")
@click.option(
    "--classes",
    type=PATH,
    metavar="FILE",
    help="the classes, one name a line, from label 0 on; a colour may follow: dog #400080.",
)
@click.option(
    "--coloured-masks", is_flag=True, help="Label maps are RGB, in the colours of the classes."
)
@click.option(
    "--split",
    metavar="NAME",
    help="List of voc2012 to learn from. [default: trainaug where it is there, else train]",
)
@click.option(
    "--weights",
    metavar="W",
    help="Where the backbone starts: a name, a folder, org/name on the Hub, a ResNet's .pth or "
    ".safetensors (torchvision, MoCo, TimeCycle), or none. [default: bundled]",
)
@run_options(FINETUNE_PRESETS)
def finetune(
    dataset: str | None,
    folder: Path | None,
    photos: Path | None,
    out: Path,
    images: Path | None,
    masks: Path | None,
    classes: Path | None,
    coloured_masks: bool,
    split: str | None,
    weights: str | None,
    preset: str,
    device: str,
    resume: bool,
    changes: tuple[str, ...],
    **flags: Any,
) -> None:
    """Fine-tune weights on labelled photos, to tell classes apart.

    Label maps are indexed PNGs of the photos' sizes; 255 does not count. Those of a COCO file are
    drawn into OUT-labels. The backbone is that of the weights, for one class and its ground the
    decoder too. The settings are the preset's (with --resume: those of the run), changed by the
    flags given.

    \b
    amd-seg finetune voc2012 VOC2012/ --out run
    amd-seg finetune coco masks.json photos/ --out run
    amd-seg finetune --images photos/ --masks labels/ --classes names.txt --out run
    amd-seg evaluate voc2012 VOC2012/ --weights run
    amd-seg image photo.jpg --weights run --output overlay

    \b
    Presets: paper (40,000 steps of 16 crops of 512x512), cpu (minutes), corrections (a few masks).
    """
    of_training, of_model = _changed(changes, FinetuneConfig, SemanticConfig, flags=flags)

    from amd_seg.classes import read_classes
    from amd_seg.training import finetune as tuning
    from amd_seg.training import labelled_photos

    match dataset, folder, photos, images, masks, classes, split:
        case "voc2012", Path(), None, None, None, None, _:
            labelled = labelled_photos.open_voc2012(folder, split, by_colour=coloured_masks)
        case "coco", Path(), Path(), None, None, None, None:
            labelled = labelled_photos.open_coco(folder, photos, Path(f"{out}-labels"))
        case None, None, None, Path(), Path(), Path(), None:
            labelled = labelled_photos.open_labelled_folders(
                images, masks, read_classes(classes), by_colour=coloured_masks
            )
        case _:
            raise click.UsageError(
                "Give voc2012 and its folder (and --split), coco with its file and the photos, or "
                "all of --images, --masks and --classes."
            )
    if resume:
        model, config = _saved_settings(out, SemanticConfig, FinetuneConfig)
        model = dataclasses.replace(model, **of_model)
    else:
        config = FINETUNE_PRESETS[preset]
        model = tuning.model_for(weights, len(labelled.classes), **of_model)
    config = dataclasses.replace(config, **of_training)
    options: dict[str, Any] = {"weights": weights, "device": device, "resume": resume}
    with _watched_run(out, config, model, "photos") as on_step:
        tuning.finetune(labelled, out, model=model, config=config, on_step=on_step, **options)


def _changed(
    changes: Sequence[str], *kinds: type, flags: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that a user has set, by --set or flags: how it trains, and the model."""
    texts = [f"{name}={value}" for name, value in flags.items() if value is not None]
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    known = _fields(*kinds)
    for text in (*texts, *changes):
        key, equals, value = (part.strip() for part in text.partition("="))
        name = key.replace("-", "_")
        if not equals:
            raise click.UsageError(f"--set {text} is no KEY=VALUE, such as ema_decay=0.99.")
        if name not in known:
            near = " or ".join(difflib.get_close_matches(name, known, n=3))
            hint = f"Did you mean {near}? " if near else ""
            raise click.UsageError(f"There is no setting {key!r}. {hint}--set help lists all.")
        found[name not in _fields(kinds[0])][name] = _value(name, known[name].type, value)
    return found


def _fields(*kinds: type) -> dict[str, "dataclasses.Field[Any]"]:
    found = {field.name: field for kind in reversed(kinds) for field in dataclasses.fields(kind)}
    # Their number follows from the classes that are given.
    return {name: field for name, field in found.items() if name != "classes"}


def _value(name: str, annotation: Any, text: str) -> Any:
    """Read one setting: a word, true or false, a number, or several as 128x192 or 0.6,1."""
    kinds, is_tuple = get_args(annotation), get_origin(annotation) is tuple
    try:
        if annotation is bool:
            return {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}[text.lower()] == 1
        if is_tuple:
            return tuple(kinds[0](part) for part in text.replace("x", ",").split(","))
        return text if get_origin(annotation) is Literal else annotation(text)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number"}.get(annotation, "a number")
        kind = "numbers, such as 128x192" if is_tuple else kind
        raise click.UsageError(f"{name}={text} cannot be used: give {kind}.") from None


def _text(value: Any) -> str:
    """A setting as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _saved_settings(out: Path, model: type, training: type) -> tuple[Any, Any]:
    """Return the settings of a run from its folder."""
    try:
        saved = json.loads((out / "config.json").read_text())
        return build(model, saved["model"], "model"), training(**saved["training"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise InputError(
            f"Cannot resume {out}: its config.json cannot be read ({cause}). "
            "Give the folder of a run, or start without --resume."
        ) from cause


@contextmanager
def _watched_run(
    out: Path, config: RunConfig, model: AppearanceConfig, items: str
) -> Iterator["OnStep"]:
    """Print the settings, give an observer that moves a bar, and print where the weights are.

    Ctrl-C or SIGTERM finishes the step in progress; then the command ends with a line that says
    how to go on. Before the first step, while clips are decoded or masks found, it ends at once.
    """
    from amd_seg.training.distributed import is_first_process, is_launched
    from amd_seg.training.loop import StopTraining

    speaks = is_first_process()
    if speaks:
        for name, group in (("model", model), ("training", config)):
            words = (f"{key}={_text(value)}" for key, value in vars(group).items())
            text = f"{name}: {' '.join(words)}"
            for line in textwrap.wrap(text, 100, subsequent_indent="  ", break_on_hyphens=False):
                terminal.notice(line)
    has_begun = False
    with (
        terminal.progress(config.steps if speaks else 1, "step") as bar,
        terminal.stopped_by_signals(
            passed_on=is_launched(), has_begun=lambda: has_begun
        ) as received,
    ):

        def on_step(report: "StepReport") -> None:
            nonlocal has_begun
            if not has_begun:
                # The clock of the bar starts with the steps: clips were decoded, or a run resumed.
                bar.reset()
                bar.initial = bar.n = report.step - 1
            has_begun = True
            if config.minutes:
                bar.total = round(report.step / report.done)
            bar.update(report.step - bar.n)
            rate = f"{report.step * config.batch_size / report.seconds:.1f} {items}/s"
            bar.set_postfix_str(f"loss {report.parts['loss']:.4f}, {rate}", refresh=False)
            if received:
                raise StopTraining(f"{received[0]} after step {report.step}")

        try:
            yield on_step
        except StopTraining as stop:
            text = f"Stopped by {stop}; a checkpoint is saved. Give --resume to go on."
            terminal.fail(text, terminal.INTERRUPTED)
        except KeyboardInterrupt:
            if has_begun:
                raise
            text = "Stopped before the first step. Give the same command to start again."
            terminal.fail(text, terminal.INTERRUPTED)
    if speaks:
        terminal.put(str(out / "weights"))
