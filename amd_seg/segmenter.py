"""Segmenter: photos in, segmentations out."""

import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.call_settings import CallSettings
from amd_seg.choices import DEFAULT_REFINEMENT, MAX_PIXELS
from amd_seg.device import place_for_inference, resolve_device, resolve_precision
from amd_seg.errors import AmdSegError, DeviceError, InputError, WeightsError, raising
from amd_seg.media.images import Photo
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.network_input import (
    PIXELS_HELD,
    SINGLE_IMAGES,
    ImageLike,
    NetworkInput,
    Prepared,
    batches,
    pixel_count,
    prepare,
)
from amd_seg.prefetch import map_ahead
from amd_seg.segmentation import Segmentation
from amd_seg.weights import load_weights

__all__ = ["ImageLike", "Segmentation", "Segmenter"]


class Segmenter:
    """Finds the object in photos: it holds a model, its weights' settings, and a device.

    Example:
        segmenter = Segmenter.from_pretrained()
        segmenter("photo.jpg").save("mask.png")
    """

    def __init__(
        self,
        model: AMD,
        config: WeightsConfig,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> None:
        self.device = place_for_inference(model, device)
        self.precision = precision
        self._dtype = resolve_precision(precision, self.device)
        self.config = config
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> "Segmenter":
        """Return a segmenter with trained weights.

        Args:
            source: None (the bundled weights), a bundled name, a folder, a .safetensors file, or
                "org/name" or "org/name@revision" on the Hub.
            device: "auto" (CUDA, then MPS, then CPU; which one is logged), "cpu", "cuda",
                "cuda:1" or "mps"; a device that is not here is an error.
            precision: "float32" or "bfloat16", of the network only.

        Raises:
            WeightsError: the weights cannot be had or are not valid.
            DeviceError: the device or the precision cannot be used on this machine.
        """
        resolve_precision(precision, resolve_device(device))  # Before a download, not after it.
        pretrained = load_weights(source)
        return cls(pretrained.model, pretrained.config, device=device, precision=precision)

    # A str is an iterable of str too; the first signature that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        *,
        size: int | None = ...,
        threshold: float | str | None = ...,
        refine: str = ...,
        min_confidence: float = ...,
        batch_size: int = ...,
        max_pixels: int = ...,
    ) -> Segmentation: ...

    @overload
    def __call__(
        self,
        image: Iterable[ImageLike],
        *,
        size: int | None = ...,
        threshold: float | str | None = ...,
        refine: str = ...,
        min_confidence: float = ...,
        batch_size: int = ...,
        max_pixels: int = ...,
    ) -> Iterator[Segmentation]: ...

    def __call__(
        self,
        image: ImageLike | Iterable[ImageLike],
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        refine: str = DEFAULT_REFINEMENT,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
    ) -> Segmentation | Iterator[Segmentation]:
        """Segment one image, or an iterable of images: an iterator in its order.

        Args:
            image: a path, the bytes of a file, a PIL image, a numpy array (height, width) or
                (height, width, 1|3|4), uint8 or float in 0..1, or a torch tensor
                (3, height, width) likewise; or an iterable of any of these, of any sizes.
            size: short edge, in pixels, that the network sees; None takes that of the weights.
                The long edge is at most 4 times it. See `network_input` for the resizing.
            threshold: saliency above which a pixel is in the mask, between 0 and 1, or "otsu";
                None takes that of the weights.
            refine: how the network's coarse map, an eighth of what it sees, gets the photo's
                edges: "none" (enlarged, as published), "guided" (a guided filter), "colour" (which
                colours are the object's, and which the ground's) or "grabcut" (the same with a
                cut). See `refinement`.
            min_confidence: `Segmentation.confidence`, 0 to 1, below which the photo counts as one
                without an object.
            batch_size: images that share a pass of the network where their sizes allow it.
                The next ones are read meanwhile; batches of large photos hold fewer.
            max_pixels: a file that claims more is refused before it is decoded.

        Raises:
            InputError: an argument cannot be used.
            MediaError: an image cannot be read; an iterator raises it in that image's place.
            DeviceError: the device ran out of memory.
        """
        is_single = isinstance(image, SINGLE_IMAGES)
        if not is_single and not isinstance(image, Iterable):
            raise InputError(
                f"A {type(image).__name__} is no image. Give a path, bytes, a PIL image, a numpy "
                "array, a torch tensor, or an iterable of these."
            )
        images = [cast(ImageLike, image)] if is_single else cast(Iterable[ImageLike], image)
        results = raising(
            self.stream(
                images,
                size=size,
                threshold=threshold,
                refine=refine,
                min_confidence=min_confidence,
                batch_size=batch_size,
                max_pixels=max_pixels,
            )
        )
        return next(results) if is_single else results

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        refine: str = DEFAULT_REFINEMENT,
        min_confidence: float = 0.0,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
    ) -> Generator[Segmentation | AmdSegError, None, None]:
        """Segment images as a call does, with the error itself in the place of a bad image.

        Raises:
            InputError: an argument, not an image, cannot be used.
            DeviceError: the device ran out of memory.
        """
        settings = CallSettings(
            size=self.config.input_size if size is None else size,
            threshold=self.config.threshold if threshold is None else threshold,
            refine=refine,
            min_confidence=min_confidence,
            batch_size=batch_size,
            max_pixels=max_pixels,
        )

        def prepare_or_error(image: ImageLike) -> Prepared:
            try:
                return prepare(image, settings.size, max_pixels)
            except AmdSegError as error:
                return error

        prepared = map_ahead(
            prepare_or_error, images, ahead=batch_size, weigh=pixel_count, budget=PIXELS_HELD
        )
        return self._stream(prepared, settings)

    def region_masks(self, frames: Tensor) -> NDArray[np.float32]:
        """Run the network on frames that are resized for it already.

        Args:
            frames: (batch, 3, height, width), RGB, uint8 or float in 0..255, on any device.

        Returns:
            (batch, region, ceil(height / 8), ceil(width / 8)), float32, sums to 1 over region.

        Raises:
            DeviceError: the device ran out of memory.
        """
        is_reduced = self._dtype is not torch.float32
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self._dtype, enabled=is_reduced),
            ):
                masks = self.model.segment(frames.to(self.device))
                return cast(NDArray[np.float32], masks.float().cpu().numpy())
        except torch.cuda.OutOfMemoryError as cause:
            raise DeviceError(
                f"{self.device} has not enough memory for {len(frames)} images of "
                f"{frames.shape[3]}x{frames.shape[2]} pixels. Use a smaller batch size or size."
            ) from cause

    def _stream(
        self, prepared: Generator[Prepared, None, None], settings: CallSettings
    ) -> Generator[Segmentation | AmdSegError, None, None]:
        with closing(prepared):
            for batch in batches(prepared, settings.batch_size):
                masks = self._masks_of(batch)
                for index, item in enumerate(batch):
                    if isinstance(item, NetworkInput):
                        yield self._result(item.photo, masks[index], settings)
                    else:
                        yield item

    def _masks_of(self, batch: list[Prepared]) -> dict[int, NDArray[np.float32]]:
        """Run the network once for each size of frame: place in the batch -> (region, h, w)."""
        by_size: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        for index, item in enumerate(batch):
            if isinstance(item, NetworkInput):
                by_size[item.frame.shape].append((index, item.frame))
        masks: dict[int, NDArray[np.float32]] = {}
        for group in by_size.values():
            indices, frames = zip(*group, strict=True)
            masks.update(zip(indices, self.region_masks(torch.stack(frames)), strict=True))
        return masks

    def _result(
        self, photo: Photo, region_masks: NDArray[np.float32], settings: CallSettings
    ) -> Segmentation | WeightsError:
        if not np.isfinite(region_masks).all():
            return WeightsError(
                f"The network gave no finite numbers for {photo.source} in {self.precision}: the "
                f"weights {self.config.name!r} are damaged. Take others."
            )
        return Segmentation(
            photo,
            region_masks,
            self.config.object_channel,
            settings.threshold,
            refine=settings.refine,
            min_confidence=settings.min_confidence,
        )
