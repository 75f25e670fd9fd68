"""Masks of what moves in clips, found without learning, for `amd-seg train --targets`.

A dense flow is compared with the one homography that explains most of it, the background's. What
is left over moves on its own; GrabCut redraws it along the colours of its frame.

    python -m amd_seg.training.motion_masks VIDEOS... --out DIR

writes `DIR/images/CLIP/000012.jpg`, `DIR/masks/CLIP/000012.png` and `DIR/confidence.json`.
"""

import argparse
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from amd_seg.colour_model import iou, redraw_by_colour
from amd_seg.errors import AmdSegError, ConfigError, MediaError
from amd_seg.training.clips import Clip, find_clips
from amd_seg.training.masked_images import FoundMask, MaskJob, clips_by_name, write_mask_folder

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
Flow = Callable[[Bytes, Bytes], NDArray[np.float32]]
"""Dense flow from one frame (height, width, 3), RGB, to another: (height, width, 2), in pixels, x
first. A point (x, y) of the first is at (x, y) + flow[y, x] in the second."""

REFERENCE_RATE = 24.0
"""Frames a second for which the gaps of `MotionMaskConfig` are given."""
GRID_STEP = 6
"""Pixels between the flow vectors that the background is fitted to; more only cost time."""
RANSAC_REACH = 1.0
"""Pixels within which a vector agrees with the background."""
RANSAC_ROUNDS = 500
FITTED_BELOW = 1.0
"""Median residual, in pixels, below which the background counts as fitted."""
CLEAR_AREA = (0.005, 0.5)
"""Share of the frame between which a mask is an object, neither noise nor the scene."""
CLEAR_BORDER = 0.35
"""Share of the frame's outermost pixels above which a mask is the scene."""
SURE_BACKGROUND = 0.3
"""Residual, in units of the pair's threshold, below which a pixel cannot be an object."""
AGREEMENT = 0.2
"""IoU of the redrawn mask and the motion from which the redrawn one is taken."""
REDRAWN_WEIGHT = 0.75
"""Share of the redrawn mask where it is taken; the rest is the motion's."""


@dataclass(frozen=True, kw_only=True)
class MotionMaskConfig:
    """How masks are found.

    Raises:
        ConfigError: a value cannot be used.
    """

    partners: tuple[int, ...] = (1, -1, 2, -2, 4, -4)
    """Gaps, in frames, to the frames that each frame is compared with."""
    every: int = 3
    """A mask is looked for on each n-th frame."""
    work_height: int = 240
    """Short edge, in pixels, at which flow and masks are computed; frames are never enlarged."""
    short_edge: int | None = None
    """Short edge, in pixels, of the frames and masks that are given; None is the frames' own."""
    min_motion: float = 0.5
    """Mean residual inside a pair's mask, in pixels of the work size, below which it is noise."""
    min_confidence: float = 0.2
    """Confidence below which a frame has no mask."""
    grabcut: bool = True
    """Redraw masks by a colour model of their frame where the two agree."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "partners", tuple(self.partners))
        rules = {
            "partners": (self.partners and 0 not in self.partners, "one or more gaps other than 0"),
            "every": (self.every >= 1, "1 or more"),
            "work_height": (self.work_height >= 16, "16 or more"),
            "short_edge": ((self.short_edge or 16) >= 16, "16 or more, or None"),
            "min_motion": (self.min_motion >= 0, "0 or more"),
            "min_confidence": (0 <= self.min_confidence <= 1, "0 to 1"),
        }
        faults = [f"{n}={getattr(self, n)!r} ({must})" for n, (ok, must) in rules.items() if not ok]
        if faults:
            raise ConfigError(f"Motion masks cannot be found with {', '.join(faults)}.")

    def at_rate(self, frame_rate: float) -> "MotionMaskConfig":
        """Scale the gaps so that they last as long at this frame rate as at `REFERENCE_RATE`."""
        scale = frame_rate / REFERENCE_RATE
        gaps = (round(gap * scale) or (1 if gap > 0 else -1) for gap in self.partners)
        every = max(1, round(self.every * scale))
        return replace(self, partners=tuple(dict.fromkeys(gaps)), every=every)


class MotionMask(NamedTuple):
    """What moves on its own in one frame of a clip."""

    number: int
    """Of the frame, counted from 0."""
    frame: Bytes
    """(height, width, 3), RGB."""
    mask: Bytes
    """(height, width): probability of an object in 0..255."""
    confidence: float
    """0..1: share of the partners whose motion is clear, times their mean IoU with the mask that
    they agree on."""


class _Seen(NamedTuple):
    """A frame at the work size, and at the size that is given."""

    small: Bytes
    shown: Bytes


def find_motion_masks(
    frames: Iterable[Bytes],
    config: MotionMaskConfig | None = None,
    flow: Flow | None = None,
    *,
    among: Collection[int] | None = None,
) -> Iterator[MotionMask]:
    """Find what moves on its own in the frames of a clip; frames without clear motion give none.

    Each frame is compared with its partners. Pairs without a clear mask are dropped, the masks of
    the others averaged. Only the frames that one frame is compared with are held.

    Args:
        frames: each (height, width, 3), RGB, all of one size.
        config: how to look; the default was chosen on clips of 24 frames a second.
        flow: the dense flow; None takes `dis_flow`.
        among: the frames that a mask is looked for on; None takes each `config.every`-th.
    """
    config = config or MotionMaskConfig()
    for index, window in _windows(frames, config):
        is_due = index % config.every == 0 if among is None else index in among
        found = _look(window, index, config, flow or dis_flow) if is_due else None
        if found is not None:
            probability, confidence = found
            shown = window[index].shown
            mask = np.clip(_resized(probability, shown.shape[:2]), 0, 1)
            yield MotionMask(index, shown, np.rint(mask * 255).astype(np.uint8), confidence)


def _windows(
    frames: Iterable[Bytes], config: MotionMaskConfig
) -> Iterator[tuple[int, Mapping[int, _Seen]]]:
    """Yield each frame's number and the frames around it, itself included."""
    reach = max(map(abs, config.partners))
    window: dict[int, _Seen] = {}
    number = -1
    for number, frame in enumerate(frames):
        window[number] = _Seen(*(shrink(frame, n) for n in (config.work_height, config.short_edge)))
        if number >= reach:
            yield number - reach, window
            window.pop(number - 2 * reach, None)
    for last in range(max(0, number - reach + 1), number + 1):
        yield last, window


def _look(
    window: Mapping[int, _Seen], index: int, config: MotionMaskConfig, flow: Flow
) -> tuple[NDArray[np.float32], float] | None:
    """Give one frame's probability of an object, (height, width), and the confidence in it."""
    frame = window[index].small
    partners = [index + gap for gap in config.partners if index + gap in window]
    pairs = [pair_evidence(flow(frame, window[partner].small)) for partner in partners]
    clear = [pair for pair in pairs if pair is not None and pair.is_clear(config.min_motion)]
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
        redrawn = redraw_by_colour(frame, agreed, residual < SURE_BACKGROUND, rounds=1)
        if iou(redrawn, agreed) >= AGREEMENT:
            weight = np.float32(REDRAWN_WEIGHT)
            probability = weight * redrawn.astype(np.float32) + (1 - weight) * probability
    return probability, confidence


@dataclass(frozen=True)
class PairEvidence:
    """What one pair of frames says of what moves in the first.

    Attributes:
        residual: (height, width), float32, length of flow minus background over the threshold
            that parts the two: what moves on its own is above 1.
        median: median length of flow minus background, in pixels.
        moves: its mean inside the mask, in pixels.
    """

    residual: NDArray[np.float32]
    median: float
    moves: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width), bool: what does not move with the background."""
        return self.residual > 1

    def is_clear(self, min_motion: float) -> bool:
        """Tell whether the background was fitted and the mask can be an object."""
        if self.median >= FITTED_BELOW or self.moves < min_motion:
            return False
        mask = self.mask
        border = np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        area = float(mask.mean())
        return CLEAR_AREA[0] <= area <= CLEAR_AREA[1] and float(border.mean()) < CLEAR_BORDER


def pair_evidence(flow: NDArray[np.float32]) -> PairEvidence | None:
    """Part a flow (height, width, 2) into the background's and what moves on its own.

    The threshold is Otsu's, per pair: no fixed number of pixels serves all clips, for parallax
    leaves a few pixels where an object leaves twenty.

    Returns:
        The evidence; None where nothing can be fitted or nothing is left over.
    """
    residual = background_residual(flow)
    if residual is None:
        return None
    # A few wild vectors would stretch the histogram until all else is one bin.
    top = float(np.percentile(residual, 99))
    if top < 1e-3:
        return None
    threshold = otsu(np.minimum(residual, top), top)
    inside = residual > threshold
    return PairEvidence(
        residual=residual / np.float32(threshold),
        median=float(np.median(residual)),
        moves=float(residual[inside].mean()) if inside.any() else 0.0,
    )


def dis_flow(frame_i: Bytes, frame_j: Bytes, /) -> NDArray[np.float32]:
    """Give the dense flow of OpenCV's DIS (medium preset), a classical method; see `Flow`.

    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
    """
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_i, grey_j = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frame_i, frame_j))
    flow: NDArray[np.float32] = method.calc(grey_i, grey_j, None)
    return flow


def background_residual(flow: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Give the length of a flow minus its robust homography, (height, width), in pixels.

    None where no homography can be fitted.
    """
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack((columns, rows), axis=-1)  # (height, width, 2), x first
    grid = slice(GRID_STEP // 2, None, GRID_STEP)
    source = points[grid, grid].reshape(-1, 2)
    target = source + flow[grid, grid].reshape(-1, 2)
    if len(source) < 4:
        return None
    homography, _ = cv2.findHomography(
        source, target, cv2.RANSAC, RANSAC_REACH, maxIters=RANSAC_ROUNDS
    )
    if homography is None:
        return None
    moved = cv2.perspectiveTransform(points, homography)
    residual: NDArray[np.float32] = np.linalg.norm(points + flow - moved, axis=-1)
    return residual if np.isfinite(residual).all() else None


def otsu(values: NDArray[np.floating], top: float = 1.0) -> float:
    """Give Otsu's threshold between two classes of values in 0..top."""
    levels = np.rint(values * (255 / top)).astype(np.uint8).reshape(-1, 1)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return (float(level) + 0.5) * top / 255


def shrink(frame: Bytes, short_edge: int | None) -> Bytes:
    """Shrink a frame (height, width, 3) to a short edge in pixels; never enlarge it."""
    shortest = min(frame.shape[:2])
    scale = Fraction(min(short_edge or shortest, shortest), shortest)
    if scale == 1:
        return frame
    height, width = (max(1, round(edge * scale)) for edge in frame.shape[:2])
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _resized(values: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    if values.shape == size:
        return values
    way = cv2.INTER_AREA if size[0] < values.shape[0] else cv2.INTER_LINEAR
    resized: NDArray[np.float32] = cv2.resize(values, size[::-1], interpolation=way)
    return resized


def write_motion_masks(
    clips: Iterable[Clip],
    folder: str | os.PathLike[str],
    config: MotionMaskConfig | None = None,
    *,
    flow: Flow | None = None,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> None:
    """Find the masks of clips, gaps scaled to each clip's frame rate; see `write_mask_folder`.

    Args:
        clips: from `find_clips`.
        folder: where images and masks go.
        config: how to look.
        flow: the dense flow, picklable; masks of another flow belong into another folder.
        workers: processes; with 1 all is done in this one.
        on_clip: called with name and number of masks after each clip that was done.

    Raises:
        InputError: two clips have one name.
        MediaError: more than one in a hundred cannot be read; the others are done.
    """
    jobs = {}
    for name, clip in clips_by_name(clips).items():
        settings = (config or MotionMaskConfig()).at_rate(_frame_rate(clip))
        find = partial(_masks_of_clip, clip, settings, flow)
        jobs[name] = MaskJob(find, f"{clip.identity()}, {settings}")
    write_mask_folder(jobs, folder, workers=workers, on_done=on_clip)


def _masks_of_clip(clip: Clip, config: MotionMaskConfig, flow: Flow | None) -> Iterator[FoundMask]:
    decoded = clip.open(short_edge=max(config.work_height, config.short_edge or 0))
    for found in find_motion_masks((frame.pixels for frame in decoded), config, flow):
        yield FoundMask(f"{found.number:06d}", *found[1:])


def _frame_rate(clip: Clip) -> float:
    try:
        return float(clip.open().frame_rate or REFERENCE_RATE)
    except MediaError:
        return REFERENCE_RATE  # its own job says what is wrong with it, beside the others


def main(arguments: list[str] | None = None) -> None:
    """Write the masks of clips; the log on stderr has a line a clip."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.motion_masks")
    parser.add_argument("videos", nargs="+", help="as for amd-seg train")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and masks")
    parser.add_argument("--short-edge", type=int, default=240, help="of both, in pixels")
    parser.add_argument("--every", type=int, default=3, help="each n-th frame at 24 a second")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    try:
        write_motion_masks(
            find_clips(options.videos),
            options.out,
            MotionMaskConfig(short_edge=options.short_edge, every=options.every),
            workers=options.workers,
            on_clip=partial(logger.info, "%s: %d masks"),
        )
    except AmdSegError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
