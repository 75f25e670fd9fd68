"""`amd-seg evaluate`: a benchmark's folder in, its table out."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amd_seg.choices import DEFAULT_REFINEMENT
from amd_seg.cli import options, terminal
from amd_seg.cli.options import COUNT, PATH, refuse
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.cli.video import LEARNING, adaptation_config, learning_options, summary

if TYPE_CHECKING:
    from amd_seg.evaluation.datasets import Dataset
    from amd_seg.evaluation.predictions import Map
    from amd_seg.training.adaptation import AdaptationReport


_HEADINGS = options.under_headings(
    images="What is scored",
    weights="Network",
    adapt="Adaptation",
    threshold="Scoring",
    per_sequence="Output",
)


@click.command(cls=_HEADINGS, context_settings={"show_default": True})
@click.argument("dataset", metavar="[DATASET", required=False)
@click.argument("folder", type=PATH, metavar="DIR]", required=False)
@click.option("--images", type=PATH, help="Any folder of pictures, and")
@click.option("--masks", type=PATH, help="its ground truths, by name.")
@click.option(
    "--predictions",
    type=PATH,
    metavar="DIR",
    help="Score the masks in DIR, NAME.png or SEQUENCE/FRAME.png; no network is loaded.",
)
@click.option(
    "--method", type=click.Choice(["centre-prior"]), help="Score this instead of a network."
)
@options.network_options("Pictures in a pass of the network.")
@options.refine_option(None, f" [default: {DEFAULT_REFINEMENT}; clips as `video` has them]")
@learning_options
@click.option(
    "--threshold",
    metavar="T",
    default="0.5",
    type=options.threshold,
    help="Saliency above which a pixel of a video's frame is in the mask, or otsu.",
)
@click.option("--resize-masks", is_flag=True, help="Resize predictions to the ground truth.")
@click.option(
    "--classes",
    type=PATH,
    metavar="FILE",
    help="Masks hold labels: the classes that they are, one name a line, from 0 on.",
)
@click.option(
    "--coloured-masks", is_flag=True, help="Masks are RGB, in the colours of the classes."
)
@click.option("--slide", is_flag=True, help="Labels: average windows that slide over the photo.")
@click.option("--flip", is_flag=True, help="Labels: average with the mirrored photo.")
@click.option("--every", type=COUNT, default=1, help="Score every n-th sample only.")
@click.option("--limit", type=COUNT, help="Score this many, spread evenly.")
@click.option("--workers", type=COUNT, default=1, help="Processes that score.")
@click.option("--per-sequence", is_flag=True, help="A line for each sequence of videos.")
@click.option("--json", "json_file", metavar="FILE", help="Scores as JSON; - is stdout.")
@click.option("--sheet", type=PATH, metavar="FILE", help="A picture of best, median, worst cases.")
@click.option("--overwrite", is_flag=True, help="Replace files of these names.")
@terminal.quiet_option
def evaluate(
    dataset: str | None,
    folder: Path | None,
    json_file: str | None,
    sheet: Path | None,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Score masks on a benchmark's folder: ours, or anyone's.

    \b
    DATASET is duts-te, duts-tr, ecssd, pascal-s, dut-omron, hku-is, davis2016,
    davis2017, segtrackv2 or fbms59, in the layout that it comes in; or voc2012,
    for fine-tuned weights.

    \b
    amd-seg evaluate ecssd ECSSD/                     the bundled network
    amd-seg evaluate davis2016 DAVIS/ --adapt --per-sequence
    amd-seg evaluate davis2016 DAVIS/ --predictions results/
    amd-seg evaluate ecssd ECSSD/ --method centre-prior
    amd-seg evaluate --images photos/ --masks truths/
    amd-seg evaluate voc2012 VOC2012/ --weights run/ --flip
    """
    from amd_seg.evaluation import report, scoring
    from amd_seg.media.files import check_target, write_atomically
    from amd_seg.media.images import WRITERS

    is_json = json_file == STANDARD_STREAM
    json_path = None if json_file is None or is_json else Path(json_file)
    # Whatever could not be written is told before a run that may take hours.
    if sheet is not None and sheet.suffix.lower() not in WRITERS:
        known = ", ".join(WRITERS)
        raise click.UsageError(f"--sheet {sheet} has no known ending. Use one of {known}.")
    if sheet is not None and sheet == json_path:
        raise click.UsageError(f"Two reports would share {sheet}. Give two names.")
    for path in filter(None, (json_path, sheet)):
        check_target(path, overwrite=overwrite)
    data = _dataset(dataset, folder, settings)
    maps, method = _maps(data, settings)
    scoring_settings = {name: settings[name] for name in ("threshold", "resize_masks", "workers")}
    with terminal.progress(len(data.samples), data.unit) as bar:
        result = scoring.evaluate(
            data, maps, method=method, on_row=lambda row: bar.update(), **scoring_settings
        )
    plain = report.as_json(result)
    shown = plain if is_json else report.table(result, per_sequence=settings["per_sequence"])
    terminal.put(shown)
    if json_path is not None:
        write_atomically(json_path, json.dumps(plain, indent=2) + "\n")
    if sheet is not None:
        report.write_sheet(result, sheet)


def _dataset(name: str | None, folder: Path | None, settings: dict[str, Any]) -> "Dataset":
    """Return what is scored; options that its kind does not read are refused."""
    from amd_seg.classes import read_classes
    from amd_seg.evaluation.datasets import open_dataset, open_folders

    images, masks, classes = (settings[name] for name in ("images", "masks", "classes"))
    if name is not None and folder is not None and images is None and masks is None:
        if classes is not None:
            raise click.UsageError(f"{name} has its own classes. Drop --classes.")
        data = open_dataset(name, folder)
    elif name is None and masks is not None:
        data = open_folders(images, masks, None if classes is None else read_classes(classes))
    else:
        raise click.UsageError("Give DATASET and its folder, or --images and --masks of any set.")
    if data.benchmark.kind != "semantic":
        refuse("masks with classes", "slide", "flip", "coloured_masks")
    if data.benchmark.kind != "video":
        refuse("videos", "threshold", "per_sequence")
    data = dataclasses.replace(data, by_colour=settings["coloured_masks"])
    return data.subset(every=settings["every"], limit=settings["limit"])


def _maps(data: "Dataset", settings: dict[str, Any]) -> "tuple[Iterable[Map], str]":
    """Return the maps that are scored and what to call them."""
    from amd_seg.evaluation import predictions

    origins = ("predictions", "method", "weights")
    chosen = [f"--{name}" for name in origins if settings[name] is not None]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are two origins of masks. Give one.")
    folder, method, weights = (settings[name] for name in origins)
    is_semantic = data.benchmark.kind == "semantic"
    if not settings["adapt"]:
        refuse("--adapt", *LEARNING)
    elif method or folder is not None or data.benchmark.kind != "video":
        refuse("a network and clips", "adapt")
    load = {name: settings[name] for name in ("device", "precision")}
    call = {name: settings[name] for name in ("size", "batch_size")}
    if folder is not None or method:
        refuse("a network", *load, *call, "refine", "slide", "flip")
    if folder is not None:
        return predictions.from_folder(data, folder), str(folder)
    if method:
        return predictions.from_centre_prior(data), method
    name = weights or "bundled weights"
    if is_semantic:
        if weights is None:
            raise click.UsageError("Classes need --weights of amd-seg finetune, or --predictions.")
        refuse("masks of one object", "refine")
        call |= {key: settings[key] for key in ("slide", "flip")}
        name += "".join(f", {key}" for key in ("slide", "flip") if call[key])
        return predictions.from_semantic_network(data, weights, load, call), name
    if settings["refine"]:
        call["refine"] = settings["refine"]
    if not settings["adapt"]:
        return predictions.from_network(data, weights, load, call), name

    def on_clip(sequence: str, report: "AdaptationReport") -> None:
        terminal.notice(f"{sequence}: {summary(report)}")

    config = adaptation_config(settings)
    adapting: dict[str, Any] = {"adaptation": config, "on_clip": on_clip}
    maps = predictions.from_network(data, weights, load, call, **adapting)
    return maps, f"{name}, adapted ({config.objective})"
