"""The motion teacher: which pixels of a clip's frames move on their own, found without learning."""

import dataclasses
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.errors import ConfigError, MediaError
from amd_seg.training.background import (
    Flow,
    dis_flow,
    pair_evidence,
    resize,
    resize_frames,
    scaled_size,
)

REFERENCE_RATE = 24.0
"""Frames a second for which the gaps of `MoverConfig` are given."""
_Window = Mapping[int, NDArray[np.uint8]]
"""Some frames of a clip, by their numbers."""
SURE_BACKGROUND = 0.3
"""Residual, in units of the pair's threshold, below which a pixel cannot be an object."""


@dataclass(frozen=True, kw_only=True)
class MoverConfig:
    """How the targets are found.

    Raises:
        ConfigError: a value cannot be used.
    """

    partners: tuple[int, ...] = (1, -1, 2, -2, 4, -4)
    """Gaps, in frames, to the frames that each target's frame is compared with."""
    every: int = 3
    """A target is looked for on each n-th frame."""
    work_height: int = 240
    """Short edge, in pixels, at which flow and masks are computed; frames are never enlarged."""
    mask_height: int | None = None
    """Short edge, in pixels, of the masks returned; None is the frames' own."""
    min_motion: float = 0.5
    """Mean residual inside a pair's mask, in pixels of the work size, below which it is noise."""
    min_confidence: float = 0.2
    """Confidence below which a frame has no target."""
    grabcut: bool = True
    """Redraw the mask by a colour model of its frame, where the two agree."""
    grabcut_rounds: int = 1
    """Rounds of that colour model; more cost time and change little."""
    grabcut_agreement: float = 0.2
    """IoU of redrawn and motion mask from which the redrawn one is taken, 0..1."""
    grabcut_weight: float = 0.75
    """Share of the redrawn mask in the target where it is taken; the rest is the motion's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "partners", tuple(self.partners))
        _require(
            bool(self.partners) and 0 not in self.partners,
            "partners",
            self.partners,
            "one or more gaps other than 0",
        )
        _require(self.every >= 1, "every", self.every, "1 or more")
        _require(self.work_height >= 16, "work_height", self.work_height, "16 or more")
        _require(
            self.mask_height is None or self.mask_height >= 16,
            "mask_height",
            self.mask_height,
            "16 or more, or None",
        )
        _require(self.min_motion >= 0, "min_motion", self.min_motion, "0 or more")
        _require(self.grabcut_rounds >= 1, "grabcut_rounds", self.grabcut_rounds, "1 or more")
        for name in ("min_confidence", "grabcut_agreement", "grabcut_weight"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")

    def at_rate(self, frame_rate: float) -> "MoverConfig":
        """Scale the gaps so that they last as long at this frame rate as at `REFERENCE_RATE`."""
        scale = frame_rate / REFERENCE_RATE
        gaps = {_signed_round(gap * scale): None for gap in self.partners}
        return dataclasses.replace(
            self, partners=tuple(gaps), every=max(1, round(self.every * scale))
        )


@dataclass(frozen=True)
class MoverTargets:
    """The targets of one clip; frames without clear motion have none.

    Attributes:
        indices: (target,), int64, the frame of each target, counted from 0.
        masks: (target, height, width), uint8, probability of a mover in 0..255.
        confidence: (target,), float32, 0..1: share of the partners whose motion is clear, times
            their mean IoU with the mask that they agree on.
    """

    indices: NDArray[np.int64]
    masks: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def mover_targets(
    frames: Iterable[NDArray[np.uint8]],
    config: MoverConfig | None = None,
    flow: Flow = dis_flow,
    *,
    among: Collection[int] | None = None,
) -> MoverTargets:
    """Find what moves on its own in the frames of a clip.

    Each frame is compared with its partners: what a homography of the flow leaves over is a
    mask per pair, pairs without a clear mask are dropped, and the others are averaged. No more
    frames are held than the partners of one reach, however long the clip.

    Args:
        frames: each (height, width, 3), RGB uint8, all of one size.
        config: how to look; the default was chosen on clips of 24 frames a second.
        flow: the dense flow, see `Flow`.
        among: the frames that a target is looked for on; None takes each `config.every`-th.
    """
    config = config or MoverConfig()
    size = (0, 0)
    indices, masks, confidence = [], [], []
    for index, size, window in _windows(frames, config):
        is_due = index % config.every == 0 if among is None else index in among
        target = _frame_target(window, index, config, flow) if is_due else None
        if target is not None:
            indices.append(index)
            masks.append(_to_bytes(target[0], size))
            confidence.append(target[1])
    return MoverTargets(
        indices=np.array(indices, dtype=np.int64),
        masks=np.array(masks, dtype=np.uint8).reshape(len(masks), *size),
        confidence=np.array(confidence, dtype=np.float32),
    )


def _windows(
    frames: Iterable[NDArray[np.uint8]], config: MoverConfig
) -> Iterator[tuple[int, tuple[int, int], _Window]]:
    """Yield each frame's number, the size of its mask, and the small frames around it."""
    reach = max(map(abs, config.partners))
    window: dict[int, NDArray[np.uint8]] = {}
    number, size = -1, (0, 0)
    for number, frame in enumerate(frames):
        size = scaled_size(frame.shape[:2], config.mask_height)
        window[number] = resize_frames(frame[None], config.work_height)[0]
        if number >= reach:
            yield number - reach, size, window
            window.pop(number - 2 * reach, None)
    for last in range(max(0, number - reach + 1), number + 1):
        yield last, size, window


def _frame_target(
    frames: _Window, index: int, config: MoverConfig, flow: Flow
) -> tuple[NDArray[np.float32], float] | None:
    """Give one frame's probability of movers and its confidence; None without clear motion."""
    partners = [index + gap for gap in config.partners if index + gap in frames]
    evidence = [pair_evidence(flow(frames[index], frames[partner])) for partner in partners]
    clear = [pair for pair in evidence if pair is not None and pair.is_clear(config.min_motion)]
    if not clear:
        return None
    masks = np.stack([pair.mask for pair in clear])  # (pair, height, width)
    probability = masks.mean(axis=0).astype(np.float32)
    # More than half of the pairs: half of two would be the union of their faults.
    agreed = probability > 0.5
    confidence = float(np.mean([iou(mask, agreed) for mask in masks])) * len(clear) / len(partners)
    if confidence < config.min_confidence:
        return None
    if config.grabcut:
        residual = np.median(np.stack([pair.residual for pair in clear]), axis=0)
        redrawn = redraw_by_colour(
            frames[index], agreed, residual < SURE_BACKGROUND, config.grabcut_rounds
        )
        if iou(redrawn, agreed) >= config.grabcut_agreement:
            weight = np.float32(config.grabcut_weight)
            probability = weight * redrawn.astype(np.float32) + (1 - weight) * probability
    return probability, confidence


def read_mover_targets(path: str | os.PathLike[str]) -> MoverTargets:
    """Read the targets that `write_mover_targets` wrote for one clip.

    Raises:
        MediaError: the file is missing, broken, or not of this kind.
    """
    return MoverTargets(*_read_arrays(path, "indices", "masks", "confidence"))


def count_mover_targets(path: str | os.PathLike[str]) -> int:
    """Return how many targets a file holds, without reading their masks.

    Raises:
        MediaError: the file is missing, broken, or not of this kind.
    """
    (indices,) = _read_arrays(path, "indices")
    return len(indices)


def read_target_identity(path: str | os.PathLike[str]) -> str | None:
    """Return what tells the clip of a file's targets from others; None in an older file.

    Raises:
        MediaError: the file is missing or broken.
    """
    with _stored(path) as stored:
        return str(stored["clip"]) if "clip" in stored else None


def _read_arrays(path: str | os.PathLike[str], *names: str) -> list[NDArray[Any]]:
    with _stored(path) as stored:
        return [stored[name] for name in names]


@contextmanager
def _stored(path: str | os.PathLike[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            yield stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as cause:
        raise MediaError(
            f"Cannot read the targets {os.fspath(path)}: {cause}. "
            "Remove the file and compute it again."
        ) from cause


def _to_bytes(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give a probability at another size, (height, width), in 0..255."""
    return np.rint(np.clip(resize(probability, size), 0, 1) * 255).astype(np.uint8)


def _signed_round(gap: float) -> int:
    return round(gap) or (1 if gap > 0 else -1)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value!r} cannot be used: it must be {allowed}.")
