"""Settings of training runs and the named presets; standard library only."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from amd_seg.errors import ConfigError
from amd_seg.model.config import AMDConfig

Objective = Literal["photometric", "dense", "flow-fit", "mover"]
FlowFit = Literal["constant", "affine"]
Sampling = Literal["video", "pair"]
Optimizer = Literal["adam", "adamw"]
Precision = Literal["float32", "bfloat16"]
Frames = Literal["memory", "loader"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained; the defaults are the paper's (section 4.1, FACTS 4).

    Raises:
        ConfigError: a value is outside what training allows.
    """

    steps: int = 400_000
    """Optimiser steps of the whole run."""
    minutes: float = 0.0
    """Wall-clock budget; above 0 the schedule follows the clock and the run ends by it."""
    batch_size: int = 16
    """Pairs per optimiser step, over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches per step and process."""
    objective: Objective = "photometric"
    """photometric: eq. 7, end to end. dense: the motion pathway alone, by its dense flow.
    flow-fit: dense, and the regions by how well the best motion of each explains that flow.
    mover: the object channel alone, by what moves against the background."""
    motion_first_steps: int = 0
    """Steps at the start that train the motion pathway alone, by its dense flow: regions that
    learn from a flow that knows nothing collapse."""
    dense_weight: float = 0.0
    """Weight of the dense flow's photometric error, added to the objective: keeps the motion
    pathway honest where regions are still wrong."""
    flow_fit_weight: float = 0.0
    """Weight of what the regions leave unexplained of the dense flow, added to the objective (with
    --dense-weight, or that flow learns from the segment flow alone)."""
    flow_fit: FlowFit = "affine"
    """Motion that is fitted to each region: constant is one vector, affine also turns and zooms."""
    equivariance_weight: float = 0.0
    """Weight of masks that change when the frame is cropped, enlarged or mirrored: what a region
    is must follow the picture, not the place in the frame."""
    ssim_weight: float = 0.85
    """Share of DSSIM in the photometric error, the rest is L1; 1 is the paper's formula."""
    shared_visibility: bool = False
    """Divide the photometric error by the visible share of all processes' pairs, so that N
    processes equal one with the whole batch; as published each process takes its own."""
    entropy_weight: float = 0.0
    """Weight of the masks' mean entropy as a reward that fades to 0 over the run's first half;
    keeps masks soft until the motion features know something."""
    optimizer: Optimizer = "adam"
    """adam adds weight decay to the gradient (as released), adamw decouples it."""
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
    short_edge: int = 400
    """Short edge, in pixels, to which frames are decoded."""
    scale: tuple[float, float] = (0.96, 1.0)
    """Range of the crop's side, as a share of the largest crop of its aspect in the frame."""
    crop: tuple[int, int] = (384, 384)
    """Height and width, in pixels, of what the network sees."""
    start_scale: float = 1.0
    """Share of the crop's size that the network sees at the start; grows to 1 over the run's first
    half. Small frames take more steps a minute while only coarse things are learned."""
    flip: bool = True
    """Mirror half of the pairs (the paper does, the released code does not)."""
    colour: bool = False
    """Change brightness, contrast, saturation and tint at random (not in the paper)."""
    sampling: Sampling = "video"
    """video: one random pair a clip and epoch, as published; pair: every pair is an item."""
    max_gap: int = 1
    """Largest distance, in frames, between the two of a pair."""
    photo_share: float = 0.5
    """Share of the crops that come from --photos, where there are any (objective mover)."""
    min_relative_motion: float = 0.0
    """Pixels, at a short edge of 96, by which a twentieth of a pair must move against its
    background; other pairs are passed over, for they say nothing of objects. Needs OpenCV."""
    frames: Frames = "memory"
    """memory: all clips are decoded once and kept on the training device; loader: decoded as they
    are drawn, for clips that do not fit."""
    workers: int = 2
    """Processes a rank that decode for --frames loader; 0 decodes between the steps."""
    frame_step: int = 1
    """Use every n-th frame of a clip: where adjacent ones hardly differ."""
    transpose_portrait: bool = True
    """Swap the axes of frames that are higher than wide, as published."""
    precision: Precision = "float32"
    """Of autocast; the objective accumulates in float32 in any case."""
    compile: bool = False
    """Compile the appearance pathway with torch.compile: a minute at the start, faster steps."""
    channels_last: bool = True
    """Memory layout of the convolutions: faster on GPUs, slower on CPUs without AVX-512."""
    seed: int = 0
    log_every: int = 20
    """Steps between two lines of log.jsonl."""
    sheet_every: int = 2000
    """Steps between two picture sheets in OUT/sheets; 0 draws none."""
    evaluate_every: int = 2000
    """Steps between two scores, for --evaluate."""
    alarms: bool = True
    """Stop a run whose masks or flow have collapsed for 200 steps."""
    checkpoint_every: int = 2000
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept beside the newest best."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        faults = [f"{name}={getattr(self, name)!r} ({rule})" for name, rule in self._faults()]
        if faults:
            raise ConfigError(f"Training cannot start with {', '.join(faults)}.")

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Names of the fields that are wrong, each with what it must be."""
        limits = {**dict.fromkeys(_AT_LEAST_ONE, 1), **dict.fromkeys(_NOT_NEGATIVE, 0)}
        yield from ((n, f"{low} or more") for n, low in limits.items() if getattr(self, n) < low)
        yield from (
            (name, f"one of {choices}")
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        )
        for name in ("learning_rate", "poly_power"):
            if getattr(self, name) <= 0:
                yield name, "above 0"
        if not 0 < self.start_scale <= 1:
            yield "start_scale", "above 0, up to 1"
        for name in ("ssim_weight", "ema_decay", "photo_share"):
            if not 0 <= getattr(self, name) <= 1:
                yield name, "0 to 1"
        if min(self.crop) < 16:
            yield "crop", "two sizes of 16 or more"
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            yield "scale", "0 < low <= high <= 1"
        if self.short_edge < 16:
            yield "short_edge", "at least the crop"
        if self.accumulate > 0 and self.batch_size % self.accumulate:
            yield "batch_size", f"a multiple of accumulate={self.accumulate}"
        if self.objective == "mover":
            yield from (
                (name, "left out for the objective mover")
                for name, default in _OF_PAIRS.items()
                if getattr(self, name) != default
            )


_AT_LEAST_ONE = (
    *("steps", "batch_size", "accumulate", "max_gap", "frame_step", "log_every", "keep"),
    *("checkpoint_every", "evaluate_every"),
)
_NOT_NEGATIVE = (
    *("minutes", "warmup_steps", "weight_decay", "gradient_clip", "entropy_weight", "workers"),
    *("sheet_every", "motion_first_steps", "dense_weight", "flow_fit_weight"),
    *("equivariance_weight", "min_relative_motion"),
)
# What works on pairs, which the objective mover does not see, and the value that turns it off.
_OF_PAIRS = {
    "frames": "memory",
    "motion_first_steps": 0,
    "dense_weight": 0.0,
    "flow_fit_weight": 0.0,
    "equivariance_weight": 0.0,
    "min_relative_motion": 0.0,
    "start_scale": 1.0,
}
_CHOICES = {
    "objective": get_args(Objective),
    "flow_fit": get_args(FlowFit),
    "sampling": get_args(Sampling),
    "optimizer": get_args(Optimizer),
    "precision": get_args(Precision),
    "frames": get_args(Frames),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole run: the model and how it is trained."""

    model: AMDConfig
    training: TrainingConfig
    about: str


def paper() -> Preset:
    """Section 4.1: ResNet-50, 16 pairs per step over all GPUs, 400,000 steps."""
    return Preset(
        model=AMDConfig(),
        training=TrainingConfig(),
        about="The paper: ResNet-50, 384x384 crops, 16 pairs a step, 400K steps. 8 GPUs, days.",
    )


def single_gpu() -> Preset:
    """What one GPU of the H100 class does in 25 minutes."""
    return Preset(
        model=AMDConfig(backbone="resnet18", head_dilation=2, motion_size=(256, 384)),
        training=dataclasses.replace(
            paper().training,
            minutes=25.0,
            batch_size=64,
            short_edge=240,
            crop=(224, 320),
            scale=(0.7, 1.0),
            precision="bfloat16",
            warmup_steps=200,
            gradient_clip=1.0,
            ema_decay=0.999,
            max_gap=3,
        ),
        about="One H100-class GPU, 25 minutes: ResNet-18, 224x320 crops, bfloat16.",
    )


def cpu() -> Preset:
    """What two CPU cores do in 2 hours."""
    return Preset(
        model=AMDConfig(
            backbone="resnet18",
            stage_widths=(64, 128, 256, 256),
            head_dilation=2,
            motion_size=(128, 192),
        ),
        training=dataclasses.replace(
            paper().training,
            minutes=120.0,
            short_edge=144,
            crop=(128, 192),
            scale=(0.6, 1.0),
            learning_rate=5e-4,
            warmup_steps=200,
            gradient_clip=1.0,
            ema_decay=0.999,
            max_gap=3,
            checkpoint_every=200,
            sheet_every=200,
            evaluate_every=200,
            channels_last=False,
        ),
        about="Two CPU cores, 2 hours: a light ResNet-18, 128x192 crops.",
    )


PRESETS = {"paper": paper, "single-gpu": single_gpu, "cpu": cpu}
