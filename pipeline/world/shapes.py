"""The outlines of the shapes: a name in, a polygon out.

Every outline is centred on (0, 0) and scaled to about the same area as a circle of radius 0.8, so
that the number of pixels says little about the shape.
"""

from __future__ import annotations

import numpy as np

CURVE_POINTS = 48
STAR_INNER_RADIUS = 0.45  # of the outer one
CROSS_ARM = 0.36  # half the width of an arm, of the arm's length
TARGET_AREA = np.pi * 0.8**2


def _regular(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= STAR_INNER_RADIUS
    return points


def _cross() -> np.ndarray:
    arm = np.array([[1, -CROSS_ARM], [1, CROSS_ARM], [CROSS_ARM, CROSS_ARM]])
    quarter_turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    """The well-known heart curve x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t."""
    t = 2 * np.pi * np.arange(CURVE_POINTS) / CURVE_POINTS
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) + np.array([0, -2.5])


def _area(outline: np.ndarray) -> float:
    x, y = outline.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def _scaled(outline: np.ndarray) -> np.ndarray:
    return outline * np.sqrt(TARGET_AREA / _area(outline))


OUTLINES: dict[str, np.ndarray] = {  # each [points, 2] float64, (x, y)
    "circle": _scaled(_regular(CURVE_POINTS)),
    "square": _scaled(_regular(4)),
    "triangle": _scaled(_regular(3)),
    "star": _scaled(_star()),
    "cross": _scaled(_cross()),
    "heart": _scaled(_heart()),
}


def outline(shape: str, *, radius: float, angle: float, centre: np.ndarray) -> np.ndarray:
    """The outline of `shape`, scaled, turned by `angle` (radians), moved: [points, 2] float64."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    return radius * OUTLINES[shape] @ turn + centre
