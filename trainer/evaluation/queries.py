"""Held-out sessions as queries: which images are right for an image, and which for a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.evaluation import inputs


@dataclass(frozen=True)
class Queries:
    """Held-out queries and the images that are right for them.

    item: [queries] int, what a method takes: a row of the corpus or the number of a text.
    session: [queries] int. query: [pairs] int, below `queries`. target: [pairs] int, a row of the
    corpus or NO_ROW. Every query has at least one pair.
    """

    item: np.ndarray
    session: np.ndarray
    query: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def relevant(self) -> np.ndarray:
        """Images that are right: [queries] int."""
        return np.bincount(self.query, minlength=len(self))

    def present(self) -> np.ndarray:
        """Relevant images that are in the corpus: [queries] int."""
        return np.bincount(self.query[self.target >= 0], minlength=len(self))


def pairs_within(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of two different places in one group. group: [n] int, ascending.

    Returns (first, second), [pairs] int each, by first.
    """
    _, starts, sizes = np.unique(group, return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    first = np.repeat(np.arange(len(group)), size)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
    second = np.repeat(start, size) + offset
    different = first != second
    return first[different], second[different]


def image_queries(holdout: inputs.Holdout, rows: np.ndarray) -> tuple[Queries, int]:
    """Each image of a session as a query for the session's other images.

    rows: [clicks] int, the rows of the images in the corpus. Returns the queries whose image is in
    the corpus, and how many there are whose image is not. A session of one image asks nothing.
    """
    ids = pc.dictionary_encode(holdout.image_id).indices.to_numpy(zero_copy_only=False)
    session, row = _distinct(holdout.session, ids, rows)
    first, second = pairs_within(session)
    asked, query = np.unique(first, return_inverse=True)
    known = row[asked] >= 0
    number = np.cumsum(known) - 1
    kept = known[query]
    queries = Queries(
        item=row[asked[known]],
        session=session[asked[known]],
        query=number[query[kept]],
        target=row[second[kept]],
    )
    return queries, int((~known).sum())


def _distinct(group: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each image of a group once, by group: (group, row)."""
    _, at = np.unique(np.stack([group, ids], axis=1), axis=0, return_index=True)
    return group[at], rows[at]


def text_queries(holdout: inputs.Holdout, rows: np.ndarray) -> tuple[Queries, pa.Array]:
    """Each query text of a session, for the images that were opened for it in that session.

    Returns the queries and the texts, [t] string, that their items number.
    """
    asked = pc.fill_null(holdout.query, "")
    with_text = np.flatnonzero(pc.utf8_trim_whitespace(asked).to_numpy(zero_copy_only=False) != "")
    encoded = pc.dictionary_encode(asked.take(pa.array(with_text)))
    text = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    keys = np.stack([holdout.session[with_text], text], axis=1)
    distinct, number = np.unique(keys, axis=0, return_inverse=True)
    ids = pc.dictionary_encode(holdout.image_id).indices.to_numpy(zero_copy_only=False)
    query, target = _distinct(number.reshape(-1), ids[with_text], rows[with_text])
    queries = Queries(item=distinct[:, 1], session=distinct[:, 0], query=query, target=target)
    return queries, encoded.dictionary
