"""Shards as Beam elements: (shard, table) of Parquet files, and (shard, None) for every shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import columnar, storage


def read_row_groups(path: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """The row groups of a Parquet file, or some columns of them."""
    with storage.open_read(path) as source:
        file = pq.ParquetFile(source)
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, columns=columns and list(columns))


@dataclass
class ReadShards(beam.PTransform):
    """Parquet files, cut by the hash of a column of strings.

    Input: the root. Output: (shard, pa.Table).
    """

    files: Sequence[str]
    column: str
    shards: int
    columns: Sequence[str] | None = None

    def expand(self, root: beam.Pipeline) -> beam.PCollection[columnar.Keyed]:
        return (
            root
            | "Files" >> beam.Create(list(self.files)).with_output_types(str)
            | "Read" >> beam.FlatMap(read_row_groups, self.columns).with_output_types(pa.Table)
            | "SplitByColumn" >> columnar.SplitByColumn(self.column, self.shards)
        )


@dataclass
class EveryShard(beam.PTransform):
    """(shard, None) for each shard: joined in, it makes a shard appear that has no rows.

    Input: the root. Output: (shard, None).
    """

    shards: int

    def expand(self, root: beam.Pipeline) -> beam.PCollection[tuple[int, None]]:
        pairs = [(shard, None) for shard in range(self.shards)]
        return root | "Shards" >> beam.Create(pairs).with_output_types(tuple[int, None])
