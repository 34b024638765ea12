"""The files of an export: Parquet, and the same rows as TFRecords or as numpy arrays beside ids.

In: tables of vectors as they are stored, each row with the number of its file. Out: files whose
rows ascend by their key. Of a file all keys are in memory, but only so many vectors at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.metrics.metric import Metrics
from numpy.lib import format as npy

from pipeline import precision, schema, storage
from pipeline.columnar import EveryShard, Joined, JoinShards, Keyed
from pipeline.embeddings.embed import EMBEDDING, MODEL_VERSION
from pipeline.examples.prepare import check_unique
from pipeline.examples.wire import encode_examples
from pipeline.tables.framing import frame_records

NAMESPACE = "embeddings"
EMPTY = "empty"
_BYTES_AT_ONCE = 32 << 20  # of vectors
_MOST_ROWS = 131_072  # at once: a row group
_LEAST_ROWS = 1_024
PLACE = ("file", "row")  # of a row in the catalog: for what is said of ids, never written


@dataclass(frozen=True)
class Layout:
    """What the files of one kind of keys are like.

    prefix: of their names. key: the column that rows are sorted by. formats: as in ExportConfig.
    table_schema: of the Parquet files.
    """

    folder: str
    prefix: str
    files: int
    key: str
    table_schema: pa.Schema
    formats: Sequence[str]

    def path(self, index: int, extension: str, *folders: str) -> str:
        """Where file `index` is."""
        name = schema.shard_name(self.prefix, index, self.files, extension)
        return storage.join(self.folder, *folders, name)


@dataclass
class WriteEmbeddings(beam.PTransform):
    """Writes vectors in all formats that are wanted. Counters: the rows, by the name of the key.

    Input: {where they come from: (file number, pa.Table of `layout.table_schema`, where images are
    with `file` and `row`)}; apart, since the embedded runner would hold in memory what it flattens
    before it is spilled. Output: int, the rows of each file. ImgembedError where an image id is
    there twice. A file without rows is written too: a missing one would look like a loss.
    """

    layout: Layout

    def expand(self, keyed: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[int]:
        root = next(iter(keyed.values())).pipeline
        empty = root | "NoRows" >> EveryShard(self.layout.files)
        return (
            {**keyed, EMPTY: empty}
            | "GatherFiles" >> JoinShards()
            | "WriteFiles" >> beam.Map(write_file, self.layout).with_output_types(int)
        )


def write_file(element: Joined, layout: Layout) -> int:
    """Writes a file, in each format that is wanted; returns how many rows it has."""
    index, joined = element
    tables = [table for of in joined.values() for table in of]
    parts = _Parts([table for table in tables if table.num_rows], layout)
    with ExitStack() as stack:
        writers = [stack.enter_context(w) for w in _writers(layout, index, parts.rows)]
        for table in parts.tables():
            for writer in writers:
                writer.write(table)
    Metrics.counter(NAMESPACE, layout.key).inc(parts.rows)
    return parts.rows


class _Parts:
    """The tables of a file as one that ascends by its key, handed out so many rows at a time.

    Tables that lie in files of the job are mapped into memory: of the vectors, and of all else but
    keys and hashes, nothing but what is handed out is copied.
    """

    def __init__(self, parts: Sequence[pa.Table], layout: Layout) -> None:
        self._parts, self._schema, self._key = parts, layout.table_schema, layout.key
        # The model is the same in all rows.
        self._kept = [n for n in self._schema.names if n not in (EMBEDDING, MODEL_VERSION)]
        empty = self._schema.empty_table().select(self._kept)
        self._columns = _columns(parts, self._kept) if parts else empty
        self._order = pc.sort_indices(self._columns[layout.key])
        self._vectors = [precision.from_column(part[EMBEDDING]) for part in parts]
        self._bounds = np.cumsum([0, *map(len, self._vectors)])

    @property
    def rows(self) -> int:
        return self._columns.num_rows

    def tables(self) -> Iterator[pa.Table]:
        """All rows, in tables that fit into memory; ImgembedError where an image is there twice."""
        embedding = self._schema.field(EMBEDDING).type
        size = embedding.list_size * embedding.value_type.bit_width // 8
        step = min(_MOST_ROWS, max(_LEAST_ROWS, _BYTES_AT_ONCE // size))
        last = None
        for start in range(0, self.rows, step):
            order = self._order.slice(start, step)
            columns = self._columns.take(order).combine_chunks()
            last = self._check_ascending(last, columns[self._key])
            vectors = self._gather(order.to_numpy().astype(np.int64))
            version = self._parts[0][MODEL_VERSION][0]
            table = columns.append_column(EMBEDDING, precision.to_column(vectors)).append_column(
                MODEL_VERSION, pa.repeat(version, len(vectors))
            )
            yield table.select(self._schema.names).cast(self._schema)

    def _check_ascending(self, last: pa.Scalar | None, keys: pa.ChunkedArray) -> pa.Scalar:
        """The last of the keys, of which none may be there twice. last: of those before."""
        if keys[0] == last or pc.any(pc.equal(keys[1:], keys[:-1])).as_py():
            check_unique(_columns(self._parts, [self._key, *PLACE]))
        return keys[-1]

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        part = np.searchsorted(self._bounds, rows, side="right") - 1
        row = rows - self._bounds[part]
        first = self._vectors[int(part[0])]
        found = np.empty((len(part), first.shape[1]), first.dtype)
        order = np.argsort(part, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            found[places] = self._vectors[int(part[places[0]])][row[places]]
        return found


def _columns(parts: Iterable[pa.Table], names: Sequence[str]) -> pa.Table:
    return pa.concat_tables([part.select(names) for part in parts]).combine_chunks()


class _Writer(Protocol):
    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> Any: ...

    def write(self, table: pa.Table) -> None: ...


def _writers(layout: Layout, index: int, rows: int) -> Iterator[_Writer]:
    yield _Parquet(layout.path(index, "parquet"), layout)
    if "tfrecord" in layout.formats:
        yield _TFRecord(layout.path(index, "tfrecord", schema.TFRECORD_FOLDER), layout)
    if "npy" in layout.formats:
        yield _Npy(
            layout.path(index, "npy", schema.NPY_FOLDER),
            layout.path(index, "ids.txt", schema.NPY_FOLDER),
            layout,
            rows,
        )


class _Parquet:
    def __init__(self, path: str, layout: Layout) -> None:
        self._files = ExitStack()
        file = self._files.enter_context(storage.open_write(path))
        self._writer = self._files.enter_context(
            pq.ParquetWriter(
                file,
                layout.table_schema,
                compression="zstd",
                # Numbers of vectors hardly repeat: a dictionary of them would be given up again.
                use_dictionary=["model_version"],
            )
        )

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=_MOST_ROWS)


class _TFRecord:
    """A tf.train.Example a row: the key, and `embedding`, floats of unit norm."""

    def __init__(self, path: str, layout: Layout) -> None:
        self._path, self._key = path, layout.key
        self._file: IO[bytes]

    def __enter__(self) -> _TFRecord:
        self._file = storage.open_write(self._path)
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def write(self, table: pa.Table) -> None:
        for start in range(0, table.num_rows, _LEAST_ROWS):
            part = table.slice(start, _LEAST_ROWS).combine_chunks()
            vectors = precision.restored(precision.from_column(part[EMBEDDING]))
            offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
            lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))
            columns = {self._key: part[self._key].chunk(0), EMBEDDING: lists}
            self._file.write(frame_records(encode_examples(columns, len(vectors))))


class _Npy:
    """An array [rows, dim] as it is stored, and beside it the keys, a line each."""

    def __init__(self, path: str, ids: str, layout: Layout, rows: int) -> None:
        self._path, self._ids_path = path, ids
        self._key, self._rows = layout.key, rows
        self._type = layout.table_schema.field(EMBEDDING).type
        self._files = ExitStack()

    def __enter__(self) -> _Npy:
        self._file = self._files.enter_context(storage.open_write(self._path))
        self._ids = self._files.enter_context(storage.open_write(self._ids_path))
        dtype = np.dtype(self._type.value_type.to_pandas_dtype())
        header: Mapping[str, Any] = {
            "descr": npy.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._rows, self._type.list_size),
        }
        npy.write_array_header_1_0(self._file, dict(header))
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def write(self, table: pa.Table) -> None:
        vectors = precision.from_column(table[EMBEDDING])
        self._file.write(np.ascontiguousarray(vectors).data)
        self._ids.write("".join(f"{key}\n" for key in table[self._key].to_pylist()).encode())
