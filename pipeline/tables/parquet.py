"""Parquet. In: a file, or some of its row groups. Out: blocks, without an object a row."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ImgembedError
from pipeline.tables.blocks import Block, Faults, Wanted, make_block, row_contents
from pipeline.tables.files import Part, TableFile
from pipeline.tables.streams import reading
from pipeline.tables.values import arrow_column, is_list, is_usable

_STREAM_BYTES = 1 << 20


def column_names(file: TableFile) -> list[str]:
    """The columns of a file's schema."""
    with _open(file) as table:
        return list(table.schema_arrow.names)


def count_rows(file: TableFile) -> int:
    """How many rows the file says that it has."""
    with _open(file) as table:
        return int(table.metadata.num_rows)


def split(file: TableFile, rows_a_part: int) -> list[Part]:
    """Runs of consecutive row groups: as many as fit into `rows_a_part` rows, at least one."""
    with _open(file) as table:
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    starts = [0, *itertools.accumulate(sizes)]
    parts: list[Part] = []
    group = 0
    while group < len(sizes):
        end = group + 1
        while end < len(sizes) and starts[end + 1] - starts[group] <= rows_a_part:
            end += 1
        rows = starts[end] - starts[group]
        parts.append(Part(file, starts[group] + 1, rows, group, end - group))
        group = end
    return parts or [Part(file, rows=0)]


def read(part: Part, wanted: Wanted) -> Iterator[Block]:
    """Blocks of the rows of a part; a block may end early where a row group does."""
    file, first = part.file, part.first_row
    theirs = list(dict.fromkeys(wanted.columns.values()))
    kept = {wanted.columns[name] for name in wanted.dictionary if name in wanted.columns}
    # What a converter takes may be large: megabytes a row.
    with _open(file, dictionary=kept, streamed=bool(wanted.converters)) as table:
        _check_types(file, table.schema_arrow, wanted)
        groups = range(part.first_group, part.first_group + (part.groups or table.num_row_groups))
        rows = _count(file, table.metadata, groups)
        if part.rows not in (None, rows):
            raise _changed(file)
        for batch in table.iter_batches(wanted.block_rows, row_groups=groups, columns=theirs):
            yield _block(file.path, batch, first, wanted)
            first += batch.num_rows
    if first - part.first_row != rows:
        raise ImgembedError(
            f"{file.path}: gave {first - part.first_row:,} rows and says that it has {rows:,}"
        )


def _count(file: TableFile, metadata: pq.FileMetaData, groups: range) -> int:
    if groups.stop > metadata.num_row_groups:
        raise _changed(file)
    return sum(metadata.row_group(group).num_rows for group in groups)


def _changed(file: TableFile) -> ImgembedError:
    return ImgembedError(f"{file.path}: changed while it was read; run again")


@contextmanager
def _open(
    file: TableFile, dictionary: Collection[str] = (), *, streamed: bool = False
) -> Iterator[pq.ParquetFile]:
    """streamed: memory holds pages, not whole row groups, where the file is local.

    A bucket answers slowly: there, a row group is fetched at once.
    """
    if file.compression != "none":
        raise ImgembedError(
            f"{file.path}: a Parquet file within {file.compression} cannot be read; unpack it"
        )
    with reading(file.path, file.format), storage.open_arrow(file.path) as source:
        streamed = streamed and storage.is_local(file.path)
        yield pq.ParquetFile(
            source,
            read_dictionary=_simple(source, dictionary) if dictionary else [],
            page_checksum_verification=True,
            pre_buffer=not streamed,
            buffer_size=_STREAM_BYTES if streamed else 0,
        )


def _simple(source: pa.NativeFile, names: Collection[str]) -> list[str]:
    """Those of the columns that hold one value a row; of others Arrow raises KeyError."""
    columns = pq.read_metadata(source).schema
    return sorted(set(names) & {columns.column(index).path for index in range(len(columns))})


def _check_types(file: TableFile, schema: pa.Schema, wanted: Wanted) -> None:
    for ours, theirs in wanted.columns.items():
        type_ = schema.field(theirs).type
        if ours not in wanted.converters and not is_usable(type_, lists=ours in wanted.lists):
            what = "a list" if is_list(type_) else str(type_)
            raise ImgembedError(
                f"{file.path}: column {theirs!r} is {what}; {ours} must be text, numbers or times"
            )


def _block(path: str, batch: pa.RecordBatch, first: int, wanted: Wanted) -> Block:
    faults: Faults = {}
    columns = {}
    for ours, theirs in wanted.columns.items():
        if ours in wanted.converters:
            columns[ours] = wanted.converters[ours](batch[theirs], faults)
        else:
            encoded = ours in wanted.dictionary
            columns[ours] = arrow_column(batch[theirs], ours, faults, dictionary=encoded)
    table = pa.table(columns)

    def content(index: int) -> str:
        return row_contents(table, [index], wanted.hide)[0]

    numbers = np.arange(first, first + batch.num_rows)
    return make_block(path, table, numbers, faults=faults, content=content)
