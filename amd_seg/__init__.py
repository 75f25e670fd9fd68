"""Segment the object in a photo or a clip, with a network that never saw a label.

from amd_seg import Segmenter, VideoSegmenter

segmenter = Segmenter.from_pretrained()
segmenter("photo.jpg").save("mask.png")

video = VideoSegmenter.from_pretrained()
video.write("clip.mp4", "clip.overlay.mp4", output="overlay")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amd_seg.adaptation_report import write_adaptation_page
    from amd_seg.errors import (
        AmdSegError,
        ConfigError,
        DeviceError,
        ExportError,
        InputError,
        MediaError,
        TrainingDivergedError,
        WeightsError,
    )
    from amd_seg.media.video import open_video
    from amd_seg.model.amd import AMD
    from amd_seg.model.config import AMDConfig
    from amd_seg.onnx import export_onnx
    from amd_seg.segmenter import Segmentation, Segmenter
    from amd_seg.semantic import SemanticSegmentation, SemanticSegmenter
    from amd_seg.training.adaptation import AdaptationReport
    from amd_seg.training.config import AdaptationConfig
    from amd_seg.video_segmenter import FrameSegmentation, VideoReport, VideoSegmenter

__version__ = "0.1.0"

__all__ = [
    "AMD",
    "AMDConfig",
    "AdaptationConfig",
    "AdaptationReport",
    "AmdSegError",
    "ConfigError",
    "DeviceError",
    "ExportError",
    "FrameSegmentation",
    "InputError",
    "MediaError",
    "Segmentation",
    "Segmenter",
    "SemanticSegmentation",
    "SemanticSegmenter",
    "TrainingDivergedError",
    "VideoReport",
    "VideoSegmenter",
    "WeightsError",
    "__version__",
    "export_onnx",
    "open_video",
    "write_adaptation_page",
]

_HOMES = {
    "AMD": "amd_seg.model.amd",
    "AMDConfig": "amd_seg.model.config",
    "AdaptationConfig": "amd_seg.training.config",
    "AdaptationReport": "amd_seg.training.adaptation",
    "FrameSegmentation": "amd_seg.video_segmenter",
    "Segmentation": "amd_seg.segmenter",
    "Segmenter": "amd_seg.segmenter",
    "SemanticSegmentation": "amd_seg.semantic",
    "SemanticSegmenter": "amd_seg.semantic",
    "VideoReport": "amd_seg.video_segmenter",
    "VideoSegmenter": "amd_seg.video_segmenter",
    "export_onnx": "amd_seg.onnx",
    "open_video": "amd_seg.media.video",
    "write_adaptation_page": "amd_seg.adaptation_report",
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
