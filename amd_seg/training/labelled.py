"""Photos with label maps: where they lie, and whether they are what they should be."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amd_seg.annotations import write_label_maps
from amd_seg.classes import VOC2012, VOID, Classes
from amd_seg.errors import AmdSegError, InputError
from amd_seg.media.files import by_stem, require_same_names, some
from amd_seg.media.images import read_image
from amd_seg.media.labels import colours_of_others, read_labels

logger = logging.getLogger(__name__)

VOC_LAYOUT = "JPEGImages/, SegmentationClass/ or SegmentationClassAug/, ImageSets/Segmentation/"
"""What a folder of PASCAL VOC holds."""


@dataclass(frozen=True)
class LabelledPhoto:
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
    _raise_all([outcome for outcome in outcomes if isinstance(outcome, AmdSegError)])
    by_photo = [outcome for outcome in outcomes if not isinstance(outcome, AmdSegError)]
    present = set[int]().union(*by_photo)
    _require_two_classes(present, labelled)
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


def _require_two_classes(present: set[int], labelled: LabelledPhotos) -> None:
    if len(present) > 1:
        return
    found = " or ".join([*(labelled.classes.names[label] for label in present), str(VOID)])
    raise InputError(
        f"All pixels of {labelled.title} are labelled {found}, which does not count: there is "
        "nothing to tell apart. Label the first class 0, the second 1, and so on; masks of 0 and "
        f"{VOID} need 1 in the place of {VOID}."
    )


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


def _raise_all(errors: Sequence[AmdSegError]) -> None:
    """Raise the first error, and say how many more files are like it."""
    if not errors:
        return
    more = f" {len(errors) - 1} more cannot be used either." if len(errors) > 1 else ""
    raise type(errors[0])(f"{errors[0]}{more}") from errors[0]


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
