"""Settings of the model, checked when they are made; standard library only."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from amd_seg.classes import MOST, Classes
from amd_seg.errors import ConfigError, InputError

T = TypeVar("T", bound="AppearanceConfig | StoredConfig")

BACKBONES = ("resnet18", "resnet50")
Padding = Literal["zeros", "reflect"]
PADDINGS = get_args(Padding)
Layout = Literal["dilated", "top-down"]
LAYOUTS = get_args(Layout)


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """The architecture of an appearance pathway; the defaults are the released one.

    Raises:
        ConfigError: a value is outside what the architecture allows.
    """

    backbone: str = "resnet50"
    """"resnet50" (bottlenecks, as released) or "resnet18" (basic blocks, the fast sibling)."""
    layout: Layout = "dilated"
    """"dilated" (as released): stages 3 and 4 keep the 1/8 grid, where the masks are drawn.
    "top-down": stages at strides 4, 8, 16 and 32 see the whole frame, and a decoder joins them
    again, down to masks on the 1/2 grid."""
    stage_widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Channels of the four backbone stages, before the bottleneck's expansion by 4."""
    dilations: tuple[int, int, int, int] = (1, 1, 1, 2)
    """Dilation of the four stages; 1,1,2,4 gives a dilated ResNet that was trained at a stride of
    32 its reach back."""
    head_channels: int = 256
    """Channels of the two 3x3 convolutions of the dilated layout's head."""
    head_dilation: int = 6
    """Dilation of these two, in cells of the 1/8 grid; 6 suits maps of about 48x48 cells."""
    decoder_channels: tuple[int, int, int] = (96, 64, 32)
    """Channels of the top-down layout's decoder: on the grids 1/32 to 1/8, on 1/4, on 1/2."""
    dropout: float = 0.1
    """Share of the head's channels that training drops as a whole."""
    padding: Padding = "zeros"
    """Padding of the appearance pathway, "zeros" (as released) or "reflect"."""

    @property
    def outputs(self) -> int:
        """Maps that the pathway gives: regions, or classes."""
        raise NotImplementedError

    @property
    def map_stride(self) -> int:
        """Pixels of a frame, along an edge, for each cell of its maps."""
        return 8 if self.layout == "dilated" else 2

    def __post_init__(self) -> None:
        # The upper limits keep a config from elsewhere from asking for absurd amounts of memory.
        check = partial(require, self)
        for name, choices in (
            ("backbone", BACKBONES),
            ("layout", LAYOUTS),
            ("padding", PADDINGS),
        ):
            check(name, getattr(self, name) in choices, f"one of {choices}")
        _require_numbers(self, "decoder_channels", (3, 3), 4096)
        for name, high in (("stage_widths", 4096), ("dilations", 64)):
            _require_numbers(self, name, (4, 4), high)
        for name, high in (("head_channels", 4096), ("head_dilation", 64)):
            check(name, 1 <= getattr(self, name) <= high, f"1 to {high}")
        check("dropout", 0 <= self.dropout < 1, "0 to below 1")


@dataclass(frozen=True, kw_only=True)
class AMDConfig(AppearanceConfig):
    """The architecture of an AMD model; the defaults are the released model.

    Raises:
        ConfigError: a value is outside what the architecture allows.
    """

    regions: int = 5
    """Number c of soft regions that a frame is cut into."""
    pyramid_channels: tuple[int, ...] = (16, 32, 64, 96, 128, 192)
    """Channels of the motion pathway's stages, finest first; each halves the grid."""
    reduced_channels: int = 32
    """Channels of the reference frame's features at every level of the motion pathway."""
    estimator_channels: tuple[int, int, int, int, int] = (128, 128, 96, 64, 32)
    """Channels of the five convolutions of the motion estimator."""
    max_displacement: int = 4
    """Reach d of the cost volume, in cells of a level: (2d+1)^2 channels."""
    normalised_volume: bool = False
    """Compare features of mean 0 and length 1 in the cost volume, in place of the features as they
    are (as released): what matches stands out however small the features are, so that a flow is
    learned in hundreds of steps (notes/experiments.md, section 3)."""
    motion_size: tuple[int, int] = (384, 640)
    """Height and width, in pixels, at which the motion pathway and the objective see a frame."""

    @property
    def outputs(self) -> int:
        """The regions."""
        return self.regions

    def __post_init__(self) -> None:
        super().__post_init__()
        check = partial(require, self)
        for name, low, high in (
            ("regions", 2, 64),
            ("reduced_channels", 1, 4096),
            ("max_displacement", 1, 8),
        ):
            check(name, low <= getattr(self, name) <= high, f"{low} to {high}")
        _require_numbers(self, "pyramid_channels", (2, 8), 4096)
        _require_numbers(self, "estimator_channels", (5, 5), 4096)
        object.__setattr__(self, "motion_size", tuple(self.motion_size))
        stride = 2 ** len(self.pyramid_channels)
        fits = all(0 < size <= 4096 and size % stride == 0 for size in self.motion_size)
        check(
            "motion_size",
            fits and len(self.motion_size) == 2,
            f"two multiples of {stride} up to 4096",
        )


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """What all kinds of config.json share: a version, a kind, a strict way back."""

    FORMAT_VERSION: ClassVar[int] = 1
    KIND: ClassVar[str]
    MODEL: ClassVar[type[AppearanceConfig]]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values, with the format's version and the kind."""
        head = {"format_version": self.FORMAT_VERSION, "kind": self.KIND}
        return {**head, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
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
        rest = {
            key: value for key, value in values.items() if key not in ("format_version", "kind")
        }
        model = _build(cls.MODEL, rest.pop("model", None), "model")
        return _build(cls, {**rest, "model": model}, "config")


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(StoredConfig):
    """What config.json says of a set of weights: the model, its use, and where it comes from."""

    KIND = "objectness"
    MODEL = AMDConfig

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
        check = partial(require, self)
        last = self.model.regions - 1
        check("object_channel", 0 <= self.object_channel <= last, f"0 to {last}")
        check("input_size", 16 <= self.input_size <= 8192, "16 to 8192")
        check("threshold", 0 < self.threshold < 1, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class SemanticConfig(AppearanceConfig):
    """The architecture of a network for semantic segmentation (section 4.4): a backbone and a head.

    Raises:
        ConfigError: a value is outside what the architecture allows.
    """

    classes: int = 21
    """Number of classes, the background included; the default is PASCAL VOC's."""

    @property
    def outputs(self) -> int:
        """The classes."""
        return self.classes

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "classes", 2 <= self.classes <= MOST, f"2 to {MOST}")


@dataclass(frozen=True, kw_only=True)
class SemanticWeightsConfig(StoredConfig):
    """What config.json says of fine-tuned weights: the model, what its classes are, its use.

    Raises:
        ConfigError: a value cannot be used, or the classes are not the model's.
    """

    KIND = "semantic"
    MODEL = SemanticConfig

    model: SemanticConfig
    class_names: tuple[str, ...]
    """Name of each label, from 0 on."""
    class_colours: tuple[str, ...]
    """Colour of each label, "#rrggbb"."""
    input_size: int = 512
    """Short edge, in pixels, at which the network sees a photo by default; the side of a window
    where one slides."""
    name: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """Data by name, steps, objectives, revision: for people; no code reads it."""
    sha256: str = ""
    """Digest of model.safetensors, checked when it is read; empty where unknown."""

    def __post_init__(self) -> None:
        count = self.model.classes
        for name in ("class_names", "class_colours"):
            texts = getattr(self, name)
            fits = isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)
            require(self, name, fits and len(texts) == count, f"{count} texts, one for each class")
            object.__setattr__(self, name, tuple(texts))
        require(self, "input_size", 16 <= self.input_size <= 8192, "16 to 8192")
        try:
            Classes(self.class_names, self.class_colours)
        except InputError as cause:
            raise ConfigError(f"The classes cannot be used: {cause}") from cause

    @property
    def classes(self) -> Classes:
        """Names and colours."""
        return Classes(self.class_names, self.class_colours)


def stored_config(values: Any) -> WeightsConfig | SemanticWeightsConfig:
    """Build the settings of either kind from what `to_dict` returned.

    Raises:
        ConfigError: an unknown kind, or what `from_dict` raises.
    """
    # What was written before there were two kinds does not tell its own.
    kind = values.get("kind", WeightsConfig.KIND) if isinstance(values, dict) else None
    if kind == SemanticWeightsConfig.KIND:
        return SemanticWeightsConfig.from_dict(values)
    if kind not in (WeightsConfig.KIND, None):
        raise ConfigError(f"config is of the kind {kind!r}, which this release does not know.")
    return WeightsConfig.from_dict(values)


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


def require(settings: object, name: str, holds: bool, allowed: str) -> None:
    """Raise a ConfigError that names a field, its value and what is allowed, unless it holds."""
    if not holds:
        value = getattr(settings, name)
        raise ConfigError(f"{name}={value!r} cannot be used: it must be {allowed}.")


def _require_numbers(settings: object, name: str, counts: tuple[int, int], high: int) -> None:
    """Require a tuple of numbers from 1 to `high`, of a length between the two counts."""
    numbers = tuple(getattr(settings, name))
    object.__setattr__(settings, name, numbers)
    fits = counts[0] <= len(numbers) <= counts[1] and all(1 <= n <= high for n in numbers)
    count = f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]} to {counts[1]}"
    require(settings, name, fits, f"{count} numbers from 1 to {high}")
