"""From the rows of the catalog to images that a model can look at: pictures become squares.

In: tasks of the catalog. Out: tables of PREPARED_SCHEMA, and the rows that were rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import progress, schema
from pipeline.errors import ImgembedError
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.catalog.read import Block, read_task
from pipeline.examples.catalog.sources import UnreadableError, read_bytes
from pipeline.examples.decoding import PictureSettings, decode_pictures
from pipeline.examples.pictures import Picture
from pipeline.parallel import InThreads, Outcome
from pipeline.tables.blocks import MAX_CONTENT

NAMESPACE = "examples"
IMAGES, REJECTED = "images", "rejected"  # tags
CHANNELS = pa.list_(pa.int64(), 3)
PREPARED_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),  # encoded as asked; null in a catalog of features
        ("channel_sums", CHANNELS),  # of the picture's pixels; null in a catalog of features
        ("channel_squares", CHANNELS),
        ("features", pa.list_(pa.float32())),  # null in a catalog of pictures
        ("label", pa.list_(pa.string())),
        ("text", pa.list_(pa.string())),
        ("split", pa.string()),
        ("group", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass
class PrepareImages(beam.PTransform):
    """Reads the catalog and decodes its pictures.

    Input: the root. Output: {IMAGES: pa.Table of PREPARED_SCHEMA,
    REJECTED: pa.Table of schema.REJECTED_SCHEMA}. Counters: rows.
    """

    found: Catalog
    pictures: PictureSettings
    threads: int

    def expand(self, root: beam.Pipeline) -> dict[str, beam.PCollection[pa.Table]]:
        tasks = root | "Tasks" >> beam.Create(list(self.found.tasks))
        return tasks | "DecodePictures" >> InThreads(
            partial(prepare_block, settings=self.pictures),
            {IMAGES: pa.Table, REJECTED: pa.Table},
            self.threads,
            NAMESPACE,
            unfold=read_task,
        )


def prepare_block(block: Block, *, settings: PictureSettings) -> Outcome:
    """PREPARED_SCHEMA and schema.REJECTED_SCHEMA of some rows of the catalog."""
    rows = block.table.num_rows + block.rejected.num_rows
    prepared, undecodable = prepare_rows(block.table, settings)
    progress.add("images", rows)
    tables = ((IMAGES, prepared), (REJECTED, block.rejected), (REJECTED, undecodable))
    return Outcome([(tag, table) for tag, table in tables if table.num_rows], {"rows": rows})


def prepare_rows(table: pa.Table, settings: PictureSettings) -> tuple[pa.Table, pa.Table]:
    """(PREPARED_SCHEMA, schema.REJECTED_SCHEMA) of a table of the catalog.

    Rows with features pass as they are: what cannot be read of them was rejected on reading.
    """
    if table.num_rows == 0 or table["features"].null_count == 0:
        return _complete(table.drop_columns(["image", "uri"])), schema.REJECTED_SCHEMA.empty_table()
    contents = _Contents(table)
    decoded = list(decode_pictures(contents, settings))
    found = [contents.faults.get(index, picture) for index, picture in enumerate(decoded)]
    good = np.array([isinstance(picture, Picture) for picture in found])
    kept = [picture for picture in found if isinstance(picture, Picture)]
    columns = {
        "image": pa.array([picture.content for picture in kept], pa.large_binary()),
        "channel_sums": _triples([picture.channel_sums for picture in kept]),
        "channel_squares": _triples([picture.channel_squares for picture in kept]),
    }
    prepared = table.drop_columns(["image", "uri"]).filter(pa.array(good))
    for name, column in columns.items():
        prepared = prepared.append_column(name, column)
    reasons = [reason for reason in found if isinstance(reason, str)]
    return _complete(prepared), _rejected(table.filter(pa.array(~good)), reasons)


def _triples(rows: list[tuple[int, int, int]]) -> pa.Array:
    """CHANNELS of rows."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(rows, np.int64).ravel()), 3)


class _Contents:
    """The pictures' bytes, one after the other; of a file that cannot be read none.

    faults: {row: reason} of those.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.faults: dict[int, str] = {}

    def __iter__(self) -> Iterator[bytes]:
        images, uris = (self._table[name].to_pylist() for name in ("image", "uri"))
        for index, (data, uri) in enumerate(zip(images, uris, strict=True)):
            if data is None:
                try:
                    data = read_bytes(uri)
                except UnreadableError as error:
                    self.faults[index] = str(error)
                    data = b""
            yield data


def _complete(table: pa.Table) -> pa.Table:
    """The table with all columns of PREPARED_SCHEMA, null where it has none."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in PREPARED_SCHEMA
    ]
    return pa.table(columns, schema=PREPARED_SCHEMA)


def _rejected(table: pa.Table, reasons: list[str]) -> pa.Table:
    """schema.REJECTED_SCHEMA of rows that were read; the content is the id and the uri."""
    contents = [
        f"image_id={image_id!r}" + ("" if uri is None else f" uri={uri!r}")
        for image_id, uri in zip(
            table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True
        )
    ]
    columns = [
        table["file"],
        table["row"],
        pa.array(reasons, pa.string()),
        pa.array([content[:MAX_CONTENT] for content in contents], pa.string()),
    ]
    return pa.table(columns, schema=schema.REJECTED_SCHEMA)


def check_unique(images: pa.Table) -> None:
    """ImgembedError, naming both places, where two rows of the catalog have one id.

    images: `image_id`, `file`, `row`.
    """
    where = images.select(["image_id", "file", "row"]).sort_by(
        [("image_id", "ascending"), ("file", "ascending"), ("row", "ascending")]
    )
    ids = where["image_id"].combine_chunks()
    same = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    if not same.any():
        return
    first, second = where.slice(int(np.argmax(same)), 2).to_pylist()
    raise ImgembedError(
        f"images: the id {first['image_id']!r} is there twice, at {_place(first)} and at "
        f"{_place(second)}; every image needs an id of its own"
    )


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['file']} row {row['row']}"
