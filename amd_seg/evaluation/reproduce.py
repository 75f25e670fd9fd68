"""The paper's tables 1 and 3, from the data sets that are there."""

from pathlib import Path

from amd_seg.errors import InputError
from amd_seg.evaluation.datasets import BENCHMARKS
from amd_seg.evaluation.published import published
from amd_seg.evaluation.report import shown
from amd_seg.evaluation.run import Evaluation

TABLES = {1: ("duts-te",), 3: ("davis2016", "segtrackv2", "fbms59")}
"""Number of a table -> its data sets."""

# Names that unpacked copies have, in lower case and without marks between words.
_FOLDERS = {
    "duts-te": ("dutste", "duts"),
    "davis2016": ("davis2016", "davis", "davis16"),
    "segtrackv2": ("segtrackv2", "segtrack2", "segtrack"),
    "fbms59": ("fbms59", "fbms"),
}


def find_dataset(dataset: str, folder: Path) -> Path | None:
    """Return the folder below `folder` that holds a data set, by its name; None if there is none.

    Raises:
        InputError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"Cannot look for data sets in {folder}: no such folder.")
    for path in sorted(folder.iterdir()):
        name = "".join(filter(str.isalnum, path.name.lower()))
        if path.is_dir() and name in _FOLDERS[dataset]:
            inner = path / BENCHMARKS[dataset].title
            return inner if inner.is_dir() else path
    return None


def advice(dataset: str, folder: Path) -> str:
    """Return what to do about a data set that is not there."""
    benchmark = BENCHMARKS[dataset]
    return (
        f"{benchmark.title} is not in {folder}. Get it from {benchmark.source} and unpack it to "
        f"{folder / dataset}, which then holds {benchmark.layout}."
    )


def paper_table(results: dict[str, Evaluation]) -> str:
    """Return tables 1 and 3 as text, the paper's own rows above ours.

    Args:
        results: name of a data set -> what was scored on it.
    """
    lines: list[str] = []
    for number, names in TABLES.items():
        for name in names:
            if name in results:
                lines += [f"Table {number}: {results[name].dataset.title}", *_rows(results[name])]
                lines.append("")
    return "\n".join(lines[:-1])


def _rows(result: Evaluation) -> list[str]:
    kind = result.dataset.benchmark.kind
    rows = [
        f"  {row.method:28}" + "  ".join(f"{key} {value}" for key, value in row.scores.items())
        for row in published(result.dataset.benchmark.name)
        if row.method.startswith("AMD")
    ]
    keys = ("j_frames", "j_all", "j_mean") if kind == "video" else ("f_max", "f_adaptive", "mae")
    labels = (
        ("J of frames", "of sequences", "by DAVIS 2016")
        if kind == "video"
        else ("max F", "adaptive F", "MAE")
    )
    ours = "  ".join(
        f"{label} {shown(key, result.scores[key], kind)}"
        for label, key in zip(labels, keys, strict=True)
    )
    return [*rows, f"  {result.method:28}{ours}"]
