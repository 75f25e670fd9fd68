"""Adaptation of a model to one clip: some steps of training on the clip alone (section 4.3)."""

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from amd_seg.device import resolve_precision
from amd_seg.media.video import FrameReader
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training import loop
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.training.channel import ChannelChoice
from amd_seg.training.lessons import Lessons, check_channel
from amd_seg.training.memory import MemoryPlan
from amd_seg.training.pair_lessons import pair_lessons
from amd_seg.training.soup import mean_state
from amd_seg.training.stretches import ClipFrames, gather_frames
from amd_seg.training.target_lessons import target_lessons

logger = logging.getLogger(__name__)

OnStep = Callable[[loop.StepReport], None]

LEAST_EVIDENCE = 0.05
"""Clearness of a clip's motion below which there is nothing to adapt to."""


@dataclass(frozen=True)
class AdaptationReport:
    """What an adaptation did.

    Attributes:
        objective: which one was minimised.
        losses: of each step taken.
        loss_before, loss_after: the mean loss of the released and of the adapted weights on
            `held_out` pairs (or frames) that were not learned from; where that number is 0 the
            clip is too short, and the loss is that of what was learned from.
        held_out: how many.
        lessons: pairs, or frames with a target, that were learned from.
        is_adapted: whether the adapted weights are kept.
        reason: why the released weights are kept, in words; empty where they are not.
        channel: the object channel.
        margin: how much more the object moves than any other region, as a share of that one's
            motion; below 0 where another one moves more and the known channel was trusted.
        evidence: how clear the clip's motion is, 0..1 (objective mover, else None).
        memory: how steps were made to fit.
        seconds: "frames", "lessons", "steps" and "checks": wall-clock time of each part.
    """

    objective: str
    losses: tuple[float, ...] = field(repr=False)
    loss_before: float
    loss_after: float
    held_out: int
    lessons: int
    is_adapted: bool
    reason: str
    channel: int
    margin: float
    evidence: float | None
    memory: MemoryPlan
    seconds: dict[str, float]

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return len(self.losses)


@dataclass(frozen=True)
class Adaptation:
    """A model for one clip."""

    model: AMD
    """A model of its own, in eval mode, on the device of the one that was given."""
    weights: WeightsConfig
    """Its settings: object channel and input size are the clip's."""
    report: AdaptationReport


def adapt(
    model: AMD,
    weights: WeightsConfig,
    clip: FrameReader,
    config: AdaptationConfig | None = None,
    *,
    channel: int | None = None,
    on_step: OnStep | None = None,
) -> Adaptation:
    """Adapt a copy of a model to a clip; the model itself stays as it is.

    Args:
        model: the released model, on the device where the steps are taken.
        weights: its settings.
        clip: is read once; one that shrinks frames to `config.frame_size` itself saves time.
        config: how to adapt; None takes the default.
        channel: the object's region; None chooses it, with that of the weights as prior.
        on_step: called after each step; where it raises `StopTraining`, what has been learned so
            far is the result.

    Raises:
        InputError: nothing moves in the clip, or there is no such region.
        MediaError: the clip cannot be read.
        DeviceError: a step does not fit the memory.
        TrainingDivergedError: the loss is not finite.
    """
    config = config or AdaptationConfig()
    check_channel(channel, weights)
    clock = _Clock()
    with _own_randomness(config.seed, model.mean.device):
        frames = gather_frames(clip, config, short_edge=config.frame_size(weights.input_size))
        clock.lap("frames")
        lessons = _lessons(model, weights, frames, config, channel)
        clock.lap("lessons")
        student = _student(model, lessons.memory)
        outcome = _learn(student, model, lessons, config, on_step, clock)
        reason = outcome.reason if config.guard else ""
        kept = copy.deepcopy(model).eval() if reason else _finished(student, model)
        size = weights.input_size if reason else config.adapted_size(weights.input_size)
        choice = lessons.choose(kept, size)
        clock.lap("checks")
    if reason:
        logger.warning("%s: %s The released weights are kept.", clip.source, reason)
    report = _report(outcome, lessons, choice, reason, clock.seconds)
    settings = replace(weights, object_channel=choice.channel, input_size=size, sha256="")
    if report.is_adapted:
        settings = _named(settings, config, report, clip.source)
    return Adaptation(kept, settings, report)


def _report(
    outcome: "_Outcome",
    lessons: Lessons,
    choice: ChannelChoice,
    reason: str,
    seconds: dict[str, float],
) -> AdaptationReport:
    return AdaptationReport(
        objective=lessons.training.objective,
        losses=outcome.losses,
        loss_before=outcome.before,
        loss_after=outcome.after,
        held_out=lessons.held_out,
        lessons=lessons.count,
        is_adapted=not reason,
        reason=reason,
        channel=choice.channel,
        margin=choice.margin,
        evidence=lessons.evidence,
        memory=lessons.memory,
        seconds=seconds,
    )


def _lessons(
    model: AMD,
    weights: WeightsConfig,
    frames: ClipFrames,
    config: AdaptationConfig,
    channel: int | None,
) -> Lessons:
    training = config.training(frames.crop_size(config.learning_size(weights.input_size)))
    make = target_lessons if config.objective == "mover" else pair_lessons
    return make(model, weights, frames, config, training, channel=channel)


@dataclass(frozen=True)
class _Outcome:
    """What the steps brought."""

    losses: tuple[float, ...]
    before: float
    after: float
    reason: str
    """Why the adapted weights are not to be used, in words; empty where they are."""


def _learn(
    student: AMD,
    model: AMD,
    lessons: Lessons,
    config: AdaptationConfig,
    on_step: OnStep | None,
    clock: "_Clock",
) -> _Outcome:
    """Take the steps, unless there is nothing to learn; compare the model before and the result."""
    objective = lessons.objective(student)
    before = _mean_loss(objective, lessons.checks, config.precision)
    clock.lap("checks")
    if config.guard and lessons.evidence is not None and lessons.evidence < LEAST_EVIDENCE:
        reason = f"Hardly anything in it moves on its own (evidence {lessons.evidence:.2f})."
        return _Outcome((), before, before, reason)
    losses = _steps(objective, lessons, on_step)
    if config.share < 1:
        states = student.state_dict(), model.state_dict()
        student.load_state_dict(mean_state(states, (config.share, 1 - config.share)))
    clock.lap("steps")
    after = _mean_loss(objective, lessons.checks, config.precision)
    reason = ""
    # Not "after >= before": a loss that is no number is no progress either.
    if not after < before:
        where = "frames that it did not learn from" if lessons.held_out else "its frames"
        reason = f"The loss on {where} did not fall ({before:.4f} before, {after:.4f} after)."
    return _Outcome(losses, before, after, reason)


def _steps(objective: nn.Module, lessons: Lessons, on_step: OnStep | None) -> tuple[float, ...]:
    """Take the steps, and return the loss of each."""
    losses: list[float] = []

    def after_step(report: loop.StepReport) -> None:
        losses.append(report.parts["loss"])
        if on_step is not None:
            on_step(report)

    state = loop.start(objective, lessons.training)
    try:
        loop.optimize(state, lessons.batches, lessons.training, on_step=after_step)
    except loop.StopTraining:
        logger.info("Stopped after %d of %d steps.", state.step, lessons.training.steps)
    return tuple(losses)


def _student(model: AMD, plan: MemoryPlan) -> AMD:
    """A copy whose steps fit the memory."""
    student = copy.deepcopy(model).requires_grad_(True)
    student.config = replace(model.config, motion_size=plan.motion_size)
    student.appearance.backbone.is_checkpointed = plan.is_checkpointed
    return student


def _finished(student: AMD, model: AMD) -> AMD:
    """The student as a model like any other."""
    student.config = model.config
    student.appearance.backbone.is_checkpointed = False
    return student.eval().requires_grad_(False)


@torch.no_grad()
def _mean_loss(objective: nn.Module, batches: Sequence[Any], precision: str) -> float:
    """The mean loss over batches, BatchNorm and dropout as in use."""
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    dtype = resolve_precision(precision, device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        losses: list[float] = [objective(batch, 1.0, 0)["loss"].item() for batch in batches]
    objective.train(was_training)
    return sum(losses) / len(losses)


def _named(
    weights: WeightsConfig, config: AdaptationConfig, report: AdaptationReport, source: str
) -> WeightsConfig:
    """Say in the settings what the weights have learned from."""
    about = {"to": source, **dataclasses.asdict(config), "steps": report.steps}
    return replace(
        weights,
        name=f"{weights.name}-adapted",
        training={**weights.training, "adapted": about},
    )


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from generators of a seed inside, and leave those outside as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


class _Clock:
    """Wall-clock seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last call as that of a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
