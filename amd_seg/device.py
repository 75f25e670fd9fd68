"""The one place that picks a device and a precision."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import RLock
from typing import Literal

import torch
from torch import nn

from amd_seg.choices import PRECISIONS
from amd_seg.errors import DeviceError

logger = logging.getLogger(__name__)
_ALONE = RLock()


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device that `name` asks for; "auto" takes CUDA, then MPS, then the CPU.

    DeviceError where it is unknown or not on this machine: there is no silent substitute.
    """
    try:
        device = None if name == "auto" else torch.device(name)
    except RuntimeError as cause:
        raise DeviceError(
            f"Unknown device {name!r}. Use auto, cpu, cuda, cuda:1 or mps."
        ) from cause
    if device is not None and device.type == "cpu":
        return device  # CUDA is not asked: its driver would start, and forbid a later fork.
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [f"cuda:{number}".removesuffix(":0") for number in range(gpus)]
    found += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if device is None:
        return torch.device(found[0])
    if str(device).removesuffix(":0") not in found:
        raise DeviceError(
            f"Device {device} cannot be used: torch {torch.__version__} finds {', '.join(found)}. "
            "Use --device with one of these or auto, or install a build of torch for it."
        )
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast for `name`, "float32" or "bfloat16", on `device`.

    DeviceError where the CUDA device has no bfloat16; a CPU without it warns, and is slow.
    """
    if name not in PRECISIONS:
        raise DeviceError(f"Unknown precision {name!r}. Use one of {', '.join(PRECISIONS)}.")
    if name == "bfloat16" and device.type == "cuda" and not _has_bfloat16(device):
        raise DeviceError(f"bfloat16 is not supported by {device}. Use float32.")
    if name == "bfloat16" and device.type == "cpu":
        _warn_where_emulated(torch.backends.cpu.get_cpu_capability())
    return torch.bfloat16 if name == "bfloat16" else torch.float32


@cache  # once, however many models are made
def _warn_where_emulated(capability: str) -> None:
    if capability == "AVX2":
        logger.warning(
            "This CPU has no AVX-512 and computes bfloat16 in software, about ten times slower "
            "than float32. Use float32."
        )


def fastest_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return "bfloat16" where a device computes it in hardware, else "float32"."""
    if device.type == "cuda":
        return "bfloat16" if _has_bfloat16(device) else "float32"
    # Torch has no public name for it; a release without this one computes in float32.
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device.type == "cpu" and has_bfloat16() else "float32"


def _has_bfloat16(device: torch.device) -> bool:
    with torch.cuda.device(device):  # Torch asks the current one.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def say_which(asked_for: str | torch.device, device: torch.device) -> None:
    """Log the device that "auto" took."""
    if asked_for == "auto":
        logger.info("Using device %s.", device)


def place_for_inference(network: nn.Module, name: str | torch.device) -> torch.device:
    """Bring a network itself to a device, which is returned, for evaluation, in a fast layout."""
    device = resolve_device(name)
    with one_thread(), own_numerics(learning=True):
        network.eval().to(device)
        if device.type != "mps":
            # Convolutions run faster on this layout (benchmarks/image.py); on MPS not known.
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    say_which(name, device)
    return device


@contextmanager
def own_numerics(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    learning: bool = False,
) -> Iterator[None]:
    """Compute as amd_seg does, whatever autocast, mode or default device the caller has set.

    Within, there is autocast to `dtype` alone, no gradient unless `learning`, and new tensors lie
    on the CPU where nothing else is said.
    """
    device = torch.device(device)
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            is_on = kind == device.type and dtype is not torch.float32
            # The cache holds converted weights until the outermost autocast ends, which this one
            # may be: every step of a training inside would compute with the first step's weights.
            stack.enter_context(
                torch.autocast(kind, dtype if is_on else None, enabled=is_on, cache_enabled=False)
            )
        stack.enter_context(torch.inference_mode(not learning))
        if learning:
            stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in the calling thread alone, without torch's thread pool.

    The pool would hang in a process forked later; and small matrices, beside other work, wait for
    its threads far longer than they compute.
    """
    # Threads that first compute meanwhile take the 1 for the usual number: one call at a time.
    with _ALONE:
        count = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(count)
