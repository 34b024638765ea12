"""How strongly two images belong together, from the counts of one population of sessions.

    c    sessions with both images      n_i, n_j  sessions with each      N  all sessions

A measure takes c, n_i and n_j as [edges] int64 or float64, each above 0, and N as `population`;
it returns [edges] float64. It is the same bit for bit with n_i and n_j exchanged, so that both
directions of an edge have one weight. Counts that were made private by noise may contradict one
another; c is then taken as min(c, n_i, n_j), and N as at least n_i + n_j - c, the sessions that
hold either.

The weight `count` is no function of these counts: it is the edge's `strength` itself, the sum of
action weights times discount over the sessions with both. `weigh` knows it beside MEASURES.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]

# The deviance's series (see `_deviance`) serves below this |v|; its terms fall by v² each.
_SERIES_BELOW = 0.1
_SERIES_TERMS = 8
# 2^27 + 1 cuts a float64 into two halves whose products are exact (T. J. Dekker, 1971).
_SPLITTER = 134_217_729.0


class _Table(NamedTuple):
    """The 2x2 tables of all edges, as [edges] float64; `low` <= `high` are n_i and n_j in order."""

    both: np.ndarray
    low: np.ndarray
    high: np.ndarray
    total: np.ndarray
    # c N - n_i n_j, which is N times what c has above its expectation.
    surplus: np.ndarray


def _table(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> _Table:
    low = np.minimum(n_i, n_j).astype(np.float64)
    high = np.maximum(n_i, n_j).astype(np.float64)
    both = np.minimum(c, low)
    total = np.maximum(float(population), high + (low - both))
    surplus = _difference_of_products(both, total, low, high)
    return _Table(both, low, high, total, surplus)


def _difference_of_products(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray
) -> np.ndarray:
    """a b - c d, with the parts that rounding takes from both products: they may nearly cancel."""
    first, second = a * b, c * d
    return (first - second) + (_rounding(a, b, first) - _rounding(c, d, second))


def _rounding(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """a b - product, exactly, where `product` is a b rounded to float64."""
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = values * _SPLITTER
    high = scaled - (scaled - values)
    return high, values - high


def jaccard(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """c / (n_i + n_j - c): of the sessions with either image, the share with both."""
    table = _table(c, n_i, n_j, population)
    return table.both / (table.low + table.high - table.both)


def cosine(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """c / sqrt(n_i n_j): the cosine of the two images' 0/1 vectors over sessions."""
    table = _table(c, n_i, n_j, population)
    return table.both / np.sqrt(table.low * table.high)


def lift(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """c N / (n_i n_j): how many times more often than by chance; 1 is chance."""
    table = _table(c, n_i, n_j, population)
    return table.both * table.total / (table.low * table.high)


def pmi(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """ln lift, in nats: pointwise mutual information; 0 exactly where c is as expected."""
    return _pmi(_table(c, n_i, n_j, population))


def _pmi(table: _Table) -> np.ndarray:
    product = table.low * table.high
    excess = table.surplus / product
    # Near 1 the lift itself has lost the digits that tell it from 1.
    near = np.abs(excess) < 0.5
    far = np.log(np.where(near, 1.0, table.both * table.total / product))
    return np.where(near, np.log1p(np.where(near, excess, 0.0)), far)


def ppmi(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """max(0, pmi)."""
    return np.maximum(pmi(c, n_i, n_j, population), 0.0)


def npmi(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """pmi / -ln(c / N), in [-1, 1] (G. Bouma, 2009).

    1 exactly for images that are only ever seen together, also where that is in all N sessions.
    """
    table = _table(c, n_i, n_j, population)
    always = table.both == table.high
    # ln(N / c), without loss where c is nearly N.
    bound = np.log1p((table.total - table.both) / table.both)
    ratio = _pmi(table) / np.where(always, 1.0, bound)
    return np.where(always, 1.0, np.clip(ratio, -1.0, 1.0))


def llr(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: float) -> np.ndarray:
    """Dunning's log-likelihood ratio G² of the 2x2 table, negative where c is below expectation.

    2 Σ k ln(k N / (row column)) over both, only i, only j, neither; 0 ln 0 = 0 (T. Dunning,
    "Accurate Methods for the Statistics of Surprise and Coincidence", 1993). As Σ k = Σ expected,
    it is also 2 Σ (k ln(k / expected) - k + expected): there no term is negative, and nothing
    cancels, however large N is.
    """
    both, low, high, total, surplus = _table(c, n_i, n_j, population)
    neither = np.maximum((total - high) - (low - both), 0.0)
    # In every cell k - expected is this, up to its sign.
    above = surplus / total
    ratio = (
        _deviance(both, low * high / total, above)
        + _deviance(low - both, low * (total - high) / total, -above)
        + _deviance(high - both, (total - low) * high / total, -above)
        + _deviance(neither, (total - low) * (total - high) / total, above)
    )
    return np.where(above < 0, -2.0, 2.0) * ratio


def _deviance(k: np.ndarray, expected: np.ndarray, above: np.ndarray) -> np.ndarray:
    """k ln(k / expected) - above, where `above` is k - expected, known better than from the two.

    Near expectation by the series of the saddle-point deviance (C. Loader, "Fast and Accurate
    Computation of Binomial Probabilities", 2000): with v = above / (k + expected),
    ln(k / expected) = 2 Σ v^(2j+1) / (2j+1).
    """
    total = k + expected
    v = np.where(total > 0, above / np.where(total > 0, total, 1.0), 0.0)
    near = np.abs(v) < _SERIES_BELOW
    square = np.where(near, v * v, 0.0)
    tail = np.zeros_like(v)
    for j in range(_SERIES_TERMS, 0, -1):
        tail = (tail + 1.0 / (2 * j + 1)) * square
    filled = (k > 0) & (expected > 0) & ~near
    logarithm = np.log(np.where(filled, k, 1.0) / np.where(filled, expected, 1.0))
    return np.where(near, above * v + 2.0 * k * v * tail, k * logarithm - above)


MEASURES: dict[str, Measure] = {
    "jaccard": jaccard,
    "cosine": cosine,
    "lift": lift,
    "pmi": pmi,
    "ppmi": ppmi,
    "npmi": npmi,
    "llr": llr,
}
STRENGTH = "count"
# The names of all weights that an edge can have.
WEIGHTS = (STRENGTH, *MEASURES)


def weigh(
    measure: str,
    *,
    sessions: np.ndarray,
    src_sessions: np.ndarray,
    dst_sessions: np.ndarray,
    strength: np.ndarray,
    population: float,
) -> np.ndarray:
    """The weight of each edge: [edges] float64. `measure` is one of WEIGHTS.

    sessions, src_sessions, dst_sessions: [edges], c and n of both ends. strength: [edges] float64,
    which alone is read for `count`, and for no other measure.
    """
    if measure == STRENGTH:
        return strength.astype(np.float64)
    return MEASURES[measure](sessions, src_sessions, dst_sessions, population)


def minimum_llr(p_value: float) -> float:
    """The llr from which on the p-value is at most `p_value`, for χ² with 1 degree; 0 for 1.

    χ² with 1 degree is the square of a standard normal, so this is the square of the quantile at
    p / 2, taken from the lower tail, where a small p keeps its digits. ValueError unless
    0 < p_value <= 1.
    """
    if not 0.0 < p_value <= 1.0:
        raise ValueError(f"p_value is {p_value!r}; wanted: above 0 and at most 1")
    return NormalDist().inv_cdf(p_value / 2.0) ** 2


def significant(llr: np.ndarray, p_value: float) -> np.ndarray:
    """Which edges survive `min_significance`: [edges] bool, llr >= minimum_llr(p_value).

    The llr is signed: images seen together significantly *less* often than by chance are no
    neighbours, and never survive. At p_value 1 all do that are not below expectation.
    """
    return llr >= minimum_llr(p_value)
