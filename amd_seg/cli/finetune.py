"""`amd-seg finetune`: labelled photos in, a run folder with weights out."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amd_seg.cli import terminal
from amd_seg.cli.fields import given, options_of
from amd_seg.cli.runs import announce, saved_settings, watched_run
from amd_seg.model.config import SemanticConfig
from amd_seg.training.finetune_config import FINETUNE_PRESETS, FinetuneConfig

if TYPE_CHECKING:
    from amd_seg.training.labelled_photos import LabelledPhotos


@click.command()
@click.argument(
    "dataset", metavar="[voc2012 DIR |", required=False, type=click.Choice(["voc2012", "coco"])
)
@click.argument("folder", type=click.Path(path_type=Path), metavar="coco JSON", required=False)
@click.argument("photos", type=click.Path(path_type=Path), metavar="IMAGES]", required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option("--images", type=click.Path(path_type=Path), help="Any folder of photos,")
@click.option("--masks", type=click.Path(path_type=Path), help="their label maps, by name, and")
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
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
@click.option(
    "--preset", type=click.Choice(list(FINETUNE_PRESETS)), default="cpu", show_default=True
)
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in OUT.")
@options_of(FinetuneConfig)
@options_of(SemanticConfig, leave_out=("classes",))
@terminal.quiet_option
@terminal.debug_option
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
    **overrides: Any,
) -> None:
    """Fine-tune weights on labelled photos, to tell classes apart.

    Label maps are indexed PNGs of the photos' sizes; 255 does not count. Those of a COCO file are
    drawn into OUT-labels. The backbone is that of
    the weights, its head is new. The settings are the preset's (with --resume: those of the run),
    changed by the flags given.

    \b
    amd-seg finetune voc2012 VOC2012/ --out run
    amd-seg finetune coco masks.json photos/ --out run
    amd-seg finetune --images photos/ --masks labels/ --classes names.txt --out run
    amd-seg evaluate voc2012 VOC2012/ --weights run
    amd-seg image photo.jpg --weights run --output overlay

    \b
    Presets: paper (40,000 steps of 16 crops of 512x512), cpu (minutes).
    """
    config_changes = given(FinetuneConfig, overrides)
    model_changes = given(SemanticConfig, overrides)
    if dataset == "coco":
        labelled = _of_coco(folder, photos, Path(f"{out}-labels"), images, masks, classes, split)
    else:
        labelled = _labelled(dataset, folder, images, masks, classes, coloured_masks, split)

    from amd_seg.training import finetune as tuning
    from amd_seg.training.distributed import is_first_process

    if resume:
        model, config = saved_settings(out, SemanticConfig, FinetuneConfig)
        model = dataclasses.replace(model, **model_changes)
    else:
        config = FINETUNE_PRESETS[preset]()
        model = tuning.model_for(weights, len(labelled.classes), **model_changes)
    config = dataclasses.replace(config, **config_changes)
    announce(model=model, training=config)
    with watched_run(config, "photos") as on_step:
        written = tuning.finetune(
            labelled,
            out,
            model=model,
            config=config,
            weights=weights,
            device=device,
            resume=resume,
            on_step=on_step,
        )
    if is_first_process():
        terminal.put(str(written))


def _of_coco(
    annotations: Path | None, photos: Path | None, labels: Path, *others: object
) -> "LabelledPhotos":
    from amd_seg.training.labelled_photos import open_coco

    if annotations is None or photos is None or any(others):
        raise click.UsageError("Give coco, its JSON file and the folder of the photos, no more.")
    return open_coco(annotations, photos, labels)


def _labelled(
    dataset: str | None,
    folder: Path | None,
    images: Path | None,
    masks: Path | None,
    classes: Path | None,
    coloured_masks: bool,
    split: str | None,
) -> "LabelledPhotos":
    from amd_seg.classes import read_classes
    from amd_seg.training.labelled_photos import open_labelled_folders, open_voc2012

    own = (images, masks, classes)
    if dataset is not None and folder is not None and own == (None, None, None):
        return open_voc2012(folder, split, by_colour=coloured_masks)
    if dataset is None and images is not None and masks is not None and classes is not None:
        if split is not None:
            raise click.UsageError("--split is the name of a list of voc2012. Drop it.")
        return open_labelled_folders(images, masks, read_classes(classes), by_colour=coloured_masks)
    raise click.UsageError(
        "Give voc2012 and its folder, coco with its file and the photos, or all of --images, "
        "--masks and --classes."
    )
