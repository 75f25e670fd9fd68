"""Let the model learn from a clip, write the clip's masks, and draw some frames before and after.

    python examples/adapt_to_video.py clip.mp4 masks.mp4 before_and_after.jpg

Takes a minute or two on a CPU.
"""

import sys

import numpy as np
from PIL import Image

from amd_seg import VideoSegmenter
from amd_seg.media.video import open_video

COLUMNS = 4


def overlays(video: VideoSegmenter, clip: str, indices: list[int]) -> np.ndarray:
    """Return some frames of the clip with their masks, side by side, (height, width, 3), uint8."""
    tiles = [np.asarray(frame.overlay()) for frame in video(clip) if frame.index in indices]
    return np.concatenate(tiles, axis=1)


def main(clip: str, masks: str, picture: str) -> None:
    """Adapt to the clip; the released weights are back with `video.reset()`."""
    video = VideoSegmenter.from_pretrained()
    last = sum(1 for _ in open_video(clip)) - 1
    indices = [last * step // (COLUMNS + 1) for step in range(1, COLUMNS + 1)]
    before = overlays(video, clip, indices)
    report = video.adapt(clip)
    print(f"loss {report.loss_before:.3f} -> {report.loss_after:.3f}, {report.reason or 'adapted'}")
    after = overlays(video, clip, indices)
    Image.fromarray(np.concatenate((before, after))).save(picture, quality=88)
    video.write(clip, masks, overwrite=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
