"""Parquet files of an earlier stage, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage

_TABLE_ROWS = 1 << 18


def read_row_groups(path: str) -> Iterator[pa.Table]:
    """The row groups of a file."""
    with storage.open_arrow(path) as source:
        file = pq.ParquetFile(source)
        for index in range(file.num_row_groups):
            yield file.read_row_group(index)


def read_tables(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of a file, a table for every so many rows: what is held does not depend on it."""
    with storage.open_arrow(path) as source:
        batches = pq.ParquetFile(source).iter_batches(_TABLE_ROWS, columns=list(columns))
        yield from (pa.Table.from_batches([batch]) for batch in batches)


@dataclass
class ReadTables(beam.PTransform):
    """Reads columns of files of an earlier stage. Input: the root. Output: pa.Table."""

    files: Sequence[str]
    columns: Sequence[str]

    def expand(self, root: beam.Pipeline) -> beam.PCollection[pa.Table]:
        return (
            root
            | "Files" >> beam.Create(list(self.files)).with_output_types(str)
            | "Read" >> beam.FlatMap(read_tables, self.columns).with_output_types(pa.Table)
        )
