"""The motion teacher: which pixels of a clip's frames move on their own, found without learning.

Run it on a folder of clips with `python -m amd_seg.training.movers VIDEO_FOLDER OUT`.
"""

import argparse
import dataclasses
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amd_seg.errors import AmdSegError, ConfigError, MediaError
from amd_seg.training.background import (
    Flow,
    dis_flow,
    pair_evidence,
    require_opencv,
)

logger = logging.getLogger(__name__)

FrameSource = Callable[[], NDArray[np.uint8]]
"""Gives the frames of one clip: (frames, height, width, 3), RGB uint8."""

SURE_BACKGROUND = 0.3
"""Residual, in units of the pair's threshold, below which a pixel cannot be an object."""

CLIP_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True, kw_only=True)
class MoverConfig:
    """How the targets are found.

    Raises:
        ConfigError: a value cannot be used.
    """

    partners: tuple[int, ...] = (1, -1, 2, -2, 4, -4)
    """Gaps, in frames, to the frames that each target's frame is compared with."""
    every: int = 4
    """A target is looked for on each n-th frame."""
    work_height: int = 180
    """Short edge, in pixels, at which flow and masks are computed; frames are never enlarged."""
    mask_height: int | None = None
    """Short edge, in pixels, of the masks returned; None is the frames' own."""
    min_motion: float = 0.5
    """Mean residual inside a pair's mask, in pixels of the work size, below which it is noise."""
    min_confidence: float = 0.2
    """Confidence below which a frame has no target."""
    grabcut: bool = True
    """Let a colour model of the frame repair the mask where it agrees with the motion."""
    grabcut_height: int = 120
    """Short edge, in pixels, at which that colour model works: its time grows with the area."""
    grabcut_rounds: int = 3
    """Rounds of that colour model."""
    grabcut_agreement: float = 0.5
    """IoU of the repaired mask with the motion mask from which it is taken, 0..1."""
    grabcut_weight: float = 0.75
    """Share of the repaired mask in the target where it is taken; the rest is the motion's."""

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
        _require(self.grabcut_height >= 16, "grabcut_height", self.grabcut_height, "16 or more")
        for name in ("min_confidence", "grabcut_agreement", "grabcut_weight"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")

    def at_rate(self, frame_rate: float, *, reference: float = 24.0) -> "MoverConfig":
        """Scale the gaps so that they last as long at this frame rate as at the reference."""
        scale = frame_rate / reference
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
    frames: NDArray[np.uint8], config: MoverConfig | None = None, flow: Flow = dis_flow
) -> MoverTargets:
    """Find what moves on its own in the frames of a clip.

    Each frame is compared with its partners: what a homography of the flow leaves over is a
    mask per pair, pairs without a clear mask are dropped, and the others are averaged.

    Args:
        frames: (frame, height, width, 3), RGB uint8.
        config: how to look; the default was chosen on clips of 24 frames a second.
        flow: the dense flow, see `Flow`.

    Raises:
        ConfigError: OpenCV is not installed.
    """
    config = config or MoverConfig()
    small = resize_frames(frames, config.work_height)
    size = _scaled_size(frames.shape[1:3], config.mask_height)
    found = [
        (index, target)
        for index in range(0, len(frames), config.every)
        if (target := _frame_target(small, index, config, flow)) is not None
    ]
    return MoverTargets(
        indices=np.array([index for index, _ in found], dtype=np.int64),
        masks=np.array([_to_bytes(mask, size) for _, (mask, _) in found], dtype=np.uint8).reshape(
            len(found), *size
        ),
        confidence=np.array([certain for _, (_, certain) in found], dtype=np.float32),
    )


def _frame_target(
    frames: NDArray[np.uint8], index: int, config: MoverConfig, flow: Flow
) -> tuple[NDArray[np.float32], float] | None:
    """Give one frame's probability of movers and its confidence; None without clear motion."""
    partners = [index + gap for gap in config.partners if 0 <= index + gap < len(frames)]
    evidence = [pair_evidence(flow(frames[index], frames[partner])) for partner in partners]
    clear = [pair for pair in evidence if pair is not None and pair.is_clear(config.min_motion)]
    if not clear:
        return None
    probability = np.mean([pair.mask for pair in clear], axis=0, dtype=np.float32)
    agreed = probability >= 0.5
    agreement = float(np.mean([iou(pair.mask, agreed) for pair in clear]))
    confidence = agreement * len(clear) / len(partners)
    if confidence < config.min_confidence:
        return None
    if config.grabcut:
        residual = np.median([pair.residual for pair in clear], axis=0).astype(np.float32)
        probability = _repaired(frames[index], probability, residual, config)
    return probability, confidence


def _repaired(
    frame: NDArray[np.uint8],
    probability: NDArray[np.float32],
    residual: NDArray[np.float32],
    config: MoverConfig,
) -> NDArray[np.float32]:
    """Give the probability repaired by the frame's colours, where these agree with the motion."""
    small = resize_frames(frame[None], config.grabcut_height)[0]
    size = small.shape[:2]
    coarse = _resized(probability, size)
    background = _resized(residual, size) < SURE_BACKGROUND
    mask = grabcut(small, coarse, background, config.grabcut_rounds)
    if iou(mask, coarse >= 0.5) < config.grabcut_agreement:
        return probability
    weight = np.float32(config.grabcut_weight)
    repaired = _resized(mask.astype(np.float32), probability.shape)
    return weight * repaired + (1 - weight) * probability


def grabcut(
    frame: NDArray[np.uint8],
    probability: NDArray[np.float32],
    background: NDArray[np.bool_],
    rounds: int,
) -> NDArray[np.bool_]:
    """Redraw a mask along the colours of its frame.

    Args:
        frame: (height, width, 3), RGB uint8.
        probability: (height, width), float32, 0..1; where it is 0.5 or more the object is likely.
        background: (height, width), bool, what cannot be the object.
        rounds: rounds of colour model and cut.

    Returns:
        (height, width), bool; the mask itself where one of the two sides is empty.

    Source: Rother et al., GrabCut, SIGGRAPH 2004.
    """
    cv2 = require_opencv()
    likely = probability >= 0.5
    labels = np.where(background, cv2.GC_BGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[likely] = cv2.GC_PR_FGD
    # The colour model has five components a side and cannot start from fewer pixels.
    if min(likely.sum(), (~likely).sum()) < 32:
        return likely
    cv2.setRNGSeed(0)  # its clusters start at random: the same frame shall give the same mask
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, labels, None, *models, rounds, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Give intersection over union of two masks; 1 where both are empty."""
    union = int((mask | other).sum())
    return int((mask & other).sum()) / union if union else 1.0


def resize_frames(frames: NDArray[np.uint8], short_edge: int) -> NDArray[np.uint8]:
    """Shrink frames (frame, height, width, 3) to a short edge in pixels; never enlarge them."""
    cv2 = require_opencv()
    height, width = _scaled_size(frames.shape[1:3], min(short_edge, *frames.shape[1:3]))
    if (height, width) == frames.shape[1:3] or not len(frames):
        return frames
    return np.stack(
        [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    )


def write_mover_targets(
    clips: Mapping[str, FrameSource],
    folder: str | os.PathLike[str],
    config: MoverConfig | Mapping[str, MoverConfig] | None = None,
    *,
    flow: Flow = dis_flow,
    workers: int = 2,
    on_clip: Callable[[str, int], None] | None = None,
) -> list[Path]:
    """Compute the targets of many clips, one file `<name>.npz` a clip.

    Clips whose file is there, whole, and of the same settings are skipped, so that a run that
    was ended goes on. A file appears whole or not at all.

    Args:
        clips: name -> where its frames come from; with several workers both this and `flow`
            must be picklable (a function of a module, a `functools.partial` of one).
        folder: where the files go; it is made when missing.
        config: settings for all clips, or for each by name.
        flow: the dense flow; targets of another flow belong into another folder.
        workers: processes; with 1 all is done in this one.
        on_clip: called with name and number of targets after each clip that was computed.

    Returns:
        The file of each clip, in the order of `clips`.

    Raises:
        MediaError: clips that could not be read, all named; the others are done.
        ConfigError: OpenCV is not installed.
    """
    require_opencv()
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        name: config[name] if isinstance(config, Mapping) else config or MoverConfig()
        for name in clips
    }
    paths = {name: out / f"{name}.npz" for name in clips}
    jobs = {
        name: partial(_write_clip, source, paths[name], settings[name], flow)
        for name, source in clips.items()
        if not _is_done(paths[name], settings[name])
    }
    failed = []
    for name, result in _run(jobs, workers):
        if isinstance(result, AmdSegError):
            failed.append(f"{name} ({result})")
        elif on_clip is not None:
            on_clip(name, result)
    if failed:
        raise MediaError(
            f"No targets for {len(failed)} of {len(clips)} clips: {'; '.join(failed)}. "
            "The others are done; mend or remove these and start again."
        )
    return list(paths.values())


def read_mover_targets(path: str | os.PathLike[str]) -> MoverTargets:
    """Read the targets that `write_mover_targets` wrote for one clip.

    Raises:
        MediaError: the file is missing, broken, or not of this kind.
    """
    try:
        with np.load(path) as stored:
            return MoverTargets(stored["indices"], stored["masks"], stored["confidence"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as cause:
        raise MediaError(
            f"Cannot read the targets {os.fspath(path)}: {cause}. "
            "Remove the file and compute it again."
        ) from cause


def _run(
    jobs: Mapping[str, Callable[[], "int | AmdSegError"]], workers: int
) -> Iterable[tuple[str, "int | AmdSegError"]]:
    if workers <= 1:
        yield from ((name, job()) for name, job in jobs.items())
        return
    # Forking a process that holds torch's threads can hang it.
    with ProcessPoolExecutor(
        min(workers, max(1, len(jobs))), get_context("spawn"), initializer=_one_thread
    ) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        yield from ((names[done], done.result()) for done in as_completed(names))


def _one_thread() -> None:
    require_opencv().setNumThreads(1)


def _write_clip(
    source: FrameSource, path: Path, config: MoverConfig, flow: Flow
) -> "int | AmdSegError":
    """Write one clip's file and give its number of targets, or the error to report."""
    try:
        targets = mover_targets(source(), config, flow)
    except (MediaError, OSError) as error:
        return error if isinstance(error, AmdSegError) else MediaError(str(error))
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, settings=np.array(repr(config)), **vars(targets))
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return len(targets.indices)


def _is_done(path: Path, config: MoverConfig) -> bool:
    try:
        with np.load(path) as stored:
            return bool(stored["settings"] == repr(config)) and "confidence" in stored
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _scaled_size(size: tuple[int, ...], short_edge: int | None) -> tuple[int, int]:
    height, width = size
    scale = Fraction(short_edge or min(size), min(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(values: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Give values (height, width) at another size."""
    if values.shape == size:
        return values
    cv2 = require_opencv()
    way = cv2.INTER_AREA if size[0] < values.shape[0] else cv2.INTER_LINEAR
    resized: NDArray[np.float32] = cv2.resize(values, size[::-1], interpolation=way)
    return resized


def _to_bytes(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give a probability at another size, (height, width), in 0..255."""
    return np.rint(np.clip(_resized(probability, size), 0, 1) * 255).astype(np.uint8)


def _signed_round(gap: float) -> int:
    return round(gap) or (1 if gap > 0 else -1)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value!r} cannot be used: it must be {allowed}.")


def read_clip(path: str | os.PathLike[str], short_edge: int) -> NDArray[np.uint8]:
    """Decode a clip to (frame, height, width, 3), RGB uint8, at most this short edge in pixels.

    Raises:
        MediaError: the file has no video that can be decoded.
    """
    import av

    try:
        with av.open(os.fspath(path)) as container:
            frames = [
                resize_frames(frame.to_ndarray(format="rgb24")[None], short_edge)[0]
                for frame in container.decode(video=0)
            ]
    except (av.FFmpegError, IndexError) as cause:
        raise MediaError(f"Cannot read {path}: {cause}. Give a video file.") from cause
    if not frames:
        raise MediaError(f"Cannot read {path}: it has no frames. Give another file.")
    return np.stack(frames)


def interleaved(names: Iterable[str]) -> list[str]:
    """Order names `<source>-<number>` so that each stretch holds all sources in their shares."""
    sources: dict[str, list[str]] = {}
    for name in sorted(names):
        sources.setdefault(name.rsplit("-", 1)[0], []).append(name)
    places = {
        name: (rank + 0.5) / len(pieces)
        for pieces in sources.values()
        for rank, name in enumerate(pieces)
    }
    return sorted(places, key=lambda name: (places[name], name))


def _frame_rate(path: Path) -> float:
    import av

    with av.open(os.fspath(path)) as container:
        return float(container.streams.video[0].average_rate or 24)


def main(arguments: list[str] | None = None) -> None:
    """Write the targets of a folder of clips, one line a clip on stdout."""
    parser = argparse.ArgumentParser(prog="python -m amd_seg.training.movers", description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of clips")
    parser.add_argument("out", type=Path, help="folder for the targets")
    parser.add_argument("--short-edge", type=int, default=144, help="of the masks, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    paths = {p.stem: p for p in options.videos.iterdir() if p.suffix.lower() in CLIP_SUFFIXES}
    config = MoverConfig(mask_height=options.short_edge)
    names = interleaved(paths)
    write_mover_targets(
        {name: partial(read_clip, paths[name], config.work_height) for name in names},
        options.out,
        {name: config.at_rate(_frame_rate(paths[name])) for name in names},
        workers=options.workers,
        on_clip=lambda name, count: print(f"{name}\t{count}", flush=True),
    )


if __name__ == "__main__":
    main()
