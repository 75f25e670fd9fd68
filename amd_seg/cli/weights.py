"""`amd-seg weights`: list, show, fetch and convert weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


@click.group()
def weights() -> None:
    """List, show, fetch and convert weights.

    Wherever a command takes --weights: a bundled name, a folder with model.safetensors and
    config.json, a .safetensors file beside its config.json, or org/name on the Hugging Face Hub.
    """


@weights.command("list")
@as_json
def list_bundled(as_json: bool) -> None:
    """Print the names of the bundled weights."""
    from amd_seg.weights import DEFAULT_WEIGHTS, bundled_folder, bundled_names

    for name in bundled_names():
        row = {
            "name": name,
            "folder": str(bundled_folder(name)),
            "default": name == DEFAULT_WEIGHTS,
        }
        click.echo(json.dumps(row) if as_json else name)


@weights.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or commit of a repository on the Hub.")
@as_json
def info(name: str, revision: str | None, as_json: bool) -> None:
    """Check weights and print their config.json.

    NAME is what commands take for --weights: a bundled name, a folder, a .safetensors file, or
    org/name on the Hub.
    """
    from amd_seg.weights import load_any_weights

    pretrained = load_any_weights(name, revision=revision)
    parameters = sum(parameter.numel() for parameter in pretrained.model.parameters())
    values = {
        "source": pretrained.source,
        "parameters": parameters,
        **pretrained.config.to_dict(),
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    for key, value in _flatten(values):
        click.echo(f"{key}: {value}")


@weights.command()
@click.argument("repo")
@click.option("--revision", help="Branch, tag or commit; the main branch if not given.")
def download(repo: str, revision: str | None) -> None:
    """Fetch weights from the Hub into its cache.

    REPO is org/name; the folder of the weights is printed.
    HF_HOME moves the cache, HF_TOKEN opens private repositories, HF_ENDPOINT names another Hub.
    """
    from amd_seg.weights import download_weights

    click.echo(download_weights(repo, revision=revision))


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option("--overwrite", is_flag=True, help="Replace weights that are in the folder.")
def convert(file: Path, out: Path, overwrite: bool) -> None:
    """Convert the paper's checkpoint to a folder.

    FILE is the authors' amd_pretrained.pth. Nothing in it is run. The folder is printed.
    """
    from amd_seg.weights import convert_official

    click.echo(convert_official(file, out, overwrite=overwrite))


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each leaf of nested values with its place, such as training.stages.0.steps."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        # One line, where it can be told what belongs together.
        if any(isinstance(inner, dict | list | tuple) or "," in str(inner) for inner in value):
            yield from _flatten(dict(enumerate(value)), name)
        else:
            yield name, ", ".join(map(str, value))
    else:
        yield name, str(value)
