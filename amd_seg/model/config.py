"""Settings of the model, checked when they are made; standard library only."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from amd_seg.errors import ConfigError

T = TypeVar("T", bound="AMDConfig | WeightsConfig")

BACKBONES = ("resnet18", "resnet50")
Padding = Literal["zeros", "reflect"]
PADDINGS = get_args(Padding)


@dataclass(frozen=True, kw_only=True)
class AMDConfig:
    """The architecture of an AMD model; the defaults are the released model (FACTS 2).

    Raises:
        ConfigError: a value is outside what the architecture allows.
    """

    backbone: str = "resnet50"
    """"resnet50" (bottlenecks, as released) or "resnet18" (basic blocks, the fast sibling)."""
    regions: int = 5
    """Number c of soft regions that a frame is cut into."""
    stage_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Channels of the four backbone stages, before the bottleneck's expansion by 4."""
    head_channels: int = 256
    """Channels of the two 3x3 convolutions of the segmentation head."""
    head_dilation: int = 6
    """Dilation of these two, in cells of the 1/8 grid; 6 suits maps of about 48x48 cells."""
    dropout: float = 0.1
    """Share of the head's channels that training drops as a whole."""
    padding: Padding = "zeros"
    """Padding of the appearance pathway, "zeros" (as released) or "reflect"."""
    pyramid_channels: tuple[int, ...] = (16, 32, 64, 96, 128, 192)
    """Channels of the motion pathway's stages, finest first; each halves the grid."""
    reduced_channels: int = 32
    """Channels of the reference frame's features at every level of the motion pathway."""
    estimator_channels: tuple[int, int, int, int, int] = (128, 128, 96, 64, 32)
    """Channels of the five convolutions of the motion estimator."""
    max_displacement: int = 4
    """Reach d of the cost volume, in cells of a level: (2d+1)^2 channels."""
    motion_size: tuple[int, int] = (384, 640)
    """Height and width, in pixels, at which the motion pathway and the objective see a frame."""

    def __post_init__(self) -> None:
        # The upper limits keep a config from elsewhere from asking for absurd amounts of memory.
        require = partial(_require, self)
        for name in ("stage_widths", "pyramid_channels", "estimator_channels", "motion_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in (("backbone", BACKBONES), ("padding", PADDINGS)):
            require(name, getattr(self, name) in choices, f"one of {choices}")
        for name, low, high in (
            ("regions", 2, 64),
            ("head_channels", 1, 4096),
            ("head_dilation", 1, 64),
            ("reduced_channels", 1, 4096),
            ("max_displacement", 1, 8),
        ):
            require(name, low <= getattr(self, name) <= high, f"{low} to {high}")
        for name, least, most in (
            ("stage_widths", 4, 4),
            ("pyramid_channels", 2, 8),
            ("estimator_channels", 5, 5),
        ):
            widths = getattr(self, name)
            fits = least <= len(widths) <= most and all(1 <= width <= 4096 for width in widths)
            count = f"{least}" if least == most else f"{least} to {most}"
            require(name, fits, f"{count} numbers from 1 to 4096")
        require("dropout", 0 <= self.dropout < 1, "0 to below 1")
        stride = 2 ** len(self.pyramid_channels)
        fits = all(0 < size <= 4096 and size % stride == 0 for size in self.motion_size)
        require(
            "motion_size",
            fits and len(self.motion_size) == 2,
            f"two multiples of {stride} up to 4096",
        )


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """What config.json says of a set of weights: the model, its use, and where it comes from."""

    FORMAT_VERSION = 1

    model: AMDConfig
    object_channel: int = 0
    """Region that is the object (section 3.5), counted from 0."""
    input_size: int = 392
    """Short edge, in pixels, at which the network sees a photo by default."""
    threshold: float = 0.5
    """Saliency above which a pixel belongs to the mask."""
    name: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """Data by name, steps, objectives, revision: for people; no code reads it."""
    sha256: str = ""
    """Digest of model.safetensors, checked when it is read; empty where unknown."""

    def __post_init__(self) -> None:
        require = partial(_require, self)
        last = self.model.regions - 1
        require("object_channel", 0 <= self.object_channel <= last, f"0 to {last}")
        require("input_size", 16 <= self.input_size <= 8192, "16 to 8192")
        require("threshold", 0 < self.threshold < 1, "between 0 and 1")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values, with the format's version."""
        return {"format_version": self.FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Any) -> "WeightsConfig":
        """Build the settings from what `to_dict` returned.

        Raises:
            ConfigError: unknown version, unknown or missing keys, or a wrong value, all named.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"config is a {type(values).__name__}, not a JSON object.")
        version = values.get("format_version")
        if version != cls.FORMAT_VERSION:
            raise ConfigError(
                f"config has format_version {version!r}; this release reads "
                f"{cls.FORMAT_VERSION}. Update amd-seg, or take weights of another revision."
            )
        rest = {key: value for key, value in values.items() if key != "format_version"}
        model = _build(AMDConfig, rest.pop("model", None), "model")
        return _build(cls, {**rest, "model": model}, "config")


def _build(cls: type[T], values: Any, where: str) -> T:
    """Make a dataclass from a dict; every unknown key and wrong type in one message."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is missing or not a JSON object.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{where} has unknown keys: {', '.join(unknown)}.")
    wrong = [f"{k}={v!r}" for k, v in values.items() if not _fits(v, fields[k])]
    if wrong:
        raise ConfigError(f"{where} has values of the wrong type: {', '.join(sorted(wrong))}.")
    try:
        return cls(**values)
    except TypeError as cause:
        raise ConfigError(f"{where} is incomplete: {cause}.") from cause


def _fits(value: Any, target: "dataclasses.Field[Any]") -> bool:
    """Tell whether a JSON value has the type of the field's default."""
    default = (
        target.default_factory()
        if target.default_factory is not dataclasses.MISSING
        else target.default
    )
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(v) is int for v in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    if default is dataclasses.MISSING:
        return True
    return type(value) is type(default)


def _require(settings: object, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        value = getattr(settings, name)
        raise ConfigError(f"{name}={value!r} cannot be used: it must be {allowed}.")
