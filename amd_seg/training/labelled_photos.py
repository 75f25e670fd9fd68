"""Photos with label maps, for fine-tuning: where they lie, whether they fit, random crops."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amd_seg.annotations import write_label_maps
from amd_seg.classes import VOC2012, VOC_LAYOUT, VOID, Classes
from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.files import by_stem, read_lines, require_same_names, some
from amd_seg.media.images import Pixels, read_image
from amd_seg.media.labels import colours_of_others, read_labels
from amd_seg.model.appearance import MEAN
from amd_seg.training.config import FinetuneConfig
from amd_seg.training.crops import blur, jitter_colours
from amd_seg.training.distributed import order_of

logger = logging.getLogger(__name__)


class LabelledPhoto(NamedTuple):
    """A photo and its label map."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos of one set of classes."""

    title: str  # how messages and records name them
    photos: tuple[LabelledPhoto, ...]
    classes: Classes
    by_colour: bool = False  # label maps are RGB pictures in the classes' colours


def open_voc2012(
    folder: Path, split: str | None = None, *, by_colour: bool = False
) -> LabelledPhotos:
    """Return the photos of a list of PASCAL VOC 2012, or of a set that is laid out likewise.

    The list is "trainaug" (the 10,582 photos of the paper) by default where it is there, else
    "train". Lists whose name ends in "aug" read SegmentationClassAug, others SegmentationClass.
    """
    lists = folder / "ImageSets" / "Segmentation"
    if split is None:
        split = "trainaug" if (lists / "trainaug.txt").is_file() else "train"
    path = lists / f"{split}.txt"
    # Lists of some copies hold the paths of photo and mask in each line.
    words = [line.split()[0] for line in (read_lines(path) if path.is_file() else ())]
    names = [Path(word).stem if "/" in word else word for word in words]
    if not names:
        raise InputError(
            f"{path} is missing or empty: it lists the photos. Give a folder that holds "
            f"{VOC_LAYOUT}, such as VOCdevkit/VOC2012 (is it below {folder}?)."
        )
    wanted = [folder / each for each in ("SegmentationClass", "SegmentationClassAug")]
    there = [each for each in wanted if each.is_dir()]
    if not there:
        raise InputError(
            f"{folder} has no label maps: neither {' nor '.join(each.name for each in wanted)} is "
            f"there. Give a folder that holds {VOC_LAYOUT}."
        )
    masks = there[-1] if split.endswith("aug") else there[0]
    photos = [
        LabelledPhoto(name, folder / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png")
        for name in names
    ]
    if missing := [each for p in photos for each in (p.image, p.mask) if not each.is_file()]:
        raise InputError(
            f"{len(missing)} files of {path} are missing: {some(missing)}. Copy the whole data set."
        )
    return LabelledPhotos(f"voc2012 {split}", tuple(photos), VOC2012, by_colour)


def open_labelled_folders(
    images: Path, masks: Path, classes: Classes, *, by_colour: bool = False
) -> LabelledPhotos:
    """Return the photos of a folder with the label maps of the same names in another."""
    pictures, labels = by_stem(images), by_stem(masks)
    require_same_names(pictures, labels, images, masks)
    photos = tuple(LabelledPhoto(stem, path, labels[stem]) for stem, path in pictures.items())
    return LabelledPhotos(str(images), photos, classes, by_colour)


def open_coco(annotations: Path, images: Path, masks: Path) -> LabelledPhotos:
    """Return the photos of a COCO file, by `write_label_maps`."""
    found, classes = write_label_maps(annotations, images, masks)
    photos = tuple(LabelledPhoto(name, photo, mask) for name, photo, mask in found)
    return LabelledPhotos(str(annotations), photos, classes)


def _read(photo: LabelledPhoto, labelled: LabelledPhotos) -> tuple[NDArray[np.uint8], ...]:
    """Return a photo (height, width, 3) and its labels (height, width)."""
    labels = read_labels(photo.mask, labelled.classes, by_colour=labelled.by_colour)
    pixels = read_image(photo.image).pixels
    if labels.shape != pixels.shape[:2]:
        raise InputError(
            f"{photo.mask} is {labels.shape[1]}x{labels.shape[0]}, but its photo {photo.image} is "
            f"{pixels.shape[1]}x{pixels.shape[0]}. Give both at one size."
        )
    return pixels, labels


def check_labelled(labelled: LabelledPhotos) -> None:
    """Read every photo and label map once, so that a run does not stop at a bad one after hours.

    Warns of classes of which no pixel is there, and of palettes that contradict the classes.
    """

    def labels_of(photo: LabelledPhoto) -> set[int] | AmdSegError:
        try:
            return set(np.unique(_read(photo, labelled)[1]).tolist()) - {VOID}
        except AmdSegError as error:
            return error

    with ThreadPoolExecutor() as pool:
        outcomes = dict(zip(labelled.photos, pool.map(labels_of, labelled.photos), strict=True))
    if errors := [each for each in outcomes.values() if isinstance(each, AmdSegError)]:
        more = f" {len(errors) - 1} more cannot be used either." if len(errors) > 1 else ""
        raise type(errors[0])(f"{errors[0]}{more}") from errors[0]
    by_mask = {p.mask: found for p, found in outcomes.items() if isinstance(found, set)}
    present, names = set[int]().union(*by_mask.values()), labelled.classes.names
    if len(present) <= 1:
        found = " or ".join([*(names[label] for label in present), str(VOID)])
        raise InputError(
            f"All pixels of {labelled.title} are labelled {found}, which does not count: there is "
            "nothing to tell apart. Label the first class 0, the second 1, and so on; masks of 0 "
            f"and {VOID} need 1 in the place of {VOID}."
        )
    # Tools that shrink PNGs renumber the colours of a palette.
    pictures = {} if labelled.by_colour else by_mask
    told = {m: colours_of_others(m, v, labelled.classes) for m, v in pictures.items()}
    if swapped := [(mask, colours) for mask, colours in told.items() if colours]:
        mask, colours = swapped[0]
        label, other = min(colours.items())
        logger.warning(
            f"{len(swapped)} of {len(told)} label maps, such as {mask}: their palettes give "
            f"label {label} ({names[label]}) the colour of label {other} ({names[other]}). "
            "The values are taken; if the colours are right instead, give --coloured-masks."
        )
    if absent := [name for label, name in enumerate(names) if label not in present]:
        text = "No pixel of %s is labelled %s: nothing can be learned of it."
        logger.warning(text, labelled.title, some(absent))


class LabelBatch(NamedTuple):
    """Crops of photos and their labels."""

    frames: Tensor  # (batch, 3, height, width), uint8, RGB
    labels: Tensor  # (batch, height, width), uint8: classes, and VOID where nothing counts
    names: tuple[str, ...]


def draw_crops(labelled: LabelledPhotos, config: FinetuneConfig, numbers: range) -> LabelBatch:
    """Return the crops of some draws; each epoch shows every photo once."""
    crops = [_crop(labelled, config, number) for number in numbers]
    frames, labels, names = zip(*crops, strict=True)
    return LabelBatch(torch.stack(frames), torch.stack(labels), names)


def _crop(
    labelled: LabelledPhotos, config: FinetuneConfig, number: int
) -> tuple[Tensor, Tensor, str]:
    epoch, place = divmod(number, len(labelled.photos))
    photo = labelled.photos[order_of(config.seed, epoch, len(labelled.photos))[place]]
    pixels, labels = _read(photo, labelled)
    random = np.random.default_rng((config.seed, number, 1))
    size, box, is_mirrored = draw_view((len(labels), labels.shape[1]), config, random)
    # What a small photo leaves has the mean colour and is void.
    frame = np.tile(np.rint(MEAN).astype(np.uint8), (*config.crop, 1))
    truth = np.full(config.crop, VOID, np.uint8)
    cut_view(pixels, size, box, frame)
    cut_view(labels, size, box, truth)
    crop, target = torch.from_numpy(frame).permute(2, 0, 1), torch.from_numpy(truth)
    if is_mirrored:
        crop, target = crop.flip(-1), target.flip(-1)
    if config.augment == "heavy":
        generator = torch.Generator().manual_seed(int(random.integers(2**32)))
        changed = blur(jitter_colours(crop[None].float(), generator), generator)
        crop = changed[0].round().clamp(0, 255).byte()
    return crop, target, photo.name


Box = tuple[float, float, float, float]


def draw_view(
    size: tuple[int, int], config: FinetuneConfig, random: np.random.Generator
) -> tuple[tuple[int, int], Box, bool]:
    """Draw a part of the crop's size out of a photo (height, width) that is scaled at random.

    Returns the height and width, in pixels, at which the part is seen: the crop's, or less of a
    small photo; left, top, right and bottom in the photo's own pixels; whether it is mirrored.
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
    return (rows, columns), (left, top, edge, bottom), config.flip and mirror < 0.5


def cut_view(image: NDArray[np.uint8], size: tuple[int, int], box: Box, whole: Pixels) -> None:
    """Resize a box of a photo or a label map to a size, into the top left corner of `whole`."""
    way = Image.Resampling.BILINEAR if image.ndim == 3 else Image.Resampling.NEAREST
    part = Image.fromarray(image).resize(size[::-1], way, box)
    whole[: size[0], : size[1]] = np.asarray(part)
