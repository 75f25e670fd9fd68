"""The benchmarks that are known by name, and any folder of pictures and masks.

A finder turns a folder into samples: one picture or frame each, with the files of its ground truth.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from amd_seg.classes import VOC2012, VOC_LAYOUT, Classes
from amd_seg.errors import InputError
from amd_seg.media import files
from amd_seg.media.files import by_stem, images_in, natural_key, require_same_names, some
from amd_seg.media.images import read_photo_size

HALF = 128  # the usual grey value from which on a pixel of a ground truth is the object


@dataclass(frozen=True)
class Sample:
    """One picture, or one frame of a video, with its ground truth."""

    name: str  # of a prediction's file, without its ending: "0005" or "dog/00000"
    masks: tuple[Path, ...]  # files of the ground truth; several are joined to one object
    image: Path | None  # None where the data set's pictures are not there
    sequence: str | None = None
    is_end: bool = False  # first or last of its sequence, which DAVIS 2016 does not count
    level: int = HALF  # grey value of the masks from which on a pixel is the object
    is_white_ground: bool = False  # the masks are coloured, and white is the background


@dataclass(frozen=True)
class Benchmark:
    """What is known of a data set before its folder is looked at."""

    name: str
    title: str
    count: int | None  # pictures, or frames with a ground truth, of the full set, if known
    kind: str  # "saliency", "video" or "semantic": which metrics it has
    find: Callable[[Path], list[Sample]]
    layout: str  # what a folder must hold, in words for a message
    size: tuple[int, int] | None = None  # width and height, where all originals have one
    classes: Classes | None = None  # of a semantic set


@dataclass(frozen=True)
class Dataset:
    """Samples to score, and what their number is to be called."""

    benchmark: Benchmark
    folder: Path
    samples: tuple[Sample, ...]
    total: int  # samples in the folder, of which `samples` may be a part
    size: tuple[int, int] | None = None  # width and height of a reduced copy
    by_colour: bool = False  # masks of a semantic set are RGB in the classes' colours

    @property
    def title(self) -> str:
        """The name for tables: a part of a benchmark is never called by the benchmark's name."""
        full, taken = self.benchmark.count or self.total, len(self.samples)
        copy = "" if self.size is None else " {}x{} copy".format(*self.size)
        part = "" if taken == full else " subset"
        counted = f"{taken:,} of {full:,}" if part else f"{taken:,}"
        return f"{self.benchmark.title}{copy}{part} ({counted} {self.unit}s)"

    @property
    def unit(self) -> str:
        """What a sample is called."""
        return "frame" if self.benchmark.kind == "video" else "image"

    def subset(self, *, every: int = 1, limit: int | None = None) -> "Dataset":
        """Return an even part: every n-th sample (of each sequence), then `limit` spread evenly."""
        groups = groupby(self.samples, key=lambda sample: sample.sequence)
        samples = [sample for _, group in groups for sample in list(group)[::every]]
        if limit is not None and limit < len(samples):
            places = np.linspace(0, len(samples) - 1, limit).round().astype(int)
            samples = [samples[place] for place in places]
        return replace(self, samples=tuple(samples))


def open_dataset(name: str, folder: str | Path) -> Dataset:
    """Return the samples of a benchmark's folder; `name` is a key of `BENCHMARKS`."""
    if name not in BENCHMARKS:
        raise InputError(f"Unknown data set {name!r}. Use one of {', '.join(BENCHMARKS)}.")
    benchmark, folder = BENCHMARKS[name], Path(folder)
    samples = benchmark.find(folder)
    if not samples:
        raise InputError(
            f"Cannot open {folder} as {benchmark.title}: its files are not there. Give a folder "
            f"that holds {benchmark.layout}; docs/evaluation.md says where to get it."
        )
    size = None
    if benchmark.size is not None:
        height, width = read_photo_size(samples[0].masks[0])
        size = None if (width, height) == benchmark.size else (width, height)
    return Dataset(benchmark, folder, tuple(samples), len(samples), size)


def open_folders(images: Path | None, masks: Path, classes: Classes | None = None) -> Dataset:
    """Return the ground truths in any folder, labels of `classes` if given, with their pictures."""
    samples = _pair_by_name(images, masks)
    kind = "saliency" if classes is None else "semantic"
    known = Benchmark("folders", str(masks), None, kind, lambda _: samples, "", classes=classes)
    return Dataset(known, masks, tuple(samples), len(samples))


# The layouts in which benchmarks come.

# Names under which copies of salient-object sets hold pictures and masks.
_PAIRS = (
    *(("images", "masks"), ("images", "ground_truth_mask"), ("images", "GT"), ("imgs", "gt")),
    *(("Imgs", "GT"), ("Image", "Mask"), ("Image", "GT")),
)


def _pairs(folder: Path, *folders: tuple[str, str]) -> list[Sample]:
    """Pair a folder of pictures and one of masks, by the first names that fit."""
    known = [(folder / image, folder / mask) for image, mask in (*folders, *_PAIRS)]
    for images, masks in known:
        if images.is_dir() and masks.is_dir():
            return _pair_by_name(images, masks)
    alone = next((masks for _, masks in known if masks.is_dir()), None)
    return [] if alone is None else _pair_by_name(None, alone)


def _pair_by_name(images: Path | None, masks: Path) -> list[Sample]:
    """Return a sample for each mask of a folder, with the picture of the same name."""
    truths = by_stem(masks)
    pictures = {} if images is None else by_stem(images)
    if images is not None:
        require_same_names(pictures, truths, images, masks)
    return [Sample(stem, (path,), pictures.get(stem)) for stem, path in truths.items()]


def _davis(folder: Path, year: str, *roots: str) -> list[Sample]:
    """Return the frames that ImageSets/YEAR/val.txt lists, or all of the sequences it lists."""
    root = next((path for name in roots if (path := folder / name / "480p").is_dir()), None)
    if root is None:
        return []
    listed = folder / "ImageSets" / year / "val.txt"
    if not listed.is_file():
        raise InputError(
            f"{listed} is missing. It lists what is scored; copy it from the full data set."
        )
    stems: dict[str, list[str]] = {}
    for line in files.read_lines(listed):
        mask = Path(line.split()[-1])
        if year == "480p":
            stems.setdefault(mask.parent.name, []).append(mask.stem)
        else:
            stems[mask.name] = list(by_stem(root / mask.name))
    frames = folder / "JPEGImages" / "480p"
    samples: list[Sample] = []
    for name, own in stems.items():
        masks = {stem: (root / name / f"{stem}.png",) for stem in own}
        pictures = {stem: frames / name / f"{stem}.jpg" for stem in own if frames.is_dir()}
        samples += _frames(name, masks, pictures)
    needed = [path for s in samples for path in (*s.masks, s.image) if path is not None]
    if missing := [path for path in needed if not path.is_file()]:
        raise InputError(
            f"{len(missing)} files are missing: {some(missing)}. Copy the whole data set."
        )
    return samples


def _segtrackv2(folder: Path) -> list[Sample]:
    """Return the frames of SegTrack v2; masks are in a folder for each object, or in one."""
    samples: list[Sample] = []
    for home in _folders(folder / "GroundTruth"):
        places = _folders(home) or [home]
        objects = [by_stem(place) for place in places]
        for place, masks in zip(places[1:], objects[1:], strict=True):
            require_same_names(objects[0], masks, places[0], place)
        frames, pictures = folder / "JPEGImages" / home.name, {}
        if frames.parent.is_dir():
            pictures = by_stem(frames)
            require_same_names(pictures, objects[0], frames, home)
        joined = {stem: tuple(masks[stem] for masks in objects) for stem in objects[0]}
        samples += _frames(home.name, joined, pictures, level=1)
    return samples


def _fbms59(folder: Path) -> list[Sample]:
    """Return the annotated frames of FBMS-59; the numbers of masks start at the first frame."""
    samples: list[Sample] = []
    for home in (*_folders(folder / "Trainingset"), *_folders(folder / "Testset")):
        masks = [path for path in images_in(home / "GroundTruth") if "PROB" not in path.name]
        coloured = [path for path in masks if path.suffix.lower() == ".ppm"]
        # Beside the colour files lie grey renderings of them, in which some objects are background.
        masks = coloured or masks
        pictures = images_in(home)
        found = [re.search(r"(?:^|_)(\d+)", p.stem) or re.search(r"(\d+)", p.stem) for p in masks]
        numbers = {int(n[1]): path for n, path in zip(found, masks, strict=True) if n}
        if len(numbers) < len(masks) or max(numbers) - min(numbers) >= len(pictures):
            raise InputError(
                f"The ground truth in {home / 'GroundTruth'} does not fit the {len(pictures)} "
                f"frames of {home}: {len(masks)} files have the numbers {some(sorted(numbers))}. "
                "Copy the whole sequence."
            )
        # Grey values above 0.1; of two sequences, above 0.05 and 0.4.
        level = {"marple7": 13, "marple2": 103}.get(home.name, 26)
        by_name = {pictures[k - min(numbers)].stem: (numbers[k],) for k in sorted(numbers)}
        how = {"level": level, "is_white_ground": bool(coloured)}
        samples += _frames(home.name, by_name, {path.stem: path for path in pictures}, **how)
    return samples


def _voc2012(folder: Path) -> list[Sample]:
    """Return the photos of the list ImageSets/Segmentation/val.txt."""
    from amd_seg.training.labelled_photos import open_voc2012  # It loads torch.

    photos = open_voc2012(folder, "val").photos
    return [Sample(photo.name, (photo.mask,), photo.image) for photo in photos]


def _frames(
    sequence: str, masks: Mapping[str, tuple[Path, ...]], pictures: Mapping[str, Path], **how: Any
) -> list[Sample]:
    """Return the samples of a sequence; `how` their masks are to be read."""
    ends = {*list(masks)[:1], *list(masks)[-1:]}
    return [
        Sample(f"{sequence}/{stem}", paths, pictures.get(stem), sequence, stem in ends, **how)
        for stem, paths in masks.items()
    ]


def _folders(folder: Path) -> list[Path]:
    found: Iterable[Path] = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in found if p.is_dir() and p.name[0] != "."), key=natural_key)


# The data sets that are known by name.


def _salient(name: str, title: str, count: int, *folders: tuple[str, str]) -> Benchmark:
    layout = " or ".join(f"{image}/ and {mask}/" for image, mask in (*folders, _PAIRS[0]))
    return Benchmark(name, title, count, "saliency", lambda f: _pairs(f, *folders), layout)


_DAVIS = "Annotations/480p/, JPEGImages/480p/ and ImageSets/{}/val.txt"
_SEGTRACK = "GroundTruth/SEQUENCE/ and JPEGImages/SEQUENCE/"
_FBMS = "Trainingset/SEQUENCE/GroundTruth/ and Testset/SEQUENCE/GroundTruth/"
_OMRON = ("DUT-OMRON-image", "pixelwiseGT-new-PNG")
_INNER = (f"{_OMRON[0]}/{_OMRON[0]}", f"{_OMRON[1]}/{_OMRON[1]}")  # as it is unpacked

_BENCHMARKS = (
    _salient("duts-te", "DUTS-TE", 5019, ("DUTS-TE-Image", "DUTS-TE-Mask")),
    _salient("duts-tr", "DUTS-TR", 10553, ("DUTS-TR-Image", "DUTS-TR-Mask")),
    _salient("ecssd", "ECSSD", 1000, ("images", "ground_truth_mask")),
    _salient("pascal-s", "PASCAL-S", 850, ("datasets/imgs/pascal", "datasets/masks/pascal")),
    _salient("dut-omron", "DUT-OMRON", 5168, _OMRON, _INNER),
    _salient("hku-is", "HKU-IS", 4447, ("imgs", "gt")),
    Benchmark(
        *("davis2016", "DAVIS 2016 val", 1376, "video"),
        lambda folder: _davis(folder, "480p", "Annotations"),
        _DAVIS.format("480p"),
        (854, 480),
    ),
    Benchmark(
        *("davis2017", "DAVIS 2017 val, objects merged", 1999, "video"),
        lambda folder: _davis(folder, "2017", "Annotations_unsupervised", "Annotations"),
        _DAVIS.format("2017"),
    ),
    Benchmark("segtrackv2", "SegTrack v2", 976, "video", _segtrackv2, _SEGTRACK),
    Benchmark("fbms59", "FBMS-59", 720, "video", _fbms59, _FBMS),
    Benchmark(
        *("voc2012", "PASCAL VOC 2012 val", 1449, "semantic", _voc2012, VOC_LAYOUT),
        classes=VOC2012,
    ),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _BENCHMARKS}
