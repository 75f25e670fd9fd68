"""Settings of the model, checked when they are made; standard library only."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

from amd_seg.classes import MOST, Classes
from amd_seg.errors import ConfigError, InputError

T = TypeVar("T", bound="Settings")
Rule = tuple[str, Callable[[Any], bool]]  # what a setting must be, and whether a value is


def between(low: float, high: float) -> Rule:
    """A number, or each of several, from `low` to `high`."""

    def is_right(value: Any) -> bool:
        return all(low <= v <= high for v in (value if isinstance(value, tuple) else (value,)))

    return f"{low} to {high}", is_right


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are checked when they are made; a ConfigError names all that are wrong.

    A `Literal` allows its words, a float any finite number, and `RULES` says what else.
    """

    RULES: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            if get_origin(each.type) is tuple:
                # Lists in JSON.
                object.__setattr__(self, each.name, tuple(getattr(self, each.name)))
        if faults := [f"{name}={getattr(self, name)!r} ({rule})" for name, rule in self.faults()]:
            raise ConfigError(f"These settings cannot be used: {', '.join(faults)}.")

    def faults(self) -> Iterator[tuple[str, str]]:
        """Names of the settings that are wrong, each with what it must be."""
        for each in dataclasses.fields(self):
            value, allowed = getattr(self, each.name), get_args(each.type)
            parts = value if isinstance(value, tuple) else (value,)
            must, is_right = self.RULES.get(each.name, ("", lambda _: True))
            if isinstance(value, tuple) and ... not in allowed and len(value) != len(allowed):
                yield each.name, f"{len(allowed)} numbers"
            elif any(isinstance(part, float) and not math.isfinite(part) for part in parts):
                yield each.name, "a finite number"
            elif get_origin(each.type) is Literal and value not in allowed:
                yield each.name, f"one of {', '.join(allowed)}"
            elif not is_right(value):
                yield each.name, must


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig(Settings):
    """The architecture of an appearance pathway; the defaults are the released one."""

    backbone: Literal["resnet18", "resnet50"] = "resnet50"
    """"resnet50" (bottlenecks, as released) or "resnet18" (basic blocks, the fast sibling)."""
    layout: Literal["dilated", "top-down"] = "dilated"
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

    # The upper limits keep a config from elsewhere from asking for absurd amounts of memory.
    RULES: ClassVar[Mapping[str, Rule]] = {
        **dict.fromkeys(("stage_widths", "decoder_channels", "head_channels"), between(1, 4096)),
        **dict.fromkeys(("dilations", "head_dilation"), between(1, 64)),
        "dropout": ("0 to below 1", lambda share: 0 <= share < 1),
    }


@dataclass(frozen=True, kw_only=True)
class AMDConfig(AppearanceConfig):
    """The architecture of an AMD model; the defaults are the released model."""

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
    are (as released): what matches stands out however small they are, so that a flow is learned in
    hundreds of steps."""
    motion_size: tuple[int, int] = (384, 640)
    """Height and width, in pixels, at which the motion pathway and the objective see a frame."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        **AppearanceConfig.RULES,
        "regions": between(2, 64),
        **dict.fromkeys(("estimator_channels", "reduced_channels"), between(1, 4096)),
        "pyramid_channels": (
            "2 to 8 numbers from 1 to 4096",
            lambda widths: 2 <= len(widths) <= 8 and all(1 <= width <= 4096 for width in widths),
        ),
        "max_displacement": between(1, 8),
    }

    def faults(self) -> Iterator[tuple[str, str]]:
        """Add what the frame's size must be for the number of stages."""
        yield from super().faults()
        stride = 2 ** len(self.pyramid_channels)
        if not all(0 < size <= 4096 and size % stride == 0 for size in self.motion_size):
            yield "motion_size", f"two multiples of {stride} up to 4096"


@dataclass(frozen=True, kw_only=True)
class SemanticConfig(AppearanceConfig):
    """The architecture of a network for semantic segmentation (section 4.4): backbone and head."""

    classes: int = 21
    """Number of classes, the background included; the default is PASCAL VOC's."""

    RULES: ClassVar[Mapping[str, Rule]] = {**AppearanceConfig.RULES, "classes": between(2, MOST)}


@dataclass(frozen=True, kw_only=True)
class StoredConfig(Settings):
    """What config.json says of weights of any kind: the model, its use, where it comes from."""

    FORMAT_VERSION: ClassVar[int] = 1
    KIND: ClassVar[str]

    model: Any
    input_size: int  # short edge, in pixels, at which the network sees a photo by default
    name: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """Data by name, steps, objectives, revision: for people; no code reads it."""
    sha256: str = ""  # of model.safetensors, checked when it is read; empty where unknown

    RULES: ClassVar[Mapping[str, Rule]] = {"input_size": between(16, 8192)}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values, with the format's version and the kind."""
        head = {"format_version": self.FORMAT_VERSION, "kind": self.KIND}
        return {**head, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class WeightsConfig(StoredConfig):
    """What config.json says of weights that find objects."""

    KIND = "objectness"

    model: AMDConfig
    object_channel: int = 0  # the region that is the object (section 3.5), counted from 0
    input_size: int = 392
    threshold: float = 0.5  # saliency above which a pixel belongs to the mask

    RULES: ClassVar[Mapping[str, Rule]] = {
        **StoredConfig.RULES,
        "threshold": ("between 0 and 1", lambda level: 0 < level < 1),
    }

    def faults(self) -> Iterator[tuple[str, str]]:
        """See `Settings`; and the regions that the model has."""
        yield from super().faults()
        if not 0 <= self.object_channel < self.model.regions:
            yield "object_channel", f"0 to {self.model.regions - 1}"


@dataclass(frozen=True, kw_only=True)
class SemanticWeightsConfig(StoredConfig):
    """What config.json says of fine-tuned weights; a sliding window has the side `input_size`."""

    KIND = "semantic"

    model: SemanticConfig
    class_names: tuple[str, ...]  # of each label, from 0 on
    class_colours: tuple[str, ...]  # of each label, "#rrggbb"
    input_size: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            Classes(self.class_names, self.class_colours)
        except InputError as cause:
            raise ConfigError(f"The classes cannot be used: {cause}") from cause

    def faults(self) -> Iterator[tuple[str, str]]:
        """See `Settings`; and the classes that the model has."""
        yield from super().faults()
        count = self.model.classes
        for name in ("class_names", "class_colours"):
            texts = getattr(self, name)
            if len(texts) != count or not all(isinstance(text, str) for text in texts):
                yield name, f"{count} texts, one for each class"

    @property
    def classes(self) -> Classes:
        """Names and colours."""
        return Classes(self.class_names, self.class_colours)


def stored_config(values: Any) -> WeightsConfig | SemanticWeightsConfig:
    """Build the settings of either kind from what `to_dict` returned, strictly."""
    if not isinstance(values, dict):
        raise ConfigError(f"config is a {type(values).__name__}, not a JSON object.")
    rest = dict(values)
    # What was written before there were two kinds does not tell its own.
    version, kind = rest.pop("format_version", None), rest.pop("kind", WeightsConfig.KIND)
    if version != StoredConfig.FORMAT_VERSION:
        raise ConfigError(
            f"config has format_version {version!r}; this release reads "
            f"{StoredConfig.FORMAT_VERSION}. Update amd-seg, or take weights of another revision."
        )
    if not isinstance(rest.get("model"), dict):
        raise ConfigError("model is missing or not a JSON object.")
    if kind == WeightsConfig.KIND:
        return build(WeightsConfig, {**rest, "model": build(AMDConfig, rest["model"], "model")})
    if kind == SemanticWeightsConfig.KIND:
        model = build(SemanticConfig, rest["model"], "model")
        return build(SemanticWeightsConfig, {**rest, "model": model})
    raise ConfigError(f"config is of the kind {kind!r}, which this release does not know.")


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Make settings from their names and values in JSON, as this version or an older wrote them."""
    # Before there were two layouts there was a padding: of zeros in all that was released.
    values = {k: v for k, v in values.items() if (k, v) != ("padding", "zeros")}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{where} has unknown keys: {', '.join(unknown)}.")
    if wrong := [f"{k}={v!r}" for k, v in values.items() if not _fits(v, fields[k])]:
        raise ConfigError(f"{where} has values of the wrong type: {', '.join(sorted(wrong))}.")
    try:
        return cls(**values)
    except TypeError as cause:
        raise ConfigError(f"{where} is incomplete: {cause}.") from cause


def _fits(value: Any, target: "dataclasses.Field[Any]") -> bool:
    """Tell whether a JSON value has the type of the field's default."""
    default = {} if target.default_factory is dict else target.default
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(v) is int for v in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return default is dataclasses.MISSING or type(value) is type(default)
