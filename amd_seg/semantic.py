"""SemanticSegmenter: photos in, label maps out, with a network that was fine-tuned on classes."""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, cast, overload

import torch

from amd_seg.call_settings import SIZES
from amd_seg.choices import MAX_PIXELS, OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.device import place_for_inference, resolve_device, resolve_precision
from amd_seg.errors import AmdSegError, InputError, WeightsError, raising
from amd_seg.media.images import Photo
from amd_seg.model.amd import AMD
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticWeightsConfig, WeightsConfig
from amd_seg.network_input import (
    PIXELS_HELD,
    SINGLE_IMAGES,
    ImageLike,
    NetworkInput,
    pixel_count,
    prepare,
)
from amd_seg.prefetch import map_ahead
from amd_seg.segmenter import Segmenter
from amd_seg.semantic_maps import class_probabilities, strongest_classes
from amd_seg.semantic_segmentation import SemanticSegmentation
from amd_seg.weights import load_any_weights, load_semantic_weights

__all__ = ["SemanticSegmentation", "SemanticSegmenter", "open_segmenter"]


class SemanticSegmenter:
    """Tells what is where in photos: it holds a fine-tuned model, its settings, and a device.

    Example:
        segmenter = SemanticSegmenter.from_pretrained("run")
        segmenter("photo.jpg").save("labels.png")
    """

    def __init__(
        self,
        model: SemanticNetwork,
        config: SemanticWeightsConfig,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> None:
        self.device = place_for_inference(model, device)
        self.precision = precision
        self._dtype = resolve_precision(precision, self.device)
        self.config = config
        self.classes = config.classes
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> "SemanticSegmenter":
        """Return a segmenter with fine-tuned weights.

        Args:
            source: the folder of a run of `amd-seg finetune`, a folder of weights, a .safetensors
                file, or "org/name" on the Hub.
            device: as `Segmenter.from_pretrained` takes it, like `precision`.
            precision: "float32" or "bfloat16", of the network only.

        Raises:
            WeightsError: the weights cannot be had, are not valid, or know no classes.
            DeviceError: the device or the precision cannot be used on this machine.
        """
        resolve_precision(precision, resolve_device(device))  # Before a download, not after it.
        found = load_semantic_weights(source)
        return cls(found.model, found.config, device=device, precision=precision)

    @overload
    def __call__(self, image: ImageLike, **options: Any) -> SemanticSegmentation: ...

    @overload
    def __call__(
        self, image: Iterable[ImageLike], **options: Any
    ) -> Iterator[SemanticSegmentation]: ...

    def __call__(
        self, image: ImageLike | Iterable[ImageLike], **options: Any
    ) -> SemanticSegmentation | Iterator[SemanticSegmentation]:
        """Segment one image, or an iterable of images: an iterator in its order.

        Args:
            image: whatever `Segmenter` takes.
            options: see `stream`.

        Raises:
            InputError: an argument cannot be used.
            MediaError: an image cannot be read; an iterator raises it in that image's place.
            DeviceError: the device ran out of memory.
        """
        is_single = isinstance(image, SINGLE_IMAGES)
        if not is_single and not isinstance(image, Iterable):
            raise InputError(f"A {type(image).__name__} is no image. Give a path, or several.")
        images = [cast(ImageLike, image)] if is_single else cast(Iterable[ImageLike], image)
        results = raising(self.stream(images, **options))
        return next(results) if is_single else results

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        slide: bool = False,
        flip: bool = False,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[SemanticSegmentation | AmdSegError, None, None]:
        """Segment images as a call does, with the error itself in the place of a bad image.

        Args:
            images: of any sizes; the next ones are read meanwhile.
            size: short edge, in pixels, that the network sees; None takes that of the weights.
            slide: let a square window of the weights' size slide over the photo, by two thirds of
                its side, and take the mean where windows overlap; else the network sees it whole.
            flip: take the mean with the mirrored photo.
            batch_size: windows that share a pass of the network; photos that are read ahead.
            max_pixels: a file that claims more is refused before it is decoded.

        Raises:
            InputError: an argument, not an image, cannot be used.
            DeviceError: the device ran out of memory.
        """
        size = self.config.input_size if size is None else size
        if not SIZES[0] <= size <= SIZES[1] or batch_size < 1:
            raise InputError(
                f"size={size}, batch_size={batch_size} cannot be used: the short edge must be "
                f"{SIZES[0]} to {SIZES[1]} pixels, the batch 1 or more."
            )

        def prepare_or_error(image: ImageLike) -> NetworkInput | AmdSegError:
            try:
                return prepare(image, size, max_pixels)
            except AmdSegError as error:
                return error

        prepared = map_ahead(
            prepare_or_error, images, ahead=batch_size, weigh=pixel_count, budget=PIXELS_HELD
        )
        window = self.config.input_size if slide else None
        return self._stream(prepared, window, flip, batch_size)

    def _stream(
        self,
        prepared: Generator[NetworkInput | AmdSegError, None, None],
        window: int | None,
        flip: bool,
        batch_size: int,
    ) -> Generator[SemanticSegmentation | AmdSegError, None, None]:
        with closing(prepared):
            for item in prepared:
                if isinstance(item, AmdSegError):
                    yield item
                    continue
                frame = item.frame.to(self.device)
                with torch.autocast(
                    self.device.type, self._dtype, enabled=self._dtype is not torch.float32
                ):
                    scores = class_probabilities(
                        self.model, frame, window=window, flip=flip, batch_size=batch_size
                    )
                yield self._result(item.photo, scores.cpu())

    def _result(self, photo: Photo, scores: torch.Tensor) -> SemanticSegmentation | WeightsError:
        if not torch.isfinite(scores).all():
            return WeightsError(
                f"The network gave no finite numbers for {photo.source} in {self.precision}: the "
                f"weights {self.config.name!r} are damaged. Take others."
            )
        height, width = photo.pixels.shape[:2]
        labels = strongest_classes(scores, (height, width))
        return SemanticSegmentation(photo, labels, self.classes)


def open_segmenter(
    source: str | os.PathLike[str] | None,
    output: str,
    *,
    device: str | torch.device = "auto",
    precision: str = "float32",
) -> Segmenter | SemanticSegmenter:
    """Return the segmenter that weights are for, whichever it is.

    Args:
        source: as `Segmenter.from_pretrained` takes it, like the others.
        output: the picture that is wanted of it.

    Raises:
        InputError: weights of this kind do not give that output.
        WeightsError: the weights cannot be had or are not valid.
        DeviceError: the device or the precision cannot be used on this machine.
    """
    resolve_precision(precision, resolve_device(device))  # Before a download, not after it.
    found = load_any_weights(source)
    is_semantic = isinstance(found.config, SemanticWeightsConfig)
    _require_output(output, SEMANTIC_OUTPUTS if is_semantic else OUTPUTS, found.source)
    if isinstance(found.model, SemanticNetwork) and isinstance(found.config, SemanticWeightsConfig):
        return SemanticSegmenter(found.model, found.config, device=device, precision=precision)
    assert isinstance(found.model, AMD)
    assert isinstance(found.config, WeightsConfig)
    return Segmenter(found.model, found.config, device=device, precision=precision)


def _require_output(output: str, outputs: tuple[str, ...], weights: str) -> None:
    if output not in outputs:
        what = (
            "tell classes" if outputs == SEMANTIC_OUTPUTS else "find the object and know no classes"
        )
        raise InputError(
            f"The weights {weights} {what}: they give no {output}. "
            f"Use --output {' or '.join(outputs)}, or other --weights."
        )
