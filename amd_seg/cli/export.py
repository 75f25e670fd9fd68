"""`amd-seg export`: a network for other runtimes."""

from pathlib import Path

import click

from amd_seg.cli import terminal
from amd_seg.cli.options import weights_options

# As amd_seg.onnx_export.SIZES, which would load torch for `--help`; a test holds them equal.
SIZES = ("dynamic", "fixed")


@click.group()
def export() -> None:
    """Write a network for other runtimes."""


@export.command(context_settings={"show_default": True})
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The .onnx file to write."
)
@weights_options
@click.option(
    "--size",
    type=click.Choice(SIZES),
    default="dynamic",
    help="Pictures of any size, resized by the graph; or square ones of the network's size only.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@terminal.quiet_option
@terminal.debug_option
def onnx(out: Path, weights: str | None, revision: str | None, size: str, overwrite: bool) -> None:
    """Write an .onnx file: a photo's bytes in, its saliency and regions out.

    The file is run on three pictures before it gets its name; the largest difference from the
    model is printed on stderr. Needs the extra onnx; docs/onnx.md describes the file.
    """
    from amd_seg.onnx_export import BAR, export_onnx

    report = export_onnx(out, weights, revision=revision, size=size, overwrite=overwrite)
    terminal.notice(
        f"Largest difference from the model on {report.pictures} pictures: "
        f"{report.difference:.1e} (allowed: {BAR:g})."
    )
    terminal.put(str(report.path))
