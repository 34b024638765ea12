"""From the rows of the catalog to images that a model can look at: pictures become squares.

In: tasks of the catalog. Out: tables of PREPARED_SCHEMA, and the rows that were rejected; where it
is asked for, the rows as well whose content is known already, of which nothing is decoded.
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
from pipeline.contents import HASH, KnownContents, content_hash, feature_hashes, hash_array
from pipeline.errors import ImgembedError
from pipeline.examples.catalog.find import Catalog
from pipeline.examples.catalog.read import Block, read_task
from pipeline.examples.catalog.sources import UnreadableError, read_bytes
from pipeline.examples.decoding import PictureSettings, decode_pictures
from pipeline.examples.pictures import Picture
from pipeline.parallel import InThreads, Outcome
from pipeline.tables.blocks import MAX_CONTENT

NAMESPACE = "examples"
IMAGES, REJECTED, UNCHANGED = "images", "rejected", "unchanged"  # tags
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
# Of rows whose content is known.
UNCHANGED_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("file", pa.string()), ("row", pa.int64()), HASH]
)


@dataclass
class PrepareImages(beam.PTransform):
    """Reads the catalog and decodes its pictures.

    Input: the root. Output: {IMAGES: pa.Table of PREPARED_SCHEMA,
    REJECTED: pa.Table of schema.REJECTED_SCHEMA}. Counters: rows.

    known: where it is given, IMAGES have a column `content_hash` too, and rows whose content is
    known are in {UNCHANGED: pa.Table of UNCHANGED_SCHEMA} instead.
    """

    found: Catalog
    pictures: PictureSettings
    threads: int
    known: KnownContents | None = None

    def expand(self, root: beam.Pipeline) -> dict[str, beam.PCollection[pa.Table]]:
        tasks = root | "Tasks" >> beam.Create(list(self.found.tasks))
        tags = (IMAGES, REJECTED, *([UNCHANGED] if self.known is not None else []))
        return tasks | "DecodePictures" >> InThreads(
            partial(prepare_block, settings=self.pictures, known=self.known),
            dict.fromkeys(tags, pa.Table),
            self.threads,
            NAMESPACE,
            unfold=read_task,
        )


def prepare_block(
    block: Block, *, settings: PictureSettings, known: KnownContents | None = None
) -> Outcome:
    """PREPARED_SCHEMA and schema.REJECTED_SCHEMA of some rows of the catalog."""
    rows = block.table.num_rows + block.rejected.num_rows
    if known is None:
        prepared, undecodable = prepare_rows(block.table, settings)
        unchanged = UNCHANGED_SCHEMA.empty_table()
    else:
        prepared, undecodable, unchanged = prepare_unknown_rows(block.table, settings, known)
    progress.add("images", rows)
    tables = (
        (IMAGES, prepared),
        (REJECTED, block.rejected),
        (REJECTED, undecodable),
        (UNCHANGED, unchanged),
    )
    return Outcome([(tag, table) for tag, table in tables if table.num_rows], {"rows": rows})


def prepare_rows(table: pa.Table, settings: PictureSettings) -> tuple[pa.Table, pa.Table]:
    """(PREPARED_SCHEMA, schema.REJECTED_SCHEMA) of a table of the catalog.

    Rows with features pass as they are: what cannot be read of them was rejected on reading.
    """
    if _has_features(table):
        return _complete(table.drop_columns(["image", "uri"])), schema.REJECTED_SCHEMA.empty_table()
    prepared, rejected, _ = _decode(table, _Contents(table), settings)
    return prepared, rejected


def prepare_unknown_rows(
    table: pa.Table, settings: PictureSettings, known: KnownContents
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(PREPARED_SCHEMA with `content_hash`, schema.REJECTED_SCHEMA, UNCHANGED_SCHEMA) of a table.

    Of a picture the hash is that of its file.
    """
    if _has_features(table):
        hashes = feature_hashes(table["features"])
        is_known = known.has(hashes)
        new = np.flatnonzero(~is_known)
        prepared, rejected = prepare_rows(table.take(pa.array(new)), settings)
    else:
        contents = _Contents(table, known)
        prepared, rejected, new = _decode(table, contents, settings)
        hashes, is_known = contents.hashes, contents.is_known()
    column = hash_array(hashes)
    unchanged = table.append_column(HASH, column).select(UNCHANGED_SCHEMA.names)
    return (
        prepared.append_column(HASH, column.take(pa.array(new))),
        rejected,
        unchanged.filter(pa.array(is_known)),
    )


def _has_features(table: pa.Table) -> bool:
    return table.num_rows == 0 or table["features"].null_count == 0


def _decode(
    table: pa.Table, contents: _Contents, settings: PictureSettings
) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """(PREPARED_SCHEMA, schema.REJECTED_SCHEMA, the rows of the first) of what is handed out."""
    decoded = list(decode_pictures(contents, settings))
    rows = np.array(contents.handed_out, np.int64)
    found = [
        contents.faults.get(row, picture)
        for row, picture in zip(contents.handed_out, decoded, strict=True)
    ]
    good = np.array([isinstance(picture, Picture) for picture in found], bool)
    kept = [picture for picture in found if isinstance(picture, Picture)]
    columns = {
        "image": pa.array([picture.content for picture in kept], pa.large_binary()),
        "channel_sums": _triples([picture.channel_sums for picture in kept]),
        "channel_squares": _triples([picture.channel_squares for picture in kept]),
    }
    table = table.drop_columns(["image"])
    prepared = table.drop_columns(["uri"]).take(pa.array(rows[good]))
    for name, column in columns.items():
        prepared = prepared.append_column(name, column)
    reasons = [reason for reason in found if isinstance(reason, str)]
    rejected = _rejected(table.take(pa.array(rows[~good])), reasons)
    return _complete(prepared), rejected, rows[good]


def _triples(rows: list[tuple[int, int, int]]) -> pa.Array:
    """CHANNELS of rows."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(rows, np.int64).ravel()), 3)


class _Contents:
    """The pictures' bytes, one after the other; of a file that cannot be read none.

    known: what is not handed out; None: all is, and nothing is hashed. faults: {row: reason} of
    files that cannot be read. handed_out: rows. hashes: of every row.
    """

    def __init__(self, table: pa.Table, known: KnownContents | None = None) -> None:
        self._table = table
        self._known = known
        self.faults: dict[int, str] = {}
        self.handed_out: list[int] = []
        self.hashes: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        images, uris = (self._table[name].to_pylist() for name in ("image", "uri"))
        for index, (data, uri) in enumerate(zip(images, uris, strict=True)):
            if data is None:
                try:
                    data = read_bytes(uri)
                except UnreadableError as error:
                    self.faults[index] = str(error)
                    data = b""
            if self._known is not None:
                self.hashes.append(content_hash(data))
                if index not in self.faults and self._known.has(self.hashes[-1:])[0]:
                    continue
            self.handed_out.append(index)
            yield data

    def is_known(self) -> np.ndarray:
        """[rows] bool: what was not handed out, once all is."""
        mask = np.ones(self._table.num_rows, bool)
        mask[self.handed_out] = False
        return mask


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
