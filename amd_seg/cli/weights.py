"""`amd-seg weights` and `amd-seg export`: list, show, fetch, convert and export weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from amd_seg.cli import terminal
from amd_seg.cli.options import PATH, weights_option

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


@click.group()
def weights() -> None:
    """List, show, fetch and convert weights.

    Wherever a command takes --weights: a bundled name, a folder with model.safetensors and
    config.json, a .safetensors file beside its config.json, or org/name on the Hugging Face Hub
    (org/name@revision for a branch, tag or commit).
    """


@weights.command("list")
@as_json
def list_bundled(as_json: bool) -> None:
    """Print the names of the bundled weights."""
    from amd_seg.weights import DEFAULT_WEIGHTS, bundled_weights

    for name, folder in bundled_weights().items():
        row = {"name": name, "folder": str(folder)}
        terminal.put({**row, "default": name == DEFAULT_WEIGHTS} if as_json else name)


@weights.command()
@click.argument("name")
@as_json
def info(name: str, as_json: bool) -> None:
    """Check weights and print their config.json.

    NAME is what commands take for --weights: a bundled name, a folder, a .safetensors file, or
    org/name on the Hub.
    """
    from amd_seg.weights import load_any_weights

    pretrained = load_any_weights(name)
    parameters = sum(parameter.numel() for parameter in pretrained.model.parameters())
    values = {"source": pretrained.source, "parameters": parameters}
    values |= pretrained.config.to_dict()
    for line in [values] if as_json else _leaves(values):
        terminal.put(line)


@weights.command()
@click.argument("repo")
def download(repo: str) -> None:
    """Fetch weights from the Hub into its cache.

    REPO is org/name or org/name@revision; the folder of the weights is printed.
    HF_HOME moves the cache, HF_TOKEN opens private repositories, HF_ENDPOINT names another Hub.
    """
    from amd_seg.weights import fetch_snapshot
    from amd_seg.weights_files import read_weights

    folder = fetch_snapshot(repo)
    read_weights(folder)
    terminal.put(str(folder))


@weights.command()
@click.argument("file", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace weights that are in the folder.")
def convert(file: Path, out: Path, overwrite: bool) -> None:
    """Convert a checkpoint to a folder of weights.

    FILE is the authors' amd_pretrained.pth, or a ResNet by torchvision's names (MoCo, DINO,
    torchvision; .pth or .safetensors). Of a ResNet the folder has the backbone only, and the rest
    is random: train it, with train --init or finetune --weights. No code in FILE is run. The
    folder is printed.
    """
    from amd_seg.weights_import import convert_checkpoint

    terminal.put(str(convert_checkpoint(file, out, overwrite=overwrite)))


@click.group()
def export() -> None:
    """Write a network for other runtimes."""


@export.command(context_settings={"show_default": True})
@click.option("-o", "--out", type=PATH, required=True, help="The .onnx file to write.")
@weights_option
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@terminal.quiet_option
def onnx(out: Path, weights: str | None, overwrite: bool) -> None:
    """Write an .onnx file: frames in, soft regions out.

    The file is run before it gets its name; the largest difference from the model is printed on
    stderr. Needs the extra onnx; docs/onnx.md describes the file.
    """
    from amd_seg.onnx import BAR, export_onnx

    difference = export_onnx(out, weights, overwrite=overwrite)
    terminal.notice(f"Largest difference from the model: {difference:.1e} (allowed: {BAR:g}).")
    terminal.put(str(out))


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """Yield a line for each leaf of nested values, such as training.stages.0.steps: 100."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}".removeprefix("."))
    elif not isinstance(value, list | tuple):
        yield f"{name}: {value}"
    # One line, where it can be told what belongs together.
    elif any(isinstance(inner, dict | list | tuple) or "," in str(inner) for inner in value):
        yield from _leaves(dict(enumerate(value)), name)
    else:
        yield f"{name}: {', '.join(map(str, value))}"
