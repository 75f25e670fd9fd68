"""python benchmarks/memory.py [--megapixels 100]: the peak memory of `amd-seg image`.

Each row is one run of the command on a JPEG file, cold start included: the highest resident
memory of the process as the kernel tells it, and its processor time.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from math import sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from amd_seg.choices import OUTPUTS, REFINEMENTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=100.0)
    parser.add_argument("--outputs", nargs="+", default=OUTPUTS)
    parser.add_argument("--refine", nargs="+", default=REFINEMENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.jpg")
        width, height = write_photo(path, options.megapixels)
        print(f"{platform.machine()}, Python {platform.python_version()}; {width}x{height} JPEG\n")
        print("| --output | --refine | peak, GiB | processor s |\n|---|---|---|---|")
        for output in options.outputs:
            for refine in options.refine:
                peak, seconds = run(path, output, refine)
                print(f"| {output} | {refine} | {peak:.2f} | {seconds:.1f} |", flush=True)


def write_photo(path: Path, megapixels: float) -> tuple[int, int]:
    """Write a disc on a coarse ground, of 4:3; return its width and height."""
    height = round(sqrt(megapixels * 1e6 * 3 / 4))
    width = round(megapixels * 1e6 / height)
    generator = np.random.default_rng(0)
    coarse = np.full((60, 80, 3), (90, 130, 80), np.uint8) + generator.integers(0, 30, (60, 80, 1))
    rows, columns = np.mgrid[:60, :80]
    coarse[np.hypot(rows - 30, columns - 42) < 16] = (210, 120, 60)
    small = Image.fromarray(coarse.astype(np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
    return width, height


def run(path: Path, output: str, refine: str) -> tuple[float, float]:
    """Return the peak memory of a run, in GiB, and its seconds of processor time."""
    command = [sys.executable, "-m", "amd_seg.cli", "image", str(path), "--output", output]
    command += ["--refine", refine, "--device", "cpu", "--overwrite", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 2**30, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
