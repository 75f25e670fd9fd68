"""The library at the terminal: data to stdout, the rest to stderr."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from amd_seg.errors import MediaError

if TYPE_CHECKING:
    from tqdm import tqdm

STANDARD_STREAM = "-"

FAILED, USAGE, WEIGHTS, INTERRUPTED = 1, 2, 3, 130  # exit codes

_QUIET = "amd_seg.quiet"

Command = TypeVar("Command", bound=Callable[..., Any])


quiet_option = click.option(
    *("-q", "--quiet"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, value: ctx.meta.update({_QUIET: value}),
    help="No progress and no notices; warnings and errors remain.",
)


class LogHandler(logging.Handler):
    """Shows the library's log on stderr: warnings always, the rest unless `--quiet`."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(logging.INFO)
        self._meta = ctx.meta  # Threads that log have no context.

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if record.levelno >= logging.WARNING or not self._meta.get(_QUIET):
            say(self.format(record))


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print a last line on stderr and end the command with an exit code."""
    say(message)
    raise click.exceptions.Exit(code)


def say(message: str) -> None:
    """Print a line on stderr, above a progress bar if there is one.

    A file's name may hold line breaks, or what a terminal would obey: they are spelt out.
    """
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    with _beside_bars():
        click.echo(line, err=True)


def notice(message: str) -> None:
    """Print a line on stderr unless `--quiet`."""
    if not click.get_current_context().meta.get(_QUIET):
        say(message)


def put(line: str | bytes | dict[str, Any]) -> None:
    """Print a line of data on stdout; a dict becomes one JSON object, bytes stay as they are.

    MediaError where stdout takes no more. A closed pipe ends the command without a word.
    """
    try:
        with _beside_bars():
            text = json.dumps(line) if isinstance(line, dict) else line
            click.echo(text, nl=not isinstance(text, bytes))
    except BrokenPipeError:
        raise
    except OSError as cause:
        # Else what waits in the stream would be tried again, and fail again, at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise MediaError(
            f"Cannot write to stdout: {cause.strerror}. Free some space, or redirect it."
        ) from cause


def open_closed_streams() -> None:
    """Put an empty file in the place of each standard stream that the caller has closed.

    Else the next file that is opened would get its number, and what is printed would go there.
    """
    modes = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)  # A closed stdout fails where it is used.
    for number, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), modes, strict=True)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def progress(total: int | None, unit: str) -> "tqdm[Any]":
    """Return a bar on stderr, shown on a terminal only, for more than one, unless `--quiet`.

    `total` is None where only doing them tells how many there are.
    """
    from tqdm import tqdm

    # None shows it on a terminal only.
    hidden = bool(click.get_current_context().meta.get(_QUIET)) or total in (0, 1) or None
    return tqdm(total=total, unit=unit, file=sys.stderr, disable=hidden)


@contextmanager
def stopped_by_signals(
    *, passed_on: bool = False, has_begun: Callable[[], bool] = lambda: True
) -> Iterator[list[str]]:
    """Give a list that Ctrl-C or SIGTERM puts its name into: the step in progress is finished.

    A second signal interrupts at once, but not where it is `passed_on`: torchrun sends each one
    on. So does the first, before the steps have begun.
    """
    received: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        is_second = bool(received) and not passed_on
        # Kept in any case: Python drops what is raised while it forks or frees memory.
        received.append(signal.Signals(number).name)
        if is_second or not has_begun():
            raise KeyboardInterrupt

    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, remember) for number in handled]
    try:
        yield received
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _beside_bars() -> Iterator[None]:
    # No bar can be there before a command imported tqdm.
    if "tqdm" not in sys.modules:
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield
