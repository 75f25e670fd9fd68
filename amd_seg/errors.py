"""Every exception that amd_seg raises on purpose.

A message says what failed, the value and where it came from, and what to do.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


class AmdSegError(Exception):
    """Base of all errors that amd_seg raises on purpose."""


class InputError(AmdSegError, ValueError):
    """An argument or an image cannot be used as given."""


class MediaError(AmdSegError, OSError):
    """A photo or a clip cannot be read or written."""


class WeightsError(AmdSegError, OSError):
    """Weights cannot be found, fetched, read, or do not fit the model."""


class ConfigError(AmdSegError, ValueError):
    """A setting is outside what it may be."""


class DeviceError(AmdSegError, RuntimeError):
    """The device or precision asked for cannot be used on this machine."""


class ExportError(AmdSegError, RuntimeError):
    """A model cannot be exported, or the exported file does not compute what the model does."""


class TrainingDivergedError(AmdSegError, RuntimeError):
    """Training stopped because its loss is not finite or its masks collapsed."""


def raising(outcomes: "Iterable[Result | AmdSegError]") -> Iterator[Result]:
    """Yield the results of a stream in which errors stand in their places; raise the first one."""
    for outcome in outcomes:
        if isinstance(outcome, AmdSegError):
            raise outcome
        yield outcome
