"""What the page takes: files small enough for a machine that does other work too."""

from pathlib import Path

from amd_seg.errors import InputError
from amd_seg.media.files import IMAGE_SUFFIXES
from amd_seg.media.frames import FrameReader

MAX_BYTES = 100_000_000
"""Of an upload."""

MAX_PHOTO_PIXELS = 40_000_000
"""Of a photo, and of a picture behind it."""

MAX_FRAME_PIXELS = 9_000_000
"""Of a clip's frame: 4K."""

MAX_SECONDS = 30.0
"""Of a clip."""

_ANIMATED = {".gif", ".apng"}


def is_clip(path: Path) -> bool:
    """Tell a clip from a photo by its ending; an animation is a clip."""
    ending = path.suffix.lower()
    return ending not in IMAGE_SUFFIXES or ending in _ANIMATED


def check_clip(clip: FrameReader) -> None:
    """Refuse a clip that is too long or too large for the page.

    Raises:
        InputError: it is.
    """
    advice = "The command amd-seg video takes any clip."
    if clip.width * clip.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"Cannot take {clip.source}: its frames are {clip.width}x{clip.height}, more than "
            f"the {MAX_FRAME_PIXELS / 1e6:.0f} million pixels of this page. {advice}"
        )
    if clip.duration is not None and clip.duration > MAX_SECONDS:
        raise InputError(
            f"Cannot take {clip.source}: it lasts {clip.duration:.1f} s, more than the "
            f"{MAX_SECONDS:.0f} s of this page. {advice}"
        )
