"""`amd-seg export`: a network for other runtimes."""

from pathlib import Path

import click

from amd_seg.cli import terminal
from amd_seg.cli.options import weights_option


@click.group()
def export() -> None:
    """Write a network for other runtimes."""


@export.command(context_settings={"show_default": True})
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The .onnx file to write."
)
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
