"""Which region is the object: the one that moves most against its frame (section 3.5)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from amd_seg.model.amd import AMD, View

CLEAR_LEAD = 1.5  # how much faster than a known channel another must move to take its place
LEAST_MOTION = 0.1  # pixels that it must move at least: less is noise, whatever the lead


@dataclass(frozen=True)
class ChannelChoice:
    """The chosen region and how clear the choice is."""

    channel: int
    motion: tuple[float, ...]  # mean of each region against its frame's, in pixels

    @property
    def margin(self) -> float:
        """How much faster the chosen region moves than the fastest other one, as a share.

        Below 0 where another one moves faster and was not chosen.
        """
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
def choose_object_channel(model: AMD, batches: Iterator[Any], *, count: int = 16) -> ChannelChoice:
    """Choose the region with the largest mean relative motion over `count` batches of pairs."""
    was_training = model.training
    model.eval()
    motion = []
    for _ in range(count):
        batch = next(batches)
        found = model(batch.frame_i, batch.frame_j)
        motion += [relative_motion(found.view_i), relative_motion(found.view_j)]
    model.train(was_training)
    mean = torch.cat(motion).mean(dim=0)
    return ChannelChoice(int(mean.argmax()), tuple(mean.tolist()))
