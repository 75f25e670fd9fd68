"""Scores of every region during training: how well each one is the object, frame by frame.

Labels are read to watch a run, and to keep its best checkpoint when asked to: the loss never
sees them.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.errors import InputError
from amd_seg.evaluation.metrics import intersection_over_union
from amd_seg.media.images import read_image
from amd_seg.model.amd import AMD
from amd_seg.training.clips import find_clips

FRAMES_A_CLIP = 5
"""Frames of each clip that are scored: more would cost time and hardly move the mean."""


@dataclass(frozen=True)
class LabelledFrame:
    """A frame to score."""

    clip: str
    frame: Tensor
    """(3, height, width), uint8, RGB, at the size that the network sees."""
    mask: NDArray[np.bool_]
    """(height, width) of the label."""


@dataclass(frozen=True)
class ChannelScores:
    """Per-image J of every region, 0 to 1."""

    j: tuple[float, ...]

    def __str__(self) -> str:
        """Percent, by region."""
        shown = " ".join(f"{100 * j:.1f}" for j in self.j)
        return f"J of the regions {shown}, best is region {self.channel}"

    @property
    def channel(self) -> int:
        """The region that is most the object."""
        return max(range(len(self.j)), key=lambda channel: self.j[channel])

    @property
    def best(self) -> float:
        """J of that region: an oracle's choice, not a label-free one."""
        return max(self.j)


class Scorer:
    """Some frames of a data set in the layout of DAVIS, kept in memory with their labels."""

    def __init__(self, frames: list[LabelledFrame]) -> None:
        self.frames = frames

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], *, short_edge: int, frames_a_clip: int = FRAMES_A_CLIP
    ) -> Self:
        """Read frames spread evenly over each clip, but neither its first nor its last.

        Args:
            folder: holds JPEGImages and Annotations, with or without a folder 480p in each. Where
                ImageSets/480p/val.txt or ImageSets/2016/val.txt is there, only its clips count.
            short_edge: at which the network sees the frames, in pixels.
            frames_a_clip: how many.

        Raises:
            InputError: no frame in it has a label.
            MediaError: a file cannot be read.
        """
        frames = []
        listed = _listed(Path(folder))
        for clip in find_clips([os.fspath(folder)]):
            if listed is not None and Path(clip.name).name not in listed:
                continue
            found = [(clip.path / name, _label_of(clip.path / name)) for name in clip.frames]
            labelled = [(image, label) for image, label in found if label.is_file()]
            for image, label in _spread(labelled, frames_a_clip):
                pixels = _shrunk(read_image(image).pixels, short_edge)
                mask = read_image(label).pixels.max(axis=-1) > 0
                frames.append(LabelledFrame(clip.name, pixels, mask))
        if not frames:
            raise InputError(
                f"Cannot score on {os.fspath(folder)}: no frame has a label. Give a folder with "
                "JPEGImages/<clip>/00000.jpg and Annotations/<clip>/00000.png."
            )
        return cls(frames)

    @torch.no_grad()
    def __call__(self, model: AMD) -> ChannelScores:
        """Score each region as the object: its probability above 0.5, at the label's size.

        The mean over clips of the mean over their frames.
        """
        was_training = model.training
        model.eval()
        scores: dict[str, list[list[float]]] = defaultdict(list)
        for labelled in self.frames:
            masks = model.segment(labelled.frame.to(model.mean.device)[None])
            masks = F.interpolate(masks, labelled.mask.shape, mode="bilinear", align_corners=False)[
                0
            ]
            scores[labelled.clip].append(
                [
                    intersection_over_union(region, labelled.mask)
                    for region in (masks > 0.5).cpu().numpy()
                ]
            )
        model.train(was_training)
        means = np.mean([np.mean(frames, axis=0) for frames in scores.values()], axis=0)
        return ChannelScores(tuple(means.tolist()))


def _listed(folder: Path) -> set[str] | None:
    for year in ("480p", "2016"):
        path = folder / "ImageSets" / year / "val.txt"
        if path.is_file():
            return set(path.read_text("utf-8").replace("/", " ").split())
    return None


def _label_of(image: Path) -> Path:
    parts = ["Annotations" if part == "JPEGImages" else part for part in image.parts]
    return Path(*parts).with_suffix(".png")


def _spread(items: list[tuple[Path, Path]], count: int) -> list[tuple[Path, Path]]:
    inner = items[1:-1] or items
    places = np.linspace(0, len(inner) - 1, min(count, len(inner))).round().astype(int)
    return [inner[place] for place in places]


def _shrunk(pixels: NDArray[np.uint8], short_edge: int) -> Tensor:
    frame = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    factor = short_edge / min(frame.shape[-2:])
    size = [max(1, round(side * factor)) for side in frame.shape[-2:]]
    return F.interpolate(frame.contiguous(), size, mode="bilinear", antialias=True)[0]
