"""Folders of images with masks: what the object channel learns from, in random crops.

    DIR/images/CLIP/000012.jpg
    DIR/masks/CLIP/000012.png
    DIR/confidence.json            {"CLIP/000012": 0.7}, optional

A mask is grey: 0 is background, 255 the object, values between are its probability. 0 and 1, or an
indexed picture, work too. Images of a folder are drawn as one clip; those in `images/` itself are
stills. Where there is a confidence.json, only the images that it names count.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amd_seg.errors import InputError, MediaError
from amd_seg.media.files import make_folder, natural_key, some, write_atomically
from amd_seg.media.images import load, opened, read_image, read_photo_size, save_image
from amd_seg.media.video import list_frames, shrunk_size
from amd_seg.training.clips import require_memory, require_mostly_intact
from amd_seg.training.config import TrainingConfig
from amd_seg.training.crops import jitter_colours, random_box
from amd_seg.workers import worker_pool

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
CLIP_POWER = 0.3  # A clip of n masks is drawn with weight n^0.3: no long one crowds out short ones.
CONFIDENCE_POWER = 2.0  # A mask is drawn with weight confidence^2: where pairs disagree is noise.


class MaskedImage(NamedTuple):
    """An image, and how likely each of its pixels is of the object."""

    name: str  # as messages give it, such as "CLIP/000012"
    frame: Tensor  # (3, height, width), uint8, RGB
    mask: Tensor  # (1, height, width), uint8: probability of the object in 0..255
    confidence: float = 1.0  # in the mask, 0..1


MaskedClip = Sequence[MaskedImage]  # drawn together: frames of one clip, or one still
MaskedFile = tuple[str, Path, Path, float]  # name, image, mask, and confidence in it


def find_masked_images(folder: str | os.PathLike[str]) -> dict[str, list[MaskedFile]]:
    """Return the images of a folder that have a mask, by clip; a still is a clip of its own."""
    top = Path(folder)
    if not all((top / part).is_dir() for part in ("images", "masks")):
        raise InputError(f"There are no folders images/ and masks/ in {top}. Give one with both.")
    images, masks = (_by_name(top / part) for part in ("images", "masks"))
    confidence = dict.fromkeys(images, 1.0)
    path = top / "confidence.json"
    if path.is_file():
        try:
            values = json.loads(path.read_text("utf-8"))
            confidence = {str(name): float(value) for name, value in values.items()}
            if wrong := [name for name, value in confidence.items() if not 0 <= value <= 1]:
                raise ValueError(f"{some(wrong)} not from 0 to 1")
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as cause:
            raise InputError(
                f"Cannot read {path}: {cause}. It maps names of images to numbers from 0 to 1."
            ) from cause
    found: dict[str, list[MaskedFile]] = {}
    for name, image in images.items():
        trust = confidence.get(name, 0.0)
        if name in masks and trust > 0:
            clip = name.rpartition("/")[0] or name
            found.setdefault(clip, []).append((name, image, masks[name], trust))
    if not found:
        raise InputError(
            f"No image in {top} has a mask to learn from. Give the mask of images/NAME.jpg the "
            "name masks/NAME.png; where there is a confidence.json it names each that counts."
        )
    if left := len(images) - sum(map(len, found.values())):
        text = "%d of %d images in %s have no mask, or none that counts."
        logger.info(text, left, len(images), top)
    return found


def _by_name(top: Path) -> dict[str, Path]:
    folders = [top, *sorted((path for path in top.rglob("*") if path.is_dir()), key=natural_key)]
    paths = [path for folder in folders for path in list_frames(folder)]
    named = {path.relative_to(top).with_suffix("").as_posix(): path for path in paths}
    if len(named) < len(paths):
        twice = [path for path in paths if path not in named.values()]
        raise InputError(f"{top} holds two files of one name: {some(twice)}. Keep one of them.")
    return named


def load_masked_images(
    folder: str | os.PathLike[str], short_edge: int, device: torch.device = CPU
) -> dict[str, MaskedClip]:
    """Read the images of a folder that have a mask, by clip, shrunk to a short edge in pixels."""
    found = find_masked_images(folder)

    def read(file: MaskedFile) -> MaskedImage:
        name, image, mask, trust = file
        frame, shown = (shrunk(each, short_edge).to(device) for each in _read_pair(image, mask))
        return MaskedImage(name, frame, shown, trust)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        firsts = pool.map(lambda files: read_photo_size(files[0][1]), found.values())
        needed = sum(
            len(files) * 4 * size[0] * size[1] * min(1, short_edge / min(size)) ** 2
            for files, size in zip(found.values(), firsts, strict=True)
        )
        require_memory(needed, device, advice="or fewer images")
        return {clip: list(pool.map(read, files)) for clip, files in found.items()}


def _read_pair(image_path: Path, mask_path: Path) -> tuple[Tensor, Tensor]:
    image = torch.tensor(read_image(image_path).pixels).permute(2, 0, 1)
    with opened(mask_path) as stored:
        load(stored, str(mask_path))
    if stored.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
        raise MediaError(
            f"{mask_path} is no mask of 8 bits (Pillow calls it {stored.mode}). "
            "Save it as grey PNG."
        )
    # An index other than 0 is the object; so is 1 where there are 0 and 1 alone.
    grey = np.asarray(stored if stored.mode == "P" else stored.convert("L"))
    if stored.mode == "P" or grey.max(initial=0) == 1:
        grey = np.where(grey > 0, 255, 0).astype(np.uint8)
    mask = torch.tensor(grey)[None]
    if mask.shape[1:] != image.shape[1:]:
        raise MediaError(
            f"{mask_path} is {mask.shape[2]}x{mask.shape[1]}, but its image {image_path} is "
            f"{image.shape[2]}x{image.shape[1]}. Give both at one size."
        )
    return image, mask


def shrunk(image: Tensor, short_edge: int) -> Tensor:
    """Shrink bytes (channel, height, width) to a short edge, in pixels; never enlarge them."""
    height, width = image.shape[1:]
    size = shrunk_size(width, height, short_edge)[::-1]
    if size == (height, width):
        return image.contiguous()
    return F.interpolate(image[None].contiguous(), size, mode="bilinear", antialias=True)[0]


class MaskBatch(NamedTuple):
    """Crops of images and what their object channel should say."""

    frames: Tensor  # (batch, 3, height, width), float, RGB in 0..255
    masks: Tensor  # (batch, 1, height, width), float, 0..255
    names: tuple[str, ...]


class MaskBatches(Iterator[MaskBatch]):
    """An endless, seeded stream of batches; its state is one generator's.

    Images are cropped where they are kept. All folders of clips are drawn equally often.
    """

    def __init__(
        self,
        folders: Iterable[Collection[MaskedClip]],
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.generator = torch.Generator().manual_seed(config.seed)
        folders = [folder for folder in folders if folder]
        self.clips = [clip for folder in folders for clip in folder]
        # How often each image is drawn, relative to its clip's others; and each clip.
        self.trust = [
            torch.tensor([image.confidence for image in clip]).pow(CONFIDENCE_POWER)
            for clip in self.clips
        ]
        clear = [float(each.mean()) * len(each) ** CLIP_POWER for each in self.trust]
        shares = torch.split(torch.tensor(clear), [len(folder) for folder in folders])
        self.weights = torch.cat([share / share.sum() / len(folders) for share in shares])

    def __next__(self) -> MaskBatch:
        config, generator = self.config, self.generator
        count = config.batch_size // config.accumulate
        frames, masks, names = [], [], []
        for clip in torch.multinomial(self.weights, count, True, generator=generator).tolist():
            item = int(torch.multinomial(self.trust[clip], 1, generator=generator))
            name, frame, mask, _ = self.clips[clip][item]
            box = random_box(frame.shape[-2:], config, generator)
            frames.append(box.cut(frame[None], config.crop))
            masks.append(box.cut(mask[None], config.crop))
            names.append(name)
        images, targets = (torch.cat(part).to(self.device).float() for part in (frames, masks))
        if config.colour:
            images = jitter_colours(images, generator)
        return MaskBatch(images, targets, tuple(names))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.generator.set_state(state["generator"])


# Name (empty for a still, which lies in no folder of its own), image, mask, and confidence in it.
FoundMask = tuple[str, NDArray[np.uint8], NDArray[np.uint8], float]
Finder = Callable[[], Iterable[FoundMask]]


def write_mask_folder(
    jobs: Mapping[str, tuple[Finder, str]],
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    on_done: Callable[[str, int], None] | None = None,
) -> None:
    """Write masks to a folder that `load_masked_images` reads.

    A job finds those of one clip, or of one still, and has the name of the folder that they lie in.
    Beside it stands what they follow from: what was done of the same before is not done again.
    `on_done` is told the name and the number of masks.
    """
    top = Path(folder)
    make_folder(top)
    files = top / "confidence.json", top / "made_of.json"
    confidence, made_of = records = [_read_record(file) for file in files]

    def save() -> None:
        for file, values in zip(files, records, strict=True):
            write_atomically(file, json.dumps(values, indent=0, sort_keys=True))

    waiting = {
        name: partial(_write, find, top, name, is_alone=workers <= 1)
        for name, (find, origin) in jobs.items()
        if made_of.get(name) != origin
    }
    broken: dict[str, str] = {}
    saved = time.monotonic()
    try:
        for name, found in _carry_out(waiting, workers):
            if isinstance(found, MediaError):
                logger.warning("%s is left out: %s", name, found)
                broken[name] = str(found)
                continue
            for old in [key for key in confidence if key == name or key.startswith(f"{name}/")]:
                del confidence[old]
            confidence.update(found)
            made_of[name] = jobs[name][1]
            if time.monotonic() - saved > 1:
                save()
                saved = time.monotonic()
            if on_done is not None:
                on_done(name, len(found))
    finally:
        save()
    require_mostly_intact(broken, len(jobs))


def _read_record(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads(path.read_text("utf-8")))
    return {}


Written = dict[str, float] | MediaError  # the confidence in each mask of a job, or why it has none


def _carry_out(
    jobs: Mapping[str, Callable[[], Written]], workers: int
) -> Iterator[tuple[str, Written]]:
    if workers <= 1:
        yield from ((name, job()) for name, job in jobs.items())
    else:
        with worker_pool(workers, job="look for masks") as pool:
            names = {pool.submit(job): name for name, job in jobs.items()}
            yield from ((names[done], done.result()) for done in as_completed(names))


def _write(find: Finder, top: Path, job: str, *, is_alone: bool) -> Written:
    if not is_alone:  # The processes share the cores already.
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
    confidence = {}
    try:
        for name, image, mask, trust in find():
            key = f"{job}/{name}" if name else job
            for path, pixels in ((f"images/{key}.jpg", image), (f"masks/{key}.png", mask)):
                make_folder((top / path).parent)
                save_image(Image.fromarray(pixels), top / path)
            confidence[key] = round(float(trust), 4)
    except MediaError as error:
        return error
    return confidence
