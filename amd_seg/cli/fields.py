"""Command-line options made of a settings dataclass: one flag a field, its docstring as help."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def options_of(settings: type, *, leave_out: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Add a flag for each field of a dataclass; flags that are not given are None.

    Args:
        settings: a dataclass whose fields are numbers, booleans, choices, or tuples of numbers.
        leave_out: fields without a flag.
    """

    def decorate(command: Command) -> Command:
        for field in reversed(dataclasses.fields(settings)):
            if field.name not in leave_out:
                command = _option(settings, field)(command)
        return command

    return decorate


def given(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass among a command's parameters that its user has set."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in values.items() if name in names and value is not None}


class Numbers(click.ParamType[tuple[Any, ...]]):
    """Several numbers in one word: 128x192, or 0.6,1."""

    name = "numbers"

    def __init__(self, kind: type, count: int | None) -> None:
        self.kind, self.count = kind, count

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Split at x and commas."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.replace("x", ",").split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 128x192.", param, ctx)
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"{value!r} has {len(numbers)} numbers instead of {self.count}.", param, ctx)
        return numbers

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Show what the word looks like."""
        return ",".join("N" * (self.count or 3))


def _option(settings: type, field: "dataclasses.Field[Any]") -> Callable[[Command], Command]:
    flag = "--" + field.name.replace("_", "-")
    # The nearest class that says what a field is: a sub-class may only change its default.
    texts = (_docstrings(kind).get(field.name) for kind in settings.__mro__)
    text = next(filter(None, texts), "")
    if field.type is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=text)
    return click.option(flag, type=_type(field.type), default=None, help=text)


def _type(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if get_origin(annotation) is tuple:
        kinds = get_args(annotation)
        return Numbers(kinds[0], None if kinds[-1] is Ellipsis else len(kinds))
    return annotation


@cache
def _docstrings(settings: type) -> dict[str, str]:
    """The string below each field: kept in the source only, so that it stands in one place."""
    if not dataclasses.is_dataclass(settings):
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, below in zip(body.body, body.body[1:], strict=False):
        is_field = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if is_field and is_text:
            found[statement.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found
