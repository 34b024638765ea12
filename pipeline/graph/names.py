"""Hashes back to the ids and texts that they stand for, shard to shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columnar import Keyed, concatenate
from pipeline.errors import ImgembedError
from pipeline.graph.shares import shard_of
from pipeline.ids import NAME_SCHEMA
from pipeline.sorting import rows_of


def split_sorted(table: pa.Table, column: str, bounds: np.ndarray) -> Iterator[Keyed]:
    """The part of each shard of a table that ascends in a column of hashes."""
    hashes = table[column].to_numpy()
    rows = [0, *np.searchsorted(hashes, bounds).tolist(), len(hashes)]
    for shard in range(len(bounds) + 1):
        if rows[shard + 1] > rows[shard]:
            yield shard, table.slice(rows[shard], rows[shard + 1] - rows[shard])


def split_by(table: pa.Table, column: str, bounds: np.ndarray) -> Iterator[Keyed]:
    """The part of each shard of a table in any order, its rows in their order."""
    if not len(bounds):
        if table.num_rows:
            yield 0, table
        return
    shard = shard_of(table[column].to_numpy(), bounds).astype(np.uint16)
    order = np.argsort(shard, kind="stable")
    rows = np.searchsorted(shard[order], np.arange(len(bounds) + 2))
    grouped = table.take(pa.array(order))
    for index in range(len(bounds) + 1):
        start, stop = int(rows[index]), int(rows[index + 1])
        if stop > start:
            yield index, grouped.slice(start, stop - start)


def distinct(tables: Iterable[pa.Table]) -> pa.Table:
    """NAME_SCHEMA with each name once, in ascending order of hashes.

    ImgembedError where two names have one hash: their counts could not be told apart.
    """
    names = concatenate(tables, NAME_SCHEMA)
    hashes = names["hash"].to_numpy()
    order = np.argsort(hashes)
    names = names.take(pa.array(order))
    same = hashes[order][1:] == hashes[order][:-1]
    texts = names["text"].combine_chunks()
    differ = pc.not_equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
    clash = np.flatnonzero(same & differ)
    if len(clash):
        first, second = (texts[int(clash[0]) + step].as_py() for step in (0, 1))
        raise ImgembedError(f"{first!r} and {second!r} have the same 64-bit hash; rename one")
    return names.filter(pa.array(np.append(True, ~same))) if len(hashes) else names


def look_up(hashes: np.ndarray, table: pa.Table, *, column: str = "image") -> np.ndarray:
    """[rows] int64: the row of each hash in a table that ascends in `column`; -1 where it lacks."""
    return rows_of(hashes, table[column].to_numpy())


def check_found(rows: np.ndarray) -> None:
    """Fails where a hash is not known: a runner that loses data must not go unseen."""
    if (rows < 0).any():
        raise ImgembedError(
            f"{int((rows < 0).sum()):,} names were lost between two steps; run it again"
        )
