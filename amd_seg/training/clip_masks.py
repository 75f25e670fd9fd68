"""The masks of one clip that `--adapt` learns from: what moves, and what the network sees of it.

`gather_frames` keeps a few chunks of the clip in memory, `find_motion` looks for what moves in
some of their frames, `agreed_masks` joins that with the network's opinion.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from amd_seg.colour_model import iou, redrawn_where_agreed
from amd_seg.device import resolve_precision
from amd_seg.errors import InputError
from amd_seg.media.video import FrameReader
from amd_seg.model.amd import AMD
from amd_seg.superpixels import patch_means, superpixels
from amd_seg.training.config import AdaptationConfig
from amd_seg.training.masked_images import MaskedImage, shrunk
from amd_seg.training.motion_masks import MotionMaskConfig, find_motion_masks

FEWEST_CHUNKS = 4  # places of a long clip that are looked at, however few frames are in memory
LONGEST_ASPECT = 4  # the long edge of a crop, in its short edges, at most
LEAST_CONFIDENCE = 0.05  # below which the motion of a frame says nothing
LEAST_TRUST = 0.1  # what such a frame still counts in the diffusion
FULL_TRUST_SHARE = 0.5
"""Share of the network's object that moves from which its opinion counts in full: it often sees
more than moves at a time, but where next to none of it moves it looks at another thing."""
MOTION_RANGE = (0.15, 0.85)  # of what the motion says: it is over-confident when wrong
NETWORK_RANGE = (0.02, 0.98)  # of what the network says
NETWORK_POWER = 0.6  # of its odds at full trust: it is more certain than it is right
DIFFUSED_POWERS = (0.3, 0.7)  # of a frame's own odds, and of those that the clip gives it
BATCH = 16

# Of the diffusion; lengths are in Lab units
PATCHES = 500  # that a frame is cut into, about
NEIGHBOURS = 20  # patches that each patch is linked to, beside those that are linked to it
PLACE_WEIGHT = 60.0  # of the frame's height or width: what is alike and near is the same
FEATURES, FEATURES_LENGTH = 16, 16.0  # of the network: how many, and their root mean square
LIKENESS = 8.0  # distance at which a link counts exp(-1/2)
PASSED_ON, ROUNDS = 0.8, 30  # share of a patch's value that comes from others; 0.8^30 = 0.001
ROWS = 256  # patches whose neighbours are looked for at a time


class FrameChunk(NamedTuple):
    """Frames of a clip that follow each other."""

    numbers: tuple[int, ...]  # of each frame in its clip
    frames: NDArray[np.uint8]  # (frame, height, width, 3), RGB


class ClipFrames(NamedTuple):
    """A clip as far as it is in memory."""

    source: str  # how messages name it
    chunks: Sequence[FrameChunk]
    frame_rate: float | None  # frames a second, as far as the clip tells

    def crop_size(self, short_edge: int) -> tuple[int, int]:
        """Height and width of the clip's aspect, in multiples of the grid of the masks."""
        height, width = self.chunks[0].frames.shape[1:3]
        factor = short_edge / min(height, width)
        rows, columns = (min(LONGEST_ASPECT * short_edge, n * factor) for n in (height, width))
        return max(16, round(rows / 8) * 8), max(16, round(columns / 8) * 8)


def gather_frames(clip: FrameReader, config: AdaptationConfig, *, short_edge: int) -> ClipFrames:
    """Read a clip once and keep chunks of it, evenly spread, long enough for its pairs.

    A short clip is kept whole, as a single chunk; of a longer one every second chunk is dropped as
    often as there are too many. Frames that repeat the one before are left out: a pair of equal
    ones teaches nothing. An InputError says where no two differ.
    """

    def distinct() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        before: NDArray[np.uint8] | None = None
        for frame in clip:
            small = shrunk(torch.tensor(frame.pixels).permute(2, 0, 1), short_edge)
            pixels = small.permute(1, 2, 0).contiguous().numpy()
            if before is None or not np.array_equal(pixels, before):
                yield frame.index, pixels
            before = pixels

    rate = None if clip.frame_rate is None else float(clip.frame_rate)
    length = 2 * config.gap_at(rate) + 1
    most = max(FEWEST_CHUNKS, config.frames // length)
    kept: list[FrameChunk] = []
    stride, frames = 1, distinct()
    for number in count():
        chunk = list(islice(frames, length))
        if not chunk:
            break
        if number % stride == 0:
            numbers, pixels = zip(*chunk, strict=True)
            kept.append(FrameChunk(numbers, np.stack(pixels)))
        if len(kept) > most:
            kept, stride = kept[::2], 2 * stride
    if stride == 1 and kept:
        numbers = tuple(number for chunk in kept for number in chunk.numbers)
        kept = [FrameChunk(numbers, np.concatenate([chunk.frames for chunk in kept]))]
    kept = [chunk for chunk in kept if len(chunk.numbers) > 1]
    if not kept:
        raise InputError(
            f"Cannot adapt to {clip.source}: it has no two different frames, so nothing moves in "
            "it. Give a clip, or segment it without adaptation."
        )
    return ClipFrames(clip.source, kept, rate)


class MotionEvidence(NamedTuple):
    """What moves on its own in some frames of a clip."""

    numbers: tuple[int, ...]  # of the frames in their clip
    frames: NDArray[np.uint8]  # (frame, height, width, 3), RGB
    maps: NDArray[np.float32]
    """(frame, height, width), 0..1: probability that a pixel moves on its own; 0.5 throughout where
    the motion says nothing."""
    confidence: NDArray[np.float32]  # (frame,), 0..1; 0 where the motion says nothing


def find_motion(clip: ClipFrames, *, most: int, among: Collection[int] = ()) -> MotionEvidence:
    """Look for what moves on at most `most` frames, spread evenly over the chunks.

    Further frames can be named by their numbers; those that are not in memory are left out.
    """
    config = MotionMaskConfig(grabcut=False, min_confidence=LEAST_CONFIDENCE)
    config = config if clip.frame_rate is None else config.at_rate(clip.frame_rate)
    known = [number for chunk in clip.chunks for number in chunk.numbers]
    spread = np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(int)
    wanted = {known[place] for place in spread}.union(among)
    numbers: list[int] = []
    frames, maps, confidence = [], [], []
    for chunk in clip.chunks:
        places = [place for place, number in enumerate(chunk.numbers) if number in wanted]
        found = {f.number: f for f in find_motion_masks(chunk.frames, config, among=places)}
        for place in places:
            numbers.append(chunk.numbers[place])
            frames.append(chunk.frames[place])
            nothing = np.full(chunk.frames.shape[1:3], 127.5)
            mask, trust = found[place][2:] if place in found else (nothing, 0.0)
            maps.append(mask.astype(np.float32) / np.float32(255))
            confidence.append(trust)
    trusts = np.array(confidence, np.float32)
    return MotionEvidence(tuple(numbers), np.stack(frames), np.stack(maps), trusts)


def agreed_masks(
    motion: MotionEvidence, saliency: NDArray[np.float32], features: Tensor, name: str
) -> list[MaskedImage]:
    """Join what moves with what the network sees.

    A colour model redraws the outlines where it agrees; how far it does is the confidence. The
    saliency is (frame, height, width), 0..1; features are `AMD.local_features` of the frames.
    """
    powers = NETWORK_POWER * trust_in_network(motion, saliency), 1.0
    joined = [combine_odds(s, m, powers) for s, m in zip(saliency, motion.maps, strict=True)]
    diffused = diffuse(motion.frames, joined, LEAST_TRUST + motion.confidence, features)
    pixels = torch.from_numpy(motion.frames).permute(0, 3, 1, 2).contiguous()
    images = []
    for number, frame, shown, before, after in zip(
        motion.numbers, motion.frames, pixels, joined, diffused, strict=True
    ):
        both = combine_odds(before, after, DIFFUSED_POWERS, (NETWORK_RANGE, NETWORK_RANGE))
        redrawn = redrawn_where_agreed(frame, both)
        mask = torch.from_numpy(np.rint(redrawn * 255).astype(np.uint8)).unsqueeze(0)
        agreement = iou(before > 0.5, redrawn > 0.5)
        images.append(MaskedImage(f"{name}:{number}", shown, mask, max(0.05, agreement)))
    return images


def trust_in_network(motion: MotionEvidence, saliency: NDArray[np.float32]) -> float:
    """How far the network's object is among what moves, 0..1; 0 also where it sees no object."""
    certain = motion.confidence > 0
    inside = saliency[certain] > 0.5
    moving = inside & (motion.maps[certain] > 0.5)
    return min(1.0, int(moving.sum()) / int(inside.sum()) / FULL_TRUST_SHARE) if inside.any() else 0


def combine_odds(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    powers: tuple[float, float] = (1.0, 1.0),
    limits: tuple[tuple[float, float], tuple[float, float]] = (NETWORK_RANGE, MOTION_RANGE),
) -> NDArray[np.float32]:
    """Multiply the odds of two maps, 0..1, each within its limits and to its power."""
    odds = np.ones_like(first)
    for word, power, bounds in zip((first, second), powers, limits, strict=True):
        bounded = np.clip(word, *bounds)
        odds *= (bounded / (1 - bounded)) ** np.float32(power)
    return odds / (1 + odds)


@torch.no_grad()
def flip_averaged_regions(
    model: AMD, frames: Tensor, *, size: int | None = None, precision: str = "float32"
) -> Tensor:
    """Regions, (frame, region, height, width), averaged over frames and their mirror images.

    The model is in evaluation mode; the frames are (frame, 3, height, width), uint8, RGB, and seen
    at the short edge `size`, None being theirs. The result is float32, 0..1, on the CPU.
    """
    device, edges = model.mean.device, frames.shape[-2:]
    dtype = resolve_precision(precision, device)
    found = []
    for part in torch.split(frames, BATCH):
        batch = part.to(device)
        if size is not None:
            seen = [round(edge * (size / min(edges))) for edge in edges]
            batch = F.interpolate(batch.float(), seen, mode="bilinear", antialias=True)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            masks = model.segment(batch)
            mirrored = model.segment(batch.flip(-1)).flip(-1)
        mean = (masks + mirrored).float() / 2
        found.append(F.interpolate(mean, edges, mode="bilinear", align_corners=True).cpu())
    return torch.cat(found)


def diffuse(
    frames: NDArray[np.uint8],
    maps: Sequence[NDArray[np.float32]],
    trust: NDArray[np.float32],
    features: Tensor,
) -> list[NDArray[np.float32]]:
    """Pass what is known of the patches of a clip on to those alike, in whichever frames.

    What one frame's motion misses or invents is outweighed by the same surface in other frames.
    Their maps, (height, width), 0..1, come back constant over each patch. The trust in a frame,
    above 0, is how much its map counts. Features are `AMD.local_features` of the frames.

    Source: the iteration of Zhou et al., Learning with Local and Global Consistency, NIPS 2003; the
    graph and the trust are ours.
    """
    cuts = [superpixels(frame, PATCHES) for frame in frames]
    directions = torch.linalg.eigh(torch.cov(features.transpose(0, 1).flatten(1))).eigenvectors
    features = torch.einsum("fchw,cp->fphw", features, directions[:, -FEATURES:])
    features *= FEATURES_LENGTH / features.std(dim=(0, 2, 3)).norm().clamp_min(1e-6)
    looks, means = [], []
    for cut, values, seen in zip(cuts, maps, features, strict=True):
        labels = cut.labels.ravel()
        means.append(patch_means(labels, values.reshape(-1, 1))[:, 0])
        fine = F.interpolate(seen[None], cut.labels.shape, mode="bilinear")[0].flatten(1)
        look = cut.colours, PLACE_WEIGHT * cut.places, patch_means(labels, fine.T.numpy())
        looks.append(np.concatenate(look, axis=1).astype(np.float32))

    # The nearest of each patch, itself first; by rows, for all distances would be gigabytes.
    nodes = torch.from_numpy(np.concatenate(looks))
    count = min(NEIGHBOURS + 1, len(nodes))
    found = [torch.cdist(p, nodes).topk(count, largest=False) for p in torch.split(nodes, ROWS)]
    distances, columns = (torch.cat(part)[:, 1:].ravel() for part in zip(*found, strict=True))
    places = torch.stack((torch.arange(len(nodes)).repeat_interleave(count - 1), columns))
    likeness = torch.exp(-distances.square() / (2 * LIKENESS**2))
    links = torch.sparse_coo_tensor(places, likeness, 2 * (len(nodes),), check_invariants=True)
    links = (links + links.T).coalesce()
    degrees = links.sum(dim=1).to_dense().clamp_min(1e-9)[:, None]

    counts = [len(cut.colours) for cut in cuts]
    weights = torch.from_numpy(np.repeat(trust, counts))
    known = torch.from_numpy(np.concatenate(means)).float()
    sources = reached = torch.stack((weights * known, weights), dim=1)
    for _ in range(ROUNDS):
        reached = PASSED_ON * (links @ reached) / degrees + (1 - PASSED_ON) * sources
    agreed = np.split((reached[:, 0] / reached[:, 1]).numpy(), np.cumsum(counts)[:-1])
    return [values[cut.labels] for values, cut in zip(agreed, cuts, strict=True)]
