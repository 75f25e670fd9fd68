"""`amd-seg env`: what a bug report needs."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from amd_seg import __version__
from amd_seg.cli import terminal

PACKAGES = ("torch", "numpy", "pillow", "av", "safetensors", "huggingface-hub", "click", "tqdm")
EXTRAS = (
    *("torchvision", "opencv-python-headless", "pillow-heif", "tensorboard"),
    *("onnx", "onnxscript", "onnxruntime", "ray", "gradio"),
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@terminal.quiet_option
def env(as_json: bool) -> None:
    """Print versions, devices and codecs: what a bug report needs."""
    facts = {
        "amd-seg": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES + EXTRAS},
        **_devices(),
        **_codecs(),
    }
    if as_json:
        terminal.put(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        terminal.put(f"{name:{width}}  {', '.join(value) if isinstance(value, list) else value}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, Any]:
    import torch

    from amd_seg.device import resolve_device
    from amd_seg.model.correlation_cuda import path_in_words

    device = resolve_device("auto")
    count = torch.cuda.device_count()
    return {
        "auto device": str(device),
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "cuda": [torch.cuda.get_device_name(index) for index in range(count)] or "none",
        "cuda of torch": torch.version.cuda or "none",
        "mps": "yes" if torch.backends.mps.is_available() else "none",
        "correlation": path_in_words(device),
    }


def _codecs() -> dict[str, Any]:
    import av
    from PIL import features

    encoders = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1")
    return {
        "ffmpeg": ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in av.library_versions.items()),
        "video encoders": [name for name in encoders if name in av.codecs_available],
        "image formats": [n for n in ("jpg", "webp", "avif", "libtiff") if features.check(n)],
    }
