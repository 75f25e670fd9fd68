"""Masks for the tools that people label with: COCO, YOLO and Label Studio files; COCO files back.

Runs of pixels are pycocotools', outlines are OpenCV's. An outline runs along the edges of pixels,
so that its coordinates are 0 and width at the borders of the photo, as all three formats have it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as runs

from amd_seg.classes import Classes
from amd_seg.errors import InputError
from amd_seg.media import files
from amd_seg.media.files import some, write_atomically, write_rows
from amd_seg.media.images import read_photo_size
from amd_seg.media.labels import save_labels

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]

_MALFORMED = (ValueError, ArithmeticError, RecursionError, LookupError, TypeError, AttributeError)
LEAST_PART = 0.01  # of the largest part: what is smaller is a speck, and no object of its own


class Thing(NamedTuple):
    """What is marked in a photo."""

    category: int  # counted from 1, as COCO does
    mask: Mask  # (height, width)
    score: float | None = None  # how sure the network is, 0..1


# One photo.


def coco_annotations(
    things: Iterable[Thing], mask_format: str = "rle", *, split: bool = False
) -> list[dict[str, Any]]:
    """Return the annotations of a photo, without ids.

    "rle" is exact; "polygon" can be edited, and is right to a pixel. With `split` each connected
    part is an annotation of its own, but for specks: see `LEAST_PART`.
    """
    found = []
    for category, mask, score in _parts(things, split):
        encoded = encode_runs(mask)
        segmentation: Any = encoded
        if mask_format == "polygon":
            segmentation = [ring.ravel().tolist() for ring in outlines(mask)]
        if segmentation:
            annotation = {"category_id": category, "segmentation": segmentation}
            annotation |= {"area": float(runs.area(encoded)), "bbox": runs.toBbox(encoded).tolist()}
            annotation |= {"iscrowd": 0} | ({} if score is None else {"score": round(score, 4)})
            found.append(annotation)
    return found


def encode_runs(mask: Mask) -> dict[str, Any]:
    """Return a mask as COCO's compressed runs, as JSON takes them."""
    encoded: dict[str, Any] = runs.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def yolo_lines(things: Iterable[Thing], *, split: bool = False) -> str:
    """Return the text of a YOLO segmentation file: class from 0, then x and y as shares.

    A line holds one ring: parts of one thing are joined by a line without width.
    """
    lines = []
    for category, mask, _ in _parts(things, split):
        if rings := outlines(mask):
            shares = _joined(rings) / mask.shape[::-1]
            numbers = " ".join(f"{value:.6g}" for value in shares.ravel().tolist())
            lines.append(f"{category - 1} {numbers}\n")
    return "".join(lines)


def labelstudio_result(things: Iterable[Thing], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the regions of a Label Studio prediction: a polygon for each part, in percent."""
    found: list[dict[str, Any]] = []
    for category, mask, _ in things:
        height, width = mask.shape
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        for ring in outlines(mask):
            kind = {"type": "polygonlabels", "from_name": "label", "to_name": "image"}
            points = (100 * ring / (width, height)).round(3).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [names[category - 1]]}
            found.append({"id": f"{category}-{len(found)}", **kind, **size, "value": value})
    return found


def outlines(mask: Mask) -> list[Ring]:
    """Return a ring (point, 2), x first, in pixels, for each connected part of a mask.

    A hole is joined to the ring around it by a line without width. Rings are simplified by less
    than a pixel, of photos above 1,500 pixels by less than 1/2000 of the longer edge.
    """
    import cv2  # which a mask without outlines has no need of

    # Twice the size, and one pixel more to the right and down: outlines through the centres of
    # these pixels are the outlines around those of the mask, and gaps of one pixel stay open.
    padded = np.pad(mask.view(np.uint8), ((0, 1), (0, 1)))
    doubled = padded.repeat(2, axis=0).repeat(2, axis=1)
    grown = cv2.dilate(doubled, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, tree = cv2.findContours(grown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance = 2 * max(0.75, max(mask.shape) / 2000)
    rings: dict[int, list[Ring]] = {}
    for number, contour in enumerate(contours):
        parent = int(tree[0][number][3])
        ring = cv2.approxPolyDP(contour, tolerance, True)[:, 0] / 2
        if len(ring) > 2:
            rings.setdefault(number if parent < 0 else parent, []).append(ring)
    return [_joined(group) for group in rings.values()]


def _joined(rings: Sequence[Ring]) -> Ring:
    """Return rings as one: each next one is reached from the nearest point, and left there."""
    whole, *others = rings
    for other in others:
        squared = ((whole[:, None] - other[None]) ** 2).sum(axis=-1)
        here, there = np.unravel_index(squared.argmin(), squared.shape)
        whole = np.concatenate([whole[: here + 1], other[there:], other[: there + 1], whole[here:]])
    return whole


def _parts(things: Iterable[Thing], split: bool) -> Iterator[Thing]:
    """Yield the things that are somewhere, or each connected part of them."""
    import cv2

    for thing in things:
        if split:
            _, parts, facts, _ = cv2.connectedComponentsWithStats(thing.mask.view(np.uint8))
            areas = facts[1:, cv2.CC_STAT_AREA]
            for number in np.flatnonzero(areas >= LEAST_PART * areas.max(initial=0)):
                yield thing._replace(mask=parts == number + 1)
        elif thing.mask.any():
            yield thing


# Many photos in one file.

_IMAGE = ("file_name", "width", "height")


class AnnotationFile(files.PartFile):
    """One JSON file of many photos, in its place when it is finished; see `PartFile`."""

    def __init__(
        self,
        path: Path,
        layout: str,
        *,
        info: dict[str, Any],
        categories: Sequence[str] = ("object",),
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Begin a file of layout "coco" or "labelstudio", as `PartFile` does.

        `info` says who made it: "version", "weights" and what else the masks depend on. The first
        of the names in `categories` is category 1.
        """
        self.layout, self.info, self.categories = layout, info, list(categories)
        settings = {**info, "categories": self.categories}
        super().__init__(path, settings, resume=resume, overwrite=overwrite)

    def add(self, name: str, width: int, height: int, found: Sequence[dict[str, Any]]) -> None:
        """Add a photo by its path below the folder of photos, and its size, upright.

        `found` is what `coco_annotations` or `labelstudio_result` gave.
        """
        self.add_record({"file_name": name, "width": width, "height": height, "found": found})

    def finish(self) -> None:
        """Write the file."""
        write = self._write_coco if self.layout == "coco" else self._write_tasks
        write_atomically(self.path, write)
        self.close(remove=True)

    def _write_coco(self, stream: BinaryIO) -> None:
        categories = [{"id": k, "name": name} for k, name in enumerate(self.categories, 1)]
        head = f'"info": {json.dumps(self.info)},\n"licenses": [],\n'
        stream.write(f'{{{head}"categories": {json.dumps(categories)},\n"images": ['.encode())
        images = enumerate(self.records(), 1)
        write_rows(stream, ({"id": k} | {key: row[key] for key in _IMAGE} for k, row in images))
        stream.write(b'\n],\n"annotations": [')
        found = ((k, one) for k, row in enumerate(self.records(), 1) for one in row["found"])
        rows = ({"id": n, "image_id": k, **one} for n, (k, one) in enumerate(found, 1))
        write_rows(stream, rows)
        stream.write(b"\n]}\n")

    def _write_tasks(self, stream: BinaryIO) -> None:
        version = f"{self.info['weights']}, {self.info['version']}"

        def task(record: dict[str, Any]) -> dict[str, Any]:
            name = quote(record["file_name"], errors="surrogateescape")
            return {
                "data": {"image": f"/data/local-files/?d={name}"},
                "meta": {key: record[key] for key in _IMAGE},
                "predictions": [{"model_version": version, "result": record["found"]}],
            }

        stream.write(b"[")
        write_rows(stream, map(task, self.records()))
        stream.write(b"\n]\n")

    def read_finished(self) -> Iterator[dict[str, Any]]:
        """Yield what the finished file holds, also where a tool has rewritten it since."""
        try:
            content = json.loads(self.path.read_bytes())
            if self.layout == "labelstudio":
                for task in content:
                    yield {**task["meta"], "found": task["predictions"][0]["result"]}
                return
            info = content.get("info", {})
            names = [category["name"] for category in content["categories"]]
            yield {"settings": {**(info if "weights" in info else self.info), "categories": names}}
            by_image: dict[int, list[dict[str, Any]]] = {}
            for found in content["annotations"]:
                plain = {key: found[key] for key in found if key not in ("id", "image_id")}
                by_image.setdefault(found["image_id"], []).append(plain)
            for image in content["images"]:
                size = {key: image[key] for key in _IMAGE}
                yield {**size, "found": by_image.get(image["id"], [])}
        except (OSError, *_MALFORMED) as cause:
            raise InputError(
                f"Cannot go on with {self.path}: it is no {self.layout} file. Give another name."
            ) from cause


class ClipFile:
    """The object of a clip in the manner of YouTube-VIS: one annotation, with runs for each frame.

    A context manager: the file is written when all went well. Frames are called NAME/00000.jpg.
    """

    def __init__(self, path: Path, name: str, info: dict[str, Any]) -> None:
        self.path, self.name, self.info = path, name, info
        self.frames, self._names = 0, list[str]()
        self._found: list[tuple[dict[str, Any], float]] = []

    def __enter__(self) -> "ClipFile":
        return self

    def prepare(self, frame: Any) -> tuple[dict[str, Any], float]:
        """Return the runs and the confidence of a `FrameSegmentation`; safe in several threads."""
        return encode_runs(frame.mask), frame.confidence

    def write(self, prepared: tuple[dict[str, Any], float], index: int, time: float) -> None:
        """Add the next frame."""
        self._found.append(prepared)
        self._names.append(f"{self.name}/{index:05}.jpg")
        self.frames += 1

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            return
        height, width = self._found[0][0]["size"]
        size = {"width": width, "height": height, "length": self.frames}
        # A frame without the object is null in all three lists.
        masks = [mask if runs.area(mask) else None for mask, _ in self._found]
        scores = [score for mask, score in self._found if runs.area(mask)]
        annotation = {
            **dict.fromkeys(("id", "video_id", "category_id"), 1),
            "iscrowd": 0,
            **size,
            "score": round(float(np.mean(scores)), 4) if scores else 0.0,
            "segmentations": masks,
            "areas": [mask and float(runs.area(mask)) for mask in masks],
            "bboxes": [mask and runs.toBbox(mask).tolist() for mask in masks],
        }
        content = {
            "info": self.info,
            "categories": [{"id": 1, "name": "object"}],
            "videos": [{"id": 1, "name": self.name, **size, "file_names": self._names}],
            "annotations": [annotation] if scores else [],
        }
        write_atomically(self.path, json.dumps(content) + "\n")


# COCO files back.


def write_label_maps(
    annotations: Path, images: Path, folder: Path
) -> tuple[list[tuple[str, Path, Path]], Classes]:
    """Draw what a COCO file says of photos as label maps, indexed PNGs in `folder`.

    Returns name, photo and label map of each, and the classes. Label 0 is the background, the
    categories follow in the order of their ids. Where annotations overlap, the later one counts.
    Photos are found by their path below `images`, or by their name. An InputError tells of a file
    that holds no masks, and of photos that are missing, or have another size than it says.
    """
    try:
        content = json.loads(annotations.read_bytes())
        ids = {category["id"]: str(category["name"]) for category in content["categories"]}
        label_of = {number: label for label, number in enumerate(sorted(ids), 1)}
        names = [str(image["file_name"]) for image in content["images"]]
        by_image: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
    except OSError as cause:
        raise InputError(f"Cannot read {annotations}: {cause.strerror}. Check the name.") from cause
    except _MALFORMED as cause:
        lacks = "it lacks" if isinstance(cause, KeyError) else "it is no COCO file:"
        raise _no_coco(annotations, f"{lacks} {cause}") from cause
    if not names:
        raise _no_coco(annotations, "it lists no photo")
    classes = Classes.of(["background", *(ids[number] for number in label_of)])
    photos = _find_photos(names, images)
    files.make_folder(folder)
    found = []
    for number, (image, path) in enumerate(zip(content["images"], photos, strict=True)):
        height, width = read_photo_size(path)
        if (image.get("height"), image.get("width")) != (height, width):
            raise InputError(
                f"{path} is {width}x{height}, but {annotations} says {image.get('width')}x"
                f"{image.get('height')}. Give the photos that were labelled."
            )
        labels = np.zeros((height, width), np.uint8)
        for annotation in by_image[image["id"]]:
            try:
                labels[_mask_of(annotation, height, width)] = label_of[annotation["category_id"]]
            except _MALFORMED as cause:
                reason = f"annotation {annotation.get('id')} is no mask: {cause}"
                raise _no_coco(annotations, reason) from cause
        mask = folder / f"{number:06}-{path.stem}.png"
        save_labels(labels, mask, classes)
        found.append((image["file_name"], path, mask))
    return found, classes


def _mask_of(annotation: dict[str, Any], height: int, width: int) -> Mask:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        rings = [[float(value) for value in ring] for ring in segmentation if len(ring) >= 6]
        limit = 2 * max(height, width)
        # Far points would take memory and time without end; NaN is no number below the limit.
        if not all(abs(value) <= limit for ring in rings for value in ring):
            raise ValueError("a point is far outside the photo")
        if not rings:
            return np.zeros((height, width), np.bool_)
        segmentation = runs.merge(runs.frPyObjects(rings, height, width))
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}")
    return decode_runs(segmentation)


def decode_runs(encoded: dict[str, Any]) -> Mask:
    """Return the mask (height, width) of COCO's runs, compressed or not.

    ValueError where they are not as long as the mask: pycocotools' own decoder leaves what too few
    do not cover as the memory happened to be.
    """
    (height, width), counts = encoded["size"], encoded["counts"]
    if not isinstance(counts, list):
        text = counts.encode() if isinstance(counts, str) else counts
        counts, value, shift = [], 0, 0
        # Each length is the difference from the last but one, in digits of five bits, the lowest
        # first; a digit's sixth bit says that more follow, the fifth of the last is the sign.
        for byte in text:
            digit = byte - 48
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                value -= (digit & 16) << (shift - 4)
                counts.append(value + (counts[-2] if len(counts) > 2 else 0))
                value = shift = 0
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise ValueError("its runs are not as long as the photo has pixels")
    # Down the columns, beginning with the background.
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _find_photos(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the photo of each name: below the folder, or the only one called so."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder. Give the one that was labelled.")
    photos = files.find_images([str(folder)], recursive=True)
    alike = Counter(path.name for path in photos)
    unique = {path.name: path for path in photos if alike[path.name] == 1}
    below = {path.relative_to(folder).as_posix(): path for path in photos}
    # A tool on Windows writes its own separators.
    paths = [below.get(name, unique.get(re.split(r"[/\\]", name)[-1])) for name in names]
    if missing := [name for name, path in zip(names, paths, strict=True) if path is None]:
        raise InputError(
            f"{len(missing)} of {len(names)} photos are not in {folder}: {some(missing)}. "
            "Give the folder that was labelled."
        )
    return [path for path in paths if path is not None]


def _no_coco(path: Path, reason: str) -> InputError:
    return InputError(
        f"Cannot use {path}: {reason}. Give a COCO file with polygons or runs for each photo."
    )
