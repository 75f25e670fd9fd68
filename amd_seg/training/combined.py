"""Sums and stages of objectives: what helps a small run to find objects, each part one setting."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.model.amd import AMD, Reconstruction
from amd_seg.model.objective import photometric_objective
from amd_seg.training.distributed import batch_mean
from amd_seg.training.flow_fit import unexplained_share
from amd_seg.training.flow_teacher import teacher_error
from amd_seg.training.objectives import (
    DenseFlowObjective,
    MoverObjective,
    PhotometricObjective,
    mask_entropy,
    monitors,
)
from amd_seg.training.presets import TrainingConfig

STRIDE = 8
"""Pixels a cell of the masks: crops follow it, so that masks are cropped without resampling."""
SMALLEST_VIEW = 0.6
"""Least side of the random part that equivariance looks at, as a share of the frame's."""


@dataclass(frozen=True)
class Weights:
    """How much each term counts."""

    photometric: float = 0.0
    dense: float = 0.0
    flow_teacher: float = 0.0
    flow_fit: float = 0.0
    equivariance: float = 0.0

    @property
    def needs_masks(self) -> bool:
        """Whether a term reads the regions."""
        return bool(self.photometric or self.flow_fit or self.equivariance)


BASES = {
    "photometric": Weights(photometric=1.0),
    "dense": Weights(dense=1.0),
    "flow-fit": Weights(dense=1.0, flow_fit=1.0),
}


class CombinedObjective(nn.Module):
    """A weighted sum of eq. 7, the dense flow's errors, the flow fit and equivariance."""

    def __init__(self, model: AMD, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.share = batch_mean if config.shared_visibility else torch.mean

    def weights(self, step: int) -> Weights:
        """Weights of the terms at a step: the dense flow's error alone comes first."""
        config = self.config
        if step < config.motion_first_steps:
            return replace(BASES["dense"], flow_teacher=config.flow_teacher_weight)
        base = BASES[config.objective]
        return Weights(
            photometric=base.photometric,
            dense=base.dense + config.dense_weight,
            flow_teacher=config.flow_teacher_weight,
            flow_fit=base.flow_fit + config.flow_fit_weight,
            equivariance=config.equivariance_weight,
        )

    def forward(self, batch: Any, progress: float = 0.0, step: int = 0) -> dict[str, Tensor]:
        """Score a `PairBatch`."""
        weights = self.weights(step)
        frame_i, frame_j = (self._resized(f, progress) for f in (batch.frame_i, batch.frame_j))
        terms: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        masks: tuple[Tensor, Tensor] | None = None
        if weights.dense or weights.flow_fit or weights.flow_teacher:
            dense = self.model.dense_reconstruction(frame_i, frame_j)
            terms["dense"] = self._photometric(dense, watched)
        if weights.flow_teacher:
            terms["flow_teacher"] = teacher_error(dense)
        if weights.photometric:
            segments = self.model(frame_i, frame_j)
            terms["photometric"] = self._photometric(segments, watched)
            masks = segments.view_j.masks, segments.view_i.masks
        elif weights.needs_masks:
            first, second = self.model.segment(torch.cat((frame_i, frame_j))).chunk(2)
            masks = first, second
        if masks is not None:
            if weights.flow_fit:
                terms["flow_fit"] = self._flow_fit(dense, masks)
            if weights.equivariance:
                terms["equivariance"] = equivariance_error(self.model, frame_i, masks[0])
            watched |= self._mask_monitors(masks)
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        if "entropy" in watched:
            fade = max(0.0, 1 - 2 * progress)
            loss = loss - self.config.entropy_weight * fade * watched["entropy"]
        watched = {name: value.detach() for name, value in watched.items()}
        return {"loss": loss, **terms, **watched}

    def _photometric(self, reconstruction: Reconstruction, watched: dict[str, Tensor]) -> Tensor:
        parts = photometric_objective(
            reconstruction, ssim_weight=self.config.ssim_weight, share=self.share
        )
        watched |= {**monitors(reconstruction), "visible": parts["visible"]}
        return parts["loss"]

    def _flow_fit(self, dense: Reconstruction, masks: tuple[Tensor, Tensor]) -> Tensor:
        # A view's flow lives on the grid of its target: view i is the frame i re-created.
        affine, residual = self.config.flow_fit == "affine", self.config.flow_fit_residual
        shares = [
            unexplained_share(view.flows[0], regions, affine=affine, residual=residual)
            for view, regions in zip((dense.view_i, dense.view_j), masks, strict=True)
        ]
        return torch.stack(shares).mean()

    def _mask_monitors(self, masks: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        largest = masks[0].mean(dim=(0, 2, 3)).max()
        return {"entropy": mask_entropy(masks[0]), "largest_area": largest}

    def _resized(self, frames: Tensor, progress: float) -> Tensor:
        """Shrink the crops early in the run, to a multiple of 16 pixels."""
        start = self.config.start_scale
        share = start + (1 - start) * min(1.0, 2 * progress)
        height, width = (max(16, round(side * share / 16) * 16) for side in frames.shape[-2:])
        if share == 1 or (height, width) == tuple(frames.shape[-2:]):
            return frames
        return F.interpolate(frames.float(), (height, width), mode="bilinear", antialias=True)


def make_objective(model: AMD, config: TrainingConfig, object_channel: int = 0) -> nn.Module:
    """The objective that the settings name; a plain one where nothing is summed or staged.

    Args:
        model: what learns.
        config: the settings.
        object_channel: the region that the objective "mover" teaches.
    """
    if config.objective == "mover":
        return MoverObjective(model, config, object_channel)
    is_plain = not (
        config.motion_first_steps
        or config.dense_weight
        or config.flow_teacher_weight
        or config.flow_fit_weight
        or config.equivariance_weight
        or config.start_scale < 1
    )
    if is_plain and config.objective == "photometric":
        return PhotometricObjective(model, config)
    if is_plain and config.objective == "dense":
        return DenseFlowObjective(model, config)
    return CombinedObjective(model, config)


def equivariance_error(model: AMD, frames: Tensor, masks: Tensor) -> Tensor:
    """How far the masks of a random part of the frames are from that part of the masks.

    The part is enlarged to the frame's size and mirrored half of the time; one part for the whole
    batch. The masks given are the teacher: no gradient passes through them.

    Args:
        model: the model.
        frames: (batch, 3, height, width).
        masks: (batch, region, height / 8, width / 8), those of the frames.

    Returns:
        Mean over pixels of the squared distance of the two distributions, 0 to 2.
    """
    rows, columns = masks.shape[-2:]
    zoom, y, x, mirror = torch.rand(4).tolist()
    side = SMALLEST_VIEW + (1 - SMALLEST_VIEW) * zoom
    height, width = max(1, round(rows * side)), max(1, round(columns * side))
    top, left = round((rows - height) * y), round((columns - width) * x)
    part = _part(frames, STRIDE * top, STRIDE * left, STRIDE * height, STRIDE * width)
    view = F.interpolate(part.float(), frames.shape[-2:], mode="bilinear", antialias=True)
    teacher = _part(masks.detach(), top, left, height, width)
    teacher = F.interpolate(teacher, (rows, columns), mode="bilinear")
    if mirror < 0.5:
        view, teacher = view.flip(-1), teacher.flip(-1)
    return (model.segment(view) - teacher).square().sum(dim=1).mean()


def _part(images: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return images[..., top : top + height, left : left + width]
