"""`amd-seg evaluate`: a benchmark's folder in, its table out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from click.core import ParameterSource

from amd_seg.cli import terminal
from amd_seg.cli.options import network_options, parse_threshold, refinement_options, under_headings
from amd_seg.cli.terminal import STANDARD_STREAM
from amd_seg.cli.video import adaptation_asked_for, learning_options, summary

if TYPE_CHECKING:
    from amd_seg.evaluation.datasets import Dataset
    from amd_seg.evaluation.predictions import Origin
    from amd_seg.evaluation.scoring import Evaluation, Row
    from amd_seg.training.adaptation import AdaptationReport

_LOAD = ("device", "precision")
_CALL = ("size", "batch_size", "refine")


_HEADINGS = {
    "What is scored": "--images --masks --predictions --method --every --limit",
    "Network": "--weights --size --device --precision --batch-size --refine",
    "Adaptation": "--adapt --steps --objective --blend --seed",
    "Scoring": "--threshold --resize-masks --classes --coloured-masks --slide --flip --workers",
    "Output": "--per-sequence --json --sheet --overwrite",
}


@click.command(cls=under_headings(_HEADINGS), context_settings={"show_default": True})
@click.argument("dataset", metavar="[DATASET", required=False)
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR]", required=False)
@click.option("--images", type=click.Path(path_type=Path), help="Any folder of pictures, and")
@click.option("--masks", type=click.Path(path_type=Path), help="its ground truths, by name.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Score the masks in DIR, NAME.png or SEQUENCE/FRAME.png; no network is loaded.",
)
@click.option(
    "--method", type=click.Choice(["centre-prior"]), help="Score this instead of a network."
)
@network_options("Pictures in a pass of the network.")
@refinement_options
@learning_options
@click.option(
    "--threshold",
    metavar="T",
    default="0.5",
    callback=parse_threshold,
    help="Saliency above which a pixel of a video's frame is in the mask, or otsu.",
)
@click.option("--resize-masks", is_flag=True, help="Resize predictions to the ground truth.")
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Masks hold labels: the classes that they are, one name a line, from 0 on.",
)
@click.option(
    "--coloured-masks", is_flag=True, help="Masks are RGB, in the colours of the classes."
)
@click.option("--slide", is_flag=True, help="Labels: average windows that slide over the photo.")
@click.option("--flip", is_flag=True, help="Labels: average with the mirrored photo.")
@click.option("--every", type=click.IntRange(1), default=1, help="Score every n-th sample only.")
@click.option("--limit", type=click.IntRange(1), help="Score this many, spread evenly.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that score.")
@click.option("--per-sequence", is_flag=True, help="A line for each sequence of videos.")
@click.option("--json", "json_file", metavar="FILE", help="Scores as JSON; - is stdout.")
@click.option("--sheet", metavar="FILE", help="A picture of best, median, worst cases.")
@click.option("--overwrite", is_flag=True, help="Replace files of these names.")
@terminal.quiet_option
def evaluate(
    dataset: str | None,
    folder: Path | None,
    images: Path | None,
    masks: Path | None,
    every: int,
    limit: int | None,
    **options: Any,
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
    from amd_seg.evaluation import scoring

    reports = _report_files(options)
    data = _dataset(dataset, folder, images, masks, options).subset(every=every, limit=limit)
    kind = data.benchmark.kind
    if kind != "semantic":
        _refuse("masks with classes", "slide", "flip")
    if kind != "video":
        _refuse("videos", "threshold", "per_sequence")
    origin, name = _origin(data, options)
    rules = scoring.Scoring(threshold=options["threshold"], resize_masks=options["resize_masks"])
    with terminal.progress(len(data.samples), data.unit) as bar:

        def on_row(row: "Row") -> None:
            bar.update()

        result = scoring.evaluate(
            data, origin, method=name, scoring=rules, workers=options["workers"], on_row=on_row
        )
    _report(result, options, reports)


def _dataset(
    dataset: str | None,
    folder: Path | None,
    images: Path | None,
    masks: Path | None,
    options: dict[str, Any],
) -> "Dataset":
    from dataclasses import replace

    from amd_seg.classes import read_classes
    from amd_seg.evaluation.datasets import open_dataset, open_folders

    file = options["classes"]
    if dataset is not None and folder is not None and images is None and masks is None:
        if file is not None:
            raise click.UsageError(f"{dataset} has its own classes. Drop --classes.")
        data = open_dataset(dataset, folder)
    elif dataset is None and masks is not None:
        data = open_folders(images, masks, classes=None if file is None else read_classes(file))
    else:
        raise click.UsageError("Give DATASET and its folder, or --images and --masks of any set.")
    if not options["coloured_masks"]:
        return data
    if data.benchmark.classes is None:
        raise click.UsageError(
            f"{data.title} has masks of one object: there are no colours to read."
        )
    return replace(data, by_colour=True)


def _origin(data: "Dataset", options: dict[str, Any]) -> "tuple[Origin, str]":
    """Return the origin of the maps and what to call it."""
    from amd_seg.evaluation import predictions

    folder, method, weights = options["predictions"], options["method"], options["weights"]
    given = {"--predictions": folder, "--method": method, "--weights": weights}
    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are two origins of masks. Give one.")
    is_semantic = data.benchmark.kind == "semantic"
    asked = adaptation_asked_for(options)
    if asked is not None and (method or folder is not None or is_semantic):
        raise click.UsageError("--adapt is for a network and clips. Drop it.")
    if folder is not None or method:
        _refuse("a network", "weights", *_LOAD, *_CALL, "slide", "flip")
    if folder is not None:
        if len(data.samples) == data.total:
            _warn_of_extra(data, folder)
        return predictions.from_folder(folder), str(folder)
    if method:
        return predictions.from_centre_prior, method
    load = {key: options[key] for key in _LOAD}
    call = {key: options[key] for key in _CALL}
    name = str(weights or "bundled weights")
    if is_semantic:
        if weights is None:
            raise click.UsageError("Classes need --weights of amd-seg finetune, or --predictions.")
        _refuse("masks of one object", "refine")
        call = {key: options[key] for key in ("size", "batch_size", "slide", "flip")}
        name += "".join(f", {key}" for key in ("slide", "flip") if call[key])
        return predictions.from_semantic_network(weights, load, call), name
    if asked is None:
        return predictions.from_network(weights, load, call), name

    def on_clip(sequence: str, report: "AdaptationReport") -> None:
        terminal.notice(f"{sequence}: {summary(report)}")

    origin = predictions.from_adapted_network(asked[0], weights, load, call, on_clip=on_clip)
    return origin, f"{name}, adapted ({asked[0].objective})"


def _refuse(what_for: str, *names: str) -> None:
    """Raise for options that were given although they change nothing here."""
    source = click.get_current_context().get_parameter_source
    given = [name for name in names if source(name) is not ParameterSource.DEFAULT]
    if given:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        them, are = ("it", "is") if len(given) == 1 else ("them", "are")
        raise click.UsageError(f"{flags} {are} for {what_for}. Drop {them}.")


def _warn_of_extra(data: "Dataset", folder: Path) -> None:
    from amd_seg.evaluation.predictions import prediction_files
    from amd_seg.media.files import some

    known = {sample.name for sample in data.samples}
    extra = [name for name in prediction_files(folder) if name not in known]
    if extra:
        text = f"{len(extra)} files in {folder} belong to no sample: {some(extra)}."
        terminal.say(f"Warning: {text}")


def _report_files(options: dict[str, Any]) -> dict[str, Path]:
    """Return the files to write, checked before a run that may take hours.

    Raises:
        click.UsageError: the sheet has no picture's ending, or two reports share a file.
        InputError: a folder is not there, or a file is there and is not to be overwritten.
        MediaError: a name is a folder's.
    """
    from amd_seg.media.files import check_target
    from amd_seg.media.images import WRITERS

    names = {key: options[key] for key in ("json_file", "sheet") if options[key] is not None}
    if names.get("json_file") == STANDARD_STREAM:
        del names["json_file"]
    files = {key: Path(name) for key, name in names.items()}
    if "sheet" in files and files["sheet"].suffix.lower() not in WRITERS:
        known = ", ".join(WRITERS)
        raise click.UsageError(f"--sheet {files['sheet']} has no known ending. Use one of {known}.")
    if len(set(files.values())) < len(files):
        raise click.UsageError(f"Two reports would share {files['sheet']}. Give two names.")
    for path in files.values():
        check_target(path, overwrite=options["overwrite"])
    return files


def _report(result: "Evaluation", options: dict[str, Any], files: dict[str, Path]) -> None:
    """Print the table, or JSON where `--json -` asks for it, and write the files."""
    from amd_seg.evaluation import report
    from amd_seg.media.files import write_atomically

    plain = report.as_json(result)
    is_json = options["json_file"] == STANDARD_STREAM
    terminal.put(plain if is_json else report.table(result, per_sequence=options["per_sequence"]))
    if "json_file" in files:

        def write(stream: BinaryIO) -> None:
            stream.write(json.dumps(plain, indent=2).encode() + b"\n")

        write_atomically(files["json_file"], write)
    if "sheet" in files:
        report.write_sheet(result, files["sheet"])
