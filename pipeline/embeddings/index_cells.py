"""The approximate index: images sorted into cells around centres, a search looks into the nearest.

That is an inverted file with eight bits a number, of faiss. What it finds are candidates only: they
are scored again from the vectors themselves, so that scores are true cosines and ties go by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.embeddings.scoring import best_rows, rank_rows

ITERATIONS = 10  # of k-means
SAMPLE_A_CELL = 64  # images that k-means looks at; more made the centres no better
MEASURED_RESULTS = 10  # of a query; for more, as many times more cells are looked into
CANDIDATES_A_RESULT = 4
_ADDED_ROWS = 50_000  # at once, between two signs of progress
# Beyond this share of all images, looking at candidates is no cheaper than looking at all.
_MOST_CANDIDATES = 0.25

# Called with (what is done, how much of it, of how much).
Progress = Callable[[str, int, int], None]


def cell_count(images: int) -> int:
    """Cells for so many images: four times their square root, at least one."""
    return max(1, min(images, int(4 * np.sqrt(images))))


def build_cells(
    matrix: np.ndarray,
    sample: np.ndarray,
    *,
    cells: int,
    seed: int,
    threads: int,
    on_progress: Progress,
) -> Any:
    """The index of unit vectors [n, dim] float32, n >= cells; the same for any number of threads.

    sample: rows that the centres are learned from, at least as many as there are cells.
    """
    import faiss

    faiss.omp_set_num_threads(threads)
    dim = matrix.shape[1]
    learned_from = np.ascontiguousarray(matrix[sample])
    centres = _centres(learned_from, cells, seed, on_progress)
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(centres)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer,
        dim,
        cells,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # no residuals: a number is coded alike in all cells
    )
    index.train(learned_from)
    for start in range(0, len(matrix), _ADDED_ROWS):
        index.add(np.ascontiguousarray(matrix[start : start + _ADDED_ROWS]))
        on_progress("images sorted in", min(start + _ADDED_ROWS, len(matrix)), len(matrix))
    return index


def _centres(vectors: np.ndarray, cells: int, seed: int, on_progress: Progress) -> np.ndarray:
    """Unit vectors [cells, dim] by spherical k-means, an iteration at a time to tell of it."""
    import faiss

    centres = None
    for iteration in range(ITERATIONS):
        kmeans = faiss.Kmeans(
            vectors.shape[1],
            cells,
            niter=1,
            seed=seed + 1,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=len(vectors),
        )
        kmeans.train(vectors, init_centroids=centres)
        centres = kmeans.centroids
        on_progress("rounds of finding cells", iteration + 1, ITERATIONS)
    assert centres is not None
    return centres


def serialized(index: Any) -> np.ndarray:
    """The bytes of the index, [bytes] uint8."""
    import faiss

    return np.asarray(faiss.serialize_index(index))


@dataclass(frozen=True)
class Cells:
    """An approximate index with what a search of it needs to know.

    probes: cells that a search looks into. candidates: images that it scores exactly, at least
    CANDIDATES_A_RESULT times as many as it returns.
    """

    index: Any
    probes: int
    candidates: int

    @property
    def count(self) -> int:
        """How many cells there are."""
        return int(self.index.nlist)

    def nearest(
        self,
        matrix: np.ndarray,
        queries: np.ndarray,
        k: int,
        *,
        excluded: Sequence[Sequence[int]],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows, scores) for each query [q, dim], as `best_rows` would give them, or nearly.

        excluded: for each query rows left out, each once. Where the cells do not hold enough, or
        the candidates would be most of the images, all images are looked at.
        """
        left_out = max((len(rows) for rows in excluded), default=0)
        wanted = max(self.candidates, CANDIDATES_A_RESULT * k) + left_out
        if wanted > _MOST_CANDIDATES * len(matrix):
            pairs = zip(queries, excluded, strict=True)
            return [best_rows(matrix, query, k, excluded=own) for query, own in pairs]
        probes = min(self.count, self.probes * -(-k // MEASURED_RESULTS))
        found = self._candidates(queries, wanted, probes)
        answers = []
        for query, rows, own in zip(queries, found, excluded, strict=True):
            kept = np.setdiff1d(rows[rows >= 0], own)
            if len(kept) < min(k, len(matrix) - len(own)):
                answers.append(best_rows(matrix, query, k, excluded=own))
            else:
                answers.append(rank_rows(matrix, kept, query, k))
        return answers

    def _candidates(self, queries: np.ndarray, count: int, probes: int) -> np.ndarray:
        """[q, count] int64 rows, -1 where the cells held no more."""
        import faiss

        parameters = faiss.SearchParametersIVF(nprobe=probes)
        _, rows = self.index.search(
            np.ascontiguousarray(queries, np.float32), count, params=parameters
        )
        return np.asarray(rows)
