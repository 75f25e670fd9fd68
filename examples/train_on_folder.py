"""Learn from a folder of your own clips, then segment a photo with what was learned.

    python examples/train_on_folder.py clips/ run/ photo.jpg mask.png

Five minutes are enough to see it work, not to get good masks: see docs/training.md.
"""

import dataclasses
import sys

from amd_seg import Segmenter
from amd_seg.training.config import PRESETS
from amd_seg.training.loop import StepReport
from amd_seg.training.run import train


def report(step: StepReport) -> None:
    """Print a line now and then."""
    if step.step % 20 == 0:
        print(f"step {step.step}: loss {step.parts['loss']:.3f} after {step.seconds:.0f} s")


def main(clips: str, run: str, photo: str, mask: str) -> None:
    """Train, then write the mask of a photo."""
    preset = PRESETS["cpu"]
    config = dataclasses.replace(preset.training, minutes=5.0, batch_size=8)
    weights = train([clips], run, model=preset.model, config=config, on_step=report)
    Segmenter.from_pretrained(weights)(photo).save(mask)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
