"""Arrow tables through Beam: elements are tables of many rows, never single rows.

Beam moves the tables, Arrow and numpy do the work inside. A shard is the part of the rows whose
key hashes to it; which shard a row is in, and so how many there are, never shows in a result.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipeline.hashing import hash_values

# A table and the shard that it belongs to.
Keyed = tuple[int, pa.Table]


# Where tables between steps are kept as files, and how large one must be: see `spilling`.
_SPILL_BYTES = 1 << 17
_spill_folder: str | None = None
_spill_names = itertools.count()
_NO_COLUMNS = pa.table({})
_INLINE, _IN_FILE = b"\x00", b"\x01"


@contextmanager
def spilling(folder: str) -> Iterator[None]:
    """Keeps large tables between the steps of an embedded job in files of a local folder.

    The embedded runner holds all that it shuffles in memory, several times over; with this it holds
    paths. The folder is made when it is needed and removed at the end. Other engines have a shuffle
    of their own, and their workers, being other processes, never see the folder.
    """
    global _spill_folder
    _spill_folder = folder
    try:
        yield
    finally:
        _spill_folder = None
        shutil.rmtree(folder, ignore_errors=True)


class TableCoder(beam.coders.Coder):
    """pa.Table as an Arrow IPC stream: a third of the cost of pickle, and readable elsewhere."""

    def encode(self, value: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.Table:
        return pa.ipc.open_stream(encoded).read_all()

    def estimate_size(self, value: pa.Table) -> int:
        return int(value.nbytes)  # without this Beam encodes a table a second time to measure it

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[pa.Table]:
        return pa.Table


class Parcel:
    """A table on its way from one step to another, read where it is needed.

    While `spilling`, a large one lies in a file, and only its path goes through Beam.
    """

    def __init__(self, content: pa.Table | str) -> None:
        self._content = content

    def table(self) -> pa.Table:
        """The table; one that lies in a file is mapped into memory, and read where it is used."""
        if isinstance(self._content, str):
            return pa.ipc.open_stream(pa.memory_map(self._content)).read_all()
        return self._content

    def spilled(self) -> str | None:
        """The file that the table lies in, written if that is called for; None if it is small."""
        if isinstance(self._content, str):
            return self._content
        if _spill_folder is None or self._content.nbytes < _SPILL_BYTES:
            return None
        self._content = _spill(_spill_folder, self._content)
        return self._content


# A parcel and the shard that it belongs to: what JoinShards takes from the steps before it.
Shipped = tuple[int, Parcel]


def ship(table: pa.Table) -> Parcel:
    """A table as a parcel, in its file already where it needs one."""
    parcel = Parcel(table)
    parcel.spilled()
    return parcel


class ParcelCoder(beam.coders.Coder):
    """A parcel as the path of its file, or as the table itself."""

    def encode(self, value: Parcel) -> bytes:
        path = value.spilled()
        if path is not None:
            return _IN_FILE + path.encode()
        return _INLINE + TableCoder().encode(value.table())

    def decode(self, encoded: bytes) -> Parcel:
        kind, content = encoded[:1], encoded[1:]
        return Parcel(content.decode() if kind == _IN_FILE else TableCoder().decode(content))

    def estimate_size(self, value: Parcel) -> int:
        return 100  # of a path; Beam asks for every so many elements, and a table is not to be read

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type[Parcel]:
        return Parcel


def _spill(folder: str, table: pa.Table) -> str:
    """Writes a table to a new file; returns its path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{next(_spill_names):06d}.arrow")
    try:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    except OSError as error:  # Arrow's own does not name the file
        raise OSError(error.errno, error.strerror, path) from None
    return path


beam.coders.registry.register_coder(pa.Table, TableCoder)
beam.coders.registry.register_coder(Parcel, ParcelCoder)


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
