"""The appearance pathway with a class in the place of each region (paper, section 4.4)."""

from torch import Tensor

from amd_seg.model.appearance import AppearancePathway
from amd_seg.model.normalised import NormalisedModel
from amd_seg.model.segment_flow import full_precision
from amd_seg.model.semantic_config import SemanticConfig


class SemanticNetwork(NormalisedModel):
    """A backbone and a fully convolutional head: which class each place of a frame belongs to.

    Frames are (batch, 3, height, width), RGB, uint8 or float in 0..255: normalisation happens
    here and nowhere else.
    """

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        self.appearance = AppearancePathway(config)

    def class_logits(self, frames: Tensor) -> Tensor:
        """Logits of the classes, (batch, class, ceil(height / 8), ceil(width / 8)), float32."""
        logits: Tensor = self.appearance(self.preprocess(frames))
        return full_precision(logits)
