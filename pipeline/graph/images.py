"""Images with their ids and counts, joined shard to shard wherever an image's hash needs them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.columnar import concatenate, concatenate_ascending
from pipeline.graph.names import check_found, distinct, look_up

# Ascending in `image`. sessions: 0 for an image that only held-out or left-out sessions hold.
IMAGE_SCHEMA = pa.schema(
    [("image", pa.uint64()), ("image_id", pa.string()), ("sessions", pa.int64())]
)
IMAGE_COUNTS = pa.schema([("image", pa.uint64()), ("sessions", pa.int64())])


def merge_images(
    counts: Iterable[pa.Table], names: Iterable[pa.Table], previous: Iterable[pa.Table]
) -> pa.Table:
    """IMAGE_SCHEMA of a shard; counts: IMAGE_COUNTS, names: NAME_SCHEMA, previous: IMAGE_SCHEMA."""
    known = [table.select(IMAGE_SCHEMA.names).cast(IMAGE_SCHEMA) for table in previous]
    old_names = [
        table.select(["image", "image_id"]).rename_columns(["hash", "text"]) for table in known
    ]
    named = distinct([*names, *old_names])
    counted = concatenate(
        [*counts, *(table.select(IMAGE_COUNTS.names) for table in known)], IMAGE_COUNTS
    )
    rows = look_up(counted["image"].to_numpy(), named, column="hash")
    check_found(rows)
    totals = np.zeros(named.num_rows, np.int64)
    np.add.at(totals, rows, counted["sessions"].to_numpy())
    return pa.table([named["hash"], named["text"], totals], schema=IMAGE_SCHEMA)


def concatenate_images(tables: Iterable[pa.Table]) -> pa.Table:
    """IMAGE_SCHEMA of one shard or file, ascending in `image`."""
    return concatenate_ascending(tables, "image", IMAGE_SCHEMA)


def join(rows: pa.Table, images: pa.Table, *, column: str, id_column: str) -> pa.Table:
    """Rows with the ids of the images whose hashes stand in a column."""
    found = look_up(rows[column].to_numpy(), images)
    check_found(found)
    return rows.append_column(id_column, images["image_id"].take(pa.array(found)))
