"""Lessons of pairs of a clip's frames: eq. 7."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.training.adaptation_config import AdaptationConfig
from amd_seg.training.channel import ChannelChoice, choose_object_channel
from amd_seg.training.crops import Chances, Crop
from amd_seg.training.lessons import (
    CHECKS,
    HELD_OUT_EVERY,
    Lessons,
    as_configured,
    plan,
)
from amd_seg.training.objectives import make_objective
from amd_seg.training.pairs import PairBatch, PairDraw
from amd_seg.training.presets import TrainingConfig
from amd_seg.training.stretches import ClipFrames, Stretch

CLEAR_LEAD_IN_A_CLIP = 4.0
"""How much faster than the known object another region must move to take its place: one clip says
less of what is an object than the many that the weights have seen."""

Pair = tuple[int, int, int]
"""Which stretch, first and second frame in it."""


def pair_lessons(
    model: AMD,
    weights: WeightsConfig,
    clip: ClipFrames,
    config: AdaptationConfig,
    training: TrainingConfig,
    *,
    channel: int | None,
) -> Lessons:
    """Make pairs of a clip's frames, at most `config.max_gap` apart.

    Raises:
        DeviceError: a step does not fit the memory.
    """

    def objective(student: AMD) -> nn.Module:
        return as_configured(make_objective(student, training), config)

    def empty(count: int) -> PairBatch:
        frames = torch.empty(count, 3, *training.crop, dtype=torch.uint8)
        return PairBatch(frames, frames.clone(), ())

    memory = plan(model, config, training, objective, empty)
    stream = partial(
        ClipPairs,
        clip.stretches,
        crop=Crop(size=training.crop, scale=training.scale, flip=training.flip),
        batch_size=training.batch_size // memory.accumulate,
        device=model.mean.device,
    )
    learned, held_out = pairs_of(clip.stretches, config.gap_at(clip.frame_rate))
    checks = stream(held_out or learned, seed=config.seed + 1)
    looked_at = stream(learned + held_out, seed=config.seed + 2)

    def choose(kept: AMD, input_size: int) -> ChannelChoice:
        choice = choose_object_channel(kept, looked_at, count=CHECKS)
        if channel is not None:
            return replace(choice, channel=channel)
        return choice.unless_clear(weights.object_channel, lead=CLEAR_LEAD_IN_A_CLIP)

    return Lessons(
        training=replace(training, accumulate=memory.accumulate),
        objective=objective,
        batches=stream(learned, seed=config.seed),
        checks=[next(checks) for _ in range(CHECKS)],
        count=len(learned),
        held_out=len(held_out),
        memory=memory,
        choose=choose,
    )


class ClipPairs(Iterator[PairBatch]):
    """An endless, seeded stream of batches of a clip's pairs.

    Args:
        stretches: the frames.
        pairs: which of them belong together, see `pairs_of`.
        crop: which part of a pair is seen.
        batch_size: pairs of a batch.
        device: where the batches go.
        seed: what all draws follow from.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        pairs: Sequence[Pair],
        crop: Crop,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self._stretches, self._pairs, self._crop = stretches, pairs, crop
        self._batch_size, self._device = batch_size, device
        self._generator = torch.Generator().manual_seed(seed)

    def __next__(self) -> PairBatch:
        size = (self._batch_size,)
        chosen = torch.randint(len(self._pairs), size, generator=self._generator).tolist()
        chances = torch.rand(*size, 4, generator=self._generator).tolist()
        items = [self._pairs[place] for place in chosen]
        draws = [
            PairDraw(clip, first, second, Chances(*row))
            for (clip, first, second), row in zip(items, chances, strict=True)
        ]
        frames = [self._frames(draw).to(self._device) for draw in draws]
        pairs = self._crop(frames, [draw.chances for draw in draws])
        return PairBatch(pairs[:, 0], pairs[:, 1], tuple(self._name(draw) for draw in draws))

    def _frames(self, draw: PairDraw) -> Tensor:
        """Return the two frames of a draw, (2, 3, height, width), uint8."""
        frames = self._stretches[draw.clip].frames[[draw.first, draw.second]]
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def _name(self, draw: PairDraw) -> str:
        numbers = self._stretches[draw.clip].numbers
        return f"frames {numbers[draw.first]}-{numbers[draw.second]}"


def pairs_of(stretches: Sequence[Stretch], max_gap: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to learn from and those that are held out, 1 to `max_gap` frames apart.

    Of a clip with so few pairs that none would be left to learn from, or none is due, nothing is
    held out.
    """
    pairs = [
        (place, first, first + gap)
        for place, stretch in enumerate(stretches)
        for first in range(len(stretch.numbers) - 1)
        for gap in range(1, max_gap + 1)
        if first + gap < len(stretch.numbers)
    ]
    starts = {start: order for order, start in enumerate(dict.fromkeys(pair[:2] for pair in pairs))}
    is_held = [starts[pair[:2]] % HELD_OUT_EVERY == HELD_OUT_EVERY // 2 for pair in pairs]
    held_out = [pair for pair, held in zip(pairs, is_held, strict=True) if held]
    learned = [pair for pair, held in zip(pairs, is_held, strict=True) if not held]
    return (learned, held_out) if learned else (pairs, [])
