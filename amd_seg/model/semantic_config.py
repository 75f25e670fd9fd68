"""Settings of a fine-tuned model: what config.json says of one; standard library only."""

from dataclasses import dataclass, field
from typing import Any

from amd_seg.classes import MOST, Classes
from amd_seg.errors import ConfigError, InputError
from amd_seg.model.config import AppearanceConfig, StoredConfig, WeightsConfig, require


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
