"""A curve of numbers over steps, as SVG to stand in a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

MOST_POINTS = 400
"""Points of a curve; where there are more values, a point is the mean of some that follow."""

SMOOTH_SHARE = 0.1
"""Part of the points that the mean of the bold line is taken over."""

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 40


@dataclass(frozen=True)
class Mark:
    """A point of its own beside the curve."""

    step: float
    value: float
    name: str


def draw_curve(
    steps: Sequence[float], values: Sequence[float], *, name: str, marks: Sequence[Mark] = ()
) -> str:
    """Return an SVG of values over steps: each one in pale, their running mean in bold.

    Values that are no finite numbers are left out.

    Args:
        steps: rising.
        values: as many.
        name: what is drawn, for the axis and for those who do not see it.
        marks: further points, each with its name beside it.
    """
    points = _binned(_finite(steps, values))
    shown = [mark for mark in marks if math.isfinite(mark.value)]
    if not len(points) and not shown:
        return f"<p>No finite number of {escape(name)} is known.</p>"
    ends = np.array([(mark.step, mark.value) for mark in shown]).reshape(-1, 2)
    axes = _Axes.around(np.concatenate([points, ends]))
    parts = [
        *axes.grid(),
        _line(axes, points, "raw"),
        _line(axes, _smoothed(points), "mean"),
        *(_mark(axes, mark) for mark in shown),
        f'<text class="axis" x="{_LEFT}" y="{_HEIGHT - 4}">step</text>',
    ]
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(name)} over steps">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Axes:
    """From steps and values to places in the drawing, in its units."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, points: Points) -> "_Axes":
        (left, low), (right, high) = points.min(axis=0), points.max(axis=0)
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls((left, right if right > left else left + 1), (low - room, high + room))

    def place(self, step: float, value: float) -> tuple[float, float]:
        across = (step - self.x[0]) / (self.x[1] - self.x[0])
        up = (value - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    def grid(self) -> list[str]:
        parts = []
        for value in _ticks(*self.y):
            _, y = self.place(self.x[0], value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
            parts.append(
                f'<text class="axis" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>'
            )
        for step in _ticks(*self.x):
            x, _ = self.place(step, self.y[0])
            y = _HEIGHT - _BOTTOM + 18
            parts.append(f'<text class="axis" x="{x}" y="{y}" text-anchor="middle">{step:g}</text>')
        return parts


def _finite(steps: Sequence[float], values: Sequence[float]) -> Points:
    points = np.array([steps, values], np.float64).reshape(2, -1).T
    return points[np.isfinite(points).all(axis=1)]


def _binned(points: Points) -> Points:
    """Take the mean of points (point, 2) that follow each other, so that few are left."""
    if len(points) <= MOST_POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, MOST_POINTS)])


def _smoothed(points: Points) -> Points:
    """Replace each value by the mean of those around it; fewer at the ends."""
    reach = int(SMOOTH_SHARE * len(points) / 2)
    means = [
        points[max(0, place - reach) : place + reach + 1, 1].mean() for place in range(len(points))
    ]
    return np.column_stack([points[:, 0], means])


def _line(axes: _Axes, points: Points, kind: str) -> str:
    places = " ".join(f"{x},{y}" for x, y in (axes.place(*point) for point in points.tolist()))
    return f'<polyline class="{kind}" points="{places}"/>'


def _mark(axes: _Axes, mark: Mark) -> str:
    x, y = axes.place(mark.step, mark.value)
    # The name stands inside the drawing, on whichever side there is room.
    is_left = x < _WIDTH / 2
    side, anchor = (x + 9, "start") if is_left else (x - 9, "end")
    text = f"{mark.name} {mark.value:.3f}"
    return (
        f'<circle cx="{x}" cy="{y}" r="5"/>'
        f'<text class="mark" x="{side}" y="{round(y - 8, 1)}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers between two others."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / width), math.floor(high / width)
    # Rounded, for 3 * 0.1 is no 0.3.
    return [float(f"{number * width:.12g}") for number in range(first, last + 1)]
