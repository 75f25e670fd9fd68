"""The command `amd-seg`: a group whose sub-commands load when they are asked for."""

import logging
import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper
from typing import cast

import click

from amd_seg import __version__
from amd_seg.cli import terminal
from amd_seg.errors import AmdSegError, ConfigError, InputError, WeightsError

# Name -> (module, one line of help). With the line kept here, `--help` loads no command.
COMMANDS = {
    "image": ("amd_seg.cli.image", "Segment the object in photos."),
    "video": ("amd_seg.cli.video", "Segment the object in a clip."),
    "weights": ("amd_seg.cli.weights", "List, show, fetch and convert weights."),
    "train": ("amd_seg.cli.train", "Train a model on clips, without any label."),
    "evaluate": ("amd_seg.cli.evaluate", "Score masks on a benchmark's folder: ours, or anyone's."),
    "finetune": (
        "amd_seg.cli.train",
        "Fine-tune weights on labelled photos, to tell classes apart.",
    ),
    "demo": ("amd_seg.cli.machine", "Open a page to try it on a photo or a short clip."),
    "export": ("amd_seg.cli.weights", "Write a network for other runtimes."),
    "env": ("amd_seg.cli.machine", "Print versions, devices and codecs: what a bug report needs."),
}

# From errors to exit codes; the first row that fits counts.
EXIT_CODES: dict[type[BaseException], int] = {
    WeightsError: terminal.WEIGHTS,
    InputError: terminal.USAGE,
    ConfigError: terminal.USAGE,
    AmdSegError: terminal.FAILED,
}

REMOVED_OPTIONS = {
    "--memory": "a step that does not fit is taken in smaller pieces by itself.",
    "--smooth": "it changed no score, for three times the time.",
    "--tta": "it changed no score with the default --refine, for six times the time.",
    "--keep-rgb": "the colours under alpha 0 are always zeroed.",
    "--revision": "write it behind the name, org/name@revision.",
    "onnx --size": "an .onnx file takes frames of any size.",
    "evaluate --save": "`amd-seg image -o DIR` writes masks; --predictions DIR scores them.",
    "evaluate --resume": "let `amd-seg image --resume` write masks; --predictions DIR scores them.",
    **dict.fromkeys(("--csv", "--markdown"), "--json FILE holds the scores."),
    "--stretch": "maps are scored as they are.",
    "train --evaluate": "score the run's weights by `amd-seg evaluate DATASET DIR --weights OUT`.",
    "--ablate-regions": "train once for each number of regions, by recipes/ablate_regions.sh.",
    "--sampling": "each epoch draws a pair of each clip, as published.",
    "--frame-step": "every frame counts; --set max_gap=N pairs frames that are further apart.",
    "--init-backbone": "`amd-seg weights convert FILE -o DIR` makes weights of it for --init DIR.",
    "--channels-last": "the faster layout is found; --set memory_layout=channels-last insists.",
    "--no-channels-last": "--set memory_layout=channels-first insists on it.",
    "--share": "it is called --blend now.",
    "--photos": "find their masks by recipes/released_weights, and give --targets DIR.",
    "--photo-targets": "give --targets DIR, with DIR/images and DIR/masks.",
    "--photo-share": "all folders of --targets are drawn equally often.",
    **dict.fromkeys(("--compile", "--no-compile"), "steps are taken as they are."),
}
"""Options of version 0.1, of all commands or ("evaluate --resume") of one -> what to do instead."""


class LazyGroup(click.Group):
    """A group that imports a sub-command's module on first use."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--debug`, wherever it stands, then the command."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta["amd_seg.debug"] = "--debug" in args[:end]
        return super().parse_args(ctx, [a for a in args[:end] if a != "--debug"] + args[end:])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by the table's lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command: errors become messages and exit codes, the log goes to stderr."""
        logger, handler = logging.getLogger("amd_seg"), terminal.LogHandler(ctx)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            name, command = error.option_name, error.ctx.info_name if error.ctx else ""
            successor = REMOVED_OPTIONS.get(f"{command} {name}", REMOVED_OPTIONS.get(name))
            if successor is None:
                raise
            raise click.UsageError(f"{name} is gone: {successor}", error.ctx) from error
        except tuple(EXIT_CODES) as error:
            if ctx.meta["amd_seg.debug"]:
                traceback.print_exc(file=sys.stderr)
            code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
            terminal.fail(f"Error: {error}", code)
        except (KeyboardInterrupt, RuntimeError) as error:
            # A lock that Ctrl-C breaks into raises a RuntimeError.
            if KeyboardInterrupt not in (type(error), type(error.__context__)):
                raise
            terminal.fail("Interrupted.", terminal.INTERRUPTED)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="amd-seg", message="%(prog)s %(version)s")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    help="Print the traceback of an error; it may stand anywhere.",
)
def cli() -> None:
    """Segment the object in a photo or a clip, with a network that never saw a label.

    \b
    amd-seg image photo.jpg                      writes photo.mask.png
    amd-seg image photos/ -o cutouts --output cutout
    amd-seg video clip.mp4                       writes clip.mask.mp4
    """


def main() -> None:
    """Run the command line: the console script's entry point."""
    # Threads of OpenMP that wait would spin, and on a machine that others use too they wait for
    # long: up to five times the processor time. It is read when torch is loaded; the exponent of
    # the cycles that those of numpy's matrix products spin, when numpy is.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    terminal.open_closed_streams()
    # Names of files may hold bytes that are no text, which most locales refuse to print.
    cast(TextIOWrapper, sys.stdout).reconfigure(errors="surrogateescape")
    cli(prog_name="amd-seg")
