"""All rows of a version's Parquet files in memory.

Loads neither Beam nor TensorFlow.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.artifacts import Version


def read_shards(
    version: Version, prefix: str, wanted: pa.Schema, *, rows: pc.Expression | None = None
) -> pa.Table:
    """The rows of the files `<prefix>-…`, in the columns of `wanted`; each column in one piece.

    rows: which of them are read; None = all.
    """
    tables = [wanted.empty_table()]
    for path in version.shards(prefix):
        with storage.open_arrow(path) as file:
            table = pq.read_table(file, columns=wanted.names, filters=rows)
        tables.append(table.cast(wanted))
    return pa.concat_tables(tables).combine_chunks()


def single(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
