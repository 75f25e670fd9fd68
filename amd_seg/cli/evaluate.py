"""`amd-seg evaluate`: a benchmark's folder in, its table out."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from amd_seg.cli import terminal
from amd_seg.cli.adaptation import Adapting, asked_for, learning_options, summary
from amd_seg.cli.evaluate_options import (
    label_options,
    report_options,
    scoring_options,
)
from amd_seg.cli.evaluate_reports import asks_for_reports, check_reports, write_reports
from amd_seg.cli.options import network_options, refinement_options

if TYPE_CHECKING:
    from amd_seg.evaluation.datasets import Dataset
    from amd_seg.evaluation.origins import Origin
    from amd_seg.evaluation.run import Evaluation
    from amd_seg.evaluation.scoring import Row, Scoring
    from amd_seg.training.adaptation import AdaptationReport

# As amd_seg.evaluation.origins.METHODS, which would load numpy for `--help`; a test holds them
# equal.
METHODS = ("centre-prior", "spectral-residual", "fine-grained")

REPRODUCE = "reproduce"


@click.command(context_settings={"show_default": True})
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
@click.option("--method", type=click.Choice(METHODS), help="Score this instead of a network.")
@network_options("Pictures in a pass of the network.")
@refinement_options
@learning_options
@scoring_options
@label_options
@click.option("--every", type=click.IntRange(1), default=1, help="Score every n-th sample only.")
@click.option("--limit", type=click.IntRange(1), help="Score this many, spread evenly.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write each map to DIR; of videos the masks.",
)
@click.option("--resume", is_flag=True, help="Take the maps that --save has written before.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that score.")
@report_options
@terminal.quiet_option
@terminal.debug_option
def evaluate(
    dataset: str | None,
    folder: Path | None,
    images: Path | None,
    masks: Path | None,
    predictions: Path | None,
    method: str | None,
    every: int,
    limit: int | None,
    **options: Any,
) -> None:
    """Score masks on a benchmark's folder: ours, or anyone's.

    \b
    DATASET is duts-te, duts-tr, ecssd, pascal-s, dut-omron, hku-is, davis2016,
    davis2017, segtrackv2 or fbms59, in the layout that it comes in; voc2012, for
    fine-tuned weights; or reproduce, which prints the paper's tables 1 and 3 from
    the data sets below DIR.

    \b
    amd-seg evaluate ecssd ECSSD/                     the bundled network
    amd-seg evaluate davis2016 DAVIS/ --adapt --per-sequence
    amd-seg evaluate davis2016 DAVIS/ --predictions results/
    amd-seg evaluate ecssd ECSSD/ --method centre-prior
    amd-seg evaluate --images photos/ --masks truths/
    amd-seg evaluate voc2012 VOC2012/ --weights run/ --flip
    """
    from amd_seg.evaluation.scoring import Scoring

    names = ("threshold", "resize_masks", "stretch")
    scoring = Scoring(**{name: options.pop(name) for name in names})
    labels = {name: options.pop(name) for name in ("classes", "coloured_masks", "slide", "flip")}
    if dataset == REPRODUCE and folder is not None and images is None and masks is None:
        if asks_for_reports(options) or any(labels.values()):
            raise click.UsageError("reproduce prints tables 1 and 3 only: drop the other options.")
        tables = (3,) if options["adapt"] else (1, 3)
        origin, name = _origin(predictions, method, scoring, options)
        _reproduce(folder, origin, name, scoring, tables, every=every, limit=limit, **options)
        return
    check_reports(options)
    data = _dataset(dataset, folder, images, masks, labels).subset(every=every, limit=limit)
    looks = None if data.benchmark.truth is None else labels
    if looks is None:
        _refuse("masks with classes", "slide", "flip")
    if looks is not None:
        _refuse("masks of one object", "stretch")
    if data.benchmark.kind != "video":
        _refuse("videos", "threshold", "per_sequence")
    origin, name = _origin(predictions, method, scoring, options, looks)
    if predictions is not None and len(data.samples) == data.total:
        _warn_of_extra(data, predictions)
    result = _run(data, origin, name, scoring, options["workers"])
    write_reports(result, options)


def _dataset(
    dataset: str | None,
    folder: Path | None,
    images: Path | None,
    masks: Path | None,
    labels: dict[str, Any],
) -> "Dataset":
    from amd_seg.classes import read_classes
    from amd_seg.evaluation.datasets import open_dataset, open_folders
    from amd_seg.evaluation.semantic import LabelTruth

    if dataset is not None and folder is not None and images is None and masks is None:
        if labels["classes"] is not None:
            raise click.UsageError(f"{dataset} has its own classes. Drop --classes.")
        data = open_dataset(dataset, folder)
    elif dataset is None and masks is not None:
        classes = labels["classes"]
        truth = None if classes is None else LabelTruth(read_classes(classes))
        data = open_folders(images, masks, truth=truth)
    else:
        raise click.UsageError("Give DATASET and its folder, or --images and --masks of any set.")
    return data.read_by_colour() if labels["coloured_masks"] else data


def _origin(
    predictions: Path | None,
    method: str | None,
    scoring: "Scoring",
    options: dict[str, Any],
    labels: dict[str, Any] | None = None,
) -> "tuple[Origin, str]":
    """Return the origin of the maps and what to call it; `labels` where they hold classes."""
    from amd_seg.evaluation import networks, origins

    names = ("weights", "size", "device", "precision", "batch_size", "refine", "tta")
    network = {name: options.pop(name) for name in names}
    save, resume = options.pop("save"), options.pop("resume")
    wish = asked_for(options, precision=network["precision"])
    given = {"--predictions": predictions, "--method": method, "--weights": network["weights"]}
    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are two origins of masks. Give one.")
    if wish is not None and (method or predictions is not None or labels is not None):
        raise click.UsageError("--adapt is for a network and clips. Drop it.")
    if predictions is not None:
        if save is not None or resume:
            raise click.UsageError("--predictions are written already. Drop --save and --resume.")
        _refuse("a network", *network, "slide", "flip")
        return origins.from_folder(predictions), str(predictions)
    if method is not None:
        _refuse("a network", *network)
    if resume and save is None:
        raise click.UsageError("--resume needs --save DIR, where the maps are kept.")
    name = method or str(network["weights"] or "bundled weights")
    looks: dict[str, Any] = {}
    if labels is not None:
        if network["weights"] is None:
            raise click.UsageError("Classes need --weights of amd-seg finetune, or --predictions.")
        _refuse("masks of one object", "refine", "tta")
        del network["refine"], network["tta"]
        looks = {key: labels[key] for key in ("slide", "flip")}
        name += "".join(f", {key}" for key, is_on in looks.items() if is_on)
        origin = networks.from_semantic_network(**network, **looks)
    elif wish is not None:
        origin, name = _adapted(wish, network), f"{name}, adapted ({wish.config.objective})"
    else:
        origin = origins.from_method(method) if method else networks.from_network(**network)
    if save is not None:
        from amd_seg.evaluation.saved import saving

        made_by = {"method": method} if method else _network_as_json(network, wish, looks)
        origin = saving(origin, save, scoring, made_by, resume=resume)
    return origin, name


def _network_as_json(
    network: dict[str, Any], wish: Adapting | None, looks: dict[str, Any]
) -> dict[str, Any]:
    """Return all that the values of a network's maps depend on."""
    from amd_seg.weights import digest_of_weights

    digest = digest_of_weights(network["weights"])
    call = ("size", "precision", "refine", "tta")
    settings = {"sha256": digest, **{key: network[key] for key in call if key in network}, **looks}
    if wish is not None:
        # How much memory there is changes the pieces of a step, not what is learned.
        adapting = {f"adapt_{key}": value for key, value in asdict(wish.config).items()}
        settings |= {"adapt": True, **adapting, "adapt_memory": 0}
    return settings


def _refuse(what_for: str, *names: str) -> None:
    """Raise for options that were given although they change nothing here."""
    source = click.get_current_context().get_parameter_source
    given = [name for name in names if source(name) is not ParameterSource.DEFAULT]
    if given:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        them, are = ("it", "is") if len(given) == 1 else ("them", "are")
        raise click.UsageError(f"{flags} {are} for {what_for}. Drop {them}.")


def _adapted(wish: Adapting, network: dict[str, Any]) -> "Origin":
    from amd_seg.evaluation.adapted import from_adapted_network

    def on_clip(name: str, report: "AdaptationReport") -> None:
        terminal.notice(f"{name}: {summary(report)}")

    return from_adapted_network(wish.config, **network, on_clip=on_clip)


def _run(
    data: "Dataset", origin: "Origin", name: str, scoring: "Scoring", workers: int
) -> "Evaluation":
    from amd_seg.evaluation.run import evaluate as score_all

    with terminal.progress(len(data.samples), data.unit) as bar:

        def on_row(row: "Row") -> None:
            bar.update()

        return score_all(data, origin, method=name, scoring=scoring, workers=workers, on_row=on_row)


def _reproduce(
    folder: Path,
    origin: "Origin",
    name: str,
    scoring: "Scoring",
    tables: tuple[int, ...],
    *,
    every: int,
    limit: int | None,
    **options: Any,
) -> None:
    """Print tables of the paper, 1 and 3 or 3, from the data sets that are below a folder."""
    from amd_seg.evaluation.datasets import open_dataset
    from amd_seg.evaluation.reproduce import TABLES, advice, find_dataset, paper_table

    if 1 not in tables:
        terminal.say("Table 1 is of single photos, which nothing adapts to: only table 3 is made.")
    results = {}
    for dataset in (dataset for number in tables for dataset in TABLES[number]):
        home = find_dataset(dataset, folder)
        if home is None:
            terminal.say(advice(dataset, folder))
            continue
        data = open_dataset(dataset, home).subset(every=every, limit=limit)
        results[dataset] = _run(data, origin, name, scoring, options["workers"])
    if not results:
        numbers = " or ".join(map(str, tables))
        terminal.fail(f"{folder} holds no data set of the paper's table {numbers}.")
    terminal.put(paper_table(results))


def _warn_of_extra(data: "Dataset", predictions: Path) -> None:
    from amd_seg.evaluation.origins import prediction_files
    from amd_seg.media.files import some

    known = {sample.name for sample in data.samples}
    extra = [name for name in prediction_files(predictions) if name not in known]
    if extra:
        text = f"{len(extra)} files in {predictions} belong to no sample: {some(extra)}."
        terminal.say(f"Warning: {text}")
