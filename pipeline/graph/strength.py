"""How much one session adds to the strength of its pairs, in whole units.

strength = Σ over sessions of a_i a_j · discount(n) · 2^(-age / half_life)

a_i, a_j: weights of the actions on the two images; n: images of the session. Sums of floating point
numbers depend on their order, and the order on shards and machines; so what a session adds is
rounded to a unit of 2^-28, and sums are exact.
"""

from __future__ import annotations

import numpy as np

from pipeline.config import GraphConfig
from pipeline.errors import ImgembedError
from pipeline.sessions.sessionize import Visits

UNIT = 1 << 28
_LARGEST = float(1 << 62)
_MICROSECONDS_A_DAY = 86_400e6


def session_factors(
    config: GraphConfig, *, images: np.ndarray, start: np.ndarray | None, newest: int | None
) -> np.ndarray | None:
    """[sessions] float64: discount and decay of each session; None where each is 1.

    images: [sessions] int64. start: [sessions] int64, microseconds. newest: the time of the newest
    event, at which the age is 0; both are needed for a half-life only.
    """
    factors = discounts(config.discount, images)
    if config.half_life_days is not None:
        assert start is not None
        assert newest is not None
        age_days = (newest - start) / _MICROSECONDS_A_DAY
        decay = np.exp2(-age_days / config.half_life_days)
        factors = decay if factors is None else factors * decay
    return factors


def discounts(name: str, images: np.ndarray) -> np.ndarray | None:
    """[sessions] float64: 1/(n-1) or 1/log2(n) of sessions with n >= 2 images; None for none."""
    if name == "none":
        return None
    n = np.maximum(images, 2).astype(np.float64)
    return 1.0 / (n - 1.0) if name == "size" else 1.0 / np.log2(n)


def decayed(units: np.ndarray, *, days: float, half_life_days: float | None) -> np.ndarray:
    """Strengths of an older count as they are `days` later; [rows] int64 units."""
    if half_life_days is None or days == 0:
        return units
    return np.rint(units * np.exp2(-days / half_life_days)).astype(np.int64)


def pair_units(left: np.ndarray, right: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """[pairs] int64: a_i a_j · factor in units."""
    return np.rint(left * right * factor * UNIT).astype(np.int64)


def add_up(units: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[runs] int64: sums of the runs that begin at `starts`; ImgembedError for a too large one."""
    if not len(starts):
        return units
    if np.add.reduceat(units.astype(np.float64), starts).max() > _LARGEST:
        raise ImgembedError("graph: strengths are too large to add up; lower sessions.actions")
    return np.add.reduceat(units, starts)


def visit_weights(visits: Visits) -> np.ndarray:
    """[visits] float64."""
    return np.ones(len(visits.image)) if visits.weight is None else visits.weight
