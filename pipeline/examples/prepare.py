"""From the rows of the catalog to images that are ready to be learned from, each id once.

In: tasks of the catalog. Out: one file a shard with the settled images (SETTLED_SCHEMA), sorted by
image_id, and the rejected rows. A shard holds the images whose id hashes to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from pipeline import columnar, progress, schema, storage, writing
from pipeline.config import SplitConfig
from pipeline.examples import catalog, pictures, sharding, spill
from pipeline.tables.blocks import EMPTY_REJECTED, MAX_CONTENT

PREPARED_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),  # a PNG of image_size; null in a catalog of features
        ("features", pa.list_(pa.float32())),  # null in a catalog of pictures
        ("label", pa.string()),
        ("text", pa.list_(pa.string())),
        ("split", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)
SETTLED_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),
        ("features", pa.list_(pa.float32())),
        ("label", pa.string()),  # the true one, in every split; null = none
        ("text", pa.list_(pa.string())),  # captions, then queries from the most frequent on
        ("text_weight", pa.list_(pa.float32())),
        ("split", pa.string()),
    ]
)
NAMESPACE = "examples"
REJECTED = "rejected"  # the tag of rejected rows
DUPLICATE_ID = "duplicate image_id"
UNREADABLE_URI = "the file that uri names cannot be read"
PIECES = "pieces"


def count(name: str, amount: int) -> None:
    """Adds to a Beam counter of this stage."""
    Metrics.counter(NAMESPACE, name).inc(int(amount))


@dataclass(frozen=True)
class PictureSize:
    """What pictures become (a square of that many pixels a side) and how large they may be."""

    image_size: int
    max_pixels: int


def read_catalog(task: catalog.Task) -> Iterator[Any]:
    """Tables of catalog.CATALOG_SCHEMA; what cannot be read goes out under REJECTED."""
    for block in catalog.read_task(task):
        count("rows", block.table.num_rows + block.rejected.num_rows)
        if block.rejected.num_rows:
            yield beam.pvalue.TaggedOutput(REJECTED, block.rejected)
        if block.table.num_rows:
            yield block.table


def prepare_block(table: pa.Table, *, size: PictureSize) -> Iterator[Any]:
    """A table of PREPARED_SCHEMA; rows whose picture cannot be decoded go out under REJECTED."""
    prepared, rejected = prepare_rows(table, size=size)
    if rejected.num_rows:
        yield beam.pvalue.TaggedOutput(REJECTED, rejected)
    if prepared.num_rows:
        yield prepared


def prepare_rows(table: pa.Table, *, size: PictureSize) -> tuple[pa.Table, pa.Table]:
    """(PREPARED_SCHEMA, schema.REJECTED_SCHEMA) of a table of catalog.CATALOG_SCHEMA.

    Rows with features pass as they are: what cannot be read of them was rejected on reading.
    """
    if table["features"].null_count == 0:
        return table.select(PREPARED_SCHEMA.names), EMPTY_REJECTED
    sources = zip(table["image"].to_pylist(), table["uri"].to_pylist(), strict=True)
    # Pillow decodes outside Python's lock: threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(_prepare_picture, size=size), sources))
    progress.add("pictures", table.num_rows)
    good = pa.array([reason is None for _, reason in found])
    images = pa.array([data for data, reason in found if reason is None], pa.large_binary())
    kept = table.filter(good)
    kept = kept.set_column(kept.column_names.index("image"), "image", images)
    return kept.select(PREPARED_SCHEMA.names), _rejected(
        table.filter(pc.invert(good)), [reason for _, reason in found if reason is not None]
    )


def _prepare_picture(
    source: tuple[bytes | None, str | None], *, size: PictureSize
) -> tuple[bytes, str | None]:
    """(PNG, None), or (nothing, the reason)."""
    data, uri = source
    try:
        content = _read_uri(uri) if data is None else data
        return pictures.prepare(
            content, image_size=size.image_size, max_pixels=size.max_pixels
        ), None
    except pictures.PictureError as error:
        return b"", str(error)


def _read_uri(uri: str | None) -> bytes:
    try:
        with storage.open_read(uri or "") as file:
            return file.read()
    except (OSError, ValueError, ImportError) as error:  # also: an unknown kind of address
        raise pictures.PictureError(UNREADABLE_URI) from error


def _rejected(table: pa.Table, reasons: list[str]) -> pa.Table:
    """schema.REJECTED_SCHEMA of rows that were read; the content is the id and the uri."""
    if not reasons:
        return EMPTY_REJECTED
    contents = [
        f"image_id={image_id!r}" + ("" if uri is None else f" uri={uri!r}")
        for image_id, uri in zip(
            table["image_id"].to_pylist(),
            table["uri"].to_pylist() if "uri" in table.column_names else [None] * len(reasons),
            strict=True,
        )
    ]
    return pa.table(
        [
            table["file"],
            table["row"],
            pa.array(reasons, pa.string()),
            pa.array([content[:MAX_CONTENT] for content in contents], pa.string()),
        ],
        schema=schema.REJECTED_SCHEMA,
    )


def spill_pieces(table: pa.Table, *, folder: str, shards: int) -> Iterator[tuple[int, str]]:
    """Writes a prepared table cut by shard; yields (shard, path)."""
    first = table.slice(0, 1)
    place = columnar.hash_values(first["file"], salt=str(first["row"][0].as_py()))[0]
    for shard, part in columnar.split_by_column(table, column="image_id", shards=shards):
        name = f"{PIECES}-{shard:05d}-{place:016x}.parquet"
        yield shard, spill.write_table(storage.join(folder, name), part)


@dataclass(frozen=True)
class SettleOptions:
    """What a settled shard depends on beside its rows.

    folder: where its file goes. texts: queries that an image keeps. captions: the catalog's texts
    count, too.
    """

    folder: str
    shards: int
    seed: int
    split: SplitConfig
    texts: int
    captions: bool


def settle_shard(
    element: tuple[int, Mapping[str, Iterable[Any]]], options: SettleOptions
) -> Iterator[Any]:
    """Writes a shard's settled images; yields their labels, texts and features for the analysis.

    element: (shard, {"pieces": paths, "queries": tables of schema.QUERY_SCHEMA}). All rows but the
    first, by file and row, of an id go out under REJECTED.
    """
    shard, joined = element
    pieces = [spill.read_table(path) for path in joined[PIECES]]
    images, rejected = drop_duplicates(columnar.concatenate(pieces, PREPARED_SCHEMA))
    queries = columnar.concatenate(joined[schema.QUERIES], schema.QUERY_SCHEMA)
    settled = settle(images, queries, options)
    spill.write_table(
        spill.shard_path(options.folder, spill.IMAGES, shard, options.shards), settled
    )
    _count_settled(settled)
    if rejected.num_rows:
        yield beam.pvalue.TaggedOutput(REJECTED, rejected)
    if settled.num_rows:
        yield settled.drop_columns(["image"])


def _count_settled(settled: pa.Table) -> None:
    for split in schema.SPLITS:
        part = settled.filter(pc.equal(settled["split"], split))
        count(f"images/{split}", part.num_rows)
        count(f"labelled/{split}", part.num_rows - part["label"].null_count)
        count(f"texts/{split}", pc.sum(pc.list_value_length(part["text"])).as_py() or 0)
    count("content bytes", pc.sum(pc.binary_length(settled["image"])).as_py() or 0)


def drop_duplicates(prepared: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(first row of each id, by id; the others as rejected rows). First by file, then row."""
    ordered = columnar.sort_rows(prepared, ["image_id", "file", "row"])
    ids = ordered["image_id"].combine_chunks()
    first = np.ones(len(ids), bool)
    if len(ids) > 1:
        first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    others = ordered.filter(pa.array(~first))
    return ordered.filter(pa.array(first)), _rejected(others, [DUPLICATE_ID] * others.num_rows)


def settle(images: pa.Table, queries: pa.Table, options: SettleOptions) -> pa.Table:
    """SETTLED_SCHEMA: the images with their split and all their texts.

    images: PREPARED_SCHEMA, each id once. queries: schema.QUERY_SCHEMA, of any image.
    """
    texts, weights = join_texts(images, queries, texts=options.texts, captions=options.captions)
    columns = {name: images[name] for name in ("image_id", "image", "features", "label")}
    columns["text"] = pa.array(texts, pa.list_(pa.string()))
    columns["text_weight"] = pa.array(weights, pa.list_(pa.float32()))
    columns["split"] = choose_splits(images, split=options.split, seed=options.seed)
    return pa.table(columns, schema=SETTLED_SCHEMA)


def join_texts(
    images: pa.Table, queries: pa.Table, *, texts: int, captions: bool
) -> tuple[list[list[str]], list[list[float]]]:
    """The texts of each image and their weights: 1 for a caption, sessions for a query.

    Of an image's queries the `texts` of most sessions count; ties by the text.
    """
    order = [("sessions", "descending"), ("query", "ascending")]
    clicked: dict[str, list[tuple[str, float]]] = {}
    known = queries.filter(pc.is_in(queries["image_id"], images["image_id"].combine_chunks()))
    count("query rows", queries.num_rows)
    count("query rows without an image", queries.num_rows - known.num_rows)
    for row in known.sort_by(order).to_pylist():
        found = clicked.setdefault(row["image_id"], [])
        if len(found) < texts:
            found.append((row["query"], float(row["sessions"])))
    pairs = [
        [(text, 1.0) for text in (caption or [] if captions else [])] + clicked.get(image_id, [])
        for image_id, caption in zip(
            images["image_id"].to_pylist(), images["text"].to_pylist(), strict=True
        )
    ]
    return [[t for t, _ in row] for row in pairs], [[w for _, w in row] for row in pairs]


def choose_splits(images: pa.Table, *, split: SplitConfig, seed: int) -> pa.Array:
    """The split of each image: the catalog's where it gives one, else by hash of id and seed."""
    hashes = columnar.hash_values(images["image_id"], salt=f"split:{seed}")
    # The upper 53 bits, the most that a float holds exactly: uniform in [0, 1).
    uniform = (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53
    drawn = np.searchsorted(_bounds(split), uniform, side="right")
    names = pa.array(schema.SPLITS, pa.string()).take(pa.array(drawn))
    return pc.coalesce(images["split"].combine_chunks(), names)


def _bounds(split: SplitConfig) -> np.ndarray:
    """Upper ends of all splits but the last; 1 from the last split on that has any share."""
    shares = np.array([split.train, split.validation, split.test])
    bounds = np.cumsum(shares)
    bounds[np.flatnonzero(shares)[-1] :] = 1.0
    return bounds[:-1]


@dataclass
class PrepareCatalog(beam.PTransform):
    """Reads the catalog, decodes its pictures and settles which rows count.

    Input: catalog.Task. Output: pa.Table of SETTLED_SCHEMA without `image`, one a shard that has
    rows; beside it the files `images-*` of the work folder, one a shard, and `rejected/`.
    Counters: rows, images/<split>, labelled/<split>, texts/<split>,
    content bytes, query rows, query rows without an image.
    """

    size: PictureSize
    options: SettleOptions
    query_files: tuple[str, ...]
    version_folder: str

    def expand(self, tasks: beam.PCollection[catalog.Task]) -> beam.PCollection[pa.Table]:
        root, number = tasks.pipeline, self.options.shards
        images, unreadable = (
            tasks
            | "SpreadTasks" >> beam.Reshuffle()
            | "Read"
            >> beam.FlatMap(read_catalog)
            .with_output_types(pa.Table)
            .with_outputs(REJECTED, main="images")
        )
        prepared, undecodable = images | "DecodePictures" >> beam.FlatMap(
            prepare_block, size=self.size
        ).with_output_types(pa.Table).with_outputs(REJECTED, main="images")
        pieces = prepared | "SpillPieces" >> beam.FlatMap(
            spill_pieces, folder=self.options.folder, shards=number
        ).with_output_types(tuple[int, str])
        queries = root | "ReadQueries" >> sharding.ReadShards(
            self.query_files, column="image_id", shards=number
        )
        every = root | "EveryShard" >> sharding.EveryShard(number)
        settled, duplicates = (
            {PIECES: pieces, schema.QUERIES: queries, "every": every}
            | "JoinByImage" >> beam.CoGroupByKey()
            | "Settle"
            >> beam.FlatMap(settle_shard, self.options)
            .with_output_types(pa.Table)
            .with_outputs(REJECTED, main="images")
        )
        _ = (
            (unreadable, undecodable, duplicates)
            | "FlattenRejected" >> beam.Flatten()
            | "WriteRejected" >> writing.WriteRejected(self.version_folder)
        )
        return settled
