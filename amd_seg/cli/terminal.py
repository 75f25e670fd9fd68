"""The library at the terminal: errors to exit codes, data to stdout, the rest to stderr."""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from amd_seg.errors import AmdSegError, ConfigError, InputError, MediaError, WeightsError

if TYPE_CHECKING:
    from tqdm import tqdm

STANDARD_STREAM = "-"

FAILED, USAGE, WEIGHTS, INTERRUPTED = 1, 2, 3, 130

# From errors to exit codes; the first row that fits counts.
EXIT_CODES: dict[type[BaseException], int] = {
    WeightsError: WEIGHTS,
    InputError: USAGE,
    ConfigError: USAGE,
    AmdSegError: FAILED,
    KeyboardInterrupt: INTERRUPTED,
}

REMOVED_OPTIONS = {
    "--memory": "a step that does not fit is taken in smaller pieces by itself.",
    "--smooth": "it changed no score, for three times the time.",
    "--tta": "it changed no score with the default --refine, for six times the time.",
    "--keep-rgb": "the colours under alpha 0 are always zeroed.",
    "--revision": "write it behind the name, --weights org/name@revision.",
    "download --revision": "write it behind the name, org/name@revision.",
    "info --revision": "write it behind the name, org/name@revision.",
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
"""Options of earlier versions, of all commands or ("evaluate --resume") of one, and what to do
instead."""

_DEBUG = "amd_seg.debug"
_QUIET = "amd_seg.quiet"

Command = TypeVar("Command", bound=Callable[..., Any])


class _StderrHandler(logging.Handler):
    """Shows the library's log: warnings always, the rest unless `--quiet`."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(logging.INFO)
        self._meta = ctx.meta

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or not self._meta.get(_QUIET):
            say(self.format(record))


@contextmanager
def errors_as_messages(ctx: click.Context) -> Iterator[None]:
    """Turn the errors of EXIT_CODES into messages and codes; show the library's log on stderr."""
    logger, handler = logging.getLogger("amd_seg"), _StderrHandler(ctx)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except click.NoSuchOption as error:
        name, command = error.option_name, error.ctx.info_name if error.ctx else ""
        successor = REMOVED_OPTIONS.get(f"{command} {name}", REMOVED_OPTIONS.get(name))
        if successor is None:
            raise
        raise click.UsageError(f"{name} is gone: {successor}", error.ctx) from error
    except tuple(EXIT_CODES) as error:
        if ctx.meta.get(_DEBUG):
            traceback.print_exc(file=sys.stderr)
        code = next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        fail("Interrupted." if code == INTERRUPTED else f"Error: {error}", code)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _flag(name: str, key: str, text: str, *short: str) -> Callable[[Command], Command]:
    """Return an option that is remembered for the whole command, see `errors_as_messages`."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[key] = True

    return click.option(
        *short, name, is_flag=True, is_eager=True, expose_value=False, callback=remember, help=text
    )


debug_option = _flag("--debug", _DEBUG, "Print the traceback of an error; it may stand anywhere.")
quiet_option = _flag(
    "--quiet", _QUIET, "No progress and no notices; warnings and errors remain.", "-q"
)


def debug_first(args: list[str]) -> list[str]:
    """Move `--debug` before the command, wherever the user wrote it."""
    end = args.index("--") if "--" in args else len(args)
    given = [arg for arg in args[:end] if arg == "--debug"]
    return given[:1] + [arg for arg in args[:end] if arg != "--debug"] + args[end:]


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

    Raises:
        MediaError: stdout takes no more. A pipe that was closed ends the command without a word.
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

    A second signal interrupts at once.

    Args:
        passed_on: torchrun sends each signal on, so that a second one is no second wish.
        has_begun: whether there are steps; before, the first signal interrupts at once.
    """
    received: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if (received and not passed_on) or not has_begun():
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

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
