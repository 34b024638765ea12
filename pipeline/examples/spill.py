"""Tables between steps as files, where they hold pictures.

Beam's shuffle would keep all pictures in memory, several times over; so a step writes them into a
folder below the version in the making and hands on the path alone. Names follow from the content's
place, so that a step that a runner repeats writes the same file again. The folder goes when the
job ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema, storage

FOLDER = "work"
IMAGES = "images"  # the settled catalog, one file a shard


def write_table(path: str, table: pa.Table) -> str:
    """Writes a table; returns its path. Pictures are compressed already: nothing is compressed."""
    with storage.open_write(path) as file:
        pq.write_table(table, file, compression="none", use_dictionary=False)
    return path


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, or some columns of it."""
    with storage.open_read(path) as file:
        return pq.read_table(file, columns=columns and list(columns))


def shard_path(folder: str, prefix: str, shard: int, shards: int) -> str:
    """`work/images-00000-of-00004.parquet`."""
    return storage.join(folder, schema.shard_name(prefix, shard, shards, "parquet"))
