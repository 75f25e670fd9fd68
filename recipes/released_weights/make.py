"""Make the released weights from raw clips and photos: one command, which goes on where it stopped.

    python recipes/released_weights/make.py CLIPS... --photos PHOTOS --out DIR

Earlier code made some stages of the released weights (weights/README.md). No label is read. A
stage whose folder is in DIR is not done again; the result is DIR/weights. It takes some seventeen
hours of one core for 808 clips and 10,400 photos.
`--minutes 10` takes fewer steps, in proportion, and shows that the chain runs.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from average import average_weights
from grounds import write_grounds
from own_flow import OwnFlow
from photo_masks import write_photo_masks
from self_training import write_joined_masks

from amd_seg.device import fastest_precision, resolve_device
from amd_seg.errors import AmdSegError
from amd_seg.model.config import AMDConfig
from amd_seg.training.clips import find_clips
from amd_seg.training.config import TrainingConfig
from amd_seg.training.motion_masks import MotionMaskConfig, write_motion_masks
from amd_seg.training.run import train

FULL_MINUTES = 825
"""What all steps take on one core with AVX-512 BF16."""
WORKERS = os.cpu_count() or 1
PRECISION = fastest_precision(resolve_device("auto"))
"""bfloat16 where the hardware has it, as where the released weights were made; else far slower."""
SHORT_EDGE = 192
"""Of photos, frames and their masks, in pixels."""

MODEL = AMDConfig(
    backbone="resnet18",
    stage_widths=(64, 128, 256, 256),
    head_channels=256,
    head_dilation=2,
    normalised_volume=True,
    motion_size=(128, 192),
)
MOTION = MotionMaskConfig(partners=(1, -1, 3, -3), every=4, short_edge=SHORT_EDGE)
COMMON = TrainingConfig(
    batch_size=16,
    gradient_clip=1.0,
    ema_decay=0.998,
    warmup_steps=50,
    precision=PRECISION,
    seed=0,
)
MASKS = replace(
    COMMON,
    objective="motion-masks",
    optimizer="adamw",
    learning_rate=4e-4,
    weight_decay=0.01,
    short_edge=160,
    crop=(128, 192),
    scale=(0.45, 1.0),
    colour=True,
)
STUDENT = replace(
    MASKS,
    steps=7000,
    learning_rate=1e-3,
    warmup_steps=200,
    ema_decay=0.999,
    crop=(112, 160),
)
FINE_MODEL = replace(
    MODEL, layout="top-down", dilations=(1, 1, 1, 1), decoder_channels=(96, 64, 32)
)
FINE = replace(
    MASKS,
    steps=3125,
    learning_rate=7e-4,
    weight_decay=0.02,
    warmup_steps=100,
    ema_decay=0.999,
    short_edge=SHORT_EDGE,
    crop=(160, 224),
    scale=(0.55, 1.0),
)
FINE_INPUT = 240
"""Short edge, in pixels, of what the finer network sees."""
PAIRS = replace(
    COMMON,
    objective="dense",
    learning_rate=5e-4,
    short_edge=144,
    crop=(128, 192),
    scale=(0.6, 1.0),
    max_gap=3,
)


@dataclass
class Recipe:
    """The folder of all stages, and how much of the work is done."""

    out: Path
    share: float

    def stage(self, name: str, what: str, work: Callable[[Path], object]) -> Path:
        """Do a stage in a folder that has its name once it is whole; return the folder."""
        folder, unfinished = self.out / name, self.out / f".{name}"
        if folder.is_dir():
            print(f"{name}: done before", flush=True)
            return folder
        print(f"{name}: {what}", flush=True)
        began = time.monotonic()
        work(unfinished)
        os.replace(unfinished, folder)
        print(f"{name}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
        return folder

    def train(
        self,
        name: str,
        config: TrainingConfig,
        *,
        model: AMDConfig = MODEL,
        clips: Sequence[str] = (),
        masks: Sequence[Path] = (),
        init: Path | None = None,
    ) -> Path:
        """Train in a stage of its own; return the weights."""
        config = replace(config, steps=max(1, round(config.steps * self.share)))
        init = None if init is None else str(init)

        def work(folder: Path) -> None:
            resume = any((folder / "checkpoints").glob("step-*.pt"))
            options = {"targets": masks, "init": init, "resume": resume}
            train(clips, folder, model=model, config=config, **options)

        what = f"{config.steps} steps of {config.batch_size}, {config.objective}"
        return self.stage(name, what, work) / "weights"

    def join(
        self,
        name: str,
        weights: Path,
        teacher: Path,
        *,
        sizes: tuple[int, ...] = (160,),
        grounds: bool = False,
        **options: bool,
    ) -> Path:
        """Make masks anew from those of a teacher and what a network sees at some sizes."""

        def work(folder: Path) -> None:
            settings = {"short_edge": SHORT_EDGE, "sizes": sizes, "precision": PRECISION}
            write_joined_masks(weights, teacher, folder, **settings, **options)
            if grounds:
                write_grounds(teacher, folder, short_edge=SHORT_EDGE, parts=0.05, drawn=200)

        what = f"masks of {teacher.name} joined with what {weights.parent.name} sees"
        return self.stage(name, what, work)

    def mean(self, name: str, sources: Sequence[Path], **options: Any) -> Path:
        """Average weights that were trained one from the other."""
        what = f"the mean of {' and '.join(source.parent.name for source in sources)}"
        work = partial(average_weights, sources, **options)
        return self.stage(name, what, lambda folder: work(folder / "weights")) / "weights"


def make(
    clips: Sequence[str],
    photos: str,
    out: Path,
    *,
    share: float = 1.0,
    start: Path | None = None,
    flow: str | None = None,
) -> Path:
    """Do all stages, and return the folder of the weights.

    Args:
        clips: as `find_clips` takes them.
        photos: a folder.
        out: where the stages go.
        share: of the steps that are taken.
        start: weights in the place of the first student.
        flow: weights whose motion pathway finds what moves, in the place of a classical flow.
    """
    recipe = Recipe(out, share)
    out.mkdir(parents=True, exist_ok=True)

    # Two teachers that learn nothing.
    moving = recipe.stage(
        "motion",
        "what moves in the clips",
        lambda folder: write_motion_masks(
            find_clips(clips), folder, MOTION, flow=OwnFlow(flow) if flow else None, workers=WORKERS
        ),
    )
    stills = recipe.stage(
        "stills",
        "what stands out in the photos",
        lambda folder: write_photo_masks(photos, folder, short_edge=SHORT_EDGE),
    )

    # A student of both, then rounds on what student and teacher both say.
    a = start or recipe.train("a", STUDENT, masks=[moving, stills])
    moving_b = recipe.join("motion-b", a, moving)
    stills_b = recipe.join("stills-b", a, stills)
    round_b = replace(MASKS, steps=2044, learning_rate=5e-4)
    b = recipe.train("b", round_b, masks=[moving_b, stills_b], init=a)
    stills_c = recipe.join("stills-c", b, stills, redraw=True)
    c = recipe.train("c", replace(MASKS, steps=1495), masks=[moving_b, stills_c], init=b)
    moving_d = recipe.join("motion-d", c, moving)
    stills_d = recipe.join("stills-d", c, stills, redraw=True)
    long_round = replace(MASKS, steps=4156, ema_decay=0.999)
    d = recipe.train("d", long_round, masks=[moving_d, stills_d], init=c)
    cd = recipe.mean("cd", [c, d])
    e = recipe.train("e", replace(MASKS, steps=5773), masks=[moving_b, stills_d], init=cd)

    # The motion pathway, anew, by its own photometric error: small frames, then larger ones.
    small = replace(MODEL, motion_size=(64, 128))
    coarse = replace(PAIRS, steps=1428, crop=(64, 128), short_edge=96, motion_init="kaiming")
    flow_a = recipe.train("flow-a", coarse, model=small, clips=clips, init=e)
    fine = replace(PAIRS, steps=500, batch_size=8)
    flow_b = recipe.train("flow-b", fine, clips=clips, init=flow_a)

    # Eq. 7 from both. It gains on photos and loses whole objects on clips: the mean keeps both.
    both = recipe.mean("both", [e], motion=flow_b)
    end = replace(
        PAIRS,
        objective="photometric",
        steps=997,
        batch_size=8,
        learning_rate=1e-4,
        ema_decay=0.995,
    )
    eq7 = recipe.train("eq7", end, clips=clips, init=both)
    coarse_map = recipe.mean("coarse-map", [both, eq7], motion=eq7)

    # A network that sees the whole frame and draws at half of its input's size, taught by the one
    # above, then a round of its own, which also learns that most ground holds no object.
    stills_f = recipe.join("stills-f", coarse_map, stills_d, sizes=(128, 160), redraw=True)
    moving_f = recipe.join("motion-f", coarse_map, moving, sizes=(128, 160))
    fine_a = recipe.train("fine-a", FINE, model=FINE_MODEL, masks=[stills_f, moving_f])
    long = replace(FINE, steps=12_300)
    masks = [stills_f, moving_f]
    fine_b = recipe.train("fine-b", long, model=FINE_MODEL, masks=masks, init=fine_a)
    sizes = (160, 224)
    stills_g = recipe.join("stills-g", fine_b, stills_f, sizes=sizes, redraw=True, grounds=True)
    moving_g = recipe.join("motion-g", fine_b, moving, sizes=sizes, diffused=True)
    last = replace(long, steps=11_800, learning_rate=6e-4, scale=(0.5, 1.0))
    masks = [stills_g, moving_g]
    fine_c = recipe.train("fine-c", last, model=FINE_MODEL, masks=masks, init=fine_b)
    last = replace(last, steps=11_500, learning_rate=5e-4)
    fine_d = recipe.train("fine-d", last, model=FINE_MODEL, masks=masks, init=fine_c)
    return recipe.mean("final", [fine_d], motion=eq7, input_size=FINE_INPUT)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", help="as for amd-seg train")
    parser.add_argument("--photos", required=True, help="folder of photos")
    parser.add_argument("--out", required=True, type=Path, help="folder of all stages")
    parser.add_argument(
        "--minutes",
        type=float,
        default=FULL_MINUTES,
        help=f"of training, {FULL_MINUTES} by default",
    )
    parser.add_argument("--start", type=Path, help="weights in the place of the first student")
    parser.add_argument("--flow", help="find what moves by the motion pathway of these weights")
    options = parser.parse_args()
    share = options.minutes / FULL_MINUTES
    try:
        final = make(
            options.clips,
            options.photos,
            options.out,
            share=share,
            start=options.start,
            flow=options.flow,
        )
    except AmdSegError as error:
        parser.exit(1, f"Error: {error}\n")
    shutil.copytree(final, options.out / "weights", dirs_exist_ok=True)
    print(options.out / "weights")


if __name__ == "__main__":
    main()
