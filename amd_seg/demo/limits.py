"""What the page takes: files small enough for a machine that does other work too."""

from pathlib import Path

from amd_seg.errors import InputError
from amd_seg.media.files import IMAGE_SUFFIXES
from amd_seg.media.video import FrameReader, count_frames, open_video

MAX_BYTES = 100_000_000
"""Of an upload."""

MAX_PHOTO_PIXELS = 40_000_000
"""Of a photo, and of a picture behind it."""

MAX_FRAME_PIXELS = 9_000_000
"""Of a clip's frame: 4K."""

MAX_SECONDS = 30.0
"""Of a clip."""

# Of images that may hold many frames, or one.
_ANIMATED = {".gif", ".apng", ".webp"}


def is_clip(path: Path) -> bool:
    """Tell a clip from a photo by its ending; one frame is no clip.

    Raises:
        MediaError: it is an image that cannot be read.
    """
    ending = path.suffix.lower()
    return ending not in IMAGE_SUFFIXES or (ending in _ANIMATED and count_frames(path) > 1)


def check_clip(clip: FrameReader) -> float:
    """Refuse a clip that is too long or too large for the page.

    Returns:
        About when its last frame is shown, in seconds.

    Raises:
        InputError: it is too long or too large.
    """
    advice = "The command amd-seg video takes any clip."
    if clip.width * clip.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"Cannot take {clip.source}: its frames are {clip.width}x{clip.height}, more than "
            f"the {MAX_FRAME_PIXELS / 1e6:.0f} million pixels of this page. {advice}"
        )
    too_long = f"more than the {MAX_SECONDS:.0f} s of this page. {advice}"
    if clip.duration is None:
        last = 0.0
        # Animated images and recordings of browsers do not tell: small, frames cost little.
        for frame in open_video(clip.source, short_edge=16):
            last = frame.time
            if last >= MAX_SECONDS:
                raise InputError(f"Cannot take {clip.source}: it lasts {too_long}")
        return last
    if clip.duration > MAX_SECONDS:
        raise InputError(f"Cannot take {clip.source}: it lasts {clip.duration:.1f} s, {too_long}")
    return max(0.0, clip.duration - 1 / float(clip.frame_rate or 1))
