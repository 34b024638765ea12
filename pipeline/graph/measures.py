"""How strongly two images belong together, from the counts of one population of sessions.

    c    sessions with both images      n_i, n_j  sessions with each      N  all sessions

Arguments are [edges] int64 arrays, results [edges] float64. A measure needs 0 < c <= min(n_i, n_j)
and max(n_i, n_j) <= N.
"""

from __future__ import annotations

import numpy as np


def count(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: int) -> np.ndarray:
    """The number of sessions itself."""
    return c.astype(np.float64)


def cosine(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: int) -> np.ndarray:
    """c / sqrt(n_i n_j): the cosine of the two images' 0/1 vectors over sessions."""
    return c / np.sqrt(n_i.astype(np.float64) * n_j)


def llr(c: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, population: int) -> np.ndarray:
    """Dunning's log-likelihood ratio G² of the 2x2 table, negative where c is below expectation.

    2 Σ k ln(k N / (row column)) over both, only i, only j, neither; 0 ln 0 = 0 (T. Dunning,
    "Accurate Methods for the Statistics of Surprise and Coincidence", 1993).
    """
    total = float(population)
    cells = (
        (c, n_i, n_j),
        (n_i - c, n_i, population - n_j),
        (n_j - c, population - n_i, n_j),
        (population - n_i - n_j + c, population - n_i, population - n_j),
    )
    ratio = 2.0 * sum(_information(cell, row, column, total) for cell, row, column in cells)
    expected = n_i.astype(np.float64) * n_j / total
    # Rounding can leave a table of exactly expected counts slightly below zero.
    return np.where(c < expected, -1.0, 1.0) * np.maximum(ratio, 0.0)


def _information(cell: np.ndarray, row: np.ndarray, column: np.ndarray, total: float) -> np.ndarray:
    """cell ln(cell N / (row column)); 0 where the cell is empty."""
    filled = cell > 0
    k = np.where(filled, cell, 1).astype(np.float64)
    product = np.where(filled, row.astype(np.float64) * column, total)
    return np.where(filled, k * np.log(k * total / product), 0.0)


MEASURES = {"count": count, "cosine": cosine, "llr": llr}
