"""Where the maps that are scored come from: a network, a simple method, a folder of files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amd_seg.choices import OUTPUTS, SEMANTIC_OUTPUTS
from amd_seg.errors import InputError, MediaError
from amd_seg.evaluation.datasets import Dataset, Sample
from amd_seg.evaluation.maps import (
    FAINT,
    Bytes,
    centre_prior,
    highest_grey,
    read_prediction,
    to_bytes,
)
from amd_seg.evaluation.semantic import FromLabels
from amd_seg.media.files import IMAGE_SUFFIXES, some
from amd_seg.media.images import read_image, read_photo_size

METHODS = ("centre-prior", "spectral-residual", "fine-grained")
"""Ways to a map that need no weights: the floor of a table. The last two are OpenCV's."""

NOTE = "maps.json"
"""Beside maps that were saved: what they were made by."""


@dataclass(frozen=True)
class ByMethod:
    """A map that one of `METHODS` makes when it is scored."""

    name: str

    def __call__(self, sample: Sample, shape: tuple[int, ...]) -> Bytes:
        """Return the map of a sample at the size of its picture, as a network's would be.

        Where there is no picture, a centre prior has the ground truth's shape.
        """
        if self.name == "centre-prior":
            height, width = shape if sample.image is None else read_photo_size(sample.image)
            return to_bytes(centre_prior(height, width))
        return _of_opencv(self.name, sample)


@dataclass(frozen=True)
class FromFile:
    """A map that is read from a file when it is scored."""

    path: Path
    is_binary: bool = False
    """Grey values are 0 and 1, not 0 to 255."""

    def __call__(self, sample: Sample, shape: tuple[int, ...]) -> Bytes:
        """Return the map in the file."""
        return read_prediction(self.path, is_binary=self.is_binary)


@dataclass(frozen=True, eq=False)
class Given:
    """A map that is there already."""

    values: Bytes

    def __call__(self, sample: Sample, shape: tuple[int, ...]) -> Bytes:
        """Return the map."""
        return self.values


MapSource = ByMethod | FromFile | FromLabels | Given
Origin = Callable[[Dataset], Iterable[MapSource]]
"""Gives one source for each sample of a data set, in its order."""


def from_method(name: str) -> Origin:
    """Return the origin that makes maps by one of `METHODS`.

    Raises:
        InputError: the method is unknown, or OpenCV lacks it.
    """
    if name not in METHODS:
        raise InputError(f"Unknown method {name!r}. Use one of {', '.join(METHODS)}.")
    if name != "centre-prior":
        _opencv_saliency(name)
    return lambda dataset: [ByMethod(name)] * len(dataset.samples)


def from_folder(folder: Path) -> Origin:
    """Return the origin that reads a folder of predictions.

    A sample's file is its name with any image's ending; `photo.saliency.png` and
    `photo.mask.png`, as `amd-seg image` writes them, count as `photo`. Grey files are masks of 0
    and 1 where no value of any of them is higher, and run from 0 to 255 otherwise: all are read
    alike, so that a map that is faint everywhere does not pass for a mask. The origin raises an
    InputError that names every sample without a file; and, for videos, one for files whose highest
    value is above 1 but faint: numbers of objects, most likely.

    Raises:
        InputError: there is no such folder, or two files are for one picture.
    """
    files = prediction_files(folder)

    def origin(dataset: Dataset) -> list[MapSource]:
        missing = [sample.name for sample in dataset.samples if sample.name not in files]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(dataset.samples)} predictions are missing in {folder}: "
                f"{some(missing)}. Add them as NAME.png; --limit and --every score a part."
            )
        paths = [files[sample.name] for sample in dataset.samples]
        # Of what was saved here the values are known.
        is_told = dataset.benchmark.truth is not None or (folder / NOTE).exists()
        is_binary = not is_told and _are_binary(paths, dataset)
        return [from_file(path, dataset, is_binary=is_binary) for path in paths]

    return origin


def prediction_files(folder: Path) -> dict[str, Path]:
    """Return the images at and below a folder by the name of the sample that they are for.

    Raises:
        InputError: there is no such folder, or two files are for one picture.
    """
    if not folder.is_dir():
        raise InputError(f"Cannot read predictions from {folder}: no such folder. Check the name.")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        name = _name_of(path.relative_to(folder))
        if name in files:
            raise InputError(f"{files[name]} and {path} are for one picture. Keep one of them.")
        files[name] = path
    return files


def from_file(path: Path, dataset: Dataset, *, is_binary: bool = False) -> MapSource:
    """Return what reads a map of a data set from a file.

    Args:
        path: the file.
        dataset: tells whether it holds classes.
        is_binary: see `FromFile`.
    """
    if dataset.benchmark.truth is not None:
        return FromLabels(path, dataset.benchmark.truth.classes)
    return FromFile(path, is_binary)


def _are_binary(paths: list[Path], dataset: Dataset) -> bool:
    """Whether grey predictions hold 0 and 1; only such ones are all read to know it."""
    highest, where = 0, None
    for path in paths:
        value = highest_grey(path)
        if value >= FAINT:
            return False
        if value > highest:
            highest, where = value, path
    if highest > 1 and dataset.benchmark.kind == "video":
        raise InputError(
            f"Cannot tell what the values of the predictions mean: none is above {highest}, in "
            f"{where}. Save masks as 0 and 255, as 0 and 1, or as an indexed PNG."
        )
    return highest == 1


def _name_of(path: Path) -> str:
    stem, own = path.stem, Path(path.stem).suffix.removeprefix(".")
    if own in (*OUTPUTS, *SEMANTIC_OUTPUTS):
        stem = Path(stem).stem
    return (path.parent / stem).as_posix()


def _opencv_saliency(name: str) -> Any:
    try:
        # No attribute of a plain OpenCV, with which this is checked.
        from cv2 import saliency  # type: ignore[attr-defined,unused-ignore]
    except ImportError as cause:
        raise InputError(
            f"{name} is OpenCV's, and its extra modules are not installed. "
            "Run: pip install opencv-contrib-python-headless"
        ) from cause
    if name == "spectral-residual":
        return saliency.StaticSaliencySpectralResidual_create()
    return saliency.StaticSaliencyFineGrained_create()


def _of_opencv(name: str, sample: Sample) -> Bytes:
    if sample.image is None:
        raise InputError(f"There is no picture for {sample.name}, which {name} needs.")
    pixels = np.ascontiguousarray(read_image(sample.image).pixels[..., ::-1])  # OpenCV takes BGR.
    is_done, saliency = _opencv_saliency(name).computeSaliency(pixels)
    if not is_done:
        raise MediaError(f"OpenCV found no saliency in {sample.image}. Leave the picture out.")
    values = np.asarray(saliency)
    return values if values.dtype == np.uint8 else to_bytes(values)
