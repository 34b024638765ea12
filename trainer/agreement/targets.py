"""Agreement without class labels: images clicked for the same query by different users agree.

In: clicks as arrays, query, node and user each. Out: pairs of nodes, and whether they agree. This
is ours; the publication has classes. Two images that one user clicks for one query may be clicked
because of each other; that two users click them is a sign of what they show.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

MOST_USERS = 4  # that are asked for of a click
ENOUGH_PAIRS = 1_000
_PAIRS_AT_ONCE = 1 << 17
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")
_QUERY = 0xFFFFFFFF  # the lower half of a key
_TRIES = 4  # of drawing a pair that never meets


def agreeing_pairs(
    query: np.ndarray, node: np.ndarray, user: np.ndarray, *, partners: int = 8, seed: int
) -> np.ndarray:
    """[p, 2] int32, i < j, each pair once: clicked for one query by two users.

    Each click is paired with the next `partners` of its query in an order that is drawn, so with
    all of them where there are no more, and popular queries do not become quadratic. A pair is
    taken if any of the paired clicks are of two users.

    query, node, user [clicks] int: one row a click.
    """
    draw = np.random.default_rng(seed)
    order = np.lexsort([draw.random(len(query)), query])
    query, node, user = query[order], node[order], user[order]
    found = [np.zeros((0, 2), np.int64)]
    for apart in range(1, min(partners, len(query) - 1) + 1):
        one, other = slice(None, -apart), slice(apart, None)
        taken = (
            (query[one] == query[other]) & (user[one] != user[other]) & (node[one] != node[other])
        )
        found.append(np.stack([node[one][taken], node[other][taken]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0).astype(np.int32)


def surest_pairs(
    query: np.ndarray,
    node: np.ndarray,
    user: np.ndarray,
    users: np.ndarray,
    *,
    partners: int = 8,
    seed: int,
) -> np.ndarray:
    """The agreeing pairs of clicks that several users made, of as many users as leave enough pairs.

    Who wanders clicks on anything, but seldom on what somebody else clicked for that query: the
    more users, the surer the pair. users [clicks] int: how many made each click; 0: nobody knows.
    """
    for least in range(MOST_USERS, 0, -1):
        of_many = np.maximum(users, 1) >= least
        clicks = query[of_many], node[of_many], user[of_many]
        found = agreeing_pairs(*clicks, partners=partners, seed=seed)
        if len(found) >= ENOUGH_PAIRS:
            break
    return found


def never_meeting_pairs(
    like: np.ndarray,
    query: np.ndarray,
    node: np.ndarray,
    *,
    met: np.ndarray | None = None,
    seed: int,
) -> np.ndarray:
    """[p, 2] int32: at most as many pairs as `like`, which share no query, are no edge and differ.

    Their ends are those of `like`, put together anew, so that an image is as often in a pair that
    agrees as in one that does not: how popular it is tells nothing.

    like: [p, 2] pairs that agree. met: [e, 2] pairs that meet otherwise, such as in a session.
    """
    if not len(like):
        return np.zeros((0, 2), np.int32)
    draw = np.random.default_rng(seed)
    shared = _SharedQueries(query, node)
    edges = np.unique(_keys(np.zeros((0, 2), np.int64) if met is None else met))
    left, found = np.sort(like, axis=1).astype(np.int64), []
    for _ in range(_TRIES):
        ends = np.stack([draw.permutation(left[:, 0]), draw.permutation(left[:, 1])], axis=1)
        bad = (ends[:, 0] == ends[:, 1]) | np.isin(_keys(ends), edges) | shared.of(ends)
        found.append(ends[~bad])
        left = ends[bad]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0).astype(np.int32)


def _keys(pairs: np.ndarray) -> np.ndarray:
    """One number a pair, the same for (i, j) and (j, i)."""
    ends = np.sort(pairs, axis=1).astype(np.int64)
    return (ends[:, 0] << 32) | ends[:, 1]


class _SharedQueries:
    """Whether two nodes were ever clicked for the same query."""

    def __init__(self, query: np.ndarray, node: np.ndarray) -> None:
        _, query = np.unique(query, return_inverse=True)
        self._keys = np.unique((node.astype(np.int64) << 32) | query.astype(np.int64))
        self._nodes = self._keys >> 32

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """[p, 2] -> [p] bool."""
        parts = range(0, len(pairs), _PAIRS_AT_ONCE)
        found = [self._of(pairs[start : start + _PAIRS_AT_ONCE]) for start in parts]
        return np.concatenate([np.zeros(0, bool), *found])

    def _of(self, pairs: np.ndarray) -> np.ndarray:
        """Each query of a pair's first node, looked up as one of its second node."""
        starts, ends = (np.searchsorted(self._nodes, pairs[:, 0], side) for side in _SIDES)
        counts = ends - starts
        of_pair = np.repeat(np.arange(len(pairs)), counts)
        place = np.arange(len(of_pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        queries = self._keys[starts[of_pair] + place] & _QUERY
        wanted = (pairs[of_pair, 1] << 32) | queries
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        shares = np.zeros(len(pairs), bool)
        shares[of_pair[self._keys[at] == wanted]] = True
        return shares


def query_targets(
    query: np.ndarray,
    node: np.ndarray,
    user: np.ndarray,
    users: np.ndarray,
    *,
    met: np.ndarray | None = None,
    partners: int = 8,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs to learn agreement from: ([p, 2] int32, [p] bool); those that agree come first.

    query, node, user [clicks] int: one row a click; users [clicks] int: how many made it.

    Pairs that meet within a session, or for a query but through one user alone, are in neither
    kind: nothing is known of them.
    """
    agreeing = surest_pairs(query, node, user, users, partners=partners, seed=seed)
    others = never_meeting_pairs(agreeing, query, node, met=met, seed=seed + 1)
    targets = np.repeat([True, False], [len(agreeing), len(others)])
    return np.concatenate([agreeing, others]), targets
