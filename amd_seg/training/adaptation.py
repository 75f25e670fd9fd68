"""Adaptation of a model to one clip (section 4.3): by what moves in it, or by eq. 7."""

import copy
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.device import fastest_precision, resolve_precision
from amd_seg.errors import DeviceError, InputError
from amd_seg.media.video import FrameReader
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.clip_masks import (
    ClipFrames,
    agreed_masks,
    find_motion,
    flip_averaged_regions,
    gather_frames,
)
from amd_seg.training.config import AdaptationConfig, TrainingConfig
from amd_seg.training.crops import crop_pairs
from amd_seg.training.loop import OnStep, StepReport, StopTraining, TrainState, optimize
from amd_seg.training.masked_images import MaskBatches, MaskedImage
from amd_seg.training.objectives import ChannelChoice, choose_object_channel, make_objective
from amd_seg.training.pairs import PairBatch

logger = logging.getLogger(__name__)

LEAST_EVIDENCE = 0.05  # clearness of a clip's motion below which there is nothing to adapt to
CHECKS = 4  # batches whose loss is compared before and after
HELD_OUT = slice(2, None, 5)  # frames, or first frames of pairs, that are not learned from
SHOWING_SHARE = 0.3  # of the steps: they teach what clicks mean, before other frames are seen
# Where eq. 7 has not lost the object: the least motion of its region after it, and the least and
# the largest area, as shares of those before.
KEPT_MOTION, LEAST_AREA, LARGEST_AREA = 0.9, 0.25, 1.4
# How much faster another region must move to take the object's place: one clip says little.
CLEAR_LEAD = 4.0


@dataclass(frozen=True)
class AdaptationReport:
    """What an adaptation did."""

    objective: str
    losses: tuple[float, ...] = field(repr=False)  # of each step taken
    loss_before: float
    """Mean loss of the released weights on `held_out` pairs or frames that were not learned from;
    of a clip too short for that, on those that were."""
    loss_after: float  # the same of the adapted weights
    held_out: int
    examples: int  # pairs, or frames with a mask, that were learned from
    is_adapted: bool  # whether the adapted weights are kept
    reason: str  # why the released weights are kept; empty where they are not
    channel: int  # of the object
    margin: float
    """How much more the object moves than any other region, as a share of that one's motion; below
    0 where another one moves more and the known channel was trusted."""
    evidence: float | None  # how clear the motion is, 0..1 (objective motion-masks, else None)
    seconds: dict[str, float]  # wall-clock time of "frames", "examples", "steps" and "checks"

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return len(self.losses)


@dataclass(frozen=True)
class Adaptation:
    """A model for one clip."""

    model: AMD  # of its own, in eval mode, on the device of the one that was given
    weights: WeightsConfig  # object channel and input size are the clip's
    report: AdaptationReport


CertainMask = Callable[[Tensor | None], tuple[Tensor, Tensor]]
"""Gives a frame (3, height, width), uint8, and its certain mask (1, height, width), uint8, from the
mask (1, h, w), uint8, that was found without clicks; None where there is none."""

Batches = Callable[[TrainingConfig], Iterator[Any]]  # the stream of micro-batches for settings
Pair = tuple[int, int, int]  # which chunk, first and second frame in it


class _Examples(NamedTuple):
    """What a model learns from one clip."""

    batches: Batches
    checks: Sequence[Any]  # batches whose loss is compared before and after the steps
    learned: int  # how many
    held_out: int
    choose: Callable[[AMD, int], ChannelChoice]  # for the model that is kept and an input size
    evidence: float | None = None


def adapt(
    model: AMD,
    weights: WeightsConfig,
    clip: FrameReader,
    config: AdaptationConfig | None = None,
    *,
    channel: int | None = None,
    clicked: Mapping[int, CertainMask] | None = None,
    on_step: OnStep | None = None,
) -> Adaptation:
    """Adapt a copy of a model to a clip; the model itself stays as it is.

    Args:
        model: on the device where the steps are taken.
        clip: one that shrinks frames to `config.clip_size` itself saves time. It is read once, and
            again where eq. 7 loses the object in frames smaller than the model sees: then all
            steps are taken anew on frames as large.
        channel: the object's region; None chooses it, with that of the weights as prior.
        clicked: by its number, what makes the mask of each frame that a person has clicked in
            (objective motion-masks): half of what is learned, which is kept without a guard then.
        on_step: called after each step; where it raises `StopTraining`, the result is what has been
            learned so far.

    Raises:
        InputError: nothing moves in the clip, there is no such region, or no mask is learned.
        MediaError: the clip cannot be read.
        DeviceError: a step does not fit the memory.
        TrainingDivergedError: the loss is not finite.
    """
    config, device = config or AdaptationConfig(), model.mean.device
    if config.precision == "auto":
        config = replace(config, precision=fastest_precision(device))
    if clicked:
        config = replace(config, guard=False)
        if config.objective != "motion-masks":
            raise InputError(
                f"Clicks make masks, and the objective {config.objective!r} learns from none. "
                "Take motion-masks, or drop the clicks."
            )
    taught, regions = weights.object_channel if channel is None else channel, weights.model.regions
    if not 0 <= taught < regions:
        raise InputError(
            f"channel is {taught}, but {weights.name or 'the model'} has {regions} regions. "
            f"Give 0 to {regions - 1}."
        )
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def took(part: str) -> None:
        nonlocal began
        began, before = time.perf_counter(), began
        seconds[part] = seconds.get(part, 0.0) + began - before

    # The generators outside stay as they were.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        frames = gather_frames(clip, config, short_edge=config.frame_size(weights))
        crop = frames.crop_size(config.learning_size(weights))
        training = _training_config(config, crop)
        took("frames")
        if config.objective == "motion-masks":
            examples = _masks(model, taught, weights, frames, config, training, clicked)
        else:
            examples = _pairs(model, taught, channel is not None, frames, config, training)
        took("examples")
        adapted = released = copy.deepcopy(model).eval()
        before, losses = _mean_loss(released, taught, examples.checks, training), list[float]()
        took("checks")
        is_moving = examples.evidence is None or examples.evidence >= LEAST_EVIDENCE
        if is_moving or not config.guard:
            adapted, losses = _learn(model, taught, examples.batches, config, training, on_step)
        took("steps")
        after = _mean_loss(adapted, taught, examples.checks, training)
        reason = _objection(examples, losses, before, after) if config.guard else ""
        lost = ""
        kept, size = adapted, config.adapted_size(weights)
        choice = examples.choose(kept, size)
        if reason or (config.guard and config.objective == "photometric"):
            known = examples.choose(released, weights.input_size)
            lost = "" if reason else _loss_of_object(known, choice)
            if reason or lost:
                kept, size, choice = released, weights.input_size, known
        took("checks")
    learned_at = config.learning_size(weights)
    if lost and learned_at < weights.input_size and len(losses) == config.steps:
        text = "%s: %s It is tried again on frames of %d pixels in place of %d."
        logger.info(text, clip.source, lost, weights.input_size, learned_at)
        larger = replace(config, size=weights.input_size)
        again = adapt(model, weights, clip, larger, channel=channel, on_step=on_step)
        both = {part: spent + seconds[part] for part, spent in again.report.seconds.items()}
        return replace(again, report=replace(again.report, seconds=both))
    if reason := reason or lost:
        logger.warning("%s: %s The released weights are kept.", clip.source, reason)
    report = AdaptationReport(
        objective=config.objective,
        losses=tuple(losses),
        loss_before=before,
        loss_after=after,
        held_out=examples.held_out,
        examples=examples.learned,
        is_adapted=not reason,
        reason=reason,
        channel=choice.channel,
        margin=choice.margin,
        evidence=examples.evidence,
        seconds=seconds,
    )
    settings = replace(weights, object_channel=choice.channel, input_size=size, sha256="")
    if report.is_adapted:
        about = {"to": clip.source, **dataclasses.asdict(config), "steps": report.steps}
        learned = {**weights.training, "adapted": about}
        settings = replace(settings, name=f"{weights.name}-adapted", training=learned)
    return Adaptation(kept, settings, report)


def _objection(examples: _Examples, losses: Sequence[float], before: float, after: float) -> str:
    """Why the released weights are kept, if they are."""
    if not losses:
        return f"Hardly anything in it moves on its own (evidence {examples.evidence:.2f})."
    if after < before:  # Of a loss that is no number neither is true.
        return ""
    where = "frames that it did not learn from" if examples.held_out else "its frames"
    return f"The loss on {where} did not fall ({before:.4f} before, {after:.4f} after)."


def _loss_of_object(before: ChannelChoice, after: ChannelChoice) -> str:
    """Say that eq. 7 has lost the object, if its region moves less on its own, or has another size.

    The loss falls too where the region takes ground along, or becomes empty.
    """
    (moved, was), (moves, area) = (
        (choice.motion[choice.channel], choice.area[choice.channel]) for choice in (before, after)
    )
    lost = "The object was lost: its region"
    if moves < KEPT_MOTION * moved:
        return f"{lost} moved {moved:.2g} pixels on its own, now {moves:.2g}."
    if not LEAST_AREA * was <= area <= LARGEST_AREA * was:
        return f"{lost} was {was:.1%} of the frame, now {area:.1%}."
    return ""


def _training_config(config: AdaptationConfig, crop: tuple[int, int]) -> TrainingConfig:
    by_masks = config.objective == "motion-masks"
    return TrainingConfig(
        steps=config.steps,
        objective=config.objective,
        optimizer="adamw" if by_masks else "adam",
        learning_rate=config.learning_rate,
        final_learning_rate=config.learning_rate / 100,
        weight_decay=0.01 if by_masks else 1e-6,
        warmup_steps=min(5, config.steps // 10),
        gradient_clip=1.0,
        batch_size=config.batch_size,
        crop=crop,
        scale=config.scale,
        precision="float32" if config.precision == "auto" else config.precision,
        seed=config.seed,
    )


def _learn(
    model: AMD,
    channel: int,
    batches: Batches,
    config: AdaptationConfig,
    training: TrainingConfig,
    on_step: OnStep | None,
) -> tuple[AMD, list[float]]:
    """Take the steps on a copy of the model, and return it with the loss of each step.

    Where the device runs out of memory, all begins anew in smaller micro-batches.
    """
    losses: list[float] = []

    def after_step(report: StepReport) -> None:
        losses.append(report.parts["loss"])
        if on_step is not None:
            on_step(report)

    for accumulate in range(1, training.batch_size + 1):
        if training.batch_size % accumulate:
            continue
        losses.clear()
        student = copy.deepcopy(model).requires_grad_(True)
        settings = replace(training, accumulate=accumulate)
        try:
            state = TrainState(make_objective(student, settings, channel), settings)
            # BatchNorm's statistics stay as released: a clip is too little to estimate them from.
            state.objective.eval()
            optimize(state, batches(settings), settings, on_step=after_step)
        except StopTraining:
            logger.info("Stopped after %d of %d steps.", state.step, settings.steps)
        except torch.OutOfMemoryError:
            logger.info("A step does not fit the memory in %d micro-batch(es).", accumulate)
            continue
        if config.blend < 1:
            before = model.state_dict()
            for name, value in student.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(before[name], 1 - config.blend)
        return student.requires_grad_(False), losses
    raise DeviceError(
        f"A step does not fit the memory of {model.mean.device}, not even with one crop of "
        f"{training.crop[0]}x{training.crop[1]} at a time. Free memory, or take smaller weights."
    )


@torch.no_grad()
def _mean_loss(model: AMD, channel: int, batches: Sequence[Any], config: TrainingConfig) -> float:
    """The mean loss over batches, in eval mode."""
    objective, device = make_objective(model, config, channel).eval(), model.mean.device
    dtype = resolve_precision(config.precision, device)
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        losses: list[float] = [objective(batch, 1.0)["loss"].item() for batch in batches]
    return sum(losses) / len(losses)


def _masks(
    model: AMD,
    taught: int,
    weights: WeightsConfig,
    clip: ClipFrames,
    config: AdaptationConfig,
    training: TrainingConfig,
    clicked: Mapping[int, CertainMask] | None,
) -> _Examples:
    """Find masks of what moves on some `config.targets` frames, and of those clicked in."""
    device, clicked = model.mean.device, clicked or {}
    motion = find_motion(clip, most=config.targets, among=clicked)
    pixels = torch.from_numpy(motion.frames).permute(0, 3, 1, 2).contiguous()

    def regions_by(seeing: AMD, size: int) -> NDArray[np.float32]:
        return flip_averaged_regions(seeing, pixels, size=size, precision=config.precision).numpy()

    def choose(kept: AMD, size: int) -> ChannelChoice:
        # How likely the pixels of each region move on their own, weighed by confidence.
        regions, trust = regions_by(kept, size), motion.confidence[:, None, None, None]
        moving = (regions * motion.maps[:, None] * trust).sum(axis=(0, 2, 3))
        total = (regions * trust).sum(axis=(0, 2, 3))
        return ChannelChoice(taught, tuple((moving / np.maximum(total, 1e-9)).tolist()))

    features = torch.cat([model.local_features(frame[None].to(device)).cpu() for frame in pixels])
    seen = regions_by(model, weights.input_size)[:, taught]
    masks = agreed_masks(motion, seen, features, clip.source)
    sure: list[list[MaskedImage]] = []
    if clicked:
        found = {number: image.mask for number, image in zip(motion.numbers, masks, strict=True)}
        certain = {number: make(found.get(number)) for number, make in clicked.items()}
        sure = [[MaskedImage(f"{clip.source}:{n}", *pair) for n, pair in certain.items()]]
        # A copy first learns which object is meant, from the certain masks alone.
        first = replace(training, steps=max(1, round(SHOWING_SHARE * config.steps)))
        seeing, _ = _learn(
            model, taught, lambda each: MaskBatches([sure], each, device), config, first, None
        )
        seen = regions_by(seeing, config.adapted_size(weights))[:, taught]
        masks = agreed_masks(motion, seen, features, clip.source)
    learned, held_out = list(masks), masks[HELD_OUT]
    del learned[HELD_OUT]
    aside = replace(training, seed=config.seed + 1)
    checks = islice(MaskBatches([[held_out or learned]], aside, device), CHECKS)

    def batches(settings: TrainingConfig) -> MaskBatches:
        return MaskBatches([[learned], sure], settings, device)

    evidence = float(motion.confidence.mean())
    return _Examples(batches, list(checks), len(learned), len(held_out), choose, evidence)


def _pairs(
    model: AMD,
    known: int,
    is_certain: bool,
    clip: ClipFrames,
    config: AdaptationConfig,
    training: TrainingConfig,
) -> _Examples:
    """Make pairs of the clip's frames, at most `config.max_gap` apart."""
    device, max_gap = model.mean.device, config.gap_at(clip.frame_rate)
    starts = [
        [(place, first, second) for second in range(first + 1, min(first + max_gap + 1, length))]
        for place, length in enumerate(len(chunk.numbers) for chunk in clip.chunks)
        for first in range(length - 1)
    ]
    held_out = [pair for pairs in starts[HELD_OUT] for pair in pairs]
    del starts[HELD_OUT]
    learned = [pair for pairs in starts for pair in pairs]

    def stream(pairs: Sequence[Pair], settings: TrainingConfig, seed: int) -> Iterator[PairBatch]:
        count = settings.batch_size // settings.accumulate
        generator = torch.Generator().manual_seed(seed)
        while True:
            chosen = torch.randint(len(pairs), (count,), generator=generator).tolist()
            chances = torch.rand(count, 4, generator=generator).tolist()
            frames, names = [], []
            for place, *both in (pairs[item] for item in chosen):
                numbers, pixels = clip.chunks[place]
                frames.append(torch.from_numpy(pixels[both]).permute(0, 3, 1, 2).to(device))
                names.append("frames {}-{}".format(*(numbers[row] for row in both)))
            cut = crop_pairs(frames, chances, settings)
            yield PairBatch(cut[:, 0], cut[:, 1], tuple(names))

    checks = islice(stream(held_out or learned, training, config.seed + 1), CHECKS)
    looked_at = list(islice(stream(learned + held_out, training, config.seed + 2), CHECKS))

    def choose(kept: AMD, _: int) -> ChannelChoice:
        choice = choose_object_channel(kept, looked_at)
        if is_certain:
            return replace(choice, channel=known)
        return choice.unless_clear(known, lead=CLEAR_LEAD)

    def batches(settings: TrainingConfig) -> Iterator[PairBatch]:
        return stream(learned, settings, config.seed)

    return _Examples(batches, list(checks), len(learned), len(held_out), choose)
