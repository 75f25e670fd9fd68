"""Files that belong together by their names: pictures and their masks."""

from collections.abc import Iterable
from pathlib import Path

from amd_seg.errors import InputError
from amd_seg.media.files import images_in


def by_stem(folder: Path) -> dict[str, Path]:
    """Return a folder's images by name without ending, in natural order.

    Raises:
        InputError: there is none, or two files share a name.
    """
    paths: dict[str, Path] = {}
    for path in images_in(folder):
        if path.stem in paths:
            raise InputError(
                f"{paths[path.stem]} and {path} have one name. Keep one of them in the folder."
            )
        paths[path.stem] = path
    return paths


def require_same_names(
    pictures: Iterable[str], truths: Iterable[str], images: Path, masks: Path
) -> None:
    """Raise InputError for names that only one of two folders has; all faults are in it."""
    pictures, truths = list(pictures), list(truths)
    faults = []
    if without := [name for name in pictures if name not in set(truths)]:
        faults.append(f"{len(without)} files of {images} have no mask in {masks}: {some(without)}")
    if extra := [name for name in truths if name not in set(pictures)]:
        faults.append(f"{len(extra)} masks of {masks} have no file in {images}: {some(extra)}")
    if faults:
        raise InputError(f"{'; '.join(faults)}. Add or remove files until the names agree.")


def some(names: Iterable[object], shown: int = 5) -> str:
    """Return the first few of some names for a message, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more
