"""Settles what each image of the catalog is: its place, its split, its texts, how often it is seen.

In: prepared images, the graph's queries and its nodes. Out: a file a shard with the settled images
(SETTLED_SCHEMA), sorted by place, and the part of them that the transform analyzes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columnar, schema
from pipeline.columnar import EveryShard, Joined, JoinShards, Keyed
from pipeline.config import SplitConfig
from pipeline.errors import ImgembedError
from pipeline.examples import spill
from pipeline.examples.places import PLACE, Places
from pipeline.examples.prepare import CHANNELS, NAMESPACE, PREPARED_SCHEMA, check_unique
from pipeline.hashing import hash_values
from pipeline.memory import release_freed_memory
from pipeline.parallel import InThreads, Outcome, in_global_window
from pipeline.parcels import Shipped, ship
from pipeline.reading import ReadTables

SESSIONS = "sessions"
SETTLED_SCHEMA = pa.schema(
    [
        (PLACE, pa.uint64()),
        ("image_id", pa.string()),
        ("image", pa.large_binary()),
        ("features", pa.list_(pa.float32())),
        ("label", pa.list_(pa.string())),  # the true ones, in every split; null = none
        ("text", pa.list_(pa.string())),  # captions, then queries from the most frequent on
        ("text_weight", pa.list_(pa.float32())),
        ("split", pa.string()),
        (SESSIONS, pa.int64()),  # with the image; null where the graph does not know it
        ("channel_sums", CHANNELS),
        ("channel_squares", CHANNELS),
    ]
)
# What examples are made of, and, in a file of its own, what the join with the graph looks at.
NODE_COLUMNS = tuple(n for n in SETTLED_SCHEMA.names if not n.startswith("channel"))
PLACE_COLUMNS = (PLACE, "image_id", SESSIONS)
ANALYZED_COLUMNS = ("label", "text", "split", "features", "channel_sums", "channel_squares")
ANALYZED = "analyzed"  # a tag
IMAGES, QUERIES, NODES, EVERY = "images", "queries", "nodes", "every"
_QUERY_COLUMNS = ("query", "image_id", "sessions")
_NODE_COLUMNS = ("image_id", "sessions")
_GATHERED_BYTES = 64 << 20  # images that are held until they are cut by shard


@dataclass(frozen=True)
class SettleOptions:
    """What a settled shard depends on beside its rows.

    folder: where its files go. texts: queries that an image keeps. captions: the catalog's texts
    count, too.
    """

    folder: str
    places: Places
    split: SplitConfig
    texts: int
    captions: bool


@dataclass
class SettleImages(beam.PTransform):
    """Brings together what belongs to an image, and writes the settled images of each shard.

    Input: pa.Table of PREPARED_SCHEMA. Output: pa.Table of ANALYZED_COLUMNS, one a shard that has
    rows; beside it the files `images-*` and `places-*` of the work folder, one a shard.
    Counters: images/<split>, labelled/<split>, labels, several labels, texts/<split>, content
    bytes, query rows, query rows without an image.
    """

    options: SettleOptions
    query_files: Sequence[str]
    node_files: Sequence[str]
    threads: int

    def expand(self, images: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        root, options = images.pipeline, self.options
        queries = root | "ReadQueries" >> ReadTables(self.query_files, _QUERY_COLUMNS)
        nodes = root | "ReadNodes" >> ReadTables(self.node_files, _NODE_COLUMNS)
        every = root | "EveryShard" >> EveryShard(options.places.shards)
        split = partial(_split, options.places)
        settled = {
            IMAGES: images
            | "SplitImages"
            >> beam.ParDo(_GatherAndSplit(options.places)).with_output_types(Shipped),
            QUERIES: queries | "SplitQueries" >> beam.FlatMap(split).with_output_types(Keyed),
            NODES: nodes | "SplitNodes" >> beam.FlatMap(split).with_output_types(Keyed),
            EVERY: every,
        } | "JoinByImage" >> JoinShards()
        analyzed = settled | "Settle" >> InThreads(
            partial(settle_shard, options=options), {ANALYZED: pa.Table}, self.threads, NAMESPACE
        )
        return analyzed[ANALYZED]


def _split(places_: Places, table: pa.Table) -> Iterator[Keyed]:
    return places_.split(table, places_.of(table["image_id"]))


class _GatherAndSplit(beam.DoFn):
    """Cuts tables by shard, many at once: so many small ones would be as many files."""

    def __init__(self, places_: Places) -> None:
        self._places = places_
        self._gathered: list[pa.Table] = []
        self._bytes = 0

    def process(self, table: pa.Table) -> Iterator[Shipped]:
        self._gathered.append(table)
        self._bytes += table.nbytes
        if self._bytes >= _GATHERED_BYTES:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        for value in self._flush():
            yield in_global_window(value)

    def _flush(self) -> Iterator[Shipped]:
        tables, self._gathered, self._bytes = self._gathered, [], 0
        if tables:
            for shard, part in _split(self._places, pa.concat_tables(tables)):
                yield shard, ship(part)
        release_freed_memory()


def settle_shard(element: Joined, options: SettleOptions) -> Outcome:
    """Writes a shard's settled images; gives what the transform analyzes of them.

    element: (shard, {IMAGES: PREPARED_SCHEMA, QUERIES: of schema.QUERY_SCHEMA and NODES: of
    schema.NODE_SCHEMA the columns that are read}).
    """
    release_freed_memory()
    shard, joined = element
    images = columnar.concatenate(joined[IMAGES], PREPARED_SCHEMA)
    check_unique(images)
    queries = columnar.concatenate(joined[QUERIES], _part(schema.QUERY_SCHEMA, _QUERY_COLUMNS))
    nodes = columnar.concatenate(joined[NODES], _part(schema.NODE_SCHEMA, _NODE_COLUMNS))
    settled, counts = settle(images, queries, nodes, options)
    for prefix, columns in ((spill.IMAGES, NODE_COLUMNS), (spill.PLACES, PLACE_COLUMNS)):
        path = spill.shard_path(options.folder, prefix, shard, options.places.shards)
        spill.write_table(path, settled.select(columns))
    if not settled.num_rows:
        return Outcome([], counts)
    return Outcome([(ANALYZED, settled.select(ANALYZED_COLUMNS))], counts)


def _part(of: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([of.field(name) for name in names])


def settle(
    images: pa.Table, queries: pa.Table, nodes: pa.Table, options: SettleOptions
) -> tuple[pa.Table, dict[str, int]]:
    """(SETTLED_SCHEMA, counters) of a shard's images, each id once."""
    place = options.places.of(images["image_id"])
    order = np.argsort(place)
    images, place = images.take(pa.array(order)), place[order]
    _check_places(images, place)
    texts, weights, counts = join_texts(
        images, queries, texts=options.texts, captions=options.captions
    )
    columns = {name: images[name] for name in SETTLED_SCHEMA.names if name in images.column_names}
    columns[PLACE] = pa.array(place)
    columns["text"] = pa.array(texts, pa.list_(pa.string()))
    columns["text_weight"] = pa.array(weights, pa.list_(pa.float32()))
    columns["split"] = choose_splits(images, split=options.split, seed=options.places.seed)
    columns[SESSIONS] = _of_nodes(images, nodes)
    settled = pa.table([columns[name] for name in SETTLED_SCHEMA.names], schema=SETTLED_SCHEMA)
    return settled, counts | _counts(settled)


def _check_places(images: pa.Table, place: np.ndarray) -> None:
    same = np.flatnonzero(place[1:] == place[:-1])
    if len(same):
        first, second = (images["image_id"][int(same[0]) + step].as_py() for step in (0, 1))
        raise ImgembedError(
            f"images: {first!r} and {second!r} have the same 64-bit hash; take another seed"
        )


def _of_nodes(images: pa.Table, nodes: pa.Table) -> pa.Array:
    """[rows] int64: the sessions with each image; null where the graph does not know it."""
    rows = pc.index_in(images["image_id"].combine_chunks(), nodes["image_id"].combine_chunks())
    return nodes["sessions"].combine_chunks().take(rows)


def _counts(settled: pa.Table) -> dict[str, int]:
    counts = {}
    without_pictures = settled.select(["split", "label", "text"])
    for split in schema.SPLITS:
        part = without_pictures.filter(pc.equal(settled["split"], split))
        counts[f"images/{split}"] = part.num_rows
        counts[f"labelled/{split}"] = part.num_rows - part["label"].null_count
        counts[f"texts/{split}"] = _sum(pc.list_value_length(part["text"]))
    labels = pc.list_value_length(settled["label"])
    counts["labels"] = _sum(labels)
    counts["several labels"] = _sum(pc.greater(labels, 1))
    counts["content bytes"] = _sum(pc.binary_length(settled["image"]))
    return counts


def _sum(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0


def join_texts(
    images: pa.Table, queries: pa.Table, *, texts: int, captions: bool
) -> tuple[list[list[str]], list[list[float]], dict[str, int]]:
    """The texts of each image, their weights, and counters.

    A caption weighs 1, a query its sessions. Of an image's queries the `texts` of most sessions
    count; ties by the text.
    """
    order = [("sessions", "descending"), ("query", "ascending")]
    clicked: dict[str, list[tuple[str, float]]] = {}
    known = queries.filter(pc.is_in(queries["image_id"], images["image_id"].combine_chunks()))
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
    counts = {
        "query rows": queries.num_rows,
        "query rows without an image": queries.num_rows - known.num_rows,
    }
    return [[t for t, _ in row] for row in pairs], [[w for _, w in row] for row in pairs], counts


def choose_splits(images: pa.Table, *, split: SplitConfig, seed: int) -> pa.Array:
    """The split of each image: the catalog's where it gives one, else by a hash.

    Of the image's group where it has one, so that near-duplicates stay together, else of its id.
    """
    grouped = pc.is_valid(images["group"]).combine_chunks().to_numpy(zero_copy_only=False)
    hashes = np.where(
        grouped,
        hash_values(images["group"], salt=f"split of groups:{seed}"),
        hash_values(images["image_id"], salt=f"split:{seed}"),
    )
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
