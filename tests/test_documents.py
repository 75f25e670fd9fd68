"""What readers of the Markdown files see: a table whose rows differ in length is shown as text."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("notes/*.md"),
        *ROOT.glob("weights/**/*.md"),
    ]
)


def tables(text: str) -> Iterator[list[str]]:
    """Yield the rows of each table; blocks of code hold none."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        yield block.splitlines()


def cells(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_have_as_many_cells_in_every_row(path: Path) -> None:
    for header, delimiter, *rows in tables(path.read_text(encoding="utf-8")):
        assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", delimiter), header
        for row in (delimiter, *rows):
            assert cells(row) == cells(header), row


def test_the_documents_are_found() -> None:
    assert {"README.md", "benchmarks.md"} <= {path.name for path in DOCUMENTS}
