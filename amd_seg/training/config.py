"""All settings of training, fine-tuning and adaptation, and their presets."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, Literal, NamedTuple

from amd_seg.model.config import AMDConfig, Rule, Settings, WeightsConfig

Objective = Literal["photometric", "dense", "motion-masks"]
Optimizer = Literal["adam", "adamw", "sgd"]
SEEDS = 2**32  # every generator that a run draws from takes these
REFERENCE_RATE = 24.0  # frames a second for which gaps between frames are given
MOTION_SIZE = 240  # short edge, in pixels, at which an adaptation looks for motion


def _at_least(low: float) -> Rule:
    return f"{low} or more", lambda value: value >= low


_ABOVE_ZERO: Rule = ("above 0", lambda value: value > 0)
_SEED: Rule = (f"0 to {SEEDS - 1}", lambda value: 0 <= value < SEEDS)
_SHARES: Rule = ("0 < low <= high <= 1", lambda scale: 0 < scale[0] <= scale[1] <= 1)


@cache
def descriptions(settings: type) -> dict[str, str]:
    """What each field of a dataclass means: the string below it, or that of the class above."""
    found: dict[str, str] = {}
    for kind in filter(dataclasses.is_dataclass, reversed(settings.__mro__)):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(body, ast.ClassDef)
        for above, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                found[ast.unparse(above.target)] = " ".join(text.split())
    return found


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """What all runs share; the defaults are those of the paper's training (section 4.1)."""

    steps: int = 400_000
    """Optimiser steps of the whole run."""
    minutes: float = 0.0
    """Wall-clock budget; above 0 the schedule follows the clock and the run ends by it."""
    batch_size: int = 16
    """Pairs or photos of an optimiser step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step and process."""
    optimizer: Optimizer = "adam"
    """adam and sgd add weight decay to the gradient (adam as released), adamw decouples it."""
    momentum: float = 0.9
    """Of sgd: share of the last step that each step keeps."""
    learning_rate: float = 1e-4
    """Of the first step after the warm-up."""
    final_learning_rate: float = 1e-6
    """Where the polynomial schedule ends."""
    poly_power: float = 0.9
    """Power of that schedule; 1 is linear."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 1e-6
    """Share of each weight, per step and learning rate, that decays."""
    gradient_clip: float = 0.0
    """Largest L2 norm of the gradient; 0 clips nothing."""
    ema_decay: float = 0.0
    """Decay per step of the averaged weights that are released; 0 keeps no average."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of autocast; the objective accumulates in float32 in any case."""
    memory_layout: Literal["auto", "channels-first", "channels-last"] = "auto"
    """Of the convolutions. auto takes two steps in each at the start of a run of 200 steps or
    more, and keeps the faster one."""
    short_edge: int = 400
    """Short edge, in pixels, to which frames are decoded."""
    scale: tuple[float, float] = (0.96, 1.0)
    """Range of the crop's side, as a share of the largest crop of its aspect in the frame."""
    crop: tuple[int, int] = (384, 384)
    """Height and width, in pixels, of what the network sees."""
    flip: bool = True
    """Mirror half of the crops (the paper does, the released code does not)."""
    workers: int = 2
    """Processes a rank that read frames (frames=loader) or photos; 0 reads between the steps."""
    seed: int = 0
    """What all random numbers follow from."""
    log_every: int = 20
    """Steps between two lines of log.jsonl."""
    sheet_every: int = 2000
    """Steps between two picture sheets in OUT/sheets; 0 draws none."""
    checkpoint_every: int = 2000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept."""
    alarms: bool = True
    """Stop a run whose masks or flow have collapsed for 200 steps."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        **dict.fromkeys(("steps", "batch_size", "accumulate", "log_every"), _at_least(1)),
        **dict.fromkeys(("checkpoint_every", "keep"), _at_least(1)),
        **dict.fromkeys(("minutes", "warmup_steps", "weight_decay", "gradient_clip"), _at_least(0)),
        **dict.fromkeys(("sheet_every", "final_learning_rate"), _at_least(0)),
        **dict.fromkeys(("learning_rate", "poly_power"), _ABOVE_ZERO),
        "momentum": ("0 to below 1", lambda value: 0 <= value < 1),
        "ema_decay": ("0 to 1", lambda value: 0 <= value <= 1),
        "short_edge": _at_least(16),
        "scale": _SHARES,
        "crop": ("two sizes of 16 or more", lambda crop: min(crop) >= 16),
        "workers": _at_least(0),
        "seed": _SEED,
    }

    def faults(self) -> Iterator[tuple[str, str]]:
        """See `Settings`; and what two settings say together."""
        yield from super().faults()
        if self.final_learning_rate > self.learning_rate:
            yield "final_learning_rate", f"0 to learning_rate={self.learning_rate!r}"
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            yield "batch_size", f"a multiple of accumulate={self.accumulate}"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """How a model is trained; the defaults are the paper's."""

    objective: Objective = "photometric"
    """photometric: eq. 7, end to end. dense: the motion pathway alone, by its dense flow.
    motion-masks: the object channel alone, by masks of what moves, or those of --targets."""
    motion_init: Literal["released", "kaiming"] = "released"
    """How the motion pathway begins. released: as in the released code, or in the weights of
    --init; its cost volume then says nothing for long. kaiming: anew, by Kaiming's rule."""
    ssim_weight: float = 0.85
    """Share of DSSIM in the photometric error, the rest is L1; 1 is the paper's formula."""
    shared_visibility: bool = False
    """Divide the photometric error by the visible share of all processes' pairs, so that N equal
    one with the whole batch; as published each process takes its own."""
    entropy_weight: float = 0.0
    """Weight of the masks' mean entropy as a reward that fades to 0 over the run's first half."""
    colour: bool = False
    """Change brightness, contrast, saturation and tint at random (objective motion-masks)."""
    max_gap: int = 1
    """Largest distance, in frames, between the two of a pair."""
    frames: Literal["memory", "loader"] = "memory"
    """memory: all are decoded once and kept on the training device; loader: as they are drawn."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        **RunConfig.RULES,
        "ssim_weight": ("0 to 1", lambda value: 0 <= value <= 1),
        "entropy_weight": _at_least(0),
        "max_gap": _at_least(1),
    }


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """How a network learns classes from label maps; the defaults are the paper's (section 4.4).

    What the paper leaves open is as in mmsegmentation's 40K schedule for VOC.
    """

    steps: int = 40_000
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.01
    final_learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    short_edge: int = 512
    """Short edge, in pixels, of a photo before `scale`; the trained network sees photos at it."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale of a photo, 1 being short_edge."""
    crop: tuple[int, int] = (512, 512)
    """Height and width, in pixels, of what the network sees; small photos are filled up."""
    augment: Literal["light", "heavy"] = "light"
    """light: scale, crop and flip; heavy: changes of colour, grey and blur besides."""
    workers: int = 4

    RULES: ClassVar[Mapping[str, Rule]] = {
        **RunConfig.RULES,
        "scale": ("0 < low <= high", lambda scale: 0 < scale[0] <= scale[1]),
    }


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(Settings):
    """How a model is adapted to a clip; notes/experiments.md has the trials behind the defaults."""

    steps: int = 100
    """Optimiser steps, as published."""
    objective: Literal["motion-masks", "photometric"] = "motion-masks"
    """motion-masks: the object channel learns what moves, joined with what the model sees; the best
    masks. photometric: eq. 7, as published."""
    learning_rate: float = 2e-3
    """Of the first step; it falls to a hundredth of that."""
    batch_size: int = 4
    """Pairs of frames, or frames with a mask, per step."""
    size: int = 192
    """Short edge, in pixels, of what the network sees while it learns, if that is not smaller than
    the input size of the weights (objective motion-masks) or what the motion pathway sees."""
    scale: tuple[float, float] = (0.6, 1.0)
    """Range of the crop's side, as a share of the frame; crops are enlarged to `size`."""
    max_gap: int = 4
    """Largest distance, in frames at 24 a second, between the two of a pair."""
    blend: float = 1.0
    """Share of what was learned in the mean of the weights before and after; 1 is that alone."""
    frames: int = 240
    """Frames of the clip that are held in memory at most, spread over all of it."""
    targets: int = 32
    """Frames that motion targets are found for at most (objective motion-masks)."""
    guard: bool = True
    """Keep the released weights where the loss on held-out frames did not fall, or where next to
    nothing moves on its own."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of autocast; auto is bfloat16 where the device computes it in hardware, else float32."""
    seed: int = 0
    """What all random numbers follow from."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        **dict.fromkeys(("steps", "batch_size", "max_gap"), _at_least(1)),
        "frames": _at_least(32),
        "targets": _at_least(2),
        "size": _at_least(0),
        "learning_rate": _ABOVE_ZERO,
        "scale": _SHARES,
        "seed": _SEED,
        "blend": ("above 0, up to 1", lambda share: 0 < share <= 1),
    }

    def learning_size(self, weights: WeightsConfig) -> int:
        """The short edge, in pixels, of crops for a model with these weights."""
        by_masks = self.objective == "motion-masks"
        return max(self.size, weights.input_size if by_masks else min(weights.model.motion_size))

    def frame_size(self, weights: WeightsConfig) -> int:
        """The short edge, in pixels, of the frames in memory: crops and motion are made of them."""
        least = MOTION_SIZE if self.objective == "motion-masks" else 0
        return max(self.learning_size(weights), least)

    def clip_size(self, weights: WeightsConfig) -> int:
        """The short edge, in pixels, to which a clip can be shrunk as it is read.

        Where eq. 7 loses the object in small frames, it learns again from larger ones.
        """
        tries_again = self.objective == "photometric" and self.guard
        return max(self.frame_size(weights), weights.input_size if tries_again else 0)

    def adapted_size(self, weights: WeightsConfig) -> int:
        """The short edge that the adapted model sees.

        Things look as large as in the crops, if these taught what the object looks like.
        """
        if self.objective == "photometric":
            return weights.input_size
        return round(2 * self.learning_size(weights) / sum(self.scale) / 8) * 8

    def gap_at(self, frame_rate: float | None) -> int:
        """The largest distance, in frames of a clip of this rate, between two that are compared."""
        return max(1, round(self.max_gap * (frame_rate or REFERENCE_RATE) / REFERENCE_RATE))


class Preset(NamedTuple):
    """A whole run: the model and how it is trained."""

    model: AMDConfig
    training: TrainingConfig


# Eq. 7 from scratch needs more steps than "single-gpu" and "cpu" have (notes/experiments.md).
_BY_MOTION = partial(
    TrainingConfig,
    objective="motion-masks",
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.01,
    warmup_steps=200,
    gradient_clip=1.0,
    ema_decay=0.999,
    scale=(0.45, 1.0),
    colour=True,
)
_SMALL_MODEL = partial(AMDConfig, backbone="resnet18", head_dilation=2, normalised_volume=True)

PRESETS = {
    # Section 4.1: 8 GPUs, days. YouTube-VOS takes 382 GiB: no GPU holds it.
    "paper": Preset(AMDConfig(), TrainingConfig(frames="loader")),
    # What one GPU of the H100 class does in 25 minutes, once the motion masks are found.
    "single-gpu": Preset(
        _SMALL_MODEL(motion_size=(256, 384)),
        _BY_MOTION(
            minutes=25.0, batch_size=64, short_edge=240, crop=(224, 320), precision="bfloat16"
        ),
    ),
    # What two CPU cores do in 2 hours, a third of it for finding the motion masks.
    "cpu": Preset(
        _SMALL_MODEL(stage_widths=(64, 128, 256, 256), motion_size=(128, 192)),
        _BY_MOTION(
            steps=7000, short_edge=160, crop=(128, 192), checkpoint_every=200, sheet_every=500
        ),
    ),
}

FINETUNE_PRESETS = {
    "paper": FinetuneConfig(),
    # What two CPU cores do in minutes, for a few hundred photos; few steps want a high rate.
    "cpu": FinetuneConfig(
        steps=600,
        learning_rate=0.05,
        short_edge=128,
        crop=(128, 128),
        workers=0,
        sheet_every=200,
        checkpoint_every=200,
    ),
    # Masks of the bundled weights that a person has put right: what they know shall stay.
    "corrections": FinetuneConfig(
        steps=200, batch_size=8, learning_rate=5e-3, short_edge=240, crop=(192, 192), workers=0
    ),
}

ADAPTATIONS = {
    "motion-masks": AdaptationConfig(),
    # Section 4.3: eq. 7 on pairs of the clip; `blend` is ours, 1 is as published.
    "photometric": AdaptationConfig(
        objective="photometric",
        learning_rate=1e-4,
        size=0,
        scale=(0.96, 1.0),
        max_gap=1,
        blend=0.5,
    ),
}
