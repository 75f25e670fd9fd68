"""python benchmarks/flicker.py MASKS: how alike the masks of adjacent frames are, in percent.

MASKS holds a folder of PNG masks for each clip, as `amd-seg video CLIP -o MASKS/NAME` writes them.
IoU of each mask with the one before, mean over the frames, then over the clips. It tells steadiness
and nothing of what is right: a mask that never changes scores 100.
"""

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean

from amd_seg.evaluation.metrics import intersection_over_union
from amd_seg.evaluation.predictions import read_prediction


def main(folder: str) -> None:
    clips = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    print(f"{len(clips)} clips: {100 * mean(mean(likeness(clip)) for clip in clips):.1f}")


def likeness(clip: Path) -> Iterator[float]:
    masks = (read_prediction(path) > 127 for path in sorted(clip.glob("*.png")))
    for before, after in pairwise(masks):
        yield intersection_over_union(after, before)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
