"""Sizes of Python packages side by side, as a Markdown table.

python benchmarks/code_size.py amd_seg [OTHER/PACKAGE ...]
"""

import ast
import statistics
import sys
from itertools import chain
from pathlib import Path

COLUMNS = (
    *("package", "files", "lines", "median file", "longest", "p90 function", "longest function"),
    *("comment lines", "private functions"),
)


def row(package: Path) -> list[str]:
    """Return the cells of a package: functions by their lines from `def` to the last one."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))]
    files = [len(text.splitlines()) for text in texts]
    functions = [
        node
        for node in chain.from_iterable(ast.walk(ast.parse(text)) for text in texts)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    comments = sum(line.lstrip().startswith("#") for text in texts for line in text.splitlines())
    private = sum(node.name.startswith("_") and node.name[-2:] != "__" for node in functions)
    return [
        str(package),
        f"{len(files):,}",
        f"{sum(files):,}",
        f"{statistics.median(files):.0f}",
        f"{max(files):,}",
        str(lengths[int(0.9 * len(lengths))]),
        str(lengths[-1]),
        f"{comments / sum(files):.0%}",
        f"{private / len(functions):.0%}",
    ]


if __name__ == "__main__":
    print("|", " | ".join(COLUMNS), "|")
    print("|" + "---|" * len(COLUMNS))
    for folder in sys.argv[1:]:
        print("|", " | ".join(row(Path(folder))), "|")
