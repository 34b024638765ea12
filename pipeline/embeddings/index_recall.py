"""How much of an exact search's answers an approximate one finds, measured when it is built.

In: an index, queries drawn by a hash of their ids. Out: recall@10 against exact search. An image
is no answer to itself. Among images of one score it does not matter which are found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.embeddings.index_cells import MEASURED_RESULTS, Cells, Progress
from pipeline.embeddings.scoring import exact_scores
from pipeline.hashing import hash_values

QUERIES = 1_000  # that recall is measured on; as many others choose the number of cells
SCORE_TOLERANCE = 1e-6
_FIRST_PROBES = 8
BLOCK_QUERIES = 250
BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class Queries:
    """Queries and what an exact search finds for them.

    vectors: [q, dim] float32. own: [q] the row of each in the index, -1 = it is no image of it.
    tenth: [q] float64, the score of the last of the best, of which MEASURED_RESULTS are wanted.
    """

    vectors: np.ndarray
    own: np.ndarray
    tenth: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)


def draw(keys: pa.Array, salt: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows to measure on, other rows to choose by), at most QUERIES each, by hash of the keys."""
    order = np.argsort(hash_values(keys, salt=salt), kind="stable")
    half = min(QUERIES, (len(order) + 1) // 2)
    return np.sort(order[:half]), np.sort(order[half : 2 * half])


def exact_queries(
    matrix: np.ndarray, vectors: np.ndarray, own: np.ndarray, on_progress: Progress
) -> Queries:
    """The queries with what an exact search of all images finds."""
    tenth = np.empty(len(vectors))
    for start in range(0, len(vectors), BLOCK_QUERIES):
        part = slice(start, start + BLOCK_QUERIES)
        best = _best(matrix, vectors[part], own[part])
        for query, rows in enumerate(best, start):
            scores = exact_scores(matrix, rows, vectors[query])
            tenth[query] = scores.min() if len(scores) else -np.inf
        on_progress("queries answered exactly", min(part.stop, len(vectors)), len(vectors))
    return Queries(vectors, own, tenth)


def _best(matrix: np.ndarray, vectors: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
    """For each query the rows of the highest products, in no order; block by block."""
    scores: np.ndarray = np.zeros((len(vectors), 0), np.float32)
    rows: np.ndarray = np.zeros((len(vectors), 0), np.int64)
    for start in range(0, len(matrix), BLOCK_ROWS):
        found = vectors @ matrix[start : start + BLOCK_ROWS].T
        inside = np.flatnonzero((own >= start) & (own < start + found.shape[1]))
        found[inside, own[inside] - start] = -np.inf
        numbers = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        scores, rows = np.hstack([scores, found]), np.hstack([rows, numbers])
        if scores.shape[1] > MEASURED_RESULTS:
            top = np.argpartition(-scores, MEASURED_RESULTS - 1, axis=1)[:, :MEASURED_RESULTS]
            scores, rows = (np.take_along_axis(part, top, 1) for part in (scores, rows))
    return [found[score > -np.inf] for found, score in zip(rows, scores, strict=True)]


def recall(cells: Cells, matrix: np.ndarray, queries: Queries) -> float:
    """The share of the best that the index finds, the mean over the queries; 1 for none."""
    wanted = np.minimum(MEASURED_RESULTS, len(matrix) - (queries.own >= 0))
    shares = []
    for start in range(0, len(queries), BLOCK_QUERIES):
        part = slice(start, start + BLOCK_QUERIES)
        left_out = [[row] if row >= 0 else [] for row in queries.own[part].tolist()]
        answers = cells.nearest(matrix, queries.vectors[part], MEASURED_RESULTS, excluded=left_out)
        for (_, scores), tenth, count in zip(
            answers, queries.tenth[part], wanted[part], strict=True
        ):
            found = np.count_nonzero(scores >= tenth - SCORE_TOLERANCE)
            shares.append(found / count if count else 1.0)
    return float(np.mean(shares)) if shares else 1.0


def choose_probes(
    with_probes: Callable[[int], Cells],
    matrix: np.ndarray,
    kinds: Sequence[Queries],
    *,
    wanted: float,
    on_progress: Progress,
) -> int:
    """The fewest cells, doubling from 8, with which every kind of queries has the recall wanted.

    All cells where even they do not give it.
    """
    probes, tried = _FIRST_PROBES, 0
    while True:
        cells = with_probes(probes)
        if probes >= cells.count:
            return cells.count
        tried += 1
        on_progress("numbers of cells tried", tried, tried)
        if all(recall(cells, matrix, queries) >= wanted for queries in kinds):
            return probes
        probes *= 2
