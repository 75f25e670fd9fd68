"""Segment the object in a photo or a clip, with a network that never saw a label.

from amd_seg import Segmenter, VideoSegmenter

segmenter = Segmenter.from_pretrained()
segmenter("photo.jpg").save("mask.png")

video = VideoSegmenter.from_pretrained()
video.write("clip.mp4", "clip.overlay.mp4", output="overlay")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amd_seg.adaptation_report import write_adaptation_page as write_adaptation_page
    from amd_seg.errors import AmdSegError as AmdSegError
    from amd_seg.errors import ConfigError as ConfigError
    from amd_seg.errors import DeviceError as DeviceError
    from amd_seg.errors import ExportError as ExportError
    from amd_seg.errors import InputError as InputError
    from amd_seg.errors import MediaError as MediaError
    from amd_seg.errors import TrainingDivergedError as TrainingDivergedError
    from amd_seg.errors import WeightsError as WeightsError
    from amd_seg.media.video import open_video as open_video
    from amd_seg.model.amd import AMD as AMD
    from amd_seg.model.config import AMDConfig as AMDConfig
    from amd_seg.onnx import export_onnx as export_onnx
    from amd_seg.segmenter import Segmentation as Segmentation
    from amd_seg.segmenter import Segmenter as Segmenter
    from amd_seg.semantic import SemanticSegmentation as SemanticSegmentation
    from amd_seg.semantic import SemanticSegmenter as SemanticSegmenter
    from amd_seg.training.adaptation import AdaptationReport as AdaptationReport
    from amd_seg.training.config import AdaptationConfig as AdaptationConfig
    from amd_seg.video_segmenter import FrameSegmentation as FrameSegmentation
    from amd_seg.video_segmenter import VideoReport as VideoReport
    from amd_seg.video_segmenter import VideoSegmenter as VideoSegmenter

__version__ = "0.1.0"

_PUBLIC = {
    "adaptation_report": "write_adaptation_page",
    "errors": "AmdSegError ConfigError DeviceError ExportError InputError MediaError "
    "TrainingDivergedError WeightsError",
    "media.video": "open_video",
    "model.amd": "AMD",
    "model.config": "AMDConfig",
    "onnx": "export_onnx",
    "segmenter": "Segmentation Segmenter",
    "semantic": "SemanticSegmentation SemanticSegmenter",
    "training.adaptation": "AdaptationReport",
    "training.config": "AdaptationConfig",
    "video_segmenter": "FrameSegmentation VideoReport VideoSegmenter",
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names.split()}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    # Public names load on first use, so that `import amd_seg` and `--help` load no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"amd_seg.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
