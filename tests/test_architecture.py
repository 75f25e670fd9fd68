"""Who may import whom: an import points down only, and `--help` stays quick."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, python

PACKAGE = ROOT / "amd_seg"

# Eight layers, the lowest first. A module, or package, imports what stands before it: in a layer
# below, or to its left in its own.
LAYERS = (
    "errors choices classes prefetch workers model.config training.config",
    "device colour_model superpixels evaluation.metrics media model",
    "annotations weights_files weights weights_import refine clicks",
    "review_page training",
    "segmentation segmenter semantic video_segmenter adaptation_report onnx",
    "demo evaluation",
    "cli",
    "",  # the root, whose public names are from everywhere
)
ORDER = [f"amd_seg.{name}".rstrip(".") for row in LAYERS for name in row.split(" ")]

# What a layer may import from outside, where that is limited.
OUTSIDE = {
    "amd_seg.media": {"numpy", "PIL", "av", "cv2", "pillow_heif"},
    "amd_seg.evaluation.metrics": {"numpy", "cv2"},
    **{f"amd_seg.{name}": set() for name in LAYERS[0].split()},
}


def modules() -> dict[str, ast.Module]:
    """Name -> parsed text of each module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """Every module that `module` imports, anywhere in its text."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module} imports relatively"
            for alias in node.names:
                # The root is loaded before any module of it: its version is there for all.
                if (node.module, alias.name) != ("amd_seg", "__version__"):
                    name = f"{node.module}.{alias.name}"
                    yield name if name in MODULES else node.module


def home(module: str) -> str:
    """The longest entry of ORDER that a module belongs to."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(name for name in names if name in ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_an_import_points_down_and_lower_layers_stay_light(module: str) -> None:
    own, imported = home(module), set(imports(module))
    assert own != "amd_seg" or module == "amd_seg", f"{module} has no layer: add it to LAYERS"
    outside = {name.split(".")[0] for name in imported} - {"amd_seg"}
    for name in imported:
        if name.split(".")[0] == "amd_seg":
            assert ORDER.index(home(name)) <= ORDER.index(own), f"{module} imports {name}"
    assert own not in OUTSIDE or outside - set(sys.stdlib_module_names) <= OUTSIDE[own]


def test_sub_packages_hold_a_docstring_and_the_library_prints_nothing() -> None:
    for module, tree in MODULES.items():
        if home(module) != "amd_seg.cli":
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert "print" not in names, f"{module} prints"
            if module != "amd_seg" and (PACKAGE / module.removeprefix("amd_seg.")).is_dir():
                (statement,) = tree.body
                assert isinstance(statement, ast.Expr)


HELP = """
import sys
import amd_seg
from amd_seg.cli import COMMANDS, cli
dir(amd_seg), amd_seg.InputError, amd_seg.AMDConfig
for command in ([], *([name] for name in COMMANDS)):
    cli([*command, "--help"], standalone_mode=False)
heavy = {"torch", "av", "cv2", "PIL", "huggingface_hub", "gradio"} & set(sys.modules)
assert not heavy, heavy
"""


def test_torch_is_not_loaded_by_names_and_by_help() -> None:
    assert python("-c", HELP).stderr == ""


@pytest.mark.parametrize("script", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.stem)
def test_what_an_example_imports_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("amd_seg"):
            names = {alias.name for alias in node.names}
            assert names <= set(dir(importlib.import_module(str(node.module))))
