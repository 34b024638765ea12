"""Counts of pairs on their way from the shards of sessions to the shards of pairs, and added up.

A shard of pairs holds a range of hashes of the lower image. Counts stand in ascending order, so
that the part for each shard is a slice of them, and images travel as short codes beside the list of
their hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.columnar import Keyed
from pipeline.graph.count import PairCounts
from pipeline.graph.strength import UNIT, add_up
from pipeline.sorting import bits, changes, run_starts, sort_together


def pair_bounds(shards: int) -> np.ndarray:
    """[shards - 1] uint64: where each shard but the first begins, in hashes of the lower image.

    The lower of two uniform hashes is below x with probability 1 - (1 - x)²; so that every shard
    gets as many pairs, the t-th begins at 1 - sqrt(1 - t / shards).
    """
    share = np.arange(1, shards) / shards
    return _to_hashes(1.0 - np.sqrt(1.0 - share))


def image_bounds(shards: int) -> np.ndarray:
    """[shards - 1] uint64: the same for images, in equal parts."""
    return _to_hashes(np.arange(1, shards) / shards)


def _to_hashes(shares: np.ndarray) -> np.ndarray:
    return (shares * 2.0**53).astype(np.uint64) << np.uint64(11)


def shard_of(hashes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """[rows] int64: the shard of each hash."""
    return np.searchsorted(bounds, hashes, side="right")


def to_tables(counts: PairCounts, bounds: np.ndarray) -> Iterator[Keyed]:
    """(shard, its part of the counts) for each shard that has any."""
    codes = np.searchsorted(counts.images, bounds)
    rows = [0, *np.searchsorted(counts.low, codes).tolist(), len(counts.low)]
    for shard, (start, stop) in enumerate(itertools.pairwise(rows)):
        if stop > start:
            yield shard, _to_table(counts, slice(start, stop))


def _to_table(counts: PairCounts, rows: slice) -> pa.Table:
    low, high, images = counts.low[rows], counts.high[rows], counts.images
    if 2 * len(low) < len(images):  # a long list of hashes for a few pairs
        used = np.zeros(len(images), bool)
        used[low] = used[high] = True
        code = np.cumsum(used) - 1
        low, high, images = code[low], code[high], images[used]
    columns = {
        "low": pa.DictionaryArray.from_arrays(pa.array(low.astype(np.int32)), pa.array(images)),
        "high": pa.array(high.astype(np.int32)),  # codes in the same list
        "sessions": _narrow(counts.sessions[rows]),
        "users": _narrow(counts.users[rows]),
    }
    table = pa.table(columns)
    if counts.strength is None:
        return table
    return table.append_column("strength", pa.array(counts.strength[rows]))


def _narrow(column: np.ndarray) -> pa.Array:
    """Most counts of a shard are small: in as few bytes as they need."""
    width = bits(column)
    for type_ in (np.uint8, np.uint16, np.uint32):
        if width <= np.iinfo(type_).bits:
            return pa.array(column.astype(type_))
    return pa.array(column)


def merge(tables: Iterable[pa.Table], *, users: np.ufunc = np.add) -> PairCounts:
    """Counts added up; `users` says how distinct users are put together.

    np.add where no user is in two tables; np.maximum where they may be: a lower bound.
    """
    parts = [_from_table(table) for table in tables if table.num_rows]
    return combine(parts, users=users)


def combine(parts: Sequence[PairCounts], *, users: np.ufunc = np.add) -> PairCounts:
    """As `merge`."""
    if not parts:
        nothing = np.zeros(0, np.int64)
        return PairCounts(np.zeros(0, np.uint64), nothing, nothing, nothing, nothing, None)
    images = np.sort(np.concatenate([part.images for part in parts]))
    images = images[changes(images)]
    width = bits(np.asarray([len(images) - 1]))
    keys = np.concatenate([_keys(part, images, width) for part in parts])
    payload = [np.concatenate([part.sessions for part in parts])]
    payload.append(np.concatenate([part.users for part in parts]))
    if any(part.strength is not None for part in parts):
        payload.append(np.concatenate([strength_of(part) for part in parts]))
    keys, *payload = sort_together(keys, *payload)
    starts = run_starts(keys)
    pairs = keys[starts]
    return PairCounts(
        images,
        pairs >> width,
        pairs & ((1 << width) - 1),
        np.add.reduceat(payload[0], starts),
        users.reduceat(payload[1], starts),
        add_up(payload[2], starts) if len(payload) > 2 else None,
    )


def strength_of(counts: PairCounts) -> np.ndarray:
    """[pairs] int64 units."""
    return counts.sessions * UNIT if counts.strength is None else counts.strength


def keep(counts: PairCounts, rows: np.ndarray) -> PairCounts:
    """Some of the pairs; rows: [pairs] bool."""
    return PairCounts(
        counts.images,
        counts.low[rows],
        counts.high[rows],
        counts.sessions[rows],
        counts.users[rows],
        None if counts.strength is None else counts.strength[rows],
    )


def _keys(part: PairCounts, images: np.ndarray, width: int) -> np.ndarray:
    code = np.searchsorted(images, part.images)
    return (code[part.low] << width) | code[part.high]


def _from_table(table: pa.Table) -> PairCounts:
    low, high = (table[name].combine_chunks() for name in ("low", "high"))
    if pa.types.is_dictionary(low.type):
        images = low.dictionary.to_numpy()
        codes = low.indices.to_numpy().astype(np.int64), high.to_numpy().astype(np.int64)
    else:  # hashes themselves, as counts of an earlier run have them
        images, both = _codes(np.concatenate([low.to_numpy(), high.to_numpy()]))
        codes = both[: len(low)], both[len(low) :]
    numbers = {
        name: table[name].to_numpy().astype(np.int64)
        for name in ("sessions", "users", "strength")
        if name in table.column_names
    }
    return PairCounts(
        images, *codes, numbers["sessions"], numbers["users"], numbers.get("strength")
    )


def _codes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct hashes in any order, [rows] int64 indices into them)."""
    encoded = pa.array(hashes).dictionary_encode()
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy().astype(np.int64)
