"""Parquet files of a version as tables, some rows at a time: what is held does not grow with them.

Loads neither Beam nor TensorFlow, as long as the run lies on a local disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.artifacts import Version

_ROWS = 1 << 20


def stream(version: Version, prefix: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of all files `<prefix>-…` of a version, in order, so many rows at a time."""
    for path in version.shards(prefix):
        with storage.open_arrow(path) as source:
            for batch in pq.ParquetFile(source).iter_batches(_ROWS, columns=list(columns)):
                yield pa.Table.from_batches([batch])
