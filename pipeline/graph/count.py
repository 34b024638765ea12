"""Visits of sessions to counts: of images, of pairs of images, of queries with images.

Each function takes the visits of one shard (VISIT_SCHEMA) and returns its share of the counts; the
`merge` functions add up the shares of several shards. Images travel as 64-bit hashes until the
counts are done: a pair is two integers, and no Python object is made for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columnar import hash_values
from pipeline.errors import ImgembedError

IMAGE_SALT = "image"
# Pairs that are counted at once; bounds the memory of a shard's count.
_CHUNK_PAIRS = 4_000_000

IMAGE_COUNTS = pa.schema(
    [("image", pa.uint64()), ("image_id", pa.string()), ("sessions", pa.int64())]
)
PAIR_COUNTS = pa.schema(
    [("src", pa.uint64()), ("dst", pa.uint64()), ("sessions", pa.int64()), ("users", pa.int64())]
)
QUERY_COUNTS = pa.schema(
    [
        ("query", pa.string()),
        ("image_id", pa.string()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
    ]
)


def count_images(visits: pa.Table) -> pa.Table:
    """n_i of the shard's images, as IMAGE_COUNTS."""
    counts = visits.filter(visits["first"]).group_by("image_id").aggregate([([], "count_all")])
    hashes = pa.array(hash_values(counts["image_id"], salt=IMAGE_SALT))
    return pa.table([hashes, counts["image_id"], counts["count_all"]], schema=IMAGE_COUNTS)


def merge_images(shares: pa.Table) -> pa.Table:
    """IMAGE_COUNTS with one row an image, sorted by hash."""
    merged = shares.group_by(["image", "image_id"]).aggregate([("sessions", "sum")])
    table = pa.table(
        [merged["image"], merged["image_id"], merged["sessions_sum"]], schema=IMAGE_COUNTS
    ).sort_by("image")
    hashes = table["image"].to_numpy()
    same = np.flatnonzero(hashes[1:] == hashes[:-1])
    if len(same):
        first, second = (table["image_id"][int(same[0]) + step].as_py() for step in (0, 1))
        raise ImgembedError(f"image ids {first!r} and {second!r} have the same 64-bit hash")
    return table


def count_pairs(visits: pa.Table) -> pa.Table:
    """c_ij of the shard's sessions in both directions, as PAIR_COUNTS.

    All sessions of a user are in one shard, so that distinct users add up over shards.
    """
    visits = visits.filter(visits["first"])
    images = visits["image_id"].combine_chunks().dictionary_encode()
    hashes = hash_values(images.dictionary, salt=IMAGE_SALT)
    codes = images.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    session = visits["session"].to_numpy()
    users = _user_codes(visits["user"])
    shares = [
        _count_chunk(*chunk) for chunk in _pair_chunks(session, codes, users, images=len(hashes))
    ]
    return _sum_pairs(shares, hashes)


def _user_codes(users: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64, -1 where there is no user."""
    encoded = users.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _pair_chunks(
    session: np.ndarray, codes: np.ndarray, users: np.ndarray, *, images: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(pair keys, users) of many sessions at a time. A key is smaller code * images + larger."""
    _, starts, sizes = np.unique(session, return_index=True, return_counts=True)
    for size in np.unique(sizes[sizes > 1]):
        first, second = np.triu_indices(int(size), k=1)
        of_size = starts[sizes == size]
        step = max(1, _CHUNK_PAIRS // len(first))
        for begin in range(0, len(of_size), step):
            rows = of_size[begin : begin + step, None]
            left, right = codes[rows + first], codes[rows + second]
            keys = np.minimum(left, right) * images + np.maximum(left, right)
            yield keys.ravel(), np.broadcast_to(users[rows], keys.shape).ravel()


def _count_chunk(keys: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct keys, users, sessions) of each (key, user)."""
    order = np.lexsort((users, keys))
    keys, users = keys[order], users[order]
    starts = np.flatnonzero(_changes(keys) | _changes(users))
    return keys[starts], users[starts], np.diff(np.append(starts, len(keys)))


def _changes(values: np.ndarray) -> np.ndarray:
    """True where a value differs from the one before it, and at the first."""
    mask = np.ones(len(values), bool)
    mask[1:] = values[1:] != values[:-1]
    return mask


def _sum_pairs(
    shares: list[tuple[np.ndarray, np.ndarray, np.ndarray]], hashes: np.ndarray
) -> pa.Table:
    """PAIR_COUNTS of (key, user, sessions) triples, both directions."""
    if not shares:
        return PAIR_COUNTS.empty_table()
    keys, users, sessions = (np.concatenate(part) for part in zip(*shares, strict=True))
    order = np.lexsort((users, keys))
    keys, users, sessions = keys[order], users[order], sessions[order]
    starts = np.flatnonzero(_changes(keys))
    known = (_changes(keys) | _changes(users)) & (users >= 0)
    totals = np.add.reduceat(sessions, starts)
    distinct = np.add.reduceat(known.astype(np.int64), starts)
    low, high = hashes[keys[starts] // len(hashes)], hashes[keys[starts] % len(hashes)]
    columns = [
        np.concatenate([low, high]),
        np.concatenate([high, low]),
        np.tile(totals, 2),
        np.tile(distinct, 2),
    ]
    return pa.table(columns, schema=PAIR_COUNTS)


def merge_pairs(shares: pa.Table, *, min_sessions: int) -> tuple[pa.Table, int]:
    """(PAIR_COUNTS with one row a pair of at least `min_sessions`, how many pairs there were)."""
    merged = shares.group_by(["src", "dst"]).aggregate([("sessions", "sum"), ("users", "sum")])
    table = pa.table(
        [merged[name] for name in ("src", "dst", "sessions_sum", "users_sum")], schema=PAIR_COUNTS
    )
    return table.filter(pc.greater_equal(table["sessions"], min_sessions)), table.num_rows


def count_queries(visits: pa.Table) -> pa.Table:
    """Sessions and users that opened an image under a query, as QUERY_COUNTS."""
    asked = visits.filter(pc.is_valid(visits["query"]))
    counts = asked.group_by(["query", "image_id"]).aggregate(
        [([], "count_all"), ("user", "count_distinct")]
    )
    return pa.table(
        [counts[name] for name in ("query", "image_id", "count_all", "user_count_distinct")],
        schema=QUERY_COUNTS,
    )


def merge_queries(shares: pa.Table) -> pa.Table:
    """QUERY_COUNTS with one row a (query, image), sorted by both."""
    merged = shares.group_by(["query", "image_id"]).aggregate(
        [("sessions", "sum"), ("users", "sum")]
    )
    names = ("query", "image_id", "sessions_sum", "users_sum")
    table = pa.table([merged[name] for name in names], schema=QUERY_COUNTS)
    return table.sort_by([("query", "ascending"), ("image_id", "ascending")])
