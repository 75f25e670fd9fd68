"""The benchmarks' folders: which picture has which ground truth, and how that is read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from amd_seg.errors import InputError
from amd_seg.evaluation.maps import read_size
from amd_seg.media.files import find_images

IMAGE_FOLDERS = ("images", "image", "imgs", "Imgs", "Image", "Images")
MASK_FOLDERS = ("masks", "mask", "ground_truth_mask", "GT", "gt", "ground_truth", "Masks")


@dataclass(frozen=True)
class Sample:
    """One picture, or one frame of a video, with its ground truth."""

    name: str
    """What a prediction's file is called, without its ending: "0005" or "dog/00000"."""
    masks: tuple[Path, ...]
    """Files of the ground truth; several are joined to one object."""
    image: Path | None
    """None where the data set's pictures are not there."""
    sequence: str | None = None
    is_end: bool = False
    """The first or the last frame of its sequence, which DAVIS 2016 does not count."""


@dataclass(frozen=True)
class Benchmark:
    """What is known of a data set before its folder is looked at."""

    name: str
    title: str
    kind: str
    """"saliency" or "video": which metrics are its own."""
    count: int | None
    """Pictures, or frames with a ground truth, of the full set; None where any number may be."""
    find: Callable[[Path], list[Sample]]
    layout: str
    """What a folder must hold, in words for a message."""
    size: tuple[int, int] | None = None
    """Width and height of the originals where all have one; copies in another are named so."""


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
        unit = "frames" if self.benchmark.kind == "video" else "images"
        name = self.benchmark.title
        if self.size is not None:
            name += " {}x{} copy".format(*self.size)
        if taken == full:
            return f"{name} ({taken:,} {unit})"
        return f"{name} subset ({taken:,} of {full:,} {unit})"

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


def pair_by_name(images: Path | None, masks: Path, sequence: str | None = None) -> list[Sample]:
    """Return a sample for each mask of a folder, with the picture of the same name.

    Raises:
        InputError: names every picture without a mask and every mask without a picture.
    """
    truths = _by_stem(masks)
    pictures = None if images is None else _by_stem(images)
    if pictures is not None:
        _require_same_names(pictures, truths, images, masks)
    prefix = "" if sequence is None else f"{sequence}/"
    ends = {min(truths, default=None), max(truths, default=None)}
    return [
        Sample(
            prefix + stem,
            (path,),
            None if pictures is None else pictures[stem],
            sequence,
            sequence is not None and stem in ends,
        )
        for stem, path in truths.items()
    ]


def _find_pairs(*folders: tuple[str, str]) -> Callable[[Path], list[Sample]]:
    """Return a finder for one folder of pictures and one of masks, by the first names that fit."""

    def find(folder: Path) -> list[Sample]:
        plain = [(image, mask) for mask in MASK_FOLDERS for image in IMAGE_FOLDERS]
        for image, mask in (*folders, *plain):
            if (folder / image).is_dir() and (folder / mask).is_dir():
                return pair_by_name(folder / image, folder / mask)
        for _, mask in (*folders, *plain):
            if (folder / mask).is_dir():
                return pair_by_name(None, folder / mask)
        return []

    return find


def _find_davis2016(folder: Path) -> list[Sample]:
    """Return the frames of DAVIS 2016's validation list."""
    listed = folder / "ImageSets" / "480p" / "val.txt"
    root = folder / "Annotations" / "480p"
    if not root.is_dir():
        return []
    if not listed.is_file():
        raise InputError(
            f"Cannot open {folder} as DAVIS 2016: {listed} is missing. It names the validation "
            "frames; copy it from the full set."
        )
    frames = folder / "JPEGImages" / "480p"
    names: dict[str, list[str]] = {}
    for line in filter(None, map(str.split, listed.read_text("utf-8").splitlines())):
        mask = Path(line[-1])
        names.setdefault(mask.parent.name, []).append(mask.stem)
    samples = [
        Sample(
            f"{sequence}/{stem}",
            (root / sequence / f"{stem}.png",),
            frames / sequence / f"{stem}.jpg" if frames.is_dir() else None,
            sequence,
            stem in (min(stems), max(stems)),
        )
        for sequence, stems in names.items()
        for stem in stems
    ]
    return _require_files(samples)


def _require_files(samples: list[Sample]) -> list[Sample]:
    files = [path for s in samples for path in (*s.masks, s.image) if path is not None]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} files are missing: {some(missing)}. Copy the whole data set."
        )
    return samples


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return a folder's images by name without ending, in natural order."""
    paths: dict[str, Path] = {}
    for path in find_images([str(folder)]):
        if path.stem in paths:
            raise InputError(
                f"{paths[path.stem]} and {path} have one name. Keep one of them in the folder."
            )
        paths[path.stem] = path
    return paths


def _require_same_names(
    pictures: dict[str, Path], truths: dict[str, Path], images: Path | None, masks: Path
) -> None:
    faults = []
    if without := [name for name in pictures if name not in truths]:
        faults.append(f"{len(without)} pictures have no mask in {masks}: {some(without)}")
    if extra := [name for name in truths if name not in pictures]:
        faults.append(f"{len(extra)} masks have no picture in {images}: {some(extra)}")
    if faults:
        raise InputError(f"{'; '.join(faults)}. Add or remove files until names agree.")


def _by_sequence(samples: Iterable[Sample]) -> list[list[Sample]]:
    groups: dict[str | None, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.sequence, []).append(sample)
    return list(groups.values())


def some(names: Iterable[object], shown: int = 5) -> str:
    """Return the first few of some names for a message, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def _pairs(name: str, title: str, count: int | None, *folders: tuple[str, str]) -> Benchmark:
    known = " or ".join(f"{image}/ and {mask}/" for image, mask in (*folders, ("images", "masks")))
    return Benchmark(name, title, "saliency", count, _find_pairs(*folders), known)


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        _pairs("ecssd", "ECSSD", 1000, ("images", "ground_truth_mask")),
        _pairs("duts-te", "DUTS-TE", 5019, ("DUTS-TE-Image", "DUTS-TE-Mask")),
        _pairs("duts-tr", "DUTS-TR", 10553, ("DUTS-TR-Image", "DUTS-TR-Mask")),
        _pairs("pascal-s", "PASCAL-S", 850, ("datasets/imgs/pascal", "datasets/masks/pascal")),
        Benchmark(
            "davis2016",
            "DAVIS 2016 val",
            "video",
            1376,
            _find_davis2016,
            "Annotations/480p/, JPEGImages/480p/ and ImageSets/480p/val.txt",
            (854, 480),
        ),
    )
}
"""The data sets that are known by name."""
