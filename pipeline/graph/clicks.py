"""Queries and held-out sessions on their way out: the Beam steps that give them ids and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.columnar import JoinShards, Keyed, concatenate
from pipeline.graph import names, queries
from pipeline.graph.counting import NAMESPACE, Layout
from pipeline.graph.images import concatenate_images, join
from pipeline.graph.noise import NoisyCounts
from pipeline.ids import NAME_SCHEMA
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped

Group = Mapping[str, Iterable[pa.Table]]
QUERIES, QUERY_USERS, NAMES, IMAGES, ROWS = "queries", "query_users", "names", "images", "rows"
PREVIOUS, PREVIOUS_USERS, COUNTS, COUNTS_USERS = (
    "previous",
    "previous_users",
    "counts",
    "counts_users",
)
QUERIES_READ, QUERIES_PUBLISHED = "queries", "queries_published"


@dataclass
class PublishQueries(beam.PTransform):
    """Counts of queries, added up; queries of enough users with their texts.

    Input: {QUERIES: (shard, QUERY_COUNTS), QUERY_USERS: (shard, QUERY_USER_COUNTS), NAMES: (shard,
    NAME_SCHEMA), PREVIOUS: (shard, schema.QUERY_COUNT_SCHEMA), PREVIOUS_USERS: (shard,
    schema.QUERY_USER_COUNT_SCHEMA)}. Output: {ROWS: (shard of images, QUERY_COUNTS and `text`),
    NAMES: (shard, NAME_SCHEMA of published queries), COUNTS, COUNTS_USERS: (file, table)}.
    Counters: QUERIES_READ, QUERIES_PUBLISHED.
    """

    min_users: int
    keep_counts: bool
    layout: Layout
    noise: NoisyCounts | None

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._publish,
            {ROWS: Shipped, NAMES: Shipped, COUNTS: Keyed, COUNTS_USERS: Keyed},
            self.layout.threads,
            NAMESPACE,
        )
        return inputs | "GatherQueries" >> JoinShards() | "PublishQueries" >> step

    def _publish(self, element: tuple[int, Group]) -> Outcome:
        _, group = element
        previous = list(group.get(PREVIOUS, ()))
        older = list(group.get(PREVIOUS_USERS, ()))
        texts = [t.select(["query", "text"]).rename_columns(NAME_SCHEMA.names) for t in older]
        named = names.distinct([*group[NAMES], *texts])
        rows = queries.merge_queries(group[QUERIES])
        users = queries.merge_query_users(group[QUERY_USERS])
        if previous:
            rows = queries.merge_queries([rows, *previous], users=np.maximum)
        if older:
            older = [table.select(queries.QUERY_USER_COUNTS.names) for table in older]
            users = queries.merge_query_users([users, *older], users=np.maximum)
        outputs: list[tuple[str, Any]] = []
        if self.keep_counts:
            texts_of = _with_texts(users, named)
            for tag, table in ((COUNTS, rows), (COUNTS_USERS, texts_of)):
                keyed = names.split_sorted(table, "query", self.layout.file_bounds)
                outputs += [(tag, part) for part in keyed]
        total = users.num_rows
        if self.noise is not None:
            rows = self.noise.publish_queries(rows)
            rows = rows.filter(pc.greater_equal(rows["users"], self.min_users))
            published = np.unique(rows["query"].to_numpy())
        else:
            published = users["query"].to_numpy()[users["users"].to_numpy() >= self.min_users]
            if self.min_users == 1:  # logs without user ids have none to count
                published = users["query"].to_numpy()
        public = named.filter(pc.is_in(named["hash"], pa.array(published)))
        rows = rows.filter(pc.is_in(rows["query"], pa.array(published)))
        rows = _with_texts(rows, public)
        outputs += [(ROWS, k) for k in names.split_by(rows, "image", self.layout.hash_bounds)]
        outputs += [(NAMES, k) for k in names.split_sorted(public, "hash", self.layout.hash_bounds)]
        return Outcome(outputs, {QUERIES_READ: total, QUERIES_PUBLISHED: len(published)})


def _with_texts(rows: pa.Table, named: pa.Table) -> pa.Table:
    found = names.look_up(rows["query"].to_numpy(), named, column="hash")
    names.check_found(found)
    return rows.append_column("text", named["text"].take(pa.array(found)))


@dataclass
class NameQueryImages(beam.PTransform):
    """Query rows with the ids of their images.

    Input: {ROWS: (shard of images, QUERY_COUNTS and `text`), IMAGES: (shard, IMAGE_SCHEMA)}.
    Output: (file, schema.QUERY_SCHEMA).
    """

    layout: Layout

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[Keyed]:
        return (
            inputs
            | "QueriesToImages" >> JoinShards()
            | "NameImages" >> beam.FlatMapTuple(self._name).with_output_types(Keyed)
        )

    def _name(self, _: int, group: Group) -> Iterator[Keyed]:
        parts = list(group[ROWS])
        if not parts:
            return
        images = concatenate_images(group[IMAGES])
        rows = join(concatenate(parts), images, column="image", id_column="image_id")
        for file, part in names.split_by(rows, "query", self.layout.file_bounds):
            table = part.select(["text", "image_id", "sessions", "users"])
            yield file, table.rename_columns(schema.QUERY_SCHEMA.names)


@dataclass
class NameHeldOut(beam.PTransform):
    """Held-out rows with the ids of their images and the texts of their published queries.

    Input: {ROWS: (shard of images, holdout.HELD_OUT_SCHEMA), IMAGES: (shard, IMAGE_SCHEMA), and
    where the logs have queries NAMES: (shard, NAME_SCHEMA of published ones)}. Output: (file, a
    table of NAMED_COLUMNS).
    """

    layout: Layout

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[Keyed]:
        inputs = dict(inputs)
        rows = (
            {ROWS: inputs[ROWS], IMAGES: inputs.pop(IMAGES)}
            | "HeldOutToImages" >> JoinShards()
            | "NameHeldOutImages" >> beam.FlatMapTuple(self._images).with_output_types(Keyed)
        )
        return (
            {**inputs, ROWS: rows}
            | "HeldOutToQueries" >> JoinShards()
            | "NameHeldOutQueries" >> beam.FlatMapTuple(self._queries).with_output_types(Keyed)
        )

    def _images(self, _: int, group: Group) -> Iterator[Keyed]:
        parts = list(group[ROWS])
        if not parts:
            return
        images = concatenate_images(group[IMAGES])
        rows = join(concatenate(parts), images, column="image", id_column="image_id")
        # Rows without a query must not all go to one shard.
        asked = rows["query"].is_valid().to_numpy()
        place = np.where(asked, rows["query"].fill_null(0).to_numpy(), rows["image"].to_numpy())
        rows = rows.append_column("place", pa.array(place))
        yield from names.split_by(rows, "place", self.layout.hash_bounds)

    def _queries(self, _: int, group: Group) -> Iterator[Keyed]:
        parts = list(group[ROWS])
        if not parts:
            return
        rows = concatenate(parts)
        published = concatenate(
            sorted(group.get(NAMES, ()), key=lambda table: table["hash"][0].as_py()), NAME_SCHEMA
        )
        found = names.look_up(rows["query"].fill_null(0).to_numpy(), published, column="hash")
        known = (found >= 0) & rows["query"].is_valid().to_numpy()
        texts = published["text"].take(pa.array(found, mask=~known))
        named = pa.table([rows["draw"], rows["position"], rows["image_id"], texts], NAMED_COLUMNS)
        yield from names.split_by(named, "draw", self.layout.file_bounds)


NAMED_COLUMNS = ["draw", "position", "image_id", "query"]
