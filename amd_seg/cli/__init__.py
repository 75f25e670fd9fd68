"""The command `amd-seg`: a group whose sub-commands load when they are asked for."""

import os
from importlib import import_module

import click

from amd_seg import __version__
from amd_seg.cli.terminal import debug_first, debug_option, errors_as_messages, open_closed_streams

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


class LazyGroup(click.Group):
    """A group that imports a sub-command's module on first use."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the options of all commands, then the command."""
        return super().parse_args(ctx, debug_first(args))

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
        """Run a command; its errors become messages and exit codes."""
        with errors_as_messages(ctx):
            return super().invoke(ctx)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="amd-seg", message="%(prog)s %(version)s")
@debug_option
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
    # long: up to five times the processor time. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    open_closed_streams()
    cli(prog_name="amd-seg")
