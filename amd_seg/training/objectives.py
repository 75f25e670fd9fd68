"""What a step minimises, and which of the regions is the object then (section 3.5).

An objective is a model and its loss as one module, so that DDP sees a single forward. It maps a
batch to {"loss": ..., parts}: the loss, its terms, and what tells a run that learns from one that
is lost.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.model.amd import AMD, View
from amd_seg.model.objective import photometric_objective
from amd_seg.training.config import TrainingConfig
from amd_seg.training.distributed import batch_mean

CLEAR_LEAD = 1.5  # how much faster than a known channel another must move to take its place
PAIRS_OF_CHOICE = 64  # that are looked at to choose it, or some more: batches are whole
LEAST_MOTION = 0.1  # pixels that it must move at least: less is noise, whatever the lead


def make_objective(model: AMD, config: TrainingConfig, object_channel: int = 0) -> nn.Module:
    """Return the objective that the settings name; motion masks teach the object channel."""
    if config.objective == "motion-masks":
        return MotionMaskObjective(model, object_channel)
    return PhotometricObjective(model, config)


class PhotometricObjective(nn.Module):
    """Eq. 7 on pairs of frames by both pathways; "dense": by the motion pathway's own flow."""

    def __init__(self, model: AMD, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.share = batch_mean if config.shared_visibility else torch.mean

    def forward(self, batch: Any, progress: float = 0.0) -> dict[str, Tensor]:
        """Score a `PairBatch`."""
        is_dense = self.config.objective == "dense"
        found = self.model(batch.frame_i, batch.frame_j, dense=is_dense)
        ssim_weight = self.config.ssim_weight
        parts = photometric_objective(found, ssim_weight=ssim_weight, share=self.share)
        lengths = [v.flows[0].detach().norm(dim=1).mean() for v in (found.view_i, found.view_j)]
        parts["flow"] = torch.stack(lengths).mean()  # in pixels of the motion size
        if not is_dense:
            entropy = mask_entropy(found.view_j.masks)
            fade = max(0.0, 1 - 2 * progress)
            parts["loss"] = parts["loss"] - self.config.entropy_weight * fade * entropy
            parts["entropy"] = entropy.detach()
            parts["largest_area"] = found.view_i.masks.detach().mean(dim=(0, 2, 3)).max()
        return parts


def mask_entropy(masks: Tensor) -> Tensor:
    """Mean entropy of the masks (batch, region, height, width), 0 (decided) to 1 (uniform)."""
    entropy = -(masks * masks.clamp_min(1e-6).log()).sum(dim=1).mean()
    return entropy / math.log(masks.shape[1])


class MotionMaskObjective(nn.Module):
    """The object channel is taught the masks of a `MaskBatch`."""

    def __init__(self, model: AMD, object_channel: int = 0) -> None:
        super().__init__()
        self.model = model
        self.object_channel = object_channel

    def forward(self, batch: Any, progress: float = 0.0) -> dict[str, Tensor]:
        """Score a `MaskBatch`: cross-entropy and half of the Dice loss, on the 1/8 grid."""
        logits = self.model.logits(batch.frames)
        masks = batch.masks.to(logits.dtype) / 255
        target = F.adaptive_avg_pool2d(masks, (logits.shape[-2], logits.shape[-1]))
        score = object_logit(logits, self.object_channel)
        cross_entropy = F.binary_cross_entropy_with_logits(score, target)
        saliency = score.sigmoid()
        overlap = (saliency * target).sum(dim=(1, 2, 3))
        total = saliency.sum(dim=(1, 2, 3)) + target.sum(dim=(1, 2, 3))
        dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
        return {
            "loss": cross_entropy + 0.5 * dice,
            "cross_entropy": cross_entropy,
            "dice": dice,
            "area": saliency.detach().mean(),
        }


def object_logit(logits: Tensor, channel: int) -> Tensor:
    """Log-odds of one region against all others: its sigmoid is its softmax, (batch, 1, h, w)."""
    others = torch.cat((logits[:, :channel], logits[:, channel + 1 :]), dim=1)
    return logits[:, channel : channel + 1] - others.logsumexp(dim=1, keepdim=True)


@dataclass(frozen=True)
class ChannelChoice:
    """The chosen region and how clear the choice is."""

    channel: int
    motion: tuple[float, ...]  # mean of each region against its frame's, in pixels
    area: tuple[float, ...] = ()  # mean share of the frame that each region has, if that is known

    @property
    def margin(self) -> float:
        """How much faster the chosen region moves than the fastest other one, as a share."""
        others = self.motion[: self.channel] + self.motion[self.channel + 1 :]
        return self.motion[self.channel] / max(others) - 1 if max(others) > 0 else 0.0

    def unless_clear(self, prior: int, lead: float = CLEAR_LEAD) -> "ChannelChoice":
        """Return the choice of `prior`, unless the other one moves `lead` times as much."""
        is_clear = self.motion[self.channel] > max(lead * self.motion[prior], LEAST_MOTION)
        return self if is_clear else replace(self, channel=prior)


def relative_motion(view: View) -> Tensor:
    """Length of each region's motion less the frame's mean motion, (batch, region), in pixels.

    A region that is nowhere in a frame has no motion there: it counts by its largest weight.
    """
    assert view.masks is not None
    assert view.vectors is not None
    area = view.masks.mean(dim=(2, 3))  # (batch, region)
    vectors = 4 * view.vectors[:, -1]  # the finest level has a quarter of the motion size
    mean = (vectors * area.unsqueeze(-1)).sum(dim=1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(vectors - mean, dim=-1)
    return length * view.masks.amax(dim=(2, 3))


@torch.no_grad()
def choose_object_channel(model: AMD, batches: Iterable[Any]) -> ChannelChoice:
    """Choose the region with the largest mean relative motion over all pairs, or the first ones."""
    was_training = model.training
    model.eval()
    motion, area = [], []
    for batch in batches:
        found = model(batch.frame_i, batch.frame_j)
        for view in (found.view_i, found.view_j):
            motion.append(relative_motion(view))
            area.append(view.masks.mean(dim=(2, 3)))
        if sum(map(len, motion)) >= 2 * PAIRS_OF_CHOICE:
            break
    model.train(was_training)
    mean, areas = (torch.cat(values).mean(dim=0).tolist() for values in (motion, area))
    return ChannelChoice(mean.index(max(mean)), tuple(mean), tuple(areas))
