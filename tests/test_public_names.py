"""The names and options that users rely on: a change in data/public_face.json is one."""

import inspect
import json
from pathlib import Path

import click
import pytest

import amd_seg
from amd_seg.cli import COMMANDS
from tests.processes import commands

FACE = json.loads((Path(__file__).parent / "data" / "public_face.json").read_text())


def test_the_package_offers_these_names() -> None:
    assert amd_seg.__all__ == dir(amd_seg) == FACE["names"].split()
    for name in amd_seg.__all__:
        assert getattr(amd_seg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        amd_seg.Segmentor  # noqa: B018


@pytest.mark.parametrize("name", FACE["attributes"])
def test_objects_have_these_attributes(name: str) -> None:
    kind, listed = getattr(amd_seg, name), set(FACE["attributes"][name].split())
    public = {n for n in dir(kind) if not n.startswith("_")}
    public |= set(getattr(kind, "__dataclass_fields__", ()))
    in_init = set(inspect.getattr_static(kind, "__init__").__code__.co_names)
    assert public <= listed <= public | in_init


@pytest.mark.parametrize("name", FACE["signatures"])
def test_calls_take_these_arguments(name: str) -> None:
    target = amd_seg
    for part in name.split("."):
        target = getattr(target, part)
    signature = inspect.signature(target)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = signature.replace(parameters=bare, return_annotation=signature.empty)
    assert str(plain) == FACE["signatures"][name]


def test_commands_take_these_options_and_have_a_line_in_the_help() -> None:
    found = {}
    for full_name, command in commands():
        name = full_name.removeprefix("amd-seg ")
        if name in COMMANDS:
            assert " ".join(str(command.help).split("\n\n")[0].split()) == COMMANDS[name][1]
        if not isinstance(command, click.Group):
            context = click.Context(command)
            found[name] = " ".join(
                p.make_metavar(context) if isinstance(p, click.Argument) else p.opts[-1]
                for p in command.get_params(context)
            )
    assert found == FACE["options"]
