"""The classes of semantic segmentation: their names and colours; standard library only."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amd_seg.errors import InputError

VOID = 255  # the label of pixels that do not count: borders of objects, what nobody judged
VOID_COLOUR = "#e0e0c0"  # in VOC's palette
MOST = 255  # classes: labels are bytes, and one of them is void


@dataclass(frozen=True)
class Classes:
    """What a label means: label k is the k-th class, from 0; an InputError tells what is wrong."""

    names: tuple[str, ...]
    colours: tuple[str, ...]  # as "#rrggbb"

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 2 <= count <= MOST or len(self.colours) != count:
            raise InputError(
                f"{count} classes cannot be used with {len(self.colours)} colours. Name 2 to "
                f"{MOST}, the first for label 0, which is the background in most data sets."
            )
        for what, values in (("name", self.names), ("colour", self.colours)):
            repeated = [value for value, times in Counter(values).items() if times > 1]
            if repeated or not all(values):
                raise InputError(
                    f"Each class needs a {what} of its own; {', '.join(repeated) or 'none'} stands "
                    "for several. Change the list of classes."
                )
        wrong = [colour for colour in self.colours if not re.fullmatch("#[0-9a-fA-F]{6}", colour)]
        if wrong:
            raise InputError(f"{', '.join(wrong)} is no colour. Write #rrggbb, as in #80ff00.")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str]) -> "Classes":
        """Return classes in VOC's colours."""
        return cls(tuple(names), tuple(standard_colour(label) for label in range(len(names))))

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Red, green and blue of each class, 0..255."""
        return tuple(rgb(colour) for colour in self.colours)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0..255, of a colour "#rrggbb"."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def standard_colour(label: int) -> str:
    """Return VOC's colour for a label: its bits, dealt to red, green and blue in turn.

    Source: VOCdevkit, VOClabelcolormap.m.
    """
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return "#{:02x}{:02x}{:02x}".format(*channels)


def read_classes(path: Path) -> Classes:
    """Read a list of classes: one a line, from label 0 on; a colour may follow, "dog #400080".

    Classes without a colour get VOC's for their label. Empty lines are passed over.
    """
    try:
        text = path.read_text("utf-8-sig")  # Editors on Windows begin a file with a mark.
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        parts = [re.fullmatch(r"(.*\S)\s+(#\S*)", line) for line in lines]
        names = [part[1] if part else line for part, line in zip(parts, lines, strict=True)]
        colours = [p[2].lower() if p else standard_colour(k) for k, p in enumerate(parts)]
        return Classes(tuple(names), tuple(colours))
    except (OSError, UnicodeDecodeError, InputError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise InputError(f"Cannot use the classes {path}: {reason}") from cause


VOC2012 = Classes.of(
    (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
        *("sheep", "sofa", "train", "tvmonitor"),
    )
)
"""The classes of PASCAL VOC, in their order."""

VOC_LAYOUT = "JPEGImages/, SegmentationClass/ or SegmentationClassAug/, ImageSets/Segmentation/"
