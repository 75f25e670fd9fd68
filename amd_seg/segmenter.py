"""Segmenter: photos in, segmentations out. They are read ahead in threads, and resized there."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from math import floor, prod
from typing import (
    Any,
    BinaryIO,
    ClassVar,
    Generic,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amd_seg.choices import DEFAULT_REFINEMENT, MAX_PIXELS, REFINEMENTS, SIZES
from amd_seg.device import own_numerics, place_for_inference, resolve_device, resolve_precision
from amd_seg.errors import AmdSegError, DeviceError, InputError, WeightsError, raising
from amd_seg.media.images import Photo, photo_from_array, read_image
from amd_seg.model.amd import AMD
from amd_seg.model.config import WeightsConfig
from amd_seg.prefetch import map_ahead
from amd_seg.refine import Point, resize_pixels
from amd_seg.segmentation import Segmentation
from amd_seg.weights import Config, Model, Pretrained, load_weights

__all__ = ["ImageLike", "Segmentation", "Segmenter"]

ImageLike: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | memoryview
    | BinaryIO
    | Image.Image
    | NDArray[np.generic]
    | Tensor
    | Photo
)

Prepared: TypeAlias = tuple[Photo, Tensor]  # and what the network sees: (3, h, w), RGB, uint8
Result = TypeVar("Result")

LONGEST_ASPECT = 4  # of what the network sees, so that its cost stays bounded
PIXELS_HELD = 64_000_000  # that one batch, or the photos read ahead, may hold: 192 MB

_SINGLE_IMAGES = (
    *(str, os.PathLike, bytes, bytearray, memoryview),
    *(Image.Image, np.ndarray, Tensor, Photo),
)


class CallOptions(TypedDict, total=False):
    """How images are segmented; what is not given has its default."""

    size: int | None
    """Short edge, in pixels, that the network sees; None takes that of the weights. The long edge
    is at most 4 times it, see `network_size`."""
    threshold: float | str | None
    """Saliency above which a pixel is in the mask, between 0 and 1, or "otsu"; None takes that of
    the weights."""
    refine: str
    """How the network's map gets the photo's edges: "none" (enlarged, as published), "guided" (a
    guided filter), "ranking" (the same, joined with what is unlike the photo's border) or "grabcut"
    (GrabCut on that; the default for photos); see `refine_map`."""
    min_confidence: float
    """`Segmentation.confidence`, 0 to 1, below which a photo has no object (0)."""
    batch_size: int
    """Images that share a pass of the network where their sizes allow it (8). The next ones are
    read meanwhile; batches of large photos hold fewer."""
    max_pixels: int
    """A file that claims more is refused before it is decoded (200 million)."""


class PlacedNetwork(Generic[Model, Config]):
    """A network on a device, and the settings of its weights: what segmenters of photos share."""

    _load: ClassVar[Callable[..., Pretrained[Any, Any]]]

    def __init__(
        self,
        model: Model,
        config: Config,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> None:
        self.device = place_for_inference(model, device)
        self.precision = precision
        self._dtype = resolve_precision(precision, self.device)
        self.config: Config = config
        self.model: Model = model

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "float32",
    ) -> Self:
        """Return a segmenter with trained weights.

        Args:
            source: None (the bundled weights), a bundled name, a folder (that of a run too), a
                .safetensors file, or "org/name" or "org/name@revision" on the Hub.
            device: "auto" (CUDA, then MPS, then CPU; which one is logged), "cpu", "cuda",
                "cuda:1" or "mps"; a device that is not here is an error.
            precision: "float32" or "bfloat16", of the network only.

        Raises:
            WeightsError: the weights cannot be had, are not valid, or are for another segmenter.
            DeviceError: the device or the precision cannot be used on this machine.
        """
        resolve_precision(precision, resolve_device(device))  # Before a download, not after it.
        found = cls._load(source)
        return cls(found.model, found.config, device=device, precision=precision)

    def _checked(self, size: int | None, batch_size: int) -> int:
        """Return the size that the network sees."""
        edge, (least, most) = self.config.input_size if size is None else size, SIZES
        allowed = f"the short edge that the network sees must be {least} to {most} pixels"
        require(least <= edge <= most, "size", edge, allowed)
        require(batch_size >= 1, "batch_size", batch_size, "it must be 1 or more")
        return edge

    def _results(
        self,
        images: Iterable[ImageLike],
        segment: Callable[[list[Prepared]], Iterator[Result | AmdSegError]],
        size: int,
        batch_size: int,
        max_pixels: int,
        *,
        reduced: bool = True,
    ) -> Generator[Result | AmdSegError, None, None]:
        """Yield what `segment` makes of batches of photos, with the errors of bad ones in place.

        Photos may be `reduced` where the network sees much less of them.
        """

        def prepare_or_error(image: ImageLike) -> Prepared | AmdSegError:
            try:
                return prepare(image, size, max_pixels, reduced=reduced)
            except AmdSegError as error:
                return error

        def pixel_count(item: Prepared | AmdSegError) -> int:
            return 1 if isinstance(item, AmdSegError) else prod(item[0].size)

        def results_of(batch: list[Prepared | AmdSegError]) -> Iterator[Result | AmdSegError]:
            found = segment([item for item in batch if not isinstance(item, AmdSegError)])
            for item in batch:
                yield item if isinstance(item, AmdSegError) else next(found)

        batch: list[Prepared | AmdSegError] = []
        ahead: dict[str, Any] = {"ahead": batch_size, "weigh": pixel_count, "budget": PIXELS_HELD}
        with closing(map_ahead(prepare_or_error, images, **ahead)) as items:
            for item in items:
                batch.append(item)
                # Large photos fill a batch sooner.
                if len(batch) == batch_size or sum(map(pixel_count, batch)) >= PIXELS_HELD:
                    yield from results_of(batch)
                    batch = []
            yield from results_of(batch)

    @contextmanager
    def _computing(self, frames: Tensor) -> Iterator[None]:
        """Compute with frames (..., height, width) as amd_seg does, whatever surrounds the call."""
        try:
            with own_numerics(self.device, self._dtype):
                yield
        except torch.cuda.OutOfMemoryError as cause:
            raise DeviceError(
                f"{self.device} has not enough memory for frames of {frames.shape[-1]}x"
                f"{frames.shape[-2]} pixels. Use a smaller size or batch size."
            ) from cause

    def _damaged(self, photo: Photo) -> WeightsError:
        return WeightsError(
            f"The network gave no finite numbers for {photo.source} in {self.precision}: the "
            f"weights {self.config.name!r} are damaged. Take others."
        )


class Segmenter(PlacedNetwork[AMD, WeightsConfig]):
    """Finds the object in photos: it holds a model, its weights' settings, and a device.

    Threads may share one.

    Example:
        segmenter = Segmenter.from_pretrained()
        segmenter("photo.jpg").save("mask.png")
    """

    _load = staticmethod(load_weights)

    # A str is an iterable of str too; the first signature that fits counts.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        *,
        include: Iterable[Point] = ...,
        exclude: Iterable[Point] = ...,
        **options: Unpack[CallOptions],
    ) -> Segmentation: ...

    @overload
    def __call__(
        self, image: Iterable[ImageLike], **options: Unpack[CallOptions]
    ) -> Iterator[Segmentation]: ...

    def __call__(
        self,
        image: ImageLike | Iterable[ImageLike],
        *,
        include: Iterable[Point] = (),
        exclude: Iterable[Point] = (),
        **options: Unpack[CallOptions],
    ) -> Segmentation | Iterator[Segmentation]:
        """Segment one image, or an iterable of images: an iterator in its order.

        Args:
            image: a path, the bytes of a file, a file open for reading bytes, a PIL image, a numpy
                array (height, width) or (height, width, 1|3|4), uint8 or float in 0..1, or a torch
                tensor (3, height, width) likewise; or an iterable of any of these, of any sizes.
            include: clicks on the object in one photo, in place of what stands out: pixels of the
                photo as it is shown (after its EXIF rotation), x first.
            exclude: clicks on what is not the object. See `Segmentation.clicked`.
            options: see `CallOptions`.

        Raises:
            InputError: an argument cannot be used.
            MediaError: an image cannot be read; an iterator raises it in that image's place.
        """
        clicks = tuple(include), tuple(exclude)
        result = one_or_all(image, lambda images: self.stream(images, **options))
        if not any(clicks):
            return result
        if not isinstance(result, Segmentation):
            raise InputError("Clicks choose an object in one photo. Give the photos one by one.")
        return result.clicked(*clicks)

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
        """Segment images as a call does, with the error itself in the place of a bad image."""
        edge = self._checked(size, batch_size)
        rule = self.config.threshold if threshold is None else threshold
        is_level = isinstance(rule, int | float) and 0 < rule < 1
        allowed = "give a number between 0 and 1, or otsu"
        require(is_level or rule == "otsu", "threshold", rule, allowed)
        require(refine in REFINEMENTS, "refine", refine, f"give one of {', '.join(REFINEMENTS)}")
        require(0 <= min_confidence <= 1, "min_confidence", min_confidence, "it must be 0 to 1")

        def segment(photos: list[Prepared]) -> Iterator[Segmentation | AmdSegError]:
            masks: dict[int, NDArray[np.float32]] = {}
            # One pass of the network for each size of frame.
            for shape in {frame.shape for _, frame in photos}:
                group = [i for i, (_, frame) in enumerate(photos) if frame.shape == shape]
                frames = torch.stack([photos[i][1] for i in group])
                masks.update(zip(group, self.region_masks(frames), strict=True))
            channel = self.config.object_channel
            for i, (photo, _) in enumerate(photos):
                if np.isfinite(masks[i]).all():
                    yield Segmentation(photo, masks[i], channel, rule, refine, min_confidence)
                else:
                    yield self._damaged(photo)

        # To draw edges takes all pixels of the photo.
        reduced = refine == "none"
        return self._results(images, segment, edge, batch_size, max_pixels, reduced=reduced)

    def region_masks(self, frames: Tensor) -> NDArray[np.float32]:
        """Run the network on frames that are resized for it already: `AMD.segment` as an array."""
        with self._computing(frames):
            return self.model.segment(frames.to(self.device)).float().cpu().numpy()


# What every segmenter of photos does


def one_or_all(
    image: ImageLike | Iterable[ImageLike],
    stream: Callable[[Iterable[ImageLike]], Iterator[Result | AmdSegError]],
) -> Result | Iterator[Result]:
    """Return the result of one image, or an iterator over those of several; errors are raised."""
    # A file is an iterable too, of its lines.
    if isinstance(image, _SINGLE_IMAGES) or hasattr(image, "read"):
        return next(raising(stream([cast(ImageLike, image)])))
    if not isinstance(image, Iterable):
        raise InputError(
            f"A {type(image).__name__} is no image. Give a path, bytes, a file, a PIL image, a "
            "numpy array, a torch tensor, or an iterable of these."
        )
    return raising(stream(cast(Iterable[ImageLike], image)))


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise an InputError that names an argument and what it may be, unless that holds."""
    if not holds:
        raise InputError(f"{name}={value!r} cannot be used: {allowed}.")


def prepare(image: ImageLike, size: int, max_pixels: int, *, reduced: bool = False) -> Prepared:
    """Read one image, and resize it for the network; antialiased, unlike in the released code."""
    if isinstance(image, Photo):
        photo = image
    elif isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise InputError(
                f"Cannot use a tensor of shape {tuple(image.shape)} as an image. Give (3, height, "
                "width), uint8 or float in 0..1; a batch as a list of such tensors."
            )
        values = image.detach().cpu()
        # numpy knows no bfloat16.
        values = values.float() if values.is_floating_point() else values
        photo = photo_from_array(values.permute(1, 2, 0).numpy(), source="tensor")
    elif isinstance(image, np.ndarray):
        photo = photo_from_array(image)
    else:
        photo = read_image(image, max_pixels=max_pixels, least=size if reduced else None)
    pixels = photo.pixels if isinstance(image, Photo) else photo.decoded
    return photo, resize_pixels(pixels, network_size(*photo.size, size))


def network_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the height and width, in pixels, at which the network sees a photo.

    The short edge becomes `size` and the aspect is kept, rounded as published, floor(x f + 0.5).
    The long edge is at most 4 `size`, however long the photo; then the short edge gets smaller,
    down to a quarter of `size`, where a photo beyond 1:16 is squeezed.
    """
    factor = min(size / min(height, width), LONGEST_ASPECT * size / max(height, width))
    least = size // LONGEST_ASPECT
    return max(floor(height * factor + 0.5), least), max(floor(width * factor + 0.5), least)
