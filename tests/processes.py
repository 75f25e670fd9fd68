"""The command `amd-seg`, in this process or as one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.testing import CliRunner, Result

from amd_seg.cli import cli

# Whoever runs the tests in the background may have had interrupts ignored.
CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from amd_seg.cli import main; main()"
)

Run = Callable[..., Result]


def runner(command: str, weights: Path) -> Run:
    """Give a call that runs a command, with these weights and on the CPU unless told otherwise."""

    def run(*args: str, stdin: bytes | None = None) -> Result:
        defaults = ["--weights", str(weights)] if "--weights" not in args else []
        defaults += ["--device", "cpu"] if "--device" not in args else []
        return CliRunner().invoke(cli, [command, *args, *defaults], input=stdin)

    return run


def start(*args: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CODE, *args], env=environment, **pipes)


def commands(
    command: click.Command = cli, name: str = "amd-seg"
) -> Iterator[tuple[str, click.Command]]:
    """Yield each command, groups too, with its full name."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            inner = command.get_command(context, part)
            assert inner is not None
            yield from commands(inner, f"{name} {part}")
