"""What the object of one clip is, frame by frame: motion, the network's opinion, their agreement.

The teacher of `--objective mover` looks at one frame and its neighbours; for a whole clip more is
known. Its evidence is joined with what the released network sees, the frames of the clip vote on
what looks alike, and a colour model redraws the outlines where it agrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.training.consensus import vote
from amd_seg.training.movers import MoverConfig, mover_targets
from amd_seg.training.stretches import Stretch
from amd_seg.training.targets import TargetClip

Maps = list[NDArray[np.float32]]
"""One map a frame, (height, width), 0..1."""

MOTION_RANGE = (0.15, 0.85)
"""How sure motion alone can be."""
NETWORK_RANGE = (0.03, 0.97)
"""How sure the network alone can be."""
FULL_CONSENT = 0.5
"""Share of the network's object that moves from which its opinion counts in full: it often sees
more than moves at a time, but where next to none of it moves it looks at another thing."""
LEAST_MOTION = 0.05
"""Confidence below which the motion of a frame says nothing."""
LEAST_TRUST = 0.1
"""What the voice of such a frame still counts in the vote."""
SURE_BACKGROUND = 0.15
"""Probability below which the colour model takes a pixel for background."""
REDRAWN_AGREEMENT = 0.6
"""IoU of redrawn and given mask from which the redrawn one is taken."""
REDRAWN_WEIGHT = 0.75
"""Share of the redrawn mask in a target where it is taken."""
FEWEST_PIXELS = 32
"""Pixels of an object that a colour model can start from."""


@dataclass(frozen=True)
class MotionEvidence:
    """What moves on its own in some frames of a clip.

    Attributes:
        numbers: of the frames in their clip.
        frames: (frame, height, width, 3), RGB uint8.
        maps: probability of a mover; 0.5 throughout where the motion says nothing.
        confidence: (frame,), float32, 0..1; 0 where the motion says nothing.
    """

    numbers: tuple[int, ...]
    frames: NDArray[np.uint8]
    maps: Maps
    confidence: NDArray[np.float32]


def find_motion(
    stretches: Sequence[Stretch], *, most: int, frame_rate: float | None
) -> MotionEvidence:
    """Look for movers on at most `most` frames, spread evenly over the stretches.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    config = MoverConfig(grabcut=False, min_confidence=LEAST_MOTION)
    config = config if frame_rate is None else config.at_rate(frame_rate)
    lengths = [len(stretch.numbers) for stretch in stretches]
    total = sum(lengths)
    wanted = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
    begins = np.cumsum([0, *lengths[:-1]])
    parts = [
        _motion_of(stretch, wanted[(wanted >= begin) & (wanted < begin + length)] - begin, config)
        for stretch, begin, length in zip(stretches, begins, lengths, strict=True)
    ]
    return MotionEvidence(
        numbers=tuple(number for part in parts for number in part.numbers),
        frames=np.concatenate([part.frames for part in parts]),
        maps=[motion for part in parts for motion in part.maps],
        confidence=np.concatenate([part.confidence for part in parts]),
    )


def _motion_of(stretch: Stretch, wanted: NDArray[np.int64], config: MoverConfig) -> MotionEvidence:
    """Look at some frames of one stretch."""
    found = mover_targets(stretch.frames, config, among=wanted.tolist())
    frames = stretch.frames[wanted]
    maps = np.full(frames.shape[:3], 0.5, np.float32)
    confidence = np.zeros(len(wanted), np.float32)
    rows = np.searchsorted(wanted, found.indices)
    maps[rows] = found.masks.astype(np.float32) / np.float32(255)
    confidence[rows] = found.confidence
    numbers = tuple(stretch.numbers[place] for place in wanted)
    return MotionEvidence(numbers, frames, list(maps), confidence)


def agreed_targets(motion: MotionEvidence, saliency: Maps, name: str) -> TargetClip:
    """Join motion and the network's opinion into targets, with the clip's own consent.

    Args:
        motion: what moves.
        saliency: the object as the network sees it, of the same frames.
        name: of the clip.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    joined = join(motion, saliency, consent(motion, saliency))
    voted = vote(motion.frames, joined, (LEAST_TRUST + motion.confidence).tolist())
    targets = [_redrawn(f, m) for f, m in zip(motion.frames, voted, strict=True)]
    agreement = [iou(a > 0.5, b > 0.5) for a, b in zip(joined, targets, strict=True)]
    masks = np.rint(np.stack(targets) * 255).astype(np.uint8)
    return TargetClip(
        name,
        motion.numbers,
        torch.from_numpy(motion.frames).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(masks).unsqueeze(1),
        torch.tensor(agreement).clamp_min(0.05),
    )


def consent(motion: MotionEvidence, saliency: Maps) -> float:
    """How far the network's object is among what moves, 0..1."""
    moving = inside = 0
    for mover, object_, certain in zip(motion.maps, saliency, motion.confidence, strict=True):
        if certain > 0:
            inside += int((object_ > 0.5).sum())
            moving += int(((object_ > 0.5) & (mover > 0.5)).sum())
    return min(1.0, moving / inside / FULL_CONSENT) if inside else 1.0


def join(motion: MotionEvidence, saliency: Maps, weight: float) -> Maps:
    """Add the log-odds of both, the network's times its weight."""
    return [
        _probability(_log_odds(mover, MOTION_RANGE) + weight * _log_odds(object_, NETWORK_RANGE))
        for mover, object_ in zip(motion.maps, saliency, strict=True)
    ]


def _redrawn(frame: NDArray[np.uint8], voted: NDArray[np.float32]) -> NDArray[np.float32]:
    mask = voted > 0.5
    if mask.sum() < FEWEST_PIXELS:
        return voted
    redrawn = redraw_by_colour(frame, mask, voted < SURE_BACKGROUND, rounds=1)
    if iou(redrawn, mask) < REDRAWN_AGREEMENT:
        return voted
    weight = np.float32(REDRAWN_WEIGHT)
    return weight * redrawn.astype(np.float32) + (1 - weight) * voted


def _log_odds(probability: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float32]:
    clipped = np.clip(probability, *limits)
    odds: NDArray[np.float32] = np.log(clipped / (1 - clipped))
    return odds


def _probability(log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-log_odds))).astype(np.float32)
