"""Settings of fine-tuning and their presets; standard library only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from amd_seg.training.run_config import Optimizer, RunConfig

Augment = Literal["light", "heavy"]


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """How a network learns classes from label maps; the defaults are the paper's (section 4.4).

    What the paper leaves open (momentum, weight decay, the schedule's end) is the published
    practice of the toolbox that its code is written in (mmsegmentation, VOC, 40K schedule).

    Raises:
        ConfigError: a value is outside what training allows.
    """

    steps: int = 40_000
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.01
    final_learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    short_edge: int = 512
    """Short edge, in pixels, to which a photo is scaled before --scale; the trained network sees
    photos at it."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale of a photo, 1 being --short-edge."""
    crop: tuple[int, int] = (512, 512)
    """Height and width, in pixels, of what the network sees; smaller photos are filled up with the
    mean colour and void."""
    flip: bool = True
    """Mirror half of the photos."""
    augment: Augment = "light"
    """light: scale, crop and flip; heavy: changes of colour, grey and blur besides."""
    workers: int = 4
    """Processes a rank that read and crop photos; 0 does it between the steps."""

    def __post_init__(self) -> None:
        for name in ("scale", "crop"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    def _faults(self) -> Iterator[tuple[str, str]]:
        yield from super()._faults()
        yield from self._below(0, "workers")
        yield from self._below(16, "short_edge")
        yield from self._unknown(augment=get_args(Augment))
        if min(self.crop) < 16:
            yield "crop", "two sizes of 16 or more"
        if not 0 < self.scale[0] <= self.scale[1]:
            yield "scale", "0 < low <= high"


def paper() -> FinetuneConfig:
    """Section 4.4: 40,000 steps of 16 photos, SGD 0.01, poly 0.9."""
    return FinetuneConfig()


def cpu() -> FinetuneConfig:
    """What two CPU cores do in minutes, for a few hundred photos.

    So few steps want a higher learning rate: 80 of them on 165 photos of VOC scored 8.3 at 0.05,
    4.6 at 0.01 (notes/experiments.md).
    """
    return FinetuneConfig(
        steps=600,
        learning_rate=0.05,
        short_edge=128,
        crop=(128, 128),
        workers=0,
        sheet_every=200,
        checkpoint_every=200,
        channels_last=False,
    )


FINETUNE_PRESETS = {"paper": paper, "cpu": cpu}
