"""The benchmarks that are known by name, and any folder of pictures and masks."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amd_seg.classes import VOC2012
from amd_seg.errors import InputError
from amd_seg.evaluation.layouts import (
    Finder,
    Sample,
    find_davis2016,
    find_davis2017,
    find_fbms59,
    find_pairs,
    find_segtrackv2,
    find_voc2012,
    pair_by_name,
)
from amd_seg.evaluation.maps import read_size
from amd_seg.evaluation.semantic import LabelTruth
from amd_seg.training.labelled import VOC_LAYOUT

__all__ = ["BENCHMARKS", "Benchmark", "Dataset", "Sample", "open_dataset", "open_folders"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is known of a data set before its folder is looked at."""

    name: str
    title: str
    kind: str = "saliency"
    """"saliency", "video" or "semantic": which metrics are its own."""
    count: int | None = None
    """Pictures, or frames with a ground truth, of the full set; None where any number may be."""
    find: Finder
    layout: str
    """What a folder must hold, in words for a message."""
    source: str = ""
    """Where it is to be had."""
    size: tuple[int, int] | None = None
    """Width and height of the originals where all have one; copies in another are named so."""
    truth: LabelTruth | None = None
    """The classes of a semantic set, and how its label maps are read."""


@dataclass(frozen=True)
class Dataset:
    """Samples to score, and what their number is to be called."""

    benchmark: Benchmark
    folder: Path
    samples: tuple[Sample, ...]
    total: int
    """Samples in the folder, of which `samples` may be a part."""
    size: tuple[int, int] | None = None
    """Width and height of a reduced copy, None for the originals."""

    @property
    def title(self) -> str:
        """The name for tables: a part of a benchmark is never called by the benchmark's name."""
        full, taken = self.benchmark.count or self.total, len(self.samples)
        name = self.benchmark.title
        if self.size is not None:
            name += " {}x{} copy".format(*self.size)
        if taken == full:
            return f"{name} ({taken:,} {self.unit}s)"
        return f"{name} subset ({taken:,} of {full:,} {self.unit}s)"

    @property
    def unit(self) -> str:
        """What a sample is called."""
        return "frame" if self.benchmark.kind == "video" else "image"

    def subset(self, *, every: int = 1, limit: int | None = None) -> "Dataset":
        """Return an even part: every n-th sample (of each sequence), then `limit` spread evenly.

        Raises:
            InputError: `every` or `limit` is below 1.
        """
        if every < 1 or (limit is not None and limit < 1):
            raise InputError(f"every={every}, limit={limit}: both must be 1 or more.")
        samples = [s for group in _by_sequence(self.samples) for s in group[::every]]
        if limit is not None and limit < len(samples):
            places = np.linspace(0, len(samples) - 1, limit).round().astype(int)
            samples = [samples[place] for place in places]
        return self.part(samples)

    def read_by_colour(self) -> "Dataset":
        """Return the same semantic set, whose ground truths are RGB in the classes' colours.

        Raises:
            InputError: its masks hold no classes.
        """
        if self.benchmark.truth is None:
            raise InputError(f"{self.title} has masks of one object: there are no colours to read.")
        truth = replace(self.benchmark.truth, by_colour=True)
        return replace(self, benchmark=replace(self.benchmark, truth=truth))

    def part(self, samples: Iterable[Sample]) -> "Dataset":
        """Return the same data set with some of its samples."""
        return replace(self, samples=tuple(samples))


def open_dataset(name: str, folder: str | Path) -> Dataset:
    """Return the samples of a benchmark's folder, in the full set's layout or a subset's.

    Args:
        name: a key of `BENCHMARKS`.
        folder: where its files are.

    Raises:
        InputError: the name is unknown, the folder is not laid out so, or files are missing;
            all of them are named.
    """
    if name not in BENCHMARKS:
        raise InputError(f"Unknown data set {name!r}. Use one of {', '.join(BENCHMARKS)}.")
    benchmark, folder = BENCHMARKS[name], Path(folder)
    if not folder.is_dir():
        raise InputError(f"Cannot open {name} at {folder}: no such folder. Check the name.")
    samples = benchmark.find(folder)
    if not samples:
        raise InputError(
            f"Cannot open {folder} as {benchmark.title}: its files are not there. "
            f"Give a folder that holds {benchmark.layout}."
        )
    size = None if benchmark.size is None else read_size(samples[0].masks[0])
    size = None if size == benchmark.size else size
    return Dataset(benchmark, folder, tuple(samples), len(samples), size)


def open_folders(images: Path | None, masks: Path, *, truth: LabelTruth | None = None) -> Dataset:
    """Return the masks of any folder with the pictures of the same names.

    Args:
        images: a folder of pictures; None where they are not needed.
        masks: a folder of ground truths.
        truth: what the labels of a semantic set are; None where masks are of one object.

    Raises:
        InputError: a folder holds no image, or names differ; all of them are named.
    """
    samples = pair_by_name(images, masks)
    benchmark = Benchmark(
        name="folders",
        title=str(masks),
        kind="saliency" if truth is None else "semantic",
        find=find_pairs(),
        layout="pictures and masks",
        truth=truth,
    )
    return Dataset(benchmark, masks, tuple(samples), len(samples))


def _by_sequence(samples: Iterable[Sample]) -> list[list[Sample]]:
    groups: dict[str | None, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.sequence, []).append(sample)
    return list(groups.values())


def _pairs(name: str, title: str, count: int, source: str, *folders: tuple[str, str]) -> Benchmark:
    known = " or ".join(f"{image}/ and {mask}/" for image, mask in (*folders, ("images", "masks")))
    return Benchmark(
        name=name, title=title, count=count, find=find_pairs(*folders), layout=known, source=source
    )


_DAVIS = "https://davischallenge.org"
_DUTS = "http://saliencydetection.net/duts/"

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        _pairs("duts-te", "DUTS-TE", 5019, _DUTS, ("DUTS-TE-Image", "DUTS-TE-Mask")),
        _pairs("duts-tr", "DUTS-TR", 10553, _DUTS, ("DUTS-TR-Image", "DUTS-TR-Mask")),
        _pairs(
            "ecssd",
            "ECSSD",
            1000,
            "https://www.cse.cuhk.edu.hk/leojia/projects/hsaliency/dataset.html",
            ("images", "ground_truth_mask"),
        ),
        _pairs(
            "pascal-s",
            "PASCAL-S",
            850,
            "https://cbs.ic.gatech.edu/salobj/",
            ("datasets/imgs/pascal", "datasets/masks/pascal"),
        ),
        _pairs(
            "dut-omron",
            "DUT-OMRON",
            5168,
            "http://saliencydetection.net/dut-omron/",
            ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
            ("DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG/pixelwiseGT-new-PNG"),
        ),
        _pairs(
            "hku-is",
            "HKU-IS",
            4447,
            "https://i.cs.hku.hk/~gbli/deep_saliency.html",
            ("imgs", "gt"),
        ),
        Benchmark(
            name="davis2016",
            title="DAVIS 2016 val",
            kind="video",
            count=1376,
            find=find_davis2016,
            layout="Annotations/480p/, JPEGImages/480p/ and ImageSets/480p/val.txt",
            source=f"{_DAVIS}/davis2016/code.html",
            size=(854, 480),
        ),
        Benchmark(
            name="davis2017",
            title="DAVIS 2017 val, objects merged",
            kind="video",
            count=1999,
            find=find_davis2017,
            layout="Annotations/480p/, JPEGImages/480p/ and ImageSets/2017/val.txt",
            source=f"{_DAVIS}/davis2017/code.html",
        ),
        Benchmark(
            name="segtrackv2",
            title="SegTrack v2",
            kind="video",
            count=976,
            find=find_segtrackv2,
            layout="GroundTruth/SEQUENCE/ and JPEGImages/SEQUENCE/",
            source="https://web.engr.oregonstate.edu/~lif/SegTrack2/dataset.html",
        ),
        Benchmark(
            name="fbms59",
            title="FBMS-59",
            kind="video",
            count=720,
            find=find_fbms59,
            layout="Trainingset/SEQUENCE/GroundTruth/ and Testset/SEQUENCE/GroundTruth/",
            source="https://lmb.informatik.uni-freiburg.de/resources/datasets/moseg.en.html",
        ),
        Benchmark(
            name="voc2012",
            title="PASCAL VOC 2012 val",
            kind="semantic",
            count=1449,
            find=find_voc2012,
            layout=VOC_LAYOUT,
            source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            truth=LabelTruth(VOC2012),
        ),
    )
}
"""The data sets that are known by name."""
