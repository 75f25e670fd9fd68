"""Maps that are kept: written once, read where an evaluation is resumed."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from amd_seg.errors import InputError
from amd_seg.evaluation.datasets import Dataset, Sample
from amd_seg.evaluation.maps import read_size
from amd_seg.evaluation.origins import NOTE, Given, MapSource, Origin, from_file
from amd_seg.evaluation.scoring import Scoring, binarised
from amd_seg.media.files import make_folder, some, write_atomically
from amd_seg.media.images import save_image
from amd_seg.media.labels import save_labels

logger = logging.getLogger(__name__)


def saving(
    origin: Origin,
    folder: Path,
    scoring: Scoring,
    made_by: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Origin:
    """Return an origin that writes each map that it gives, as FOLDER/NAME.png.

    Of a video's frames the mask is written, 0 and 255, as DAVIS takes results; of semantic sets
    the labels as an indexed PNG in the classes' colours, as VOC takes them. What they were made by
    is kept beside them (`NOTE`). The origin raises an InputError where the folder has maps and
    they are not to be resumed, or were made by something else.

    Args:
        origin: where the maps come from.
        folder: made where it is missing.
        scoring: its threshold makes the masks.
        made_by: what else the values of the maps depend on, as JSON has it.
        resume: maps that the folder holds are read from it instead of made again.
    """
    settings = {**made_by, "threshold": scoring.threshold}

    def saved(dataset: Dataset) -> Iterator[MapSource]:
        paths = [folder / f"{sample.name}.png" for sample in dataset.samples]
        is_done = [path.exists() for path in paths]
        written = [path for path, done in zip(paths, is_done, strict=True) if done]
        if written and not resume:
            raise InputError(
                f"{len(written)} maps exist in {folder}, such as {written[0]}. Give --resume to "
                "keep them, or another folder."
            )
        _check_note(folder, settings, has_maps=bool(written))
        waiting = [s for s, done in zip(dataset.samples, is_done, strict=True) if not done]
        fresh = iter(origin(dataset.part(waiting)))
        for sample, path, done in zip(dataset.samples, paths, is_done, strict=True):
            if done:
                yield from_file(path, dataset)
                continue
            values = next(fresh)(sample, _shape_of(sample))
            if dataset.benchmark.kind == "video":
                values = binarised(values / 255.0, scoring).astype(np.uint8) * np.uint8(255)
            make_folder(path.parent)
            _write_note(folder, settings)
            if dataset.benchmark.truth is not None:
                save_labels(values, path, dataset.benchmark.truth.classes)
            else:
                save_image(Image.fromarray(values), path)
            yield Given(values)

    return saved


def _check_note(folder: Path, settings: Mapping[str, Any], *, has_maps: bool) -> None:
    """Raise where the maps of a folder were made by something else."""
    note = folder / NOTE
    if not note.exists():
        if has_maps:
            logger.warning(
                "%s does not tell what its maps were made by (%s is missing there): they are taken "
                "for maps by the same settings.", folder, NOTE,
            )  # fmt: skip
        return
    try:
        known = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as cause:
        raise InputError(f"Cannot read {note}: {cause}. Give another folder.") from cause
    wanted = json.loads(json.dumps(settings))
    differing = [
        f"{name} {known.get(name, 'unset')} there, {wanted.get(name, 'unset')} now"
        for name in {**wanted, **known}
        if known.get(name) != wanted.get(name)
    ]
    if differing:
        raise InputError(
            f"The maps in {folder} were made by other settings: {some(differing, 3)}. "
            "Give the same ones, or another folder."
        )


def _write_note(folder: Path, settings: Mapping[str, Any]) -> None:
    note = folder / NOTE
    if note.exists():
        return

    def write(stream: BinaryIO) -> None:
        stream.write(json.dumps(settings, indent=2).encode() + b"\n")

    write_atomically(note, write)


def _shape_of(sample: Sample) -> tuple[int, ...]:
    width, height = read_size(sample.masks[0])
    return height, width
