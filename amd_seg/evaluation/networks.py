"""Maps that a network makes: of the object, or of the classes."""

from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amd_seg.errors import InputError, raising
from amd_seg.evaluation.datasets import Dataset
from amd_seg.evaluation.maps import to_bytes
from amd_seg.evaluation.origins import Given, MapSource, Origin
from amd_seg.media.files import some

if TYPE_CHECKING:
    from amd_seg.segmenter import Segmenter
    from amd_seg.semantic import SemanticSegmenter


def from_network(
    *,
    weights: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    **call: Any,
) -> Origin:
    """Return the origin that runs a network on each picture; it is loaded once, when first used.

    Args:
        weights: as `Segmenter.from_pretrained` takes them, like `device`, `precision`.
        call: `size`, `batch_size` and the like, as a `Segmenter` call takes them.
    """

    @cache
    def segmenter() -> "Segmenter":
        from amd_seg.segmenter import Segmenter

        return Segmenter.from_pretrained(weights, device=device, precision=precision)

    def origin(dataset: Dataset) -> Iterator[MapSource]:
        images = _images(dataset)
        if not images:
            return
        with closing(segmenter().stream(images, **call)) as results:
            for result in raising(results):
                yield Given(to_bytes(result.saliency))

    return origin


def from_semantic_network(
    *,
    weights: str,
    device: str = "auto",
    precision: str = "float32",
    **call: Any,
) -> Origin:
    """Return the origin that tells the classes of each picture by a fine-tuned network.

    Args:
        weights: as `SemanticSegmenter.from_pretrained` takes them, like the next three.
        call: `size`, `slide`, `flip` and the like, as `SemanticSegmenter.stream` takes them.

    The origin raises an InputError where the network's classes are not those of the data set.
    """

    @cache
    def segmenter() -> "SemanticSegmenter":
        from amd_seg.semantic import SemanticSegmenter

        return SemanticSegmenter.from_pretrained(weights, device=device, precision=precision)

    def origin(dataset: Dataset) -> Iterator[MapSource]:
        images = _images(dataset)
        if not images:
            return
        assert dataset.benchmark.truth is not None
        own, wanted = segmenter().classes, dataset.benchmark.truth.classes
        if own.names != wanted.names:
            raise InputError(
                f"The weights {weights} know {len(own)} classes ({some(own.names)}), but "
                f"{dataset.title} has {len(wanted)} ({some(wanted.names)}). Give weights that were "
                "fine-tuned on these."
            )
        with closing(segmenter().stream(images, **call)) as results:
            for result in raising(results):
                yield Given(result.labels)

    return origin


def _images(dataset: Dataset) -> list[Path]:
    without = [sample.name for sample in dataset.samples if sample.image is None]
    if without:
        raise InputError(
            f"{dataset.folder} holds no pictures for {some(without)}, so there is nothing to "
            "segment. Add them, or score masks with --predictions."
        )
    return [sample.image for sample in dataset.samples if sample.image is not None]
