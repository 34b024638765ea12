"""The methods that an evaluation compares: each gives scores of the whole corpus for queries.

A method is a `metrics.ScoreRows`: query numbers in, [queries, corpus] scores out.
"""

from __future__ import annotations

import numpy as np

from trainer.evaluation.inputs import Links
from trainer.metrics import ScoreRows

# Cosines count in millionths, whole ones: a matrix product gives equal images different last bits.
COSINE_STEPS = 1e6


def by_cosine(queries: np.ndarray, corpus: np.ndarray) -> ScoreRows:
    """Cosines of unit vectors in whole millionths: [all queries, dim], [n, dim]."""

    def scores(numbers: np.ndarray) -> np.ndarray:
        # Steps go into the smaller factor; up to 2^24 they are exact in float32.
        found = (queries[numbers] * np.float32(COSINE_STEPS)) @ corpus.T
        return np.rint(found, out=found)

    return scores


def by_popularity(sessions: np.ndarray) -> ScoreRows:
    """The same ranking for every query: by training sessions, [n] int."""

    def scores(numbers: np.ndarray) -> np.ndarray:
        return np.tile(sessions.astype(np.float64), (len(numbers), 1))

    return scores


def by_links(links: Links, sessions: np.ndarray) -> ScoreRows:
    """A query's linked images by weight, and all others by popularity behind them."""
    popularity = by_popularity(sessions)
    # Ranks of weights instead of weights: any number, negative or tiny, then stands in front.
    _, order = np.unique(links.weight, return_inverse=True)
    linked = sessions.max(initial=0) + 1.0 + order

    def scores(numbers: np.ndarray) -> np.ndarray:
        found = popularity(numbers)
        place, link = links.of_owners(numbers)
        found[place, links.column[link]] = linked[link]
        return found

    return scores


def by_mean_of_links(links: Links, vectors: np.ndarray, sessions: np.ndarray) -> ScoreRows:
    """Cosine to the mean vector of a query's linked images, each as often as its weight says.

    By popularity for a query without links, and where the mean is 0. vectors: [n, dim].
    """
    popularity = by_popularity(sessions)

    def scores(numbers: np.ndarray) -> np.ndarray:
        place, link = links.of_owners(numbers)
        sums = np.zeros((len(numbers), vectors.shape[1]))
        np.add.at(sums, place, links.weight[link, None] * vectors[links.column[link]])
        norms = np.linalg.norm(sums, axis=1)
        found = popularity(numbers)
        known = np.flatnonzero(norms > 1e-9)
        means = (sums[known] / norms[known, None]).astype(np.float32)
        found[known] = by_cosine(means, vectors)(np.arange(len(known)))
        return found

    return scores


def without_query(score_rows: ScoreRows) -> ScoreRows:
    """The same, but the query, an image of the corpus, is no candidate itself."""

    def scores(numbers: np.ndarray) -> np.ndarray:
        found = score_rows(numbers)
        found[np.arange(len(numbers)), numbers] = -np.inf
        return found

    return scores
