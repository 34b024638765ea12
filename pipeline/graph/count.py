"""Visits of sessions to counts: of images, of pairs of images, of queries with images.

Each function takes the sessions of one shard and returns its share of the counts. A pair is one
number while it is counted: the codes of its two images and of its user side by side. Sorted, equal
pairs stand together, and so do the sessions of one user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.graph import strength
from pipeline.graph.privacy import bound_contributions
from pipeline.hashing import mix
from pipeline.sessions.sessionize import Sessions, Visits
from pipeline.sorting import bits, changes, order_by, run_lengths, run_starts

# Pairs that are counted at once; bounds the memory of a shard's count.
CHUNK_PAIRS = 8_000_000
_WORD_BITS = 63


@dataclass(frozen=True)
class PairCounts:
    """Counts of pairs of images, each pair once, in ascending order of (low, high).

    images: [images] uint64, ascending hashes. low, high: [pairs] int64, indices into them, low <
    high. sessions, users: [pairs] int64. strength: [pairs] int64 in units, or None where every
    session adds 1.
    """

    images: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sessions: np.ndarray
    users: np.ndarray
    strength: np.ndarray | None


@dataclass(frozen=True)
class _Cells:
    """Sessions of each (pair, user), in ascending order of both."""

    pair: np.ndarray  # low << width | high
    user: np.ndarray  # 0 = unknown
    sessions: np.ndarray
    strength: np.ndarray | None


def count_images(visits: Visits, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the images that any session holds, ascending; in how many sessions)."""
    counts = np.bincount(visits.image, minlength=len(images))
    held = counts > 0
    return images[held], counts[held]


@dataclass(frozen=True)
class Users:
    """The users of a shard's sessions.

    code: [sessions] int64, 0 = unknown. hashes: [codes] uint64; of 0 it means nothing.
    """

    code: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, sessions: Sessions) -> Users:
        hashes, code = np.unique(np.append(np.uint64(0), sessions.user), return_inverse=True)
        return cls(code[1:], hashes)


def count_images_by_user(
    visits: Visits, images: np.ndarray, users: Users, *, limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `count_images`, but how many known users; each adds to at most `limit` images."""
    user = users.code[visits.session]
    order = order_by(visits.image, user)
    image, user = visits.image[order], user[order]
    new = (changes(image) | changes(user)) & (user > 0)
    image, user = image[new], user[new]
    kept = bound_contributions(users.hashes[user], images[image], limit=limit, seed=seed)
    counts = np.bincount(image[kept], minlength=len(images))
    return images[counts > 0], counts[counts > 0]


def count_pairs(
    visits: Visits,
    *,
    images: np.ndarray,
    users: Users,
    factors: np.ndarray | None = None,
    max_pairs_per_user: tuple[int, int] | None = None,
) -> PairCounts:
    """Counts of the pairs of all sessions.

    All sessions of a user are in one shard, so that distinct users add up over shards.
    factors: [sessions] float64, what a session adds to the strength;
    None = 1. max_pairs_per_user: (limit, seed) for differential privacy: a user adds to so many
    pairs, 1 to each, and sessions of unknown users to none.
    """
    width = bits(np.asarray([max(len(images) - 1, 0)]))
    if factors is None and visits.weight is not None:
        factors = np.ones(len(users.code))
    chunks = [
        _count_cells(*chunk, user_bits=bits(users.code))
        for chunk in _fill_chunks(_pairs_by_size(visits, users.code, factors, width))
    ]
    cells = _merge_cells(chunks)
    if max_pairs_per_user is not None:
        cells = _bound_users(cells, images, users.hashes, width, *max_pairs_per_user)
    return _sum_users(cells, images, width)


_Chunk = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]


def _fill_chunks(parts: Iterable[_Chunk]) -> Iterator[_Chunk]:
    """The same pairs in as few chunks as CHUNK_PAIRS allows."""
    waiting: list[_Chunk] = []
    rows = 0
    for part in parts:
        if waiting and rows + len(part[0]) > CHUNK_PAIRS:
            yield _join_chunks(waiting)
            waiting, rows = [], 0
        waiting.append(part)
        rows += len(part[0])
    if waiting:
        yield _join_chunks(waiting)


def _join_chunks(parts: list[_Chunk]) -> _Chunk:
    pairs = np.concatenate([part[0] for part in parts])
    users = np.concatenate([part[1] for part in parts])
    units = [part[2] for part in parts if part[2] is not None]
    return pairs, users, np.concatenate(units) if units else None


def _pairs_by_size(
    visits: Visits, users: np.ndarray, factors: np.ndarray | None, width: int
) -> Iterator[_Chunk]:
    """(pairs, users, units of strength or None) of many sessions at a time.

    Sessions of one size are laid out as a matrix, so that the pairs of two places in them are the
    pairs of two of its rows.
    """
    starts = run_starts(visits.session)
    sizes = run_lengths(starts, len(visits.session))
    for size in np.unique(sizes[sizes > 1]):
        of_size = starts[sizes == size]
        step = max(1, CHUNK_PAIRS // (int(size) * (int(size) - 1) // 2))
        for begin in range(0, len(of_size), step):
            rows = of_size[begin : begin + step] + np.arange(size)[:, None]
            session = visits.session[rows[0]]
            units = None if factors is None else _units(visits, rows, factors[session])
            yield _pairs_of(visits.image[rows], width), _repeat(users[session], size), units


def _pairs_of(images: np.ndarray, width: int) -> np.ndarray:
    """All pairs of each column of [size, sessions] codes that ascend down the columns."""
    size, sessions = images.shape
    pairs = np.empty((size * (size - 1) // 2, sessions), np.int64)
    begin = 0
    for place in range(size - 1):
        end = begin + size - 1 - place
        np.bitwise_or(images[place] << width, images[place + 1 :], out=pairs[begin:end])
        begin = end
    return pairs.ravel()


def _repeat(users: np.ndarray, size: int) -> np.ndarray:
    """The user of each pair, in the order of `_pairs_of`."""
    return np.broadcast_to(users, (size * (size - 1) // 2, len(users))).ravel()


def _units(visits: Visits, rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The strength that each pair's session adds to it, in the order of `_pairs_of`."""
    first, second = np.triu_indices(len(rows), k=1)
    weights = strength.visit_weights(visits)[rows]
    return strength.pair_units(weights[first], weights[second], factors).ravel()


def _count_cells(
    pairs: np.ndarray, users: np.ndarray, units: np.ndarray | None, *, user_bits: int
) -> _Cells:
    """Sessions of each (pair, user) of a chunk."""
    if units is not None or bits(pairs) + user_bits > _WORD_BITS:
        ones = np.ones(len(pairs), np.int64)
        return _sum_cells(order_by(pairs, users), pairs, users, ones, units)
    packed = pairs  # in place: these are the longest columns of all
    packed <<= user_bits
    packed |= users
    packed.sort()
    starts = run_starts(packed)
    cells, mask = packed[starts], (1 << user_bits) - 1
    return _Cells(cells >> user_bits, cells & mask, run_lengths(starts, len(packed)), None)


def _sum_cells(
    order: np.ndarray,
    pairs: np.ndarray,
    users: np.ndarray,
    sessions: np.ndarray,
    units: np.ndarray | None,
) -> _Cells:
    pairs, users, sessions = pairs[order], users[order], sessions[order]
    starts = np.flatnonzero(changes(pairs) | changes(users))
    return _Cells(
        pairs[starts],
        users[starts],
        np.add.reduceat(sessions, starts) if len(starts) else sessions,
        None if units is None else strength.add_up(units[order], starts),
    )


def _merge_cells(chunks: list[_Cells]) -> _Cells:
    if not chunks:
        nothing = np.zeros(0, np.int64)
        return _Cells(nothing, nothing, nothing, None)
    if len(chunks) == 1:
        return chunks[0]
    pairs, users, sessions = (
        np.concatenate([getattr(chunk, name) for chunk in chunks])
        for name in ("pair", "user", "sessions")
    )
    units = None
    if chunks[0].strength is not None:
        units = np.concatenate([chunk.strength for chunk in chunks if chunk.strength is not None])
    return _sum_cells(order_by(pairs, users), pairs, users, sessions, units)


def _bound_users(
    cells: _Cells, images: np.ndarray, hashes: np.ndarray, width: int, limit: int, seed: int
) -> _Cells:
    """At most `limit` pairs of each known user, each counted once; drawn by hash."""
    known = cells.user > 0
    pair, user = cells.pair[known], cells.user[known]
    low, high = images[pair >> width], images[pair & ((1 << width) - 1)]
    kept = bound_contributions(hashes[user], name_pairs(low, high), limit=limit, seed=seed)
    return _Cells(pair[kept], user[kept], np.ones(int(kept.sum()), np.int64), None)


def name_pairs(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[pairs] uint64: a hash of each pair of hashes, for draws and noise."""
    return mix(mix(low) ^ high)


def _distinct_users(users: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many known users each run has, in which every user stands once."""
    if users.all():
        return run_lengths(starts, len(users))
    return np.add.reduceat((users > 0).astype(np.int64), starts)


def _sum_users(cells: _Cells, images: np.ndarray, width: int) -> PairCounts:
    starts = run_starts(cells.pair)
    low, high = cells.pair[starts] >> width, cells.pair[starts] & ((1 << width) - 1)
    if not len(starts):
        return PairCounts(images, low, high, low, low, None)
    return PairCounts(
        images,
        low,
        high,
        np.add.reduceat(cells.sessions, starts),
        _distinct_users(cells.user, starts),
        None if cells.strength is None else strength.add_up(cells.strength, starts),
    )
