"""Classical parts of the motion teacher: dense flow and background fit; all OpenCV."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Flow = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""Dense flow from the first frame to the second.

Takes two frames (height, width, 3), RGB uint8; gives (height, width, 2), float32, in pixels,
x first: a point (x, y) of the first frame is at (x, y) + flow[y, x] in the second.
"""

GRID_STEP = 6
"""Pixels between the flow vectors that the background is fitted to; more would only cost time."""
RANSAC_REACH = 1.0
"""Pixels within which a vector agrees with the background."""
RANSAC_ROUNDS = 500
"""Draws of four vectors at most; where the background is half of the frame 100 would do."""
FITTED_BELOW = 1.0
"""Median residual, in pixels, below which the background counts as fitted."""
CLEAR_AREA = (0.005, 0.5)
"""Share of the frame between which a mask is an object, not noise and not the scene."""
CLEAR_BORDER = 0.35
"""Share of the frame's outermost pixels above which a mask is the scene, not an object."""


@dataclass(frozen=True)
class PairEvidence:
    """What one pair of frames says of the first frame's movers.

    Attributes:
        residual: (height, width), float32, length of flow minus background over the threshold
            that parts the two, so that movers are above 1.
        median: median length of flow minus background, in pixels.
        moves: mean length of the same inside the mask, in pixels.
    """

    residual: NDArray[np.float32]
    median: float
    moves: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width), bool: what does not move with the background."""
        return self.residual > 1

    def is_clear(self, min_motion: float) -> bool:
        """Tell whether the background was fitted and the mask can be an object."""
        if self.median >= FITTED_BELOW or self.moves < min_motion:
            return False
        mask = self.mask
        border = np.concatenate((mask[0], mask[-1], mask[:, 0], mask[:, -1]))
        area = float(mask.mean())
        return CLEAR_AREA[0] <= area <= CLEAR_AREA[1] and float(border.mean()) < CLEAR_BORDER


def dis_flow(frame_i: NDArray[np.uint8], frame_j: NDArray[np.uint8], /) -> NDArray[np.float32]:
    """Give the dense flow of OpenCV's DIS (medium preset), a classical method; see `Flow`.

    Source: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016.
    """
    import cv2

    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_i, grey_j = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (frame_i, frame_j))
    flow: NDArray[np.float32] = method.calc(grey_i, grey_j, None)
    return flow


def pair_evidence(flow: NDArray[np.float32]) -> PairEvidence | None:
    """Part a flow into background, which a homography explains, and movers.

    The threshold on the residual is Otsu's, per pair: parallax leaves a few pixels where an
    object leaves twenty, so that no fixed number of pixels serves all clips.

    Args:
        flow: (height, width, 2), float32, in pixels, x first.

    Returns:
        The evidence; None where nothing can be fitted or nothing is left over.
    """
    residual = background_residual(flow)
    if residual is None:
        return None
    # A few wild vectors would otherwise stretch the histogram until all else is one bin.
    top = float(np.percentile(residual, 99))
    if top < 1e-3:
        return None
    threshold = _otsu(np.minimum(residual, top), top)
    inside = residual > threshold
    return PairEvidence(
        residual=residual / np.float32(threshold),
        median=float(np.median(residual)),
        moves=float(residual[inside].mean()) if inside.any() else 0.0,
    )


def background_residual(flow: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Give the length of flow minus its robust homography, in pixels; None without a fit.

    Args:
        flow: (height, width, 2), float32, in pixels, x first.

    Returns:
        (height, width), float32.
    """
    import cv2

    height, width = flow.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack((columns, rows), axis=-1)  # (height, width, 2), x first
    start = GRID_STEP // 2
    source = points[start::GRID_STEP, start::GRID_STEP].reshape(-1, 2)
    target = source + flow[start::GRID_STEP, start::GRID_STEP].reshape(-1, 2)
    if len(source) < 4:
        return None
    homography, _ = cv2.findHomography(
        source, target, cv2.RANSAC, RANSAC_REACH, maxIters=RANSAC_ROUNDS
    )
    if homography is None:
        return None
    moved = cv2.perspectiveTransform(points, homography)
    residual: NDArray[np.float32] = np.linalg.norm(points + flow - moved, axis=-1)
    return residual if np.isfinite(residual).all() else None


def resize_frames(frames: NDArray[np.uint8], short_edge: int) -> NDArray[np.uint8]:
    """Shrink frames (frame, height, width, 3) to a short edge in pixels; never enlarge them."""
    height, width = frames.shape[1:3]
    size = scaled_size((height, width), min(short_edge, height, width))
    if size == (height, width) or not len(frames):
        return frames
    import cv2

    return np.stack(
        [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in frames]
    )


def resize(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Give a map (height, width) at another size (height, width)."""
    if values.shape == size:
        return values
    import cv2

    way = cv2.INTER_AREA if size[0] < values.shape[0] else cv2.INTER_LINEAR
    resized: NDArray[np.float32] = cv2.resize(values, size[::-1], interpolation=way)
    return resized


def scaled_size(size: tuple[int, int], short_edge: int | None) -> tuple[int, int]:
    """Give (height, width) scaled to a short edge; the size itself for None."""
    height, width = size
    scale = Fraction(short_edge or min(size), min(size))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _otsu(values: NDArray[np.float32], top: float) -> float:
    """Give the threshold between two classes of values in 0..top."""
    import cv2

    level, _ = cv2.threshold(
        np.rint(values * (255 / top)).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return (float(level) + 0.5) * top / 255
