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

from amd_seg.colour_model import iou, redrawn_where_agreed
from amd_seg.training.consensus import vote
from amd_seg.training.consent import consent
from amd_seg.training.movers import MoverConfig, mover_targets
from amd_seg.training.stretches import Stretch
from amd_seg.training.targets import TargetClip

FULL_CONSENT = 0.5
"""Share of the network's object that moves from which its opinion counts in full: it often sees
more than moves at a time, but where next to none of it moves it looks at another thing."""
LEAST_MOTION = 0.05
"""Confidence below which the motion of a frame says nothing."""
LEAST_TRUST = 0.1
"""What the voice of such a frame still counts in the vote."""


@dataclass(frozen=True)
class MotionEvidence:
    """What moves on its own in some frames of a clip.

    Attributes:
        numbers: of the frames in their clip.
        frames: (frame, height, width, 3), RGB uint8.
        maps: (frame, height, width), float32, 0..1: probability of a mover; 0.5 throughout
            where the motion says nothing.
        confidence: (frame,), float32, 0..1; 0 where the motion says nothing.
    """

    numbers: tuple[int, ...]
    frames: NDArray[np.uint8]
    maps: NDArray[np.float32]
    confidence: NDArray[np.float32]


def find_motion(
    stretches: Sequence[Stretch], *, most: int, frame_rate: float | None
) -> MotionEvidence:
    """Look for movers on at most `most` frames, spread evenly over the stretches."""
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
        maps=np.concatenate([part.maps for part in parts]),
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
    return MotionEvidence(numbers, frames, maps, confidence)


def agreed_targets(motion: MotionEvidence, saliency: NDArray[np.float32], name: str) -> TargetClip:
    """Join motion and the network's opinion into targets, with the clip's own consent.

    Args:
        motion: what moves.
        saliency: (frame, height, width), float32, 0..1: the object as the network sees it.
        name: of the clip.
    """
    trust = trust_in_network(motion, saliency)
    words = zip(saliency, motion.maps, strict=True)
    joined = [consent(seen, moving, trust=trust)[0] for seen, moving in words]
    voted = vote(motion.frames, joined, (LEAST_TRUST + motion.confidence).tolist())
    targets = [redrawn_where_agreed(f, m) for f, m in zip(motion.frames, voted, strict=True)]
    agreement = [iou(a > 0.5, b > 0.5) for a, b in zip(joined, targets, strict=True)]
    masks = np.rint(np.stack(targets) * 255).astype(np.uint8)
    return TargetClip(
        name,
        motion.numbers,
        torch.from_numpy(motion.frames).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(masks).unsqueeze(1),
        torch.tensor(agreement).clamp_min(0.05),
    )


def trust_in_network(motion: MotionEvidence, saliency: NDArray[np.float32]) -> float:
    """How far the network's object is among what moves, 0..1, the full trust.

    0 also where it sees no object at all: then it has not looked, rather than found nothing.
    """
    moving = inside = 0
    for mover, object_, certain in zip(motion.maps, saliency, motion.confidence, strict=True):
        if certain > 0:
            inside += int((object_ > 0.5).sum())
            moving += int(((object_ > 0.5) & (mover > 0.5)).sum())
    return min(1.0, moving / inside / FULL_CONSENT) if inside else 0.0
