"""Segmenter: photos in, segmentations out."""

import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from math import floor
from typing import NamedTuple, TypeAlias, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from amd_seg.device import resolve_device, resolve_precision
from amd_seg.errors import AmdSegError, DeviceError, InputError, WeightsError
from amd_seg.media.images import Photo, photo_from_array, read_image
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.overlap import map_ahead
from amd_seg.segmentation import Segmentation
from amd_seg.weights import load_weights

__all__ = ["ImageLike", "Segmentation", "Segmenter", "network_size"]

logger = logging.getLogger(__name__)

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.generic] | Tensor
_SINGLE = (str, os.PathLike, bytes, bytearray, Image.Image, np.ndarray, Tensor)

# The long edge, in short edges, that the network sees at most: its cost stays bounded.
LONGEST_ASPECT = 4
# Pixels of photos that one batch, or the photos read ahead, may hold: 64 million are 192 MB.
_PIXELS_HELD = 64_000_000
_SMALLEST_SIZE, _LARGEST_SIZE = 16, 8192


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
        self.device = resolve_device(device)
        self.precision = precision
        self._dtype = resolve_precision(precision, self.device)
        self.config = config
        self.model = model.eval().to(self.device)
        if str(device) == "auto":
            logger.info("Using device %s.", self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> "Segmenter":
        """Return a segmenter with trained weights.

        Args:
            source: None (the bundled weights), a bundled name, a folder, a .safetensors file,
                or "org/name" on the Hub.
            revision: branch, tag or commit on the Hub.
            device: "auto" (CUDA, then MPS, then CPU; which one is logged), "cpu", "cuda",
                "cuda:1" or "mps"; a device that is not here is an error.
            precision: "float32" or "bfloat16", of the network only.

        Raises:
            WeightsError: the weights cannot be had or are not valid.
            DeviceError: the device or the precision cannot be used on this machine.
        """
        resolve_precision(precision, resolve_device(device))  # before a download, not after it
        pretrained = load_weights(source, revision=revision)
        return cls(pretrained.model, pretrained.config, device=device, precision=precision)

    @overload
    def __call__(
        self,
        image: ImageLike,
        *,
        size: int | None = ...,
        threshold: float | str | None = ...,
        batch_size: int = ...,
    ) -> Segmentation: ...

    @overload
    def __call__(
        self,
        image: Iterable[ImageLike],
        *,
        size: int | None = ...,
        threshold: float | str | None = ...,
        batch_size: int = ...,
    ) -> Iterator[Segmentation]: ...

    def __call__(
        self,
        image: ImageLike | Iterable[ImageLike],
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        batch_size: int = 8,
    ) -> Segmentation | Iterator[Segmentation]:
        """Segment one image, or an iterable of images: an iterator in its order.

        Args:
            image: a path, the bytes of a file, a PIL image, a numpy array (height, width) or
                (height, width, 1|3|4), uint8 or float in 0..1, or a torch tensor
                (3, height, width) likewise; or an iterable of any of these, of any sizes.
            size: short edge, in pixels, that the network sees; None takes that of the weights.
            threshold: saliency above which a pixel is in the mask, between 0 and 1, or "otsu";
                None takes that of the weights.
            batch_size: images that share a pass of the network where their sizes allow it.
                The next ones are read meanwhile; batches of large photos hold fewer.

        The network's input is resized with antialiasing. The released code resizes without:
        the same where a photo is enlarged, without its false patterns where it is reduced.
        Its long edge is at most 4 times `size`; beyond an aspect of 1:16 it is squeezed.

        Raises:
            InputError: an argument cannot be used.
            MediaError: an image cannot be read; an iterator raises it in that image's place.
        """
        if isinstance(image, _SINGLE):
            images: Iterable[ImageLike] = [cast(ImageLike, image)]
            return next(_raising(self.stream(images, size=size, threshold=threshold)))
        if not isinstance(image, Iterable):
            raise InputError(
                f"A {type(image).__name__} is no image. Give a path, bytes, a PIL image, a numpy "
                "array, a torch tensor, or an iterable of these."
            )
        return _raising(self.stream(image, size=size, threshold=threshold, batch_size=batch_size))

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        size: int | None = None,
        threshold: float | str | None = None,
        batch_size: int = 8,
    ) -> Generator[Segmentation | AmdSegError, None, None]:
        """Segment images as a call does, with the error itself in the place of a bad image.

        Raises:
            InputError: an argument, not an image, cannot be used.
            DeviceError: the device ran out of memory.
        """
        size = self.config.input_size if size is None else size
        rule = self.config.threshold if threshold is None else threshold
        _check_settings(size, rule, batch_size)
        return self._stream(images, size, rule, batch_size)

    def _stream(
        self, images: Iterable[ImageLike], size: int, rule: float | str, batch_size: int
    ) -> Generator[Segmentation | AmdSegError, None, None]:
        def prepare(image: ImageLike) -> "_Prepared | AmdSegError":
            try:
                return _prepare(image, size)
            except AmdSegError as error:
                return error

        prepared = map_ahead(prepare, images, ahead=batch_size, weigh=_pixels, budget=_PIXELS_HELD)
        with closing(prepared):
            for batch in _batches(prepared, batch_size):
                yield from self._segment(batch, rule)

    def _segment(
        self, batch: "list[_Prepared | AmdSegError]", rule: float | str
    ) -> Iterator[Segmentation | AmdSegError]:
        """Run the network once for each size in the batch, then yield in the batch's order."""
        by_size: dict[torch.Size, list[int]] = {}
        for index, item in enumerate(batch):
            if isinstance(item, _Prepared):
                by_size.setdefault(item.frame.shape, []).append(index)
        region_masks: dict[int, NDArray[np.float32]] = {}
        for indices in by_size.values():
            frames = torch.stack([cast(_Prepared, batch[index]).frame for index in indices])
            region_masks.update(zip(indices, self._run(frames), strict=True))
        for index, item in enumerate(batch):
            if isinstance(item, _Prepared):
                yield self._result(item.photo, region_masks[index], rule)
            else:
                yield item

    def _run(self, frames: Tensor) -> NDArray[np.float32]:
        """Return the region masks of uint8 frames (batch, 3, height, width)."""
        autocast = torch.autocast(
            self.device.type, self._dtype, enabled=self._dtype is not torch.float32
        )
        try:
            with torch.inference_mode(), autocast:
                masks = self.model.segment(frames.to(self.device))
                return masks.float().cpu().numpy()
        except torch.cuda.OutOfMemoryError as cause:
            raise DeviceError(
                f"{self.device} has not enough memory for {len(frames)} images of "
                f"{frames.shape[3]}x{frames.shape[2]} pixels. Use a smaller batch size or size."
            ) from cause

    def _result(
        self, photo: Photo, region_masks: NDArray[np.float32], rule: float | str
    ) -> Segmentation | AmdSegError:
        if not np.isfinite(region_masks).all():
            return WeightsError(
                f"The network gave no finite numbers for {photo.source} in {self.precision}: the "
                f"weights {self.config.name!r} are damaged. Take others, or float32."
            )
        return Segmentation(photo, region_masks, self.config.object_channel, rule)


def network_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width, in pixels, at which the network sees a photo.

    The short edge becomes `size` and the aspect is kept, rounded as published, floor(x f + 0.5).
    The long edge is at most 4 `size`; no edge is under a quarter of `size`.
    """
    factor = min(size / min(height, width), LONGEST_ASPECT * size / max(height, width))
    least = max(size // LONGEST_ASPECT, 1)
    return max(floor(height * factor + 0.5), least), max(floor(width * factor + 0.5), least)


class _Prepared(NamedTuple):
    """A photo, and the uint8 frame (3, h, w) that the network sees of it."""

    photo: Photo
    frame: Tensor


def _prepare(image: ImageLike, size: int) -> _Prepared:
    photo = _read(image)
    height, width = photo.pixels.shape[:2]
    # torch cannot share memory that numpy may not write to.
    pixels = photo.pixels if photo.pixels.flags.writeable else photo.pixels.copy()
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    target = network_size(height, width, size)
    frame = interpolate(whole, target, mode="bilinear", align_corners=False, antialias=True)
    return _Prepared(photo, frame[0])


def _read(image: ImageLike) -> Photo:
    if isinstance(image, Tensor):
        array = image.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        if array.ndim != 3:
            raise InputError(
                f"A torch image has shape {tuple(image.shape)}. Give (3, height, width); a batch "
                "as a list of such tensors."
            )
        return photo_from_array(array.permute(1, 2, 0).numpy(), source="tensor")
    if isinstance(image, np.ndarray):
        return photo_from_array(image)
    return read_image(image)


def _batches(
    items: "Iterator[_Prepared | AmdSegError]", batch_size: int
) -> "Iterator[list[_Prepared | AmdSegError]]":
    """Yield lists of up to `batch_size` items; large photos fill a batch sooner."""
    batch: list[_Prepared | AmdSegError] = []
    held = 0
    for item in items:
        batch.append(item)
        held += _pixels(item)
        if len(batch) == batch_size or held >= _PIXELS_HELD:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _pixels(item: "_Prepared | AmdSegError") -> int:
    if isinstance(item, _Prepared):
        return item.photo.pixels.shape[0] * item.photo.pixels.shape[1]
    return 1


def _raising(outcomes: Iterator[Segmentation | AmdSegError]) -> Iterator[Segmentation]:
    for outcome in outcomes:
        if isinstance(outcome, AmdSegError):
            raise outcome
        yield outcome


def _check_settings(size: int, rule: float | str, batch_size: int) -> None:
    if not _SMALLEST_SIZE <= size <= _LARGEST_SIZE:
        raise InputError(
            f"size={size!r} cannot be used: the short edge that the network sees must be "
            f"{_SMALLEST_SIZE} to {_LARGEST_SIZE} pixels."
        )
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size!r} cannot be used: it must be 1 or more.")
    if rule != "otsu" and not (isinstance(rule, int | float) and 0 < rule < 1):
        raise InputError(
            f"threshold={rule!r} cannot be used: give a number between 0 and 1, or otsu."
        )
