"""The textures: local coordinates in, a mask of the second tone out.

A texture repeats with period 1 in its coordinates, whose origin is the middle of the shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HALF = 0.5  # of a period: the width of a stripe, a check, a ring
DOT_RADIUS = 0.33  # of a period; the dots cover a third of the shape


def _solid(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros(u.shape, bool)


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u % 1 < HALF


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 1 - HALF) ** 2 + (v % 1 - HALF) ** 2 < DOT_RADIUS**2


def _checked(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u % 1 < HALF) ^ (v % 1 < HALF)


def _ringed(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) % 1 < HALF


_MASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checked": _checked,
    "ringed": _ringed,
}


def second_tone(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second tone shows: bool of the shape of `u` and `v`, which are in periods."""
    return _MASKS[texture](u, v)
