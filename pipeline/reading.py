"""Parquet files of an earlier stage, as tables of a row group each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage


def read_row_groups(path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a file, or those columns of them."""
    with storage.open_read(path) as source:
        file = pq.ParquetFile(source)
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, columns=None if columns is None else list(columns))


@dataclass
class ReadTables(beam.PTransform):
    """Reads files of an earlier stage. Input: the root. Output: pa.Table, a row group each."""

    files: Sequence[str]
    columns: Sequence[str] | None = None

    def expand(self, root: beam.Pipeline) -> beam.PCollection[pa.Table]:
        return (
            root
            | "Files" >> beam.Create(list(self.files)).with_output_types(str)
            | "Read" >> beam.FlatMap(read_row_groups, self.columns).with_output_types(pa.Table)
        )
