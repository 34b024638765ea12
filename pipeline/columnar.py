"""Arrow tables through Beam: elements are tables of many rows, never single rows.

Beam moves the tables, Arrow and numpy do the work inside. A shard is the part of the rows whose
key hashes to it; which shard a row is in, and so how many there are, never shows in a result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline.hashing import hash_values
from pipeline.parcels import Parcel, Shipped

# A table and the shard that it belongs to.
Keyed = tuple[int, pa.Table]
_NO_COLUMNS = pa.table({})


def split_by_shard(table: pa.Table, shard: np.ndarray, shards: int) -> Iterator[Keyed]:
    """The rows of each shard that has any, in their order. shard: [rows] int, below `shards`."""
    if table.num_rows == 0:
        return
    if shards == 1:
        yield 0, table
        return
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(shards + 1))
    grouped = table.take(pa.array(order))
    for index in range(shards):
        start, stop = int(bounds[index]), int(bounds[index + 1])
        if stop > start:
            yield index, grouped.slice(start, stop - start)


SHARD_SALT = "shard"


def split_by_column(table: pa.Table, *, column: str, shards: int) -> Iterator[Keyed]:
    """The table cut by the hash of one column of strings."""
    if shards == 1:
        return split_by_shard(table, np.zeros(0, np.int64), 1)
    hashes = hash_values(table[column], salt=SHARD_SALT)
    return split_by_shard(table, (hashes % np.uint64(shards)).astype(np.int64), shards)


def concatenate(tables: Iterable[pa.Table], schema: pa.Schema | None = None) -> pa.Table:
    """One table of all rows, in single chunks; `schema` says what no row at all looks like."""
    parts = list(tables)
    if not parts and schema is not None:
        return schema.empty_table()
    return pa.concat_tables(parts).combine_chunks()


def concatenate_ascending(tables: Iterable[pa.Table], column: str, schema: pa.Schema) -> pa.Table:
    """One table of parts that ascend in a column of numbers and do not overlap."""
    parts = [table for table in tables if table.num_rows]
    return concatenate(sorted(parts, key=lambda table: table[column][0].as_py()), schema)


@dataclass
class SplitByColumn(beam.PTransform):
    """Cuts tables by the hash of a column of strings.

    Input: pa.Table. Output: (shard, pa.Table).
    """

    column: str
    shards: int

    def expand(self, tables: beam.PCollection[pa.Table]) -> beam.PCollection[Keyed]:
        return tables | "Split" >> beam.FlatMap(
            split_by_column, column=self.column, shards=self.shards
        ).with_output_types(Keyed)


@dataclass
class GatherShards(beam.PTransform):
    """Brings the tables of each shard together, in no order that could be relied on.

    Input: (shard, pa.Table). Output: (shard, pa.Table), one element a shard that has rows.
    """

    def expand(self, keyed: beam.PCollection[Keyed]) -> beam.PCollection[Keyed]:
        return (
            keyed
            | "Group" >> beam.GroupByKey()
            | "Concatenate" >> beam.MapTuple(_concatenate_shard).with_output_types(Keyed)
        )


@dataclass
class EveryShard(beam.PTransform):
    """A table without rows for each shard: joined in, it makes a shard appear that has none.

    Input: the root. Output: (shard, pa.Table).
    """

    shards: int

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Keyed]:
        return root | "Shards" >> beam.Create(
            [(shard, _NO_COLUMNS) for shard in range(self.shards)], reshuffle=False
        ).with_output_types(Keyed)


@dataclass
class JoinShards(beam.PTransform):
    """Brings the tables of each shard together, each kind by its own name.

    Input: {kind: Keyed or Shipped}. Output: (shard, {kind: its tables}), in no order that could be
    relied on, one element a shard that has any. Beam's CoGroupByKey would pickle the tables, and
    read and write them twice.
    """

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[Joined]:
        parcels = [
            tables | f"Pack_{kind}" >> beam.Map(_pack, kind).with_output_types(_Packed)
            for kind, tables in inputs.items()
        ]
        together = parcels[0] if len(parcels) == 1 else parcels | "Flatten" >> beam.Flatten()
        return together | "Group" >> beam.GroupByKey() | "Sort" >> beam.Map(_by_kind, tuple(inputs))


class Tables:
    """Tables of one kind, each read when it is its turn."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []

    def __iter__(self) -> Iterator[pa.Table]:
        return (parcel.table() for parcel in self.parcels)


_Packed = tuple[int, tuple[str, Parcel]]
Joined = tuple[int, Mapping[str, Tables]]


def _pack(keyed: Keyed | Shipped, kind: str) -> _Packed:
    shard, table = keyed
    return shard, (kind, table if isinstance(table, Parcel) else Parcel(table))


def _by_kind(element: tuple[int, Iterable[tuple[str, Parcel]]], kinds: Sequence[str]) -> Joined:
    shard, packed = element
    joined = {kind: Tables() for kind in kinds}
    for kind, parcel in packed:
        joined[kind].parcels.append(parcel)
    return shard, joined


def _concatenate_shard(shard: int, tables: Iterable[pa.Table]) -> Keyed:
    return shard, concatenate(tables)


def sort_rows(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows in ascending order of the columns; nulls last. Strings compare by their UTF-8 bytes."""
    return table.sort_by([(column, "ascending") for column in columns])
