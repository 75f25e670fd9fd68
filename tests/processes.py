"""The command `amd-seg`, in this process or as one of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

from amd_seg.cli import cli

# Whoever runs the tests in the background may have had interrupts ignored.
CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from amd_seg.cli import main; main()"
)

ROOT = Path(__file__).parents[1]
# As tests run in parallel, each process has one thread.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

Run = Callable[..., Result]


def invoke(*words: object, stdin: bytes | None = None) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, [*map(str, words)], input=stdin)


def good(result: Result) -> Result:
    """Give the result of a command that ended well."""
    assert result.exit_code == 0, result.stderr
    return result


def refused(result: Result, code: int = 2) -> str:
    """Give, as one line, what a command said that ended with this code and gave nothing."""
    assert (result.exit_code, result.stdout) == (code, "")
    return " ".join(result.stderr.split())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def runner(command: str, weights: Path) -> Run:
    """Give a call that runs a command, with these weights and on the CPU unless told otherwise."""

    def run(*args: object, stdin: bytes | None = None) -> Result:
        defaults = ["--weights", weights] if "--weights" not in args else []
        defaults += ["--device", "cpu"] if "--device" not in args else []
        return invoke(command, *args, *defaults, stdin=stdin)

    return run


def start(*args: object) -> "subprocess.Popen[bytes]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", CODE, *map(str, args)], env=ENVIRONMENT, **pipes)


def python(*words: object, code: int = 0, **how: Any) -> "subprocess.CompletedProcess[str]":
    """Run Python with these words, to its end with this exit code."""
    how = {"env": ENVIRONMENT, "cwd": ROOT, "capture_output": True, "text": True, **how}
    done = subprocess.run([sys.executable, *map(str, words)], timeout=600, check=False, **how)
    assert done.returncode == code, done.stderr
    return done


def interrupted(process: "subprocess.Popen[bytes]") -> list[str]:
    """Interrupt a command, and give the lines that it still says."""
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1].decode()
    assert (process.returncode, "Traceback" in errors) == (130, False)
    return errors.splitlines()


def until(found: Callable[[], Any], what: str = "it", seconds: float = 120) -> Any:
    """Wait for a value that counts as true: other work may share the machine."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"{what} did not come in {seconds} s"
        time.sleep(0.05)
    return value


def commands(
    command: click.Command = cli, name: str = "amd-seg"
) -> Iterator[tuple[str, click.Command]]:
    """Yield each command, groups too, with its full name."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            inner = command.get_command(context, part)
            yield from commands(inner, f"{name} {part}")
