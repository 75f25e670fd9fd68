"""How many of the package's files and functions a command enters, as a Markdown table.

python benchmarks/code_walk.py PHOTO CLIP [--names]
"""

import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import amd_seg
from amd_seg.cli import cli

PACKAGE = str(Path(amd_seg.__file__).parent)
ONE_STEP = ("--steps", "1", "--seed", "0")


def entered(work: Callable[[], Any]) -> set[tuple[str, str]]:
    """Return (file, function) of each function of the package that `work` calls, in any thread."""
    seen: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # What runs when a module or a class is made is no step of the work.
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_flags & 2:
            seen.add((code.co_filename[len(PACKAGE) + 1 :], code.co_qualname))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return seen


def main(photo: str, clip: str, with_names: bool) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder)
        walks = {
            "one photo": ["image", photo, "-o", f"{out}/mask.png"],
            "one training pair of eq. 7": [
                *("train", clip, "--out", f"{out}/run", "--objective", "photometric"),
                *("--minutes", "0", "--batch-size", "1", *ONE_STEP),
            ],
            "one adapted clip": ["video", clip, "--adapt", "-o", f"{out}/mask.mp4", *ONE_STEP],
        }
        print("| | files | functions |\n|---|---|---|")
        for name, arguments in walks.items():
            with redirect_stdout(StringIO()):
                command = partial(cli.main, [*arguments, "-q"], standalone_mode=False)
                seen = entered(command)
            print(f"| {name} | {len({file for file, _ in seen})} | {len(seen)} |")
            if with_names:
                for file in sorted({file for file, _ in seen}):
                    print(
                        file, *sorted(call for place, call in seen if place == file), sep="\n    "
                    )


if __name__ == "__main__":
    main(*sys.argv[1:3], with_names="--names" in sys.argv)
