"""Pictures as ground truth and as predictions, and where predictions come from.

Each `from_...` gives one map for each sample of a data set, in its order: an array (height, width),
uint8, or the path of a file, which the process that scores reads. Maps of an object run from 0 to
255, maps of classes hold labels.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from amd_seg.choices import OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.classes import VOID
from amd_seg.errors import InputError
from amd_seg.evaluation.datasets import HALF, Dataset, Sample
from amd_seg.media.files import IMAGE_SUFFIXES, some
from amd_seg.media.images import load, opened, read_photo_size
from amd_seg.media.render import render_saliency

if TYPE_CHECKING:
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.config import AdaptationConfig

logger = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Map = Bytes | Path

FAINT = 32  # grey values that all lie below are labels, or nothing that can be told from them


# The files of ground truths and of predictions.


def truth_of(sample: Sample) -> tuple[Mask, Mask]:
    """Read a sample's ground truth, its files joined, and the pixels that do not count."""
    read = [read_truth(path, sample.level, sample.is_white_ground) for path in sample.masks]
    truths, voids = zip(*read, strict=True)
    if len({truth.shape for truth in truths}) > 1:
        raise InputError(
            f"The masks of one frame must have one size, but {some(sample.masks)} differ. Copy "
            "them again."
        )
    joined = np.logical_or.reduce(truths)
    return joined, np.logical_or.reduce(voids) & ~joined


def read_truth(path: Path, level: int = HALF, is_white_ground: bool = False) -> tuple[Mask, Mask]:
    """Read a ground truth: where the object is, and which pixels do not count.

    Of labels (an indexed PNG, or values 0 and 1) all but 0 are the object, and 255 in an indexed
    PNG is void. For the rest see `Sample`. An InputError says that values are neither.
    """
    values, is_indexed = read_grey(path, may_be_coloured=is_white_ground)
    highest = int(values.max())
    if is_indexed or highest == 1:
        void = values == VOID
        return (values > 0) & ~void, void
    if level == HALF and 0 < highest < FAINT:
        # Labels in a grey file would pass for an empty ground truth.
        raise InputError(
            f"Cannot tell what the values of {path} mean: they run from 0 to {highest}. Save "
            "grey from 0 to 255, 0 and 1, or an indexed PNG."
        )
    highest = 252 if is_white_ground else 255
    return (values >= level) & (values <= highest), np.zeros_like(values, np.bool_)


def read_grey(path: Path, *, may_be_coloured: bool = False) -> tuple[Bytes, bool]:
    """Return (height, width) uint8, and whether these are labels of an indexed PNG, not grey."""
    with opened(path) as image:
        load(image, str(path))
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        used = palette[np.unique(np.asarray(image)).clip(max=len(palette) - 1)]
        is_grey = (used == used[:, :1]).all() and used.max() > 1
        return np.asarray(image.convert("L") if is_grey else image), not is_grey
    if image.mode[0] in "IF":  # 16 bits, 32 or floats
        deep = np.asarray(image)
        low, high = deep.min(), deep.max()
        if image.mode == "F" or low < 0 or 2 <= high < 256 or high > 65535:
            raise InputError(
                f"Cannot tell what the values of {path} mean: they run from {low} to {high}. Save "
                "it with 8 bits."
            )
        return (deep if high < 2 else deep >> 8).astype(np.uint8), False
    if not may_be_coloured and image.mode not in ("1", "L", "LA"):
        channels = np.asarray(image.convert("RGB")).astype(np.int16)
        # Lossy compression tints grey less than this.
        if int(np.ptp(channels, axis=2).max()) > 48:
            raise InputError(
                f"{path} is coloured, so it cannot be read as a mask. Give a grey image, or "
                "labels as an indexed PNG."
            )
    return np.asarray(image.convert("L")), False


def read_prediction(path: Path) -> Bytes:
    """Read a predicted map or mask as (height, width), uint8; labels become 0 and 255."""
    values, is_indexed = read_grey(path)
    return (values > 0) * np.uint8(255) if is_indexed else values


# Predictions.


def from_centre_prior(dataset: Dataset) -> Iterator[Bytes]:
    """Yield the centre prior at the size of each picture, or of the mask where there is none."""
    for sample in dataset.samples:
        prior = centre_prior(*read_photo_size(sample.image or sample.masks[0]))
        yield np.asarray(render_saliency(prior))


def centre_prior(height: int, width: int) -> NDArray[np.float32]:
    """Return a Gaussian at the picture's centre, (height, width), 0..1: the photographer's habit.

    Its sigma is 0.4 of a half-side. A method that scores no higher has not seen the object.
    """
    # Places of pixel centres along an edge: -1 and 1 are the picture's borders.
    down = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    right = ((np.arange(width) + 0.5) / width * 2 - 1)[None]
    return np.exp(-(down**2 + right**2) / (2 * 0.4**2)).astype(np.float32)


def from_folder(dataset: Dataset, folder: Path) -> Iterable[Map]:
    """Return the predictions in a folder, to be read when they are scored.

    `photo.saliency.png` and `photo.mask.png`, as `amd-seg image` writes them, count as `photo`.
    Grey files are masks of 0 and 1 where no value of any of them is higher, and run from 0 to 255
    otherwise: all are read alike, so that a map that is faint everywhere passes for no mask.
    """
    if not folder.is_dir():
        raise InputError(f"Cannot read predictions from {folder}: no such folder. Check the name.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        stem = path.relative_to(folder).with_suffix("")
        if stem.suffix.removeprefix(".") in (*OUTPUTS, *SEMANTIC_OUTPUTS):
            stem = stem.with_suffix("")
        other = files.setdefault(stem.as_posix(), path)
        if other != path:
            raise InputError(f"{other} and {path} are for one picture. Keep one of them.")
    names = [sample.name for sample in dataset.samples]
    if missing := [name for name in names if name not in files]:
        raise InputError(
            f"{len(missing)} of {len(names)} predictions are missing in {folder}: "
            f"{some(missing)}. Add them as NAME.png; --limit and --every score a part."
        )
    extra = files.keys() - names
    if extra and len(names) == dataset.total:
        listed = some(sorted(extra))
        logger.warning("%d files in %s belong to no sample: %s.", len(extra), folder, listed)
    paths = [files[name] for name in names]
    if dataset.benchmark.classes is None and _are_binary(paths, dataset):
        return ((read_grey(path)[0] > 0) * np.uint8(255) for path in paths)
    return paths


def _are_binary(paths: list[Path], dataset: Dataset) -> bool:
    """Whether grey predictions hold 0 and 1; only such ones are all read to know it."""
    highest, where = 0, None
    for path in paths:
        values, is_indexed = read_grey(path)
        if not is_indexed and values.max() > highest:
            highest, where = int(values.max()), path
        if highest >= FAINT:
            return False
    if highest > 1 and dataset.benchmark.kind == "video":
        raise InputError(
            f"Cannot tell what the values of the predictions mean: none is above {highest}, in "
            f"{where}. Save masks as 0 and 255, as 0 and 1, or as an indexed PNG."
        )
    return highest == 1


def from_network(
    dataset: Dataset,
    weights: str | None,
    load: dict[str, Any],
    call: dict[str, Any],
    *,
    adaptation: "AdaptationConfig | None" = None,
    on_clip: "Callable[[str, AdaptationReport], None]" = lambda name, report: None,
) -> Iterator[Bytes]:
    """Run a network on each picture.

    `Segmenter.from_pretrained` takes the weights and `load`, `Segmenter.stream` takes `call`; clips
    are refined as by a `VideoSegmenter`, unless it says otherwise. With `adaptation` the network
    learns from each sequence of a set of videos first, from the same weights every time and from
    all frames, also where only some of them are scored.
    """
    from amd_seg.video_segmenter import VideoSegmenter

    pairs = zip(dataset.samples, _images(dataset), strict=True)
    video = VideoSegmenter.from_pretrained(weights, **load)
    for name, group in groupby(pairs, key=lambda pair: pair[0].sequence if adaptation else None):
        images = [image for _, image in group]
        if adaptation is not None:
            on_clip(str(name), video.adapt(str(images[0].parent), adaptation))
        default = {"refine": video.refinement} if dataset.benchmark.kind == "video" else {}
        for result in video.segmenter(images, **default | call):
            yield np.asarray(result.render("saliency"))


def from_semantic_network(
    dataset: Dataset, weights: str, load: dict[str, Any], call: dict[str, Any]
) -> Iterator[Bytes]:
    """Tell the classes of each picture by a network that was fine-tuned on those of the set."""
    from amd_seg.semantic import SemanticSegmenter

    images, wanted = _images(dataset), dataset.benchmark.classes
    assert wanted is not None
    segmenter = SemanticSegmenter.from_pretrained(weights, **load)
    own = segmenter.classes
    if own.names != wanted.names:
        raise InputError(
            f"The weights {weights} know {len(own)} classes ({some(own.names)}), but "
            f"{dataset.title} has {len(wanted)} ({some(wanted.names)}). Give weights that were "
            "fine-tuned on these."
        )
    for result in segmenter(images, **call):
        yield result.labels


def _images(dataset: Dataset) -> list[Path]:
    images = [sample.image for sample in dataset.samples if sample.image is not None]
    if len(images) < len(dataset.samples):
        raise InputError(
            f"{dataset.folder} holds no pictures for {len(dataset.samples) - len(images)} masks, "
            "so there is nothing to segment. Add them, or score masks with --predictions."
        )
    return images
