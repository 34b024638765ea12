"""Tables of images as files, between the two pipelines of the stage.

They are Arrow IPC files in a folder below the version in the making, which is removed at the end.
A local one is mapped into memory: columns that nobody looks at are not read, and what is read does
not count as the process's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline import schema, storage

FOLDER = "work"
IMAGES = "images"  # the settled catalog, one file a shard
PLACES = "places"  # of the same images what the join with the graph looks at


def write_table(path: str, table: pa.Table) -> None:
    """Writes a table as one batch; pictures are compressed already, so nothing is."""
    with storage.open_write(path) as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, or some columns of it, each in one chunk."""
    if storage.is_local(path):
        source: pa.NativeFile = pa.memory_map(path)
    else:
        with storage.open_read(path) as file:
            source = pa.BufferReader(file.read())
    table = pa.ipc.open_file(source).read_all()
    return (table if columns is None else table.select(columns)).combine_chunks()


def shard_path(folder: str, prefix: str, shard: int, shards: int) -> str:
    """`work/images-00000-of-00004.arrow`."""
    return storage.join(folder, schema.shard_name(prefix, shard, shards, "arrow"))
