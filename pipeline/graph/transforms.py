"""The steps from sessions to the graph as Beam transforms, thin around the plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from pipeline.columnar import GatherShards, Keyed, concatenate, split_by_column, split_by_shard
from pipeline.config import GraphConfig, HoldoutConfig, SessionsConfig
from pipeline.graph import count, prune
from pipeline.graph.holdout import cutoff, holdout_rows, split_visits
from pipeline.sessions.sessionize import sessionize

NAMESPACE = "graph"
KEPT, HELD_OUT = "kept", "held_out"
EDGES, NODES = "edges", "nodes"
SESSIONS, SESSIONS_HELD_OUT = "sessions_in_graph", "sessions_held_out"
PAIRS, PAIRS_FREQUENT = "pairs", "pairs_of_min_sessions"
EDGES_KEPT = "edges"


def _count(name: str, amount: int) -> None:
    Metrics.counter(NAMESPACE, name).inc(int(amount))


def split_by_hash(table: pa.Table, *, column: str, shards: int) -> Iterator[Keyed]:
    """The table cut by a column that is a hash already."""
    shard = (table[column].to_numpy() % np.uint64(shards)).astype(np.int64)
    return split_by_shard(table, shard, shards)


def split_events(events: pa.Table, *, shards: int) -> Iterator[Keyed]:
    """Events cut so that a user's, and where there is no user a session's, stay together."""
    owner = events["user"].combine_chunks().fill_null(0).to_numpy()
    has_user = events["user"].is_valid().to_numpy()
    owner = np.where(has_user, owner, events["key"].to_numpy())
    return split_by_shard(events, (owner % np.uint64(shards)).astype(np.int64), shards)


@dataclass
class Sessionize(beam.PTransform):
    """Events to visits.

    Input: pa.Table of EVENT_SCHEMA. Output: pa.Table of VISIT_SCHEMA, one a shard. Counters: the
    fields of SessionCounts.
    """

    config: SessionsConfig
    seed: int
    shards: int

    def expand(self, events: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        return (
            events
            | "SplitByUser"
            >> beam.FlatMap(split_events, shards=self.shards).with_output_types(Keyed)
            | "Gather" >> GatherShards()
            | "CutSessions" >> beam.MapTuple(self._sessionize).with_output_types(pa.Table)
        )

    def _sessionize(self, _: int, events: pa.Table) -> pa.Table:
        visits, counts = sessionize(events, self.config, seed=self.seed)
        for name, value in dataclasses.asdict(counts).items():
            Metrics.counter("sessions", name).inc(value)
        return visits


@dataclass
class HoldOut(beam.PTransform):
    """Parts the sessions of the graph from those that evaluate it.

    Input: pa.Table of VISIT_SCHEMA. Output: {KEPT, HELD_OUT: the same}. Counters: SESSIONS,
    SESSIONS_HELD_OUT.
    """

    config: HoldoutConfig

    def expand(self, visits: beam.PCollection[pa.Table]) -> beam.pvalue.DoOutputsTuple:
        bound = (
            visits
            | "Orders" >> beam.Map(_session_order, by=self.config.by)
            | "AllOrders" >> beam.CombineGlobally(_join_arrays)
            | "Cutoff" >> beam.Map(cutoff, config=self.config)
        )
        return visits | "Part" >> beam.FlatMap(
            _part, by=self.config.by, bound=beam.pvalue.AsSingleton(bound)
        ).with_output_types(pa.Table).with_outputs(HELD_OUT, main=KEPT)


def _session_order(visits: pa.Table, by: str) -> np.ndarray:
    """What the time cutoff is taken from: the starts of the sessions; nothing for hashes."""
    if by == "hash":
        return np.zeros(0, np.int64)
    session = visits["session"].to_numpy()
    return visits["start"].take(pa.array(np.unique(session, return_index=True)[1])).to_numpy()


def _join_arrays(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _part(
    visits: pa.Table, by: str, bound: int | float
) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
    kept, held_out = split_visits(visits, by=by, bound=bound)
    _count(SESSIONS, len(np.unique(kept["session"].to_numpy())))
    _count(SESSIONS_HELD_OUT, len(np.unique(held_out["session"].to_numpy())))
    yield kept
    yield beam.pvalue.TaggedOutput(HELD_OUT, held_out)


@dataclass
class CountImages(beam.PTransform):
    """Visits to n_i.

    Input: pa.Table of VISIT_SCHEMA. Output: (shard of the image's hash, IMAGE_COUNTS).
    """

    shards: int

    def expand(self, visits: beam.PCollection[pa.Table]) -> beam.PCollection[Keyed]:
        return (
            visits
            | "Count" >> beam.Map(count.count_images).with_output_types(pa.Table)
            | "SplitByImage"
            >> beam.FlatMap(split_by_hash, column="image", shards=self.shards).with_output_types(
                Keyed
            )
            | "Gather" >> GatherShards()
            | "Merge" >> beam.MapTuple(_merge_images).with_output_types(Keyed)
        )


def _merge_images(shard: int, shares: pa.Table) -> Keyed:
    return shard, count.merge_images(shares)


@dataclass
class CountPairs(beam.PTransform):
    """Visits to c_ij, in both directions.

    Input: pa.Table of VISIT_SCHEMA. Output: (shard of src, PAIR_COUNTS of at least `min_sessions`).
    Counters: PAIRS, PAIRS_FREQUENT, each unordered pair once.
    """

    min_sessions: int
    shards: int

    def expand(self, visits: beam.PCollection[pa.Table]) -> beam.PCollection[Keyed]:
        return (
            visits
            | "Count" >> beam.Map(count.count_pairs).with_output_types(pa.Table)
            | "SplitBySource"
            >> beam.FlatMap(split_by_hash, column="src", shards=self.shards).with_output_types(
                Keyed
            )
            | "Gather" >> GatherShards()
            | "Merge" >> beam.MapTuple(self._merge).with_output_types(Keyed)
        )

    def _merge(self, shard: int, shares: pa.Table) -> Keyed:
        pairs, before = count.merge_pairs(shares, min_sessions=self.min_sessions)
        _count(PAIRS, before)
        _count(PAIRS_FREQUENT, pairs.num_rows)
        return shard, pairs


@dataclass
class CountQueries(beam.PTransform):
    """Visits to counts of (query, image).

    Input: pa.Table of VISIT_SCHEMA. Output: pa.Table of QUERY_COUNTS.
    """

    shards: int

    def expand(self, visits: beam.PCollection[pa.Table]) -> beam.PCollection[pa.Table]:
        return (
            visits
            | "Count" >> beam.Map(count.count_queries).with_output_types(pa.Table)
            | "SplitByQuery"
            >> beam.FlatMap(split_by_column, column="query", shards=self.shards).with_output_types(
                Keyed
            )
            | "Gather" >> GatherShards()
            | "Merge" >> beam.MapTuple(_merge_queries).with_output_types(pa.Table)
        )


def _merge_queries(_: int, shares: pa.Table) -> pa.Table:
    return count.merge_queries(shares)


@dataclass
class ResolveImages(beam.PTransform):
    """Looks up id and n of both images of each pair, shard to shard.

    Input: {"pairs": (shard of src, PAIR_COUNTS), "images": (shard, IMAGE_COUNTS)}.
    Output: {"pairs": tables of FULL_PAIRS, "images": IMAGE_COUNTS} a shard.
    """

    shards: int

    def expand(
        self, inputs: Mapping[str, beam.PCollection[Keyed]]
    ) -> beam.PCollection[tuple[pa.Table, pa.Table]]:
        turned = (
            inputs
            | "PairsToImages" >> beam.CoGroupByKey()
            | "LookUpSource" >> beam.FlatMapTuple(self._turn).with_output_types(Keyed)
        )
        return (
            {"pairs": turned, "images": inputs["images"]}
            | "TurnedPairsToImages" >> beam.CoGroupByKey()
            | "LookUpOther" >> beam.MapTuple(_resolve)
        )

    def _turn(self, _: int, group: Mapping[str, Iterable[pa.Table]]) -> Iterator[Keyed]:
        pairs = concatenate(group["pairs"], count.PAIR_COUNTS)
        images = concatenate(group["images"], count.IMAGE_COUNTS)
        turned = prune.turn_around(prune.join_source(pairs, images))
        return split_by_hash(turned, column="src", shards=self.shards)


def _resolve(_: int, group: Mapping[str, Iterable[pa.Table]]) -> tuple[pa.Table, pa.Table]:
    images = concatenate(group["images"], count.IMAGE_COUNTS)
    parts = list(group["pairs"])
    if not parts:
        return prune.FULL_PAIRS.empty_table(), images
    known = ("dst_id", "dst_sessions")
    pairs = prune.join_source(concatenate(parts), images, known=known)
    return pairs.select(prune.FULL_PAIRS.names).cast(prune.FULL_PAIRS), images


@dataclass
class KeepStrongest(beam.PTransform):
    """Weighs pairs and keeps each image's strongest.

    Input: (FULL_PAIRS, IMAGE_COUNTS) a shard. Output: {EDGES: schema.EDGE_SCHEMA, NODES:
    schema.NODE_SCHEMA}. Counters: EDGES_KEPT, and what each step removed.
    """

    config: GraphConfig
    seed: int
    population: beam.pvalue.AsSingleton

    def expand(
        self, shards: beam.PCollection[tuple[pa.Table, pa.Table]]
    ) -> beam.pvalue.DoOutputsTuple:
        return shards | "Prune" >> beam.FlatMap(
            _prune, config=self.config, seed=self.seed, population=self.population
        ).with_output_types(pa.Table).with_outputs(NODES, main=EDGES)


def _prune(
    shard: tuple[pa.Table, pa.Table], config: GraphConfig, seed: int, population: int
) -> Iterator[pa.Table | beam.pvalue.TaggedOutput]:
    pairs, images = shard
    edges, removed = prune.keep_strongest(pairs, config, population=population, seed=seed)
    _count(EDGES_KEPT, edges.num_rows)
    for name, amount in removed.items():
        _count(f"edges_{name}", amount)
    yield edges
    yield beam.pvalue.TaggedOutput(NODES, prune.count_degrees(images, edges))


def number_sessions(visits: pa.Table) -> int:
    """How many sessions a table of visits holds."""
    return len(np.unique(visits["session"].to_numpy()))


@dataclass
class NumberHoldout(beam.PTransform):
    """Held-out visits as the rows of each output file.

    Input: pa.Table of VISIT_SCHEMA. Output: (file number, pa.Table of schema.HOLDOUT_SCHEMA).
    """

    files: int

    def expand(self, visits: beam.PCollection[pa.Table]) -> beam.PCollection[Keyed]:
        return (
            visits
            | "SplitByDraw"
            >> beam.FlatMap(split_by_hash, column="draw", shards=self.files).with_output_types(
                Keyed
            )
            | "Gather" >> GatherShards()
            | "Number" >> beam.MapTuple(self._number).with_output_types(Keyed)
        )

    def _number(self, file: int, visits: pa.Table) -> Keyed:
        return file, holdout_rows(file, visits, files=self.files)
