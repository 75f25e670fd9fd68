"""`amd-seg evaluate`: a benchmark's folder in, its table out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from amd_seg.cli import boundary
from amd_seg.cli.image import PRECISIONS, parse_threshold
from amd_seg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    from amd_seg.evaluation.datasets import Dataset
    from amd_seg.evaluation.run import MapSource, Row

# As amd_seg.evaluation.run.METHODS, which would load numpy for `--help`; a test holds them equal.
METHODS = ("centre-prior",)


@click.command(context_settings={"show_default": True})
@click.argument("dataset", metavar="DATASET")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Score the masks in DIR, NAME.png or SEQUENCE/FRAME.png; no network is loaded.",
)
@click.option("--method", type=click.Choice(METHODS), help="Score this instead of a network.")
@click.option(
    "--weights",
    metavar="W",
    help="A name, a folder, a .safetensors file, or org/name on the Hub. [default: bundled]",
)
@click.option("--revision", metavar="R", help="Branch, tag or commit of weights on the Hub.")
@click.option(
    "--size",
    type=click.IntRange(16, 8192),
    help="Short edge, in pixels, that the network sees. [default: that of the weights]",
)
@click.option("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="float32", help="Of the network."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=8, help="Pictures in a pass of the network."
)
@click.option(
    "--threshold",
    metavar="T",
    default="0.5",
    callback=parse_threshold,
    help="Saliency above which a pixel of a video's frame is in the mask: a number or otsu.",
)
@click.option("--resize-masks", is_flag=True, help="Resize predictions to the ground truth.")
@click.option("--every", type=click.IntRange(1), default=1, help="Score every n-th sample only.")
@click.option("--limit", type=click.IntRange(1), help="Score this many, spread evenly.")
@click.option("--per-sequence", is_flag=True, help="A line for each sequence of a video set.")
@click.option("--json", "json_file", metavar="FILE", help="Write the scores as JSON; - is stdout.")
@boundary.quiet_option
@boundary.debug_option
def evaluate(
    dataset: str,
    folder: Path,
    predictions: Path | None,
    method: str | None,
    threshold: float | str,
    resize_masks: bool,
    every: int,
    limit: int | None,
    per_sequence: bool,
    json_file: str | None,
    **network: Any,
) -> None:
    """Score masks on a benchmark's folder: ours, or anyone's.

    \b
    amd-seg evaluate ecssd ECSSD/                     the bundled network
    amd-seg evaluate davis2016 DAVIS/ --predictions results/
    amd-seg evaluate ecssd ECSSD/ --method centre-prior
    """
    from amd_seg.evaluation import report
    from amd_seg.evaluation.datasets import open_dataset
    from amd_seg.evaluation.run import Scoring
    from amd_seg.evaluation.run import evaluate as run

    data = open_dataset(dataset, folder).subset(every=every, limit=limit)
    maps, name = _maps(data, predictions, method, network)
    unit = "frame" if data.benchmark.kind == "video" else "image"
    with boundary.progress(len(data.samples), unit) as bar:

        def on_row(row: "Row") -> None:
            bar.update()

        scoring = Scoring(threshold=threshold, resize_masks=resize_masks)
        result = run(data, maps, method=name, scoring=scoring, on_row=on_row)
    if json_file == "-":
        boundary.put(report.as_json(result))
        return
    boundary.put(report.table(result, per_sequence=per_sequence))
    if json_file is not None:
        _write(Path(json_file), json.dumps(report.as_json(result), indent=2) + "\n")


def _maps(
    data: "Dataset", predictions: Path | None, method: str | None, network: dict[str, Any]
) -> "tuple[Iterable[MapSource], str]":
    """Return the maps to score and what to call their origin."""
    from amd_seg.evaluation.datasets import some
    from amd_seg.evaluation.run import network_maps, predicted_maps

    given = [n for n, v in (("--predictions", predictions), ("--method", method)) if v]
    given += ["--weights"] if network["weights"] else []
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} name two origins of the masks. Give one.")
    if method is not None:
        return [method] * len(data.samples), method
    if predictions is not None:
        files, extra = predicted_maps(data, predictions)
        if extra and len(data.samples) == data.total:
            text = f"{len(extra)} files in {predictions} belong to no sample: {some(extra)}."
            boundary.say(f"Warning: {text}")
        return files, str(predictions)
    return network_maps(data, **network), str(network["weights"] or "bundled weights")


def _write(path: Path, text: str) -> None:
    from amd_seg.media.files import write_atomically

    def write(stream: "BinaryIO") -> None:
        stream.write(text.encode())

    write_atomically(path, write)
