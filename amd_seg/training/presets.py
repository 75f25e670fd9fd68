"""Settings of training runs and the named presets; standard library only."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from amd_seg.model.config import AMDConfig
from amd_seg.training.run_config import Optimizer, RunConfig

Objective = Literal["photometric", "dense", "motion-masks"]
Sampling = Literal["video", "pair"]
Frames = Literal["memory", "loader"]
MotionInit = Literal["released", "kaiming"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(RunConfig):
    """How a model is trained; the defaults are the paper's (section 4.1).

    Raises:
        ConfigError: a value is outside what training allows.
    """

    steps: int = 400_000
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    weight_decay: float = 1e-6
    objective: Objective = "photometric"
    """photometric: eq. 7, end to end. dense: the motion pathway alone, by its dense flow.
    motion-masks: the object channel alone, by masks of what moves, or those of --targets."""
    motion_init: MotionInit = "released"
    """How the motion pathway begins. released: as the released code leaves it, or as the weights of
    --init have it; its cost volume then says nothing for long. kaiming: anew, by Kaiming's rule,
    with a cost volume of the size of the frames."""
    ssim_weight: float = 0.85
    """Share of DSSIM in the photometric error, the rest is L1; 1 is the paper's formula."""
    shared_visibility: bool = False
    """Divide the photometric error by the visible share of all processes' pairs, so that N
    processes equal one with the whole batch; as published each process takes its own."""
    entropy_weight: float = 0.0
    """Weight of the masks' mean entropy as a reward that fades to 0 over the run's first half;
    keeps masks soft until the motion features know something."""
    short_edge: int = 400
    """Short edge, in pixels, to which frames are decoded."""
    scale: tuple[float, float] = (0.96, 1.0)
    """Range of the crop's side, as a share of the largest crop of its aspect in the frame."""
    crop: tuple[int, int] = (384, 384)
    """Height and width, in pixels, of what the network sees."""
    flip: bool = True
    """Mirror half of the crops (the paper does, the released code does not)."""
    colour: bool = False
    """Change brightness, contrast, saturation and tint at random (objective motion-masks)."""
    sampling: Sampling = "video"
    """video: one random pair a clip and epoch, as published; pair: every pair is an item."""
    max_gap: int = 1
    """Largest distance, in frames, between the two of a pair."""
    frames: Frames = "memory"
    """memory: all clips are decoded once and kept on the training device; loader: decoded as they
    are drawn, for clips that do not fit."""
    workers: int = 2
    """Processes a rank that decode for --frames loader; 0 decodes between the steps."""
    transpose_portrait: bool = True
    """Swap the axes of frames that are higher than wide, as published."""
    alarms: bool = True
    """Stop a run whose masks or flow have collapsed for 200 steps."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read settings from a run's record, without those that had no part in the run.

        Runs were begun with such settings before they were refused.
        """
        return cls(**{**record, **_unread(record.get("objective", cls.objective))})

    def with_changes(self, **changes: Any) -> Self:
        """Return these settings changed; what another objective does not read is not kept."""
        unread = _unread(changes.get("objective", self.objective))
        return dataclasses.replace(self, **{**unread, **changes})

    def _faults(self) -> Iterator[tuple[str, str]]:
        yield from super()._faults()
        yield from self._below(1, "max_gap")
        yield from self._below(0, "entropy_weight", "workers")
        yield from self._unknown(**_CHOICES)
        if not 0 <= self.ssim_weight <= 1:
            yield "ssim_weight", "0 to 1"
        if min(self.crop) < 16:
            yield "crop", "two sizes of 16 or more"
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            yield "scale", "0 < low <= high <= 1"
        if self.short_edge < 16:
            yield "short_edge", "16 or more"
        for name, default in _unread(self.objective).items():
            if getattr(self, name) != default:
                yield name, f"left out for the objective {self.objective}"


_ON_PAIRS = ("photometric", "dense")
_ON_MASKS = ("photometric",)
_ON_TARGETS = ("motion-masks",)
# Settings that not every objective reads, and the objectives that do. Others refuse to be told:
# what a run records it has done.
_READERS = {
    **dict.fromkeys(("motion_init", "ssim_weight", "shared_visibility", "sampling"), _ON_PAIRS),
    **dict.fromkeys(("max_gap", "frames", "workers"), _ON_PAIRS),
    "transpose_portrait": _ON_PAIRS,
    "entropy_weight": _ON_MASKS,
    "colour": _ON_TARGETS,
}


def _unread(objective: str) -> dict[str, Any]:
    """The settings that an objective does not read, by their defaults."""
    return {
        name: getattr(TrainingConfig, name)
        for name, readers in _READERS.items()
        if objective not in readers
    }


_CHOICES = {
    "objective": get_args(Objective),
    "sampling": get_args(Sampling),
    "frames": get_args(Frames),
    "motion_init": get_args(MotionInit),
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A whole run: the model and how it is trained."""

    model: AMDConfig
    training: TrainingConfig
    about: str


def paper() -> Preset:
    """Section 4.1: ResNet-50, 16 pairs per step over all GPUs, 400,000 steps.

    Its data, YouTube-VOS, takes 382 GiB at this short edge: no GPU holds it.
    """
    return Preset(
        model=AMDConfig(),
        training=TrainingConfig(frames="loader"),
        about="The paper: ResNet-50, 384x384 crops, 16 pairs a step, 400K steps. 8 GPUs, days.",
    )


# The object channel, taught by what moves: eq. 7 from scratch needs more steps than either preset
# below has, and at that scale it splits frames by place (notes/experiments.md).
_BY_MOTION = TrainingConfig(
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


def single_gpu() -> Preset:
    """What one GPU of the H100 class does in 25 minutes, once the targets are found."""
    return Preset(
        model=AMDConfig(
            backbone="resnet18", head_dilation=2, normalised_volume=True, motion_size=(256, 384)
        ),
        training=dataclasses.replace(
            _BY_MOTION,
            minutes=25.0,
            batch_size=64,
            short_edge=240,
            crop=(224, 320),
            precision="bfloat16",
        ),
        about="One H100-class GPU, 25 minutes: ResNet-18, 224x320 crops, bfloat16, "
        "taught by what moves.",
    )


def cpu() -> Preset:
    """What two CPU cores do in 2 hours, a third of it for finding the targets."""
    return Preset(
        model=AMDConfig(
            backbone="resnet18",
            stage_widths=(64, 128, 256, 256),
            head_dilation=2,
            normalised_volume=True,
            motion_size=(128, 192),
        ),
        training=dataclasses.replace(
            _BY_MOTION,
            steps=7000,
            short_edge=160,
            crop=(128, 192),
            checkpoint_every=200,
            sheet_every=500,
            channels_last=False,
        ),
        about="Two CPU cores, 2 hours: a light ResNet-18, 128x192 crops, taught by what moves.",
    )


PRESETS = {"paper": paper, "single-gpu": single_gpu, "cpu": cpu}
