"""Exact scores among unit vectors, and the best of them, in an order that nothing can change.

In: vectors [n, dim] float32 and a query [dim]. Out: rows and cosines in float64, best first, ties
by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRODUCT_ERROR = 1e-5  # of a float32 product of unit vectors, generously
RESCORED_ROWS = 65_536  # at once


def exact_scores(matrix: np.ndarray, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Products of some rows with a vector in float64, each as if it were alone: [rows]."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), RESCORED_ROWS):
        part = matrix[rows[start : start + RESCORED_ROWS]].astype(np.float64)
        scores[start : start + len(part)] = (part * vector.astype(np.float64)).sum(axis=1)
    return scores


def rank_rows(
    matrix: np.ndarray, rows: np.ndarray, vector: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of some rows the k with the highest products, best first, and the products; ties by row."""
    exact = exact_scores(matrix, rows, vector)
    best = np.lexsort((rows, -exact))[:k]
    return rows[best], exact[best]


def best_rows(
    matrix: np.ndarray, vector: np.ndarray, k: int, *, excluded: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the k highest products with a vector, best first, and the products in float64.

    Ties go to the lower row. matrix: [n, dim]. excluded: rows left out, each once. Fewer than k
    where there are fewer. The matrix product gives equal rows different last bits, so whatever
    comes near the k-th best is scored again row by row.
    """
    scores = matrix @ vector.astype(matrix.dtype)
    scores[list(excluded)] = -np.inf
    k = min(k, len(scores) - len(excluded))
    if k <= 0:
        return np.zeros(0, np.int64), np.zeros(0)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= threshold - PRODUCT_ERROR)
    return rank_rows(matrix, rows, vector, k)
