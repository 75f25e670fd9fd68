"""The layouts in which benchmarks come: finders from a folder to its samples."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amd_seg.errors import InputError
from amd_seg.evaluation.maps import GREY, TruthRule
from amd_seg.media.files import by_stem, images_in, natural_key, require_same_names, some
from amd_seg.training.labelled import open_voc2012

Finder = Callable[[Path], list["Sample"]]

# Names under which copies of salient-object sets hold pictures and masks.
_PAIRS = (
    ("images", "masks"),
    ("images", "ground_truth_mask"),
    ("images", "GT"),
    ("imgs", "gt"),
    ("Imgs", "GT"),
    ("Image", "Mask"),
    ("Image", "GT"),
)

ANY_VALUE = TruthRule(level=1 / 255)
"""SegTrack v2: whatever is not black belongs to an object."""


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
    rule: TruthRule = GREY
    """How the values of the masks are read."""


def pair_by_name(images: Path | None, masks: Path) -> list[Sample]:
    """Return a sample for each mask of a folder, with the picture of the same name.

    Raises:
        InputError: names every picture without a mask and every mask without a picture.
    """
    truths = by_stem(masks)
    if images is None:
        return [Sample(stem, (path,), None) for stem, path in truths.items()]
    pictures = by_stem(images)
    require_same_names(pictures, truths, images, masks)
    return [Sample(stem, (path,), pictures[stem]) for stem, path in truths.items()]


def find_pairs(*folders: tuple[str, str]) -> Finder:
    """Return a finder for a folder of pictures and one of masks, by the first names that fit."""

    def find(folder: Path) -> list[Sample]:
        known = (*folders, *_PAIRS)
        for image, mask in known:
            if (folder / image).is_dir() and (folder / mask).is_dir():
                return pair_by_name(folder / image, folder / mask)
        for _, mask in known:
            if (folder / mask).is_dir():
                return pair_by_name(None, folder / mask)
        return []

    return find


def find_davis2016(folder: Path) -> list[Sample]:
    """Return the frames of the list ImageSets/480p/val.txt."""
    root, frames = folder / "Annotations" / "480p", folder / "JPEGImages" / "480p"
    if not root.is_dir():
        return []
    names: dict[str, list[str]] = {}
    for line in _lines(folder / "ImageSets" / "480p" / "val.txt"):
        mask = Path(line.split()[-1])
        names.setdefault(mask.parent.name, []).append(mask.stem)
    return _listed_frames(names, root, frames)


def find_davis2017(folder: Path) -> list[Sample]:
    """Return all frames of the sequences that ImageSets/2017/val.txt lists."""
    roots = [folder / name / "480p" for name in ("Annotations_unsupervised", "Annotations")]
    root = next((path for path in roots if path.is_dir()), None)
    if root is None:
        return []
    sequences = _lines(folder / "ImageSets" / "2017" / "val.txt")
    if without := [name for name in sequences if not (root / name).is_dir()]:
        raise InputError(f"{root} has no folder for {some(without)}. Copy the whole data set.")
    names = {sequence: list(by_stem(root / sequence)) for sequence in sequences}
    return _listed_frames(names, root, folder / "JPEGImages" / "480p")


def find_segtrackv2(folder: Path) -> list[Sample]:
    """Return the frames of SegTrack v2; a folder for each object, or one for all, holds masks."""
    root, frames = folder / "GroundTruth", folder / "JPEGImages"
    samples: list[Sample] = []
    for home in _folders(root):
        places = _folders(home) or [home]
        objects = [by_stem(path) for path in places]
        for place, masks in zip(places[1:], objects[1:], strict=True):
            require_same_names(objects[0], masks, places[0], place)
        pictures = by_stem(frames / home.name) if frames.is_dir() else None
        if pictures is not None:
            require_same_names(pictures, objects[0], frames / home.name, home)
        samples += _frames(
            home.name,
            {stem: tuple(masks[stem] for masks in objects) for stem in objects[0]},
            pictures,
            ANY_VALUE,
        )
    return samples


def find_fbms59(folder: Path) -> list[Sample]:
    """Return the annotated frames of FBMS-59, of its test and its training set."""
    samples: list[Sample] = []
    for part in ("Trainingset", "Testset"):
        for home in _folders(folder / part):
            samples += _fbms_sequence(home)
    return samples


def find_voc2012(folder: Path) -> list[Sample]:
    """Return the photos of the list ImageSets/Segmentation/val.txt."""
    photos = open_voc2012(folder, "val").photos
    return [Sample(photo.name, (photo.mask,), photo.image) for photo in photos]


def _fbms_sequence(home: Path) -> list[Sample]:
    """Return the annotated frames of one sequence: their numbers start at its first frame."""
    masks = [path for path in images_in(home / "GroundTruth") if "PROB" not in path.name]
    coloured = [path for path in masks if path.suffix.lower() == ".ppm"]
    # Beside the colour files lie grey renderings of them, in which some objects are background.
    masks = coloured or masks
    pictures = images_in(home)
    numbers = {_fbms_number(path): path for path in masks}
    if len(numbers) < len(masks) or max(numbers) - min(numbers) >= len(pictures):
        raise InputError(
            f"The ground truth in {home / 'GroundTruth'} does not fit the {len(pictures)} frames "
            f"of {home}: it is numbered {min(numbers)} to {max(numbers)}, {len(masks)} files. "
            "Copy the whole sequence."
        )
    level = {"marple7": 0.05, "marple2": 0.4}.get(home.name, 0.1)
    rule = TruthRule(level=level, is_exclusive=True, is_white_background=bool(coloured))
    by_frame = {pictures[number - min(numbers)]: numbers[number] for number in sorted(numbers)}
    truths: dict[str, tuple[Path, ...]] = {p.stem: (by_frame[p],) for p in by_frame}
    return _frames(
        home.name,
        truths,
        {picture.stem: picture for picture in by_frame},
        rule,
    )


def _fbms_number(path: Path) -> int:
    parts = path.stem.split("_")
    text = parts[1] if path.suffix.lower() == ".ppm" and len(parts) > 1 else parts[-1]
    digits = re.search(r"\d+", text) or re.search(r"\d+", path.stem)
    if digits is None:
        raise InputError(f"{path} has no frame number in its name. Name it SEQUENCE_NUMBER.")
    return int(digits[0])


def _listed_frames(names: dict[str, list[str]], root: Path, frames: Path) -> list[Sample]:
    samples: list[Sample] = []
    for sequence, stems in names.items():
        masks: dict[str, tuple[Path, ...]] = {
            stem: (root / sequence / f"{stem}.png",) for stem in stems
        }
        pictures = {stem: frames / sequence / f"{stem}.jpg" for stem in stems}
        samples += _frames(sequence, masks, pictures if frames.is_dir() else None, GREY)
    files = [path for s in samples for path in (*s.masks, s.image) if path is not None]
    if missing := [path for path in files if not path.is_file()]:
        raise InputError(
            f"{len(missing)} files are missing: {some(missing)}. Copy the whole data set."
        )
    return samples


def _frames(
    sequence: str,
    masks: dict[str, tuple[Path, ...]],
    pictures: dict[str, Path] | None,
    rule: TruthRule,
) -> list[Sample]:
    stems = list(masks)
    return [
        Sample(
            f"{sequence}/{stem}",
            masks[stem],
            None if pictures is None else pictures[stem],
            sequence,
            stem in (stems[0], stems[-1]),
            rule,
        )
        for stem in stems
    ]


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(found, key=natural_key)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(
            f"{path} is missing. It lists what is scored; copy it from the full data set."
        )
    return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
