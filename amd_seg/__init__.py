"""Segment the object in a photo or a clip, with a network that never saw a label.

from amd_seg import Segmenter

segmenter = Segmenter.from_pretrained()
segmenter("photo.jpg").save("mask.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amd_seg.errors import (
        AmdSegError,
        ConfigError,
        DeviceError,
        InputError,
        MediaError,
        TrainingDivergedError,
        WeightsError,
    )
    from amd_seg.model.amd import AMD
    from amd_seg.model.config import AMDConfig
    from amd_seg.segmenter import Segmentation, Segmenter
    from amd_seg.semantic import SemanticSegmentation, SemanticSegmenter

__version__ = "0.1.0"

__all__ = [
    "AMD",
    "AMDConfig",
    "AmdSegError",
    "ConfigError",
    "DeviceError",
    "InputError",
    "MediaError",
    "Segmentation",
    "Segmenter",
    "SemanticSegmentation",
    "SemanticSegmenter",
    "TrainingDivergedError",
    "WeightsError",
    "__version__",
]

_HOMES = {
    "AMD": "amd_seg.model.amd",
    "AMDConfig": "amd_seg.model.config",
    "Segmentation": "amd_seg.segmenter",
    "Segmenter": "amd_seg.segmenter",
    "SemanticSegmentation": "amd_seg.semantic",
    "SemanticSegmenter": "amd_seg.semantic",
    **{name: "amd_seg.errors" for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    # Public names load on first use, so that `import amd_seg` and `--help` load no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
