"""Maps of a network that learns from each clip of a data set before it segments it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING, Any

from amd_seg.errors import AmdSegError, InputError
from amd_seg.evaluation.datasets import Dataset, Sample
from amd_seg.evaluation.maps import to_bytes
from amd_seg.evaluation.origins import Given, MapSource, Origin

if TYPE_CHECKING:
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.adaptation_config import AdaptationConfig

OnClip = Callable[[str, "AdaptationReport"], None]
"""Called with the name of a sequence and what the adaptation to it did."""


def from_adapted_network(
    config: "AdaptationConfig",
    *,
    weights: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    on_clip: OnClip | None = None,
    **call: Any,
) -> Origin:
    """Return the origin that adapts to each sequence, from the same weights every time.

    All frames of a sequence are learned from, also where only some of them are scored. The
    ground truth is not read.

    Args:
        config: how to adapt.
        weights: as `VideoSegmenter.from_pretrained` takes them, like the next three.
        on_clip: called after each adaptation.
        call: `size`, `batch_size` and the like, as `Segmenter.stream` takes them.

    The origin raises an InputError where the data set has no sequences of frames.
    """

    def origin(dataset: Dataset) -> Iterator[MapSource]:
        from amd_seg.video_segmenter import VideoSegmenter

        video = VideoSegmenter.from_pretrained(weights, device=device, precision=precision)
        for name, group in groupby(dataset.samples, key=lambda sample: sample.sequence):
            if name is None:
                raise InputError(
                    f"{dataset.title} has no clips, so there is nothing to adapt to. "
                    "Drop --adapt, or give a data set of videos."
                )
            samples = list(group)
            report = video.adapt(_clip_of(samples[0]), config)
            if on_clip is not None:
                on_clip(name, report)
            images = [sample.image for sample in samples if sample.image is not None]
            with closing(video.segmenter.stream(images, **call)) as results:
                for result in results:
                    if isinstance(result, AmdSegError):
                        raise result
                    yield Given(to_bytes(result.saliency))

    return origin


def _clip_of(sample: Sample) -> str:
    """The folder of all frames of a sample's sequence."""
    if sample.image is None:
        raise InputError(
            f"There are no frames for {sample.name}, so there is nothing to adapt to. "
            "Add them, or score masks with --predictions."
        )
    return str(sample.image.parent)
