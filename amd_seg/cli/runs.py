"""Training runs at the terminal: a bar, signals that end a run well, settings of resumed ones."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amd_seg.cli import terminal
from amd_seg.errors import InputError
from amd_seg.model.config import AppearanceConfig
from amd_seg.training.run_config import RunConfig

if TYPE_CHECKING:
    from tqdm import tqdm

    from amd_seg.training.engine import OnStep
    from amd_seg.training.loop import StepReport

Model = TypeVar("Model", bound=AppearanceConfig)
Training = TypeVar("Training", bound=RunConfig)


@contextmanager
def watched_run(config: RunConfig, items: str) -> Iterator["OnStep"]:
    """Give an observer of a run that moves a bar and ends the run where a signal asks for it.

    Ctrl-C or SIGTERM finishes the step in progress; then the command ends with a line that says
    how to go on. Before the first step, while clips are decoded or targets found, it ends at once.

    Args:
        config: of the run.
        items: what its batches are made of.
    """
    from amd_seg.training.distributed import is_launched
    from amd_seg.training.loop import StopTraining

    has_begun = False
    with (
        terminal.progress(config.steps, "step") as bar,
        terminal.stopped_by_signals(
            passed_on=is_launched(), has_begun=lambda: has_begun
        ) as received,
    ):

        def on_step(report: "StepReport") -> None:
            nonlocal has_begun
            has_begun = True
            show(bar, report, config, items)
            if received:
                raise StopTraining(f"{received[0]} after step {report.step}")

        try:
            yield on_step
        except StopTraining as stop:
            message = f"Stopped by {stop}; a checkpoint is saved. Give --resume to go on."
            terminal.fail(message, terminal.INTERRUPTED)
        except KeyboardInterrupt:
            if has_begun:
                raise
            message = "Stopped before the first step. Give the same command to start again."
            terminal.fail(message, terminal.INTERRUPTED)


def show(bar: "tqdm[Any]", report: "StepReport", config: RunConfig, items: str) -> None:
    """Move a run's bar to a step; its end is the run's, by the clock where minutes are set."""
    if bar.n == 0 or report.step <= bar.n:
        # The clock of the bar starts with the steps: clips were decoded, or a run is resumed.
        bar.reset()
        bar.initial = bar.n = report.step - 1
    if config.minutes:
        bar.total = round(report.step / report.done)
    bar.update(report.step - bar.n)
    rate = f"{report.step * config.batch_size / report.seconds:.1f} {items}/s"
    bar.set_postfix_str(f"loss {report.parts['loss']:.4f}, {rate}", refresh=False)


def announce(**settings: object) -> None:
    """Print the resolved settings of a run, each as its flag takes it, unless `--quiet`.

    Args:
        settings: dataclasses by the names of their groups.
    """
    from amd_seg.training.distributed import is_first_process

    if not is_first_process():
        return
    for name, group in settings.items():
        words = (
            f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in vars(group).items()
        )
        text = f"{name}: {' '.join(words)}"
        for line in textwrap.wrap(text, 100, subsequent_indent="  ", break_on_hyphens=False):
            terminal.notice(line)


def saved_settings(
    out: Path, model: type[Model], training: type[Training]
) -> tuple[Model, Training]:
    """Return the settings of a run from its folder.

    Raises:
        InputError: the folder has none, or those of another kind of run.
    """
    try:
        saved = json.loads((out / "config.json").read_text())
        return model(**saved["model"]), training.from_record(saved["training"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise InputError(
            f"Cannot resume {out}: its config.json cannot be read ({cause}). "
            "Give the folder of a run, or start without --resume."
        ) from cause
