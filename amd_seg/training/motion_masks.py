"""Masks of what moves in clips, found without learning.

A dense flow is compared with the one homography that explains most of it, the background's. What
is left over moves on its own; GrabCut redraws it along the colours of its frame.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from amd_seg.colour_model import iou, redrawn_where_agreed
from amd_seg.errors import InputError, MediaError
from amd_seg.media.video import shrunk_size
from amd_seg.training.clips import VIDEO_SUFFIXES, Clip
from amd_seg.training.config import REFERENCE_RATE
from amd_seg.training.masked_images import FoundMask, write_mask_folder

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]
Flow = Callable[[Bytes, Bytes], Values]
"""Dense flow from one frame (height, width, 3), RGB, to another: (height, width, 2), in pixels, x
first. A point (x, y) of the first is at (x, y) + flow[y, x] in the second."""

GRID_STEP = 6  # pixels between the vectors that the background is fitted to; more cost only time
RANSAC_REACH = 1.0  # pixels within which a vector agrees with the background
RANSAC_ROUNDS = 500
SECOND_PLANE_AREA = 0.15  # share of the frame from which what moves alike may be a second plane
SECOND_PLANE_MARGIN = 0.06  # width of the frame's edge, as a share of the frame's
SECOND_PLANE_EDGE = 0.1  # share of a second plane that must lie on that edge
FITTED_BELOW = 1.0  # median residual, in pixels, below which the background counts as fitted
CLEAR_AREA = (0.005, 0.5)  # share of the frame that is an object, neither noise nor the scene
CLEAR_BORDER = 0.35  # share of the frame's outermost pixels above which a mask is the scene
SURE_BACKGROUND = 0.3  # residual over the pair's threshold below which nothing is an object
AGREEMENT = 0.2  # IoU of the redrawn mask and the motion from which the redrawn one is taken


@dataclass(frozen=True, kw_only=True)
class MotionMaskConfig:
    """How masks are found; the defaults were chosen on clips of 24 frames a second."""

    partners: tuple[int, ...] = (1, -1, 2, -2, 4, -4)  # gaps to those that a frame is compared with
    every: int = 3  # a mask is looked for on each n-th frame
    work_height: int = 240  # short edge, in pixels, of flow and masks; frames are never enlarged
    short_edge: int | None = None  # of the frames and masks that are given; None is the frames' own
    min_motion: float = 0.5  # mean residual inside a pair's mask, in pixels; less is noise
    min_confidence: float = 0.2  # below which a frame has no mask
    grabcut: bool = True  # redraw masks by a colour model of their frame where the two agree

    def at_rate(self, frame_rate: float) -> "MotionMaskConfig":
        """Scale the gaps so that they last as long at this frame rate as at `REFERENCE_RATE`."""
        scale = frame_rate / REFERENCE_RATE
        gaps = (round(gap * scale) or (1 if gap > 0 else -1) for gap in self.partners)
        every = max(1, round(self.every * scale))
        return replace(self, partners=tuple(dict.fromkeys(gaps)), every=every)


class MotionMask(NamedTuple):
    """What moves on its own in one frame of a clip."""

    number: int  # of the frame, counted from 0
    frame: Bytes  # (height, width, 3), RGB
    mask: Bytes  # (height, width): probability of an object in 0..255
    confidence: float
    """0..1: share of the partners whose motion is clear, times their mean IoU with the mask that
    they agree on."""


def find_motion_masks(
    frames: Iterable[Bytes],
    config: MotionMaskConfig,
    flow: Flow | None = None,
    *,
    among: Collection[int] | None = None,
) -> Iterator[MotionMask]:
    """Find what moves on its own in the frames of a clip; frames without clear motion give none.

    Each frame, (height, width, 3), RGB, is compared with its partners; no others are held. The flow
    is `dis_flow` where none is given. A mask is looked for on the frames `among` all, or on each
    `config.every`-th.
    """
    for index, window in _windows(frames, config):
        is_due = index % config.every == 0 if among is None else index in among
        found = _look(window, index, config, flow or dis_flow) if is_due else None
        if found is not None:
            probability, confidence = found
            _, shown = window[index]
            size = shown.shape[:2]
            if probability.shape != size:
                way = cv2.INTER_AREA if size[0] < probability.shape[0] else cv2.INTER_LINEAR
                probability = np.asarray(cv2.resize(probability, size[::-1], interpolation=way))
            mask = np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)
            yield MotionMask(index, shown, mask, confidence)


# By number: frames at the work size, and at the size that is given.
Window = dict[int, tuple[Bytes, Bytes]]


def _windows(frames: Iterable[Bytes], config: MotionMaskConfig) -> Iterator[tuple[int, Window]]:
    """Yield each frame's number and the frames around it, itself included."""
    reach, number = max(map(abs, config.partners)), -1
    window: Window = {}
    for number, frame in enumerate(frames):
        window[number] = shrink(frame, config.work_height), shrink(frame, config.short_edge)
        if number >= reach:
            yield number - reach, window
            window.pop(number - 2 * reach, None)
    for last in range(max(0, number - reach + 1), number + 1):
        yield last, window


def _look(
    window: Window, index: int, config: MotionMaskConfig, flow: Flow
) -> tuple[Values, float] | None:
    """Give one frame's probability of an object, (height, width), and the confidence in it."""
    frame, _ = window[index]
    partners = [index + gap for gap in config.partners if index + gap in window]
    pairs = [own_motion(flow(frame, window[at][0]), config.min_motion) for at in partners]
    clear = [residual for residual in pairs if residual is not None]
    if not clear:
        return None
    masks = np.stack(clear) > 1  # (pair, height, width)
    probability = masks.mean(axis=0).astype(np.float32)
    # More than half of the pairs: half of two would be the union of their faults.
    agreed = probability > 0.5
    confidence = float(np.mean([iou(mask, agreed) for mask in masks])) * len(clear) / len(partners)
    if confidence < config.min_confidence:
        return None
    if config.grabcut:
        background = np.median(np.stack(clear), axis=0) < SURE_BACKGROUND
        probability = redrawn_where_agreed(frame, probability, background, AGREEMENT)
    return probability, confidence


def own_motion(flow: Values, min_motion: float) -> Values | None:
    """Give what a flow (height, width, 2) leaves beside the background's, over its threshold.

    Otsu's threshold parts the two, per pair: parallax leaves a few pixels where an object leaves
    twenty. None where the background is not fitted, or what is left cannot be an object.
    """
    residual = background_residual(flow)
    if residual is None or float(np.median(residual)) >= FITTED_BELOW:
        return None
    # A few wild vectors would stretch the histogram until all else is one bin.
    top = float(np.percentile(residual, 99))
    if top < 1e-3:
        return None
    levels = np.rint(np.minimum(residual, top) * (255 / top)).astype(np.uint8).reshape(-1, 1)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    threshold = (float(level) + 0.5) * top / 255
    inside = residual > threshold
    if not inside.any() or float(residual[inside].mean()) < min_motion:
        return None
    shares = residual / np.float32(threshold)
    mask = shares > 1
    border = np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    is_object = CLEAR_AREA[0] <= mask.mean() <= CLEAR_AREA[1] and border.mean() < CLEAR_BORDER
    return shares if is_object else None


def dis_flow(frame_i: Bytes, frame_j: Bytes, /) -> Values:
    """Give the dense flow of OpenCV's DIS (medium preset), a classical method; see `Flow`.

    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
    """
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_i, grey_j = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frame_i, frame_j))
    flow: Values = method.calc(grey_i, grey_j, None)
    return flow


def background_residual(flow: Values) -> Values | None:
    """Give the length of a flow minus the background's, (height, width), in pixels.

    The background is one plane or two, each with a robust homography: ground before a hill moves
    unlike the hill. The second must be large and reach the edge of the frame, as a whole object
    seldom does. None where no homography can be fitted.
    """
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack((columns, rows), axis=-1)  # (height, width, 2), x first
    grid = slice(GRID_STEP // 2, None, GRID_STEP)
    source = points[grid, grid].reshape(-1, 2)
    target = source + flow[grid, grid].reshape(-1, 2)

    def fit(which: NDArray[np.intp]) -> tuple[NDArray[np.intp], Values] | None:
        """Give the vectors of the plane that explains most of these, and the distances to it."""
        if len(which) < 4:
            return None
        homography, agrees = cv2.findHomography(
            source[which], target[which], cv2.RANSAC, RANSAC_REACH, maxIters=RANSAC_ROUNDS
        )
        if homography is None:
            return None
        moved = cv2.perspectiveTransform(points, homography)
        return which[agrees.ravel() > 0], np.linalg.norm(points + flow - moved, axis=-1)

    first = fit(np.arange(len(source)))
    if first is None:
        return None
    residual = first[1]
    second = fit(np.flatnonzero(residual[grid, grid] > RANSAC_REACH))
    if second is not None and len(second[0]) >= SECOND_PLANE_AREA * len(source):
        margin = SECOND_PLANE_MARGIN * np.array((width, height))
        places = source[second[0]]
        on_edge = (places < margin) | (places > (width, height) - margin)
        if on_edge.any(axis=1).mean() >= SECOND_PLANE_EDGE:
            residual = np.minimum(residual, second[1])
    return residual if np.isfinite(residual).all() else None


def shrink(frame: Bytes, short_edge: int | None) -> Bytes:
    """Shrink a frame (height, width, 3) to a short edge in pixels; never enlarge it."""
    size = shrunk_size(frame.shape[1], frame.shape[0], short_edge)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def write_motion_masks(
    clips: Iterable[Clip],
    folder: str | os.PathLike[str],
    config: MotionMaskConfig,
    *,
    flow: Flow | None = None,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> None:
    """Find the masks of clips, gaps scaled to each clip's frame rate; see `write_mask_folder`.

    A dense flow must be picklable; masks of another flow belong into another folder.
    """
    jobs = {}
    for name, clip in clips_by_name(clips).items():
        try:
            rate = float(clip.open().frame_rate or REFERENCE_RATE)
        except MediaError:
            rate = REFERENCE_RATE  # its own job says what is wrong with it, beside the others
        settings = config.at_rate(rate)
        find = partial(_masks_of_clip, clip, settings, flow)
        jobs[name] = find, f"{clip.identity()}, {settings}"
    write_mask_folder(jobs, folder, workers=workers, on_done=on_clip)


def _masks_of_clip(clip: Clip, config: MotionMaskConfig, flow: Flow | None) -> Iterator[FoundMask]:
    decoded = clip.open(short_edge=max(config.work_height, config.short_edge or 0))
    for found in find_motion_masks((frame.pixels for frame in decoded), config, flow):
        yield f"{found.number:06d}", *found[1:]


def clips_by_name(clips: Iterable[Clip]) -> dict[str, Clip]:
    """Return clips by the names of their masks; an InputError where two would share one."""
    named: dict[str, Clip] = {}
    for clip in clips:
        path = Path(clip.name)  # of a folder of frames it may hold dots that end nothing
        is_video = path.suffix.lower() in VIDEO_SUFFIXES and not clip.frames
        stem = (path.with_suffix("") if is_video else path).as_posix().replace("/", "_")
        other = named.setdefault(stem, clip)
        if (other.path, other.frames) != (clip.path, clip.frames):
            paths = " and ".join(str(c.path.joinpath(*c.frames[:1])) for c in (other, clip))
            raise InputError(
                f"The masks of {paths} would share the name {stem}. "
                "Rename one, or give the folder above both."
            )
    return named
