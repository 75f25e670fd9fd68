"""Crops of labelled photos, drawn from a seed: the same whatever the batch and the processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_seg.classes import VOID
from amd_seg.errors import AmdSegError, ConfigError
from amd_seg.media.images import read_image
from amd_seg.media.labels import read_labels
from amd_seg.model.appearance import MEAN
from amd_seg.training.crops import blur, jitter_colours
from amd_seg.training.distributed import Processes
from amd_seg.training.finetune_config import FinetuneConfig
from amd_seg.training.labelled import LabelledPhotos
from amd_seg.workers import start_worker

# A crop of a photo, (3, height, width) uint8, its labels, (height, width) uint8, and its name.
_Crop = tuple[Tensor, Tensor, str]
# Or why there is none: an error raised in a worker would arrive with its traceback as its message.
_Fetched = _Crop | AmdSegError


@dataclass(frozen=True)
class LabelBatch:
    """Crops of photos and their labels."""

    frames: Tensor
    """(batch, 3, height, width), uint8, RGB."""
    labels: Tensor
    """(batch, height, width), int64: classes, and VOID where nothing counts."""
    names: tuple[str, ...]


class Draw(NamedTuple):
    """One photo to crop, and the number of the draw: all its chances follow from that."""

    photo: int
    number: int


class LabelBatches(Iterator[LabelBatch]):
    """An endless stream of this process's batches; each epoch shows every photo once.

    Args:
        labelled: the photos, checked.
        config: batch, crop, scale, augmentation, seed and readers.
        processes: those that share a step.

    Raises:
        MediaError: while iterating: a photo or a label map cannot be read any more.
    """

    def __init__(
        self, labelled: LabelledPhotos, config: FinetuneConfig, processes: Processes
    ) -> None:
        self._count, self._seed = len(labelled.photos), config.seed
        self._step = config.batch_size // config.accumulate
        self._mine = processes.share_of(self._step)
        self._device = processes.device
        self._drawn = 0
        self._loader: DataLoader[_Fetched] = DataLoader(
            _Crops(labelled, config),
            batch_sampler=_Steps(self),
            num_workers=config.workers,
            collate_fn=_collate,
            pin_memory=self._device.type == "cuda",
            # Its own, so that starting the workers does not move the generator of the run.
            generator=torch.Generator(),
            worker_init_fn=start_worker,
        )
        self._batches: Iterator[LabelBatch | AmdSegError] | None = None

    def __next__(self) -> LabelBatch:
        if self._batches is None:
            self._batches = iter(self._loader)
        batch = next(self._batches)
        if isinstance(batch, AmdSegError):
            raise batch
        self._drawn += self._step
        return LabelBatch(
            batch.frames.to(self._device, non_blocking=True),
            batch.labels.to(self._device, non_blocking=True).long(),
            batch.names,
        )

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands after the batch given last; the same in all processes."""
        return {"seed": self._seed, "photos": self._count, "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what was read ahead is dropped.

        Raises:
            ConfigError: it was written with other photos or another seed.
        """
        mine = self.state_dict()
        for key in ("seed", "photos"):
            if state[key] != mine[key]:
                raise ConfigError(
                    f"Cannot resume the order of photos: it was saved with {key}={state[key]}, "
                    f"now {key}={mine[key]}. Give the same photos, options and seed."
                )
        self._drawn, self._batches = int(state["drawn"]), None

    def draws(self) -> Iterator[list[Draw]]:
        """The draws of this process from where the stream stands, step by step, without end."""
        first = self._drawn
        while True:
            numbers = range(first, first + self._step)[self._mine]
            yield [Draw(self._photo(number), number) for number in numbers]
            first += self._step

    def _photo(self, number: int) -> int:
        epoch, place = divmod(number, self._count)
        return int(_order(self._seed, epoch, self._count)[place])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


class _Steps:
    """The draws of a stream, anew from its position whenever the readers start."""

    def __init__(self, batches: LabelBatches) -> None:
        self._all = batches

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._all.draws()


class _Crops(Dataset[_Fetched]):
    """Reads the photo of a draw and cuts its crop; lives in a reader's process."""

    def __init__(self, labelled: LabelledPhotos, config: FinetuneConfig) -> None:
        self._labelled, self._config = labelled, config

    def __getitem__(self, draw: Draw) -> _Fetched:
        try:
            return self._crop(draw)
        except AmdSegError as error:
            return error

    def _crop(self, draw: Draw) -> _Crop:
        photo, config = self._labelled.photos[draw.photo], self._config
        pixels = read_image(photo.image).pixels
        by_colour = self._labelled.by_colour
        labels = read_labels(photo.mask, self._labelled.classes, by_colour=by_colour)
        random = np.random.default_rng((config.seed, draw.number, 1))
        view = draw_view((labels.shape[0], labels.shape[1]), config, random)
        frame, truth = cut_view(pixels, labels, view, config.crop)
        image = torch.from_numpy(frame).permute(2, 0, 1)
        if config.augment == "heavy":
            image = _changed(image, int(random.integers(2**32)))
        return image, torch.from_numpy(truth), photo.name


class View(NamedTuple):
    """The part of a photo that a draw shows."""

    size: tuple[int, int]
    """Height and width, in pixels, at which it is seen: the crop's, or less of a small photo."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom in the photo's own pixels, which need not be whole ones."""
    is_mirrored: bool


def draw_view(size: tuple[int, int], config: FinetuneConfig, random: np.random.Generator) -> View:
    """Draw a part of the crop's size out of a photo that is scaled at random.

    Its short edge becomes `config.short_edge` times the random scale.

    Args:
        size: height and width of the photo, in pixels.
        config: scales, crop, mirror.
        random: where the numbers come from.
    """
    height, width = size
    zoom, down, right, mirror = random.random(4)
    scale = config.scale[0] + zoom * (config.scale[1] - config.scale[0])
    factor = config.short_edge * scale / min(height, width)
    scaled = (max(1, round(height * factor)), max(1, round(width * factor)))
    rows, columns = (min(*pair) for pair in zip(scaled, config.crop, strict=True))
    top = int(down * (scaled[0] - rows + 1)) / scaled[0] * height
    left = int(right * (scaled[1] - columns + 1)) / scaled[1] * width
    bottom = min(top + rows / scaled[0] * height, height)
    edge = min(left + columns / scaled[1] * width, width)
    return View((rows, columns), (left, top, edge, bottom), config.flip and mirror < 0.5)


def cut_view(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], view: View, crop: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a view out of a photo and its labels; nothing outside of the view is resized.

    Args:
        pixels: (height, width, 3), RGB.
        labels: (height, width).
        view: which part.
        crop: height and width of the results. What a smaller view leaves, below and to the right,
            has the mean colour and is void.

    Returns:
        (*crop, 3) and (*crop,).
    """
    frame = np.empty((*crop, 3), np.uint8)
    frame[:] = np.rint(MEAN)
    truth = np.full(crop, VOID, np.uint8)
    rows, columns = view.size
    for whole, image, resampling in (
        (frame, pixels, Image.Resampling.BILINEAR),
        (truth, labels, Image.Resampling.NEAREST),
    ):
        part = Image.fromarray(image).resize((columns, rows), resampling, view.box)
        whole[:rows, :columns] = np.asarray(part)
    if view.is_mirrored:
        return np.ascontiguousarray(frame[:, ::-1]), np.ascontiguousarray(truth[:, ::-1])
    return frame, truth


def _changed(image: Tensor, seed: int) -> Tensor:
    """Change the colours of a crop (3, height, width), uint8, and blur some."""
    generator = torch.Generator().manual_seed(seed)
    frames = jitter_colours(image[None].float(), generator)
    return blur(frames, generator)[0].round().clamp(0, 255).byte()


def _collate(fetched: list[_Fetched]) -> LabelBatch | AmdSegError:
    crops: list[_Crop] = []
    for item in fetched:
        if isinstance(item, AmdSegError):
            return item
        crops.append(item)
    frames, labels, names = zip(*crops, strict=True)
    return LabelBatch(torch.stack(frames), torch.stack(labels), names)
