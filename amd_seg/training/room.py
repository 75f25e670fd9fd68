"""How much memory a device has free, and whether frames fit in it."""

import os
from pathlib import Path

import torch

from amd_seg.errors import InputError
from amd_seg.media.frames import FrameReader

GIB = 2**30
# Decoding holds a clip or two a thread beside what is kept.
_SHARE_OF_FREE = 0.9


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on `device`, or None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and limit.read_text().strip().isdecimal():
        # A container may have less than the machine.
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def estimated_frames(clip: FrameReader) -> float:
    """Return how many frames a clip gives, as far as its file tells; nothing is decoded."""
    if clip.frame_count is not None:
        return clip.frame_count
    # A clip that tells nothing counts as a short one.
    return (clip.duration or 10) * float(clip.frame_rate or 25) / clip.span.every


def require_memory(
    needed: float,
    device: torch.device,
    limit_gib: float | None = None,
    *,
    is_bound: bool = False,
    advice: str = "a larger frame step, fewer clips, or --frames loader, which decodes as it goes",
) -> None:
    """Raise where frames of `needed` bytes do not fit the memory of a device.

    The processes that torchrun starts on a machine without GPUs keep a copy each.

    Args:
        limit_gib: memory that may be used, in GiB; None takes nine tenths of what is free.
        is_bound: they may turn out to need less.
        advice: what helps beside a smaller short edge.

    Raises:
        InputError: they do not fit, with the numbers.
    """
    free, copies = free_bytes(device), _copies(device)
    if limit_gib is not None:
        allowed, whose = limit_gib * GIB, "are allowed"
    elif free is not None:
        allowed, whose = _SHARE_OF_FREE * free / copies, f"can be used of {free / GIB:.3g} GiB free"
    else:
        return
    if copies > 1:
        whose, advice = f"{whose} by each of {copies} processes", f"fewer processes, {advice}"
    if needed > allowed:
        raise InputError(
            f"The frames do not fit the memory of {device}: they need "
            f"{'up to ' if is_bound else ''}{needed / GIB:.3g} GiB, {allowed / GIB:.3g} GiB "
            f"{whose}. Use a smaller short edge, {advice}."
        )


def _copies(device: torch.device) -> int:
    """Return how many processes keep frames in the memory of this device."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device.type == "cpu" else 1
