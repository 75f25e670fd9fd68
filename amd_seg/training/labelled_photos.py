"""Photos with label maps, for fine-tuning: where they lie, whether they fit, random crops."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amd_seg.annotations import write_label_maps
from amd_seg.classes import VOC2012, VOC_LAYOUT, VOID, Classes
from amd_seg.errors import AmdSegError, ConfigError, InputError
from amd_seg.media.files import by_stem, require_same_names, some
from amd_seg.media.images import read_image
from amd_seg.media.labels import colours_of_others, read_labels
from amd_seg.model.appearance import MEAN
from amd_seg.training.config import FinetuneConfig
from amd_seg.training.crops import blur, jitter_colours
from amd_seg.training.distributed import Processes
from amd_seg.workers import start_worker

logger = logging.getLogger(__name__)


class LabelledPhoto(NamedTuple):
    """A photo and its label map."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos of one set of classes."""

    title: str
    """How messages and records name them."""
    photos: tuple[LabelledPhoto, ...]
    classes: Classes
    by_colour: bool = False
    """Label maps are RGB pictures in the classes' colours."""


def open_voc2012(
    folder: Path, split: str | None = None, *, by_colour: bool = False
) -> LabelledPhotos:
    """Return the photos of a list of PASCAL VOC 2012, or of a set that is laid out likewise.

    Args:
        folder: holds `VOC_LAYOUT`.
        split: the list's name without .txt; None takes "trainaug" (the 10,582 photos of the
            paper) where it is there, else "train". Lists whose name ends in "aug" read
            SegmentationClassAug, others SegmentationClass where it is there.
        by_colour: label maps are RGB pictures.

    Raises:
        InputError: the folder is laid out otherwise, or files of the list are missing; all named.
    """
    lists = folder / "ImageSets" / "Segmentation"
    if split is None:
        split = "trainaug" if (lists / "trainaug.txt").is_file() else "train"
    names = _names(lists / f"{split}.txt", folder)
    masks = _mask_folder(folder, split)
    photos = [
        LabelledPhoto(name, folder / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png")
        for name in names
    ]
    missing = [path for p in photos for path in (p.image, p.mask) if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} files of {lists / split}.txt are missing: {some(missing)}. "
            "Copy the whole data set."
        )
    return LabelledPhotos(f"voc2012 {split}", tuple(photos), VOC2012, by_colour)


def open_labelled_folders(
    images: Path, masks: Path, classes: Classes, *, by_colour: bool = False
) -> LabelledPhotos:
    """Return the photos of a folder with the label maps of the same names in another.

    Raises:
        InputError: a folder holds no image, or the names differ; all of them are named.
    """
    pictures, labels = by_stem(images), by_stem(masks)
    require_same_names(pictures, labels, images, masks)
    photos = tuple(LabelledPhoto(stem, path, labels[stem]) for stem, path in pictures.items())
    return LabelledPhotos(str(images), photos, classes, by_colour)


def open_coco(annotations: Path, images: Path, masks: Path) -> LabelledPhotos:
    """Return the photos of a COCO file, whose masks are drawn as label maps into a folder.

    Label 0 is the background; the categories follow, by their ids.

    Raises:
        InputError: the file is no COCO file of masks, or photos are missing; all are named.
        MediaError: a file cannot be read or written.
    """
    found, classes = write_label_maps(annotations, images, masks)
    photos = tuple(LabelledPhoto(name, photo, mask) for name, photo, mask in found)
    return LabelledPhotos(str(annotations), photos, classes)


def check_labelled(labelled: LabelledPhotos, *, threads: int | None = None) -> None:
    """Read every photo and label map once, so that a run does not stop at a bad one after hours.

    It takes 4 ms a photo of PASCAL VOC, on one core.

    Classes of which no pixel is there are named in a warning, and palettes that contradict the
    classes' colours.

    Raises:
        InputError: label maps hold what no class is, have another size than their photo, or show
            one class only.
        MediaError: a file cannot be read.
    """
    with ThreadPoolExecutor(threads) as pool:
        outcomes = list(pool.map(lambda photo: _labels_of(photo, labelled), labelled.photos))
    errors = [outcome for outcome in outcomes if isinstance(outcome, AmdSegError)]
    if errors:
        more = f" {len(errors) - 1} more cannot be used either." if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{more}") from errors[0]
    by_photo = [outcome for outcome in outcomes if not isinstance(outcome, AmdSegError)]
    present = set[int]().union(*by_photo)
    if len(present) <= 1:
        found = " or ".join([*(labelled.classes.names[label] for label in present), str(VOID)])
        raise InputError(
            f"All pixels of {labelled.title} are labelled {found}, which does not count: there is "
            "nothing to tell apart. Label the first class 0, the second 1, and so on; masks of 0 "
            f"and {VOID} need 1 in the place of {VOID}."
        )
    if not labelled.by_colour:
        _warn_of_palettes(labelled, by_photo)
    absent = [name for label, name in enumerate(labelled.classes.names) if label not in present]
    if absent:
        logger.warning(
            "No pixel of %s is labelled %s: nothing can be learned of it.",
            labelled.title,
            some(absent),
        )


def _labels_of(photo: LabelledPhoto, labelled: LabelledPhotos) -> set[int] | AmdSegError:
    """Return the labels that a photo's map holds, or what is wrong with one of the two."""
    try:
        labels = read_labels(photo.mask, labelled.classes, by_colour=labelled.by_colour)
        height, width, _ = read_image(photo.image).pixels.shape
    except AmdSegError as error:
        return error
    if labels.shape != (height, width):
        return InputError(
            f"{photo.mask} is {labels.shape[1]}x{labels.shape[0]}, but its photo {photo.image} is "
            f"{width}x{height}. Give both at one size."
        )
    return set(np.unique(labels).tolist()) - {VOID}


def _warn_of_palettes(labelled: LabelledPhotos, by_photo: Sequence[set[int]]) -> None:
    """Tell of maps whose palette says otherwise: tools that shrink PNGs renumber the colours."""
    classes = labelled.classes
    found = [
        (photo.mask, swapped)
        for photo, labels in zip(labelled.photos, by_photo, strict=True)
        if (swapped := colours_of_others(photo.mask, labels, classes))
    ]
    if not found:
        return
    mask, swapped = found[0]
    label, other = min(swapped.items())
    logger.warning(
        "%d of %d label maps, such as %s: their palettes give label %d (%s) the colour of label %d "
        "(%s). The values are taken; if the colours are right instead, give --coloured-masks.",
        *(len(found), len(labelled.photos), mask),
        *(label, classes.names[label], other, classes.names[other]),
    )


def _names(path: Path, folder: Path) -> list[str]:
    if not path.is_file():
        raise InputError(
            f"{path} is missing: it lists the photos. Give a folder that holds {VOC_LAYOUT}, such "
            f"as VOCdevkit/VOC2012 (is it below {folder}?)."
        )
    lines = path.read_text("utf-8-sig").splitlines()
    # Lists of some copies hold the paths of photo and mask in each line.
    words = [line.split()[0] for line in lines if line.strip()]
    names = [Path(word).stem if "/" in word else word for word in words]
    if not names:
        raise InputError(f"{path} lists no photo. Copy it from the full data set.")
    return names


def _mask_folder(folder: Path, split: str) -> Path:
    plain, augmented = folder / "SegmentationClass", folder / "SegmentationClassAug"
    wanted = (augmented, plain) if split.endswith("aug") else (plain, augmented)
    found = next((path for path in wanted if path.is_dir()), None)
    if found is None:
        raise InputError(
            f"{folder} has no label maps: neither {plain.name} nor {augmented.name} is there. "
            f"Give a folder that holds {VOC_LAYOUT}."
        )
    return found


@dataclass(frozen=True)
class LabelBatch:
    """Crops of photos and their labels."""

    frames: Tensor
    """(batch, 3, height, width), uint8, RGB."""
    labels: Tensor
    """(batch, height, width), int64: classes, and VOID where nothing counts."""
    names: tuple[str, ...]


class LabelBatches(Iterator[LabelBatch]):
    """An endless stream of this process's batches; each epoch shows every photo once.

    What a draw shows follows from the seed and its number alone, whatever the batch, the readers
    and the processes.

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
        self._labelled, self._config, self._device = labelled, config, processes.device
        self._step = config.batch_size // config.accumulate
        self._mine = processes.share_of(self._step)
        self._drawn = 0
        self._fetched: Iterator[LabelBatch | AmdSegError] | None = None

    def __next__(self) -> LabelBatch:
        if self._fetched is None:
            self._fetched = self._fetch()
        batch = next(self._fetched)
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
        photos = len(self._labelled.photos)
        return {"seed": self._config.seed, "photos": photos, "drawn": self._drawn}

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
        self._drawn, self._fetched = int(state["drawn"]), None

    def _steps(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the photo and the number of each draw of this process, without end."""
        count, first = len(self._labelled.photos), self._drawn
        while True:
            numbers = range(first, first + self._step)[self._mine]
            places = (divmod(number, count) for number in numbers)
            photos = (_order(self._config.seed, epoch, count)[place] for epoch, place in places)
            yield [(int(photo), number) for photo, number in zip(photos, numbers, strict=True)]
            first += self._step

    def _fetch(self) -> Iterator[LabelBatch | AmdSegError]:
        return iter(
            DataLoader(
                _Crops(self._labelled, self._config),
                sampler=self._steps(),
                batch_size=None,  # An item is a batch already.
                collate_fn=_as_it_is,
                num_workers=self._config.workers,
                pin_memory=self._device.type == "cuda",
                # Its own, so that starting the workers does not move the generator of the run.
                generator=torch.Generator(),
                worker_init_fn=start_worker,
            )
        )


def _as_it_is(fetched: Any) -> Any:
    return fetched


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


class _Crops(Dataset[LabelBatch | AmdSegError]):
    """Reads the photos of some draws and cuts their crops; lives in a reader's process."""

    def __init__(self, labelled: LabelledPhotos, config: FinetuneConfig) -> None:
        self._labelled, self._config = labelled, config

    def __getitem__(self, draws: Sequence[tuple[int, int]]) -> LabelBatch | AmdSegError:
        try:
            frames, labels = zip(*(self._crop(*draw) for draw in draws), strict=True)
        except AmdSegError as error:
            return error  # raised in a worker it would arrive with its traceback as its message
        names = tuple(self._labelled.photos[photo].name for photo, _ in draws)
        return LabelBatch(torch.stack(frames), torch.stack(labels), names)

    def _crop(self, photo: int, number: int) -> tuple[Tensor, Tensor]:
        """Return (3, height, width) and (height, width), both uint8."""
        _, image, mask = self._labelled.photos[photo]
        config = self._config
        pixels = read_image(image).pixels
        labels = read_labels(mask, self._labelled.classes, by_colour=self._labelled.by_colour)
        random = np.random.default_rng((config.seed, number, 1))
        view = draw_view((labels.shape[0], labels.shape[1]), config, random)
        frame, truth = cut_view(pixels, labels, view, config.crop)
        crop = torch.from_numpy(frame).permute(2, 0, 1)
        if config.augment == "heavy":
            generator = torch.Generator().manual_seed(int(random.integers(2**32)))
            changed = blur(jitter_colours(crop[None].float(), generator), generator)
            crop = changed[0].round().clamp(0, 255).byte()
        return crop, torch.from_numpy(truth)


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
