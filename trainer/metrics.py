"""Measures of retrieval, of labels by neighbours and of collapse, in numpy alone.

Ranks come first: where each relevant item stands in the ranking of the whole corpus, found by
counting what scores higher, never by sorting the corpus. The retrieval measures follow from the
ranks, their intervals from the sessions that the queries belong to.

A rank is a float64: 1.0 = the best, inf = never found (the item is not in the corpus).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Scores of many queries at once, [queries] int -> [queries, corpus] float: higher is better, and
# -inf marks an item that is no candidate. The array is the caller's to change.
ScoreRows = Callable[[np.ndarray], np.ndarray]

MISSED = np.inf
# Scores held at once, and a few arrays of their size beside them.
CHUNK_BYTES = 16 * 2**20


def chunks(length: int, row_bytes: int) -> Iterator[slice]:
    """Slices that cover `length` rows, each of at most CHUNK_BYTES, at least one row."""
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def ranks_in_rows(scores: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Ranks of single items, each within its row of scores.

    scores: [queries, corpus]. rows, columns: [pairs] int, the items. Of items with equal scores
    the one of the lower column ranks first. Returns [pairs] float64.
    """
    ranks = np.empty(len(rows), np.float64)
    # A loop over pairs, each a pass over one row in cache: several times faster than whole
    # arrays of [pairs, corpus].
    for pair, (row, column) in enumerate(zip(rows, columns, strict=True)):
        competing, own = scores[row], scores[row, column]
        above = np.count_nonzero(competing > own)
        ranks[pair] = 1 + above + np.count_nonzero(competing[:column] == own)
    return ranks


def rank_pairs(
    score_rows: ScoreRows, queries: np.ndarray, targets: np.ndarray, *, corpus: int
) -> np.ndarray:
    """Ranks of targets in the full rankings of their queries.

    queries: [pairs] int, handed to `score_rows` sorted and each once. targets: [pairs] int, columns
    of the corpus; negative = not in the corpus. Returns [pairs] float64, MISSED where a target is
    not in the corpus or is no candidate.
    """
    ranks = np.full(len(queries), MISSED)
    order = np.argsort(queries, kind="stable")
    order = order[targets[order] >= 0]
    distinct, starts = np.unique(queries[order], return_index=True)
    bounds = np.append(starts, len(order))
    for part in chunks(len(distinct), corpus * 8):
        pairs = order[bounds[part.start] : bounds[part.stop]]
        scores = score_rows(distinct[part])
        rows = np.searchsorted(distinct[part], queries[pairs])
        found = np.isfinite(scores[rows, targets[pairs]])
        ranks[pairs[found]] = ranks_in_rows(scores, rows[found], targets[pairs[found]])
    return ranks


def measure_names(ks: Sequence[int]) -> list[str]:
    """Names of the columns of `retrieval_measures`: recall@k …, mrr, map, ndcg@k …"""
    return [*(f"recall@{k}" for k in ks), "mrr", "map", *(f"ndcg@{k}" for k in ks)]


def ideal_gain(relevant: np.ndarray, k: int) -> np.ndarray:
    """DCG at k of a ranking with all `relevant` items on top. [queries] int -> [queries]."""
    k = min(k, int(relevant.max(initial=0)))  # a longer list holds no more
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    return gains[np.minimum(relevant, k)]


def retrieval_measures(
    ranks: np.ndarray, query: np.ndarray, *, queries: int, ks: Sequence[int]
) -> np.ndarray:
    """What each query achieves: [queries, measures] float64, columns as `measure_names` says.

    ranks: [pairs] of the relevant items. query: [pairs] int below `queries`, each query with at
    least one relevant item. recall@k = found among the first k / relevant, so it is below 1 where
    more than k are relevant; MRR = 1 / the best rank; MAP = the mean over the relevant items of the
    precision at their ranks, 0 for one that is missed; NDCG@k with gain 1 for relevant items and
    discount log2(rank + 1).
    """
    relevant = np.bincount(query, minlength=queries)
    if queries and relevant.min() == 0:
        raise ValueError("a query without a relevant item has no recall")

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(query, weights=values, minlength=queries)

    best = np.full(queries, MISSED)
    np.minimum.at(best, query, ranks)
    gain = 1.0 / np.log2(1.0 + ranks)
    return np.stack(
        [
            *(total(ranks <= k) / relevant for k in ks),
            1.0 / best,
            total(places_within(ranks, query) / ranks) / relevant,
            *(total(np.where(ranks <= k, gain, 0.0)) / ideal_gain(relevant, k) for k in ks),
        ],
        axis=1,
    )


def discounted_gain(
    ranks: np.ndarray, gains: np.ndarray, query: np.ndarray, *, queries: int, k: int
) -> np.ndarray:
    """DCG at k: the sum of gain / log2(rank + 1) over ranks up to k. [pairs] each -> [queries]."""
    kept = np.where(ranks <= k, gains / np.log2(1.0 + ranks), 0.0)
    return np.bincount(query, weights=kept, minlength=queries)


def graded_ndcg(
    ranks: np.ndarray, gains: np.ndarray, query: np.ndarray, *, queries: int, ks: Sequence[int]
) -> np.ndarray:
    """NDCG at each k, [queries, ks]: DCG / that of the best order (Järvelin & Kekäläinen, 2002).

    ranks: [pairs] float64, of the judged items; what was not judged takes its place in the ranking
    and gains nothing. gains: [pairs] float64, at least 0; each query has one above 0.
    """
    best = places_within(-gains, query)
    columns = []
    for k in ks:
        found, ideal = (
            discounted_gain(places, gains, query, queries=queries, k=k) for places in (ranks, best)
        )
        columns.append(found / ideal)
    return np.stack(columns, axis=1)


def random_graded_ndcg(
    gains: np.ndarray,
    query: np.ndarray,
    present: np.ndarray,
    *,
    candidates: np.ndarray,
    ks: Sequence[int],
) -> np.ndarray:
    """Expected NDCG of a random ranking, [queries, ks].

    gains, query: [pairs], as in `graded_ndcg`. present: [pairs] bool, whether an item is a
    candidate. candidates: [queries] int, the length of each query's ranking, at least 1.
    """
    queries = len(candidates)
    a_rank = np.bincount(query, weights=gains * present, minlength=queries) / candidates
    best = places_within(-gains, query)
    columns = [
        a_rank
        * ideal_gain(candidates, k)
        / discounted_gain(best, gains, query, queries=queries, k=k)
        for k in ks
    ]
    return np.stack(columns, axis=1)


def places_within(ranks: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Where each item stands among the items of its query alone: 1 = the best, ties as they stand.

    ranks: [pairs] float64. query: [pairs] int. Returns [pairs] int64.
    """
    order = np.lexsort((ranks, query))
    _, starts, counts = np.unique(query[order], return_index=True, return_counts=True)
    places = np.empty(len(ranks), np.int64)
    places[order] = np.arange(len(ranks)) - np.repeat(starts, counts) + 1
    return places


def expected_best_reciprocal(found: int, candidates: int) -> float:
    """The expectation of 1 / best rank of `found` items in a random order of `candidates`.

    P(best > r) = C(candidates - r, found) / C(candidates, found), as a running product.
    """
    if found == 0:
        return 0.0
    ranks = np.arange(1, candidates - found + 2)
    # P(best = r) / P(best > r - 1) = found / (candidates - r + 1)
    hazard = found / (candidates - ranks + 1)
    survival = np.concatenate([[1.0], np.cumprod(1.0 - hazard)[:-1]])
    return float(np.sum(survival * hazard / ranks))


def expected_average_precision(found: int, candidates: int) -> float:
    """The expectation of the mean precision at the ranks of `found` items in a random order.

    A rank r holds one of them with probability found / candidates, and then the r - 1 before it
    hold (r - 1) (found - 1) / (candidates - 1) others. 0 where there is none.
    """
    if found == 0:
        return 0.0
    harmonic = float(np.sum(1.0 / np.arange(1, candidates + 1)))
    others = (found - 1) / max(1, candidates - 1)
    return (harmonic + others * (candidates - harmonic)) / candidates


def random_measures(
    present: np.ndarray, relevant: np.ndarray, *, candidates: int, ks: Sequence[int]
) -> np.ndarray:
    """Expected measures of a random ranking: [queries, measures], as `retrieval_measures`.

    present: [queries] int, the relevant items that are candidates. relevant: [queries] int, all.
    candidates: the length of the ranking.
    """
    share = present / max(1, candidates)  # the chance that a rank holds a relevant item
    distinct, place = np.unique(present, return_inverse=True)
    best, precision = (
        np.array([expected(int(n), candidates) for n in distinct])[place]
        for expected in (expected_best_reciprocal, expected_average_precision)
    )
    columns = [np.minimum(k, candidates) * share / relevant for k in ks]
    columns += [best, precision * present / relevant]
    for k in ks:
        reachable = ideal_gain(np.array([candidates]), k)[0]
        columns.append(share * reachable / ideal_gain(relevant, k))
    return np.stack(columns, axis=1)


def session_means(values: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Means over the queries of each session: [queries, m], [queries] int -> [sessions, m]."""
    _, index, counts = np.unique(session, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, index, values)
    return sums / counts[:, None]


@dataclass(frozen=True)
class Estimate:
    """Means over sessions and their 95 % bootstrap intervals, each [measures] float64."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def part(self, columns: slice) -> Estimate:
        """That of some of the measures."""
        return Estimate(self.value[columns], self.low[columns], self.high[columns])


def bootstrap(by_session: np.ndarray, *, resamples: int, seed: int) -> Estimate:
    """The mean over sessions, with the percentile interval of resampled sessions.

    by_session: [sessions, measures], at least one session. The same seed draws the same sessions
    for every method, so intervals of methods on one set of sessions can be compared.
    """
    value = by_session.mean(axis=0)
    if resamples == 0:
        return Estimate(value, value, value)
    generator = np.random.default_rng(seed)
    sessions = len(by_session)
    means = np.empty((resamples, by_session.shape[1]))
    for part in chunks(resamples, sessions * 8):
        rows = part.stop - part.start
        drawn = generator.integers(sessions, size=(rows, sessions))
        drawn += np.arange(rows)[:, None] * sessions
        counts = np.bincount(drawn.ravel(), minlength=rows * sessions).reshape(rows, sessions)
        means[part] = counts.astype(np.float64) @ by_session / sessions
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return Estimate(value, low, high)


def nearest(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest scores of each row, best first; ties by lower column.

    scores: [rows, n] float, overwritten. Returns [rows, min(k, n)] int.
    """
    found = np.empty((len(scores), min(k, scores.shape[1])), np.int64)
    rows = np.arange(len(scores))
    for place in range(found.shape[1]):
        found[:, place] = scores.argmax(axis=1)
        scores[rows, found[:, place]] = -np.inf
    return found


def knn_labels(
    queries: np.ndarray, neighbors: np.ndarray, labels: np.ndarray, *, k: int = 5
) -> np.ndarray:
    """The label that most of the k nearest neighbours have, votes weighted by cosine.

    queries: [q, dim], neighbors: [n, dim], unit vectors, n > 0. labels: [n] int, or [n, any number]
    where a neighbour votes for each of its labels, -1 = padding behind them. Negative cosines vote
    0; of labels with equal votes the one whose first neighbour is nearer wins. Returns [q].
    """
    labels = labels.reshape(len(labels), -1)
    predicted = np.empty(len(queries), labels.dtype)
    named_twice = (min(k, len(neighbors)) * labels.shape[1]) ** 2
    for part in chunks(len(queries), max(len(neighbors), named_twice) * 8):
        scores = queries[part] @ neighbors.T
        found = nearest(scores.copy(), k)
        weights = np.maximum(np.take_along_axis(scores, found, axis=1), 0.0)
        named = labels[found].reshape(len(found), -1)
        weights = np.repeat(weights, labels.shape[1], axis=1)
        same = named[:, :, None] == named[:, None, :]
        votes = np.where(named >= 0, (same * weights[:, None, :]).sum(axis=2), -1.0)
        predicted[part] = named[np.arange(len(named)), votes.argmax(axis=1)]
    return predicted


def rank_me(embeddings: np.ndarray, *, epsilon: float = 1e-7) -> float:
    """The effective rank of embeddings [n, dim], n > 0: from 1 (collapsed) to min(n, dim).

    exp(-sum p log p), p = singular values / their sum + epsilon (Garrido et al., RankMe, 2023).
    """
    values = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny) + epsilon
    return float(np.exp(-np.sum(shares * np.log(shares))))


def uniformity(embeddings: np.ndarray, *, t: float = 2.0) -> float:
    """log of the mean over pairs of exp(-t |x - y|^2), unit vectors [n, dim], n > 1.

    0 = all in one point; lower is more uniform (Wang & Isola, 2020).
    """
    pairs, total = 0, 0.0
    for part in chunks(len(embeddings), len(embeddings) * 8):
        cosines = embeddings[part].astype(np.float64) @ embeddings.T.astype(np.float64)
        later = np.arange(len(embeddings))[None, :] > np.arange(part.start, part.stop)[:, None]
        total += float(np.exp(-t * (2.0 - 2.0 * cosines[later])).sum())
        pairs += int(later.sum())
    return float(np.log(total / pairs))


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """The mean of |x - y|^2 over positive pairs, [pairs, dim] each, pairs > 0; lower is closer.

    Wang & Isola (2020), with exponent 2.
    """
    difference = first.astype(np.float64) - second
    return float(np.mean(np.sum(difference * difference, axis=1)))


def auc(scores: np.ndarray, truths: np.ndarray) -> float:
    """The chance that a true item scores higher than a false one, ties count half; [n] each.

    The area under the ROC curve, by the ranks of the true ones (Mann and Whitney, 1947); nan where
    all are true or none is.
    """
    truths = np.asarray(truths, bool)
    true, false = int(truths.sum()), int((~truths).sum())
    if not true or not false:
        return float("nan")
    distinct, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(distinct))
    ranks = np.cumsum(counts) - (counts - 1) / 2.0  # from 1, equal scores share the mean of theirs
    return float((ranks[place[truths]].sum() - true * (true + 1) / 2.0) / (true * false))
