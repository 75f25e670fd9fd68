"""What readers of the Markdown files meet: whole tables, links that lead somewhere, options."""

import dataclasses
import re
from pathlib import Path

import pytest

from amd_seg.model.config import AMDConfig
from amd_seg.training.config import FinetuneConfig, TrainingConfig
from tests.processes import ROOT, commands

PLACES = ("*.md", "docs/**/*.md", "notes/**/*.md", "recipes/**/*.md", "weights/**/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in ROOT.glob(place))
# The lab book and the changelog name options of their time.
MANUALS = [path for path in DOCUMENTS if path.name not in ("experiments.md", "CHANGELOG.md")]

OPTIONS = {
    name: {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    | {"--help", "-h"}
    for name, command in commands()
}


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def read(*paths: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def cells(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", read(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@named(DOCUMENTS)
def test_tables_are_whole_and_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", read(path), flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        header, delimiter, *rows = block.splitlines()
        assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", delimiter), header
        for row in (delimiter, *rows):
            assert cells(row) == cells(header), row
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@named(MANUALS)
def test_files_functions_and_settings_of_the_code_exist(path: Path) -> None:
    text = read(path)
    for name in re.findall(r"(?<![\w./-])(\w[\w/]*/\w+\.(?:py|cu|cpp|sh|json))\b", text):
        assert any((root / name).is_file() for root in (ROOT, ROOT / "amd_seg")), name
    source = read(*ROOT.glob("amd_seg/**/*.py"))
    for row in re.findall(r"^\| (?:eq|section|table).*$", text, flags=re.MULTILINE):
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", row):
            assert re.search(rf"^ *(def|class) {name}\b", source, flags=re.MULTILINE), name
    kinds = (AMDConfig, TrainingConfig, FinetuneConfig)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert set(re.findall(r"--set ([a-z_]+)", text)) - {"help"} <= known


@named(MANUALS)
def test_options_exist(path: Path) -> None:
    """Options of a command are its own; an option alone is one of any command or script."""
    text = read(path)
    for name, rest in re.findall(r"(amd-seg(?: [a-z]+(?![^\s`]))+)([^`\n#]*)", text):
        words = name.split()
        command = " ".join(words[:3]) if " ".join(words[:3]) in OPTIONS else " ".join(words[:2])
        for option in re.findall(r"(?<!\S)\[?(--?[a-z][a-z-]*)", rest):
            assert option in OPTIONS[command], f"{command} {option}"
    folders = ("examples", "benchmarks", "recipes")
    scripts = read(*(script for name in folders for script in ROOT.glob(f"{name}/**/*.py")))
    for option in re.findall(r"`(--[a-z][a-z-]*)", text):
        assert option in set().union(*OPTIONS.values()) or f'"{option}"' in scripts, option


def test_the_table_of_results_is_that_of_the_benchmarks() -> None:
    table = re.search(r"## Results\n(.*?)\n\n", read(ROOT / "README.md"), re.DOTALL)
    details = read(ROOT / "docs" / "benchmarks.md")
    for row in table[1].splitlines()[2:]:
        _, _, _, ours, paper, floor, _ = (cell.strip() for cell in row.split("|"))
        for number in (ours, paper.split(" on ")[0], floor):
            assert number in details or number == "60.2", row
