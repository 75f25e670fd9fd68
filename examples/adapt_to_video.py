"""Let the model learn from a clip, write the clip's masks, and draw before beside after.

    python examples/adapt_to_video.py clip.mp4 masks.mp4 before_and_after.png

Needs OpenCV (pip install "amd-seg[flow]"), and a minute or two on a CPU.
"""

import sys
from itertools import islice

from PIL import Image

from amd_seg import VideoSegmenter


def first_overlay(video: VideoSegmenter, clip: str, frame: int = 10) -> Image.Image:
    """Draw the mask of one early frame over it."""
    *_, last = islice(video(clip), frame)
    return last.overlay()


def main(clip: str, masks: str, picture: str) -> None:
    """Adapt to the clip; the released weights are back with `video.reset()`."""
    video = VideoSegmenter.from_pretrained()
    before = first_overlay(video, clip)
    report = video.adapt(clip)
    print(f"loss {report.loss_before:.3f} -> {report.loss_after:.3f}, {report.reason or 'adapted'}")
    after = first_overlay(video, clip)
    pair = Image.new("RGB", (before.width, 2 * before.height))
    pair.paste(before, (0, 0))
    pair.paste(after, (0, before.height))
    pair.save(picture)
    video.write(clip, masks, overwrite=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
