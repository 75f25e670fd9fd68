"""What a step minimises: a model and its loss as one module, so that DDP sees a single forward.

Every objective maps a batch to {"loss": ..., parts}: the loss, its terms, and what tells a run that
learns from one that is lost.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amd_seg.model.amd import AMD
from amd_seg.model.objective import photometric_objective
from amd_seg.training.config import TrainingConfig
from amd_seg.training.distributed import batch_mean


def make_objective(model: AMD, config: TrainingConfig, object_channel: int = 0) -> nn.Module:
    """Return the objective that the settings name; motion masks teach the object channel."""
    if config.objective == "motion-masks":
        return MotionMaskObjective(model, object_channel)
    return PhotometricObjective(model, config)


class PhotometricObjective(nn.Module):
    """Eq. 7 on pairs of frames, through both pathways.

    With the objective "dense", the same error of the motion pathway's own flow: masks are not used.
    """

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
