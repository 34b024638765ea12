"""From counts to edges: the Beam steps of the second half of the graph.

Counts meet in shards of pairs and leave them pruned; each pair then goes to the shard of its higher
image, where its weight is known, and from there to both its images, which keep their strongest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.columnar import JoinShards, Keyed, concatenate, concatenate_ascending
from pipeline.config import GraphConfig
from pipeline.graph import prune, shares
from pipeline.graph.count import PairCounts
from pipeline.graph.counting import NAMESPACE, Layout
from pipeline.graph.images import (
    IMAGE_COUNTS,
    concatenate_images,
    merge_images,
)
from pipeline.graph.names import check_found, look_up, split_by, split_sorted
from pipeline.graph.noise import NoisyCounts
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.sorting import run_lengths, run_starts

Group = Mapping[str, Iterable[pa.Table]]

PAIRS, IMAGES, EDGES, HUBS, COUNTS = "pairs", "images", "edges", "hubs", "counts"
NAMES, PREVIOUS, EVERY = "names", "previous", "every"
OF_PAIRS, OF_FILES = "images_of_pairs", "images_of_files"
PAIRS_COUNTED = "pairs"
PAIRS_OF_MIN_SESSIONS, PAIRS_OF_MIN_USERS = "pairs_of_min_sessions", "pairs_of_min_users"
EDGES_WEIGHED, EDGES_WITHIN_DEGREE = "edges_weighed", "edges_within_degree"
EDGES_WITHIN_TOP_K, EDGES_KEPT = "edges_within_top_k", "edges"
HUB_SCHEMA = pa.schema([("image_id", pa.string()), ("degree", pa.int64())])
_HUBS = 10


@dataclass
class MergeImages(beam.PTransform):
    """Counts and names of images, added up.

    Input: {IMAGES: (shard, IMAGE_COUNTS), NAMES: (shard, NAME_SCHEMA), and of an earlier run
    PREVIOUS: (shard, IMAGE_SCHEMA)}. Output: {IMAGES: (shard, IMAGE_SCHEMA), OF_PAIRS: (shard of
    pairs, IMAGE_COUNTS), OF_FILES: (file, IMAGE_SCHEMA)}.
    """

    layout: Layout
    noise: NoisyCounts | None

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._merge,
            {IMAGES: Shipped, OF_PAIRS: Shipped, OF_FILES: Keyed},
            self.layout.threads,
            NAMESPACE,
        )
        return inputs | "GatherImages" >> JoinShards() | "MergeImages" >> step

    def _merge(self, element: tuple[int, Group]) -> Outcome:
        shard, group = element
        images = merge_images(group[IMAGES], group[NAMES], group.get(PREVIOUS, ()))
        if self.noise is not None:
            images = self.noise.noisy_images(images)
        counted = images.filter(pc.greater(images["sessions"], 0))
        outputs: list[tuple[str, Any]] = [(IMAGES, (shard, images))]
        for tag, table, bounds in (
            (OF_PAIRS, counted.select(IMAGE_COUNTS.names), self.layout.pair_bounds),
            (OF_FILES, counted, self.layout.file_bounds),
        ):
            outputs += [(tag, keyed) for keyed in split_sorted(table, "image", bounds)]
        return Outcome(outputs)


@dataclass
class MergePairs(beam.PTransform):
    """Counts of pairs, added up and pruned by sessions and users.

    Input: {PAIRS: (shard of pairs, table), of an earlier run PREVIOUS: the
    same, OF_PAIRS: (shard of pairs,
    IMAGE_COUNTS)}. Output: {PAIRS: (shard of the higher image, prune.PAIR_SCHEMA), COUNTS: (file,
    (shard, table of all pairs))}. Counters: PAIRS_COUNTED, PAIRS_OF_MIN_SESSIONS,
    PAIRS_OF_MIN_USERS.
    """

    config: GraphConfig
    layout: Layout
    noise: NoisyCounts | None

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._merge, {PAIRS: Shipped, COUNTS: Keyed}, self.layout.threads, NAMESPACE
        )
        return inputs | "GatherPairs" >> JoinShards() | "MergePairs" >> step

    def _merge(self, element: tuple[int, Group]) -> Outcome:
        shard, group = element
        counts = shares.merge(group[PAIRS])
        if PREVIOUS in group:
            counts = shares.combine([counts, shares.merge(group[PREVIOUS])], users=np.maximum)
        outputs: list[tuple[str, Any]] = []
        if self.config.keep_counts:
            file = shard * self.layout.files // self.layout.shards
            outputs.append((COUNTS, (file, counts_table(counts))))
        total = len(counts.low)
        if self.noise is not None:
            counts = self.noise.publish_pairs(counts)
        counts = shares.keep(counts, counts.sessions >= self.config.min_sessions)
        frequent = len(counts.low)
        if self.config.min_users > 1:
            counts = shares.keep(counts, counts.users >= self.config.min_users)
        images = concatenate_ascending(group[OF_PAIRS], "image", IMAGE_COUNTS)
        pairs = _with_low_sessions(counts, images)
        outputs += [(PAIRS, keyed) for keyed in split_by(pairs, "high", self.layout.hash_bounds)]
        return Outcome(
            outputs,
            {
                PAIRS_COUNTED: total,
                PAIRS_OF_MIN_SESSIONS: frequent,
                PAIRS_OF_MIN_USERS: len(counts.low),
            },
        )


def counts_table(counts: PairCounts) -> pa.Table:
    """All pairs of a shard as schema.PAIR_COUNT_SCHEMA, ascending."""
    columns = [
        counts.images[counts.low],
        counts.images[counts.high],
        counts.sessions,
        counts.users,
        shares.strength_of(counts),
    ]
    return pa.table(columns, schema=schema.PAIR_COUNT_SCHEMA)


def _with_low_sessions(counts: PairCounts, images: pa.Table) -> pa.Table:
    """prune.PAIR_SCHEMA."""
    rows = look_up(counts.images, images)[counts.low]
    check_found(rows)
    columns = [
        counts.images[counts.low],
        counts.images[counts.high],
        counts.sessions,
        counts.users,
        shares.strength_of(counts),
        images["sessions"].to_numpy()[rows],
    ]
    return pa.table(columns, schema=prune.PAIR_SCHEMA)


@dataclass
class WeighPairs(beam.PTransform):
    """Pairs to edges in both directions.

    Input: {PAIRS: (shard of the higher image, prune.PAIR_SCHEMA), IMAGES: (shard, IMAGE_SCHEMA)}.
    Output: {EDGES: (shard of src, prune.EDGE_SCHEMA)}. Counters: EDGES_WEIGHED, and what each step
    removed.
    """

    config: GraphConfig
    layout: Layout
    population: beam.pvalue.AsSingleton

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[Keyed]:
        step = InThreads(
            self._weigh, {EDGES: Shipped}, self.layout.threads, NAMESPACE, side=self.population
        )
        return (inputs | "PairsToHigher" >> JoinShards() | "Weigh" >> step)[EDGES]

    def _weigh(self, element: tuple[int, Group], population: int) -> Outcome:
        _, group = element
        pairs = concatenate(group[PAIRS], prune.PAIR_SCHEMA)
        images = concatenate_images(group[IMAGES])
        rows = look_up(pairs["high"].to_numpy(), images)
        check_found(rows)
        high_sessions = images["sessions"].to_numpy()[rows]
        edges, removed = prune.weigh(pairs, high_sessions, self.config, population=population)
        keyed = split_by(edges, "src", self.layout.hash_bounds)
        counts = {**removed, EDGES_WEIGHED: edges.num_rows // 2}
        return Outcome([(EDGES, part) for part in keyed], counts)


@dataclass
class LimitDegree(beam.PTransform):
    """Each image keeps its strongest in-edges: hub control.

    Input: {EDGES: (shard of dst, prune.EDGE_SCHEMA), or of src where every edge is there in both
    directions, IMAGES}. Output: {EDGES: (shard of src, prune.EDGE_SCHEMA), HUBS: (0, HUB_SCHEMA)}.
    Counter: EDGES_WITHIN_DEGREE. Without graph.max_degree only the hubs are found.
    """

    config: GraphConfig
    layout: Layout
    seed: int
    both_ways: bool

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._limit, {EDGES: Shipped, HUBS: Shipped}, self.layout.threads, NAMESPACE
        )
        return inputs | "EdgesToTargets" >> JoinShards() | "LimitInEdges" >> step

    def _limit(self, element: tuple[int, Group]) -> Outcome:
        _, group = element
        edges = concatenate(group[EDGES], prune.EDGE_SCHEMA)
        if self.both_ways:  # turned around, the edges from an image are the edges to it
            edges = prune.reverse(edges)
        hubs = find_hubs(edges["dst"].to_numpy(), concatenate_images(group[IMAGES]))
        limit = self.config.max_degree or edges.num_rows
        kept = prune.keep_strongest(edges, limit, by="dst", seed=self.seed)
        kept = kept.drop_columns(["rank"])
        keyed = split_by(kept, "src", self.layout.hash_bounds)
        outputs: list[tuple[str, Any]] = [(EDGES, part) for part in keyed]
        return Outcome([*outputs, (HUBS, (0, hubs))], {EDGES_WITHIN_DEGREE: kept.num_rows})


@dataclass
class KeepTopK(beam.PTransform):
    """Each image keeps its strongest out-edges.

    Input: {EDGES: (shard of src, prune.EDGE_SCHEMA), IMAGES}. Output: {EDGES: (shard, edges with
    their rank), HUBS: (0, HUB_SCHEMA), if they are to be found, where every edge is there both
    ways}; the shard is that of dst, or where the graph is to be symmetric that of the lower image.
    Counter: EDGES_WITHIN_TOP_K.
    """

    config: GraphConfig
    layout: Layout
    seed: int
    find_hubs: bool

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._keep, {EDGES: Shipped, HUBS: Shipped}, self.layout.threads, NAMESPACE
        )
        return inputs | "EdgesToSources" >> JoinShards() | "KeepTopK" >> step

    def _keep(self, element: tuple[int, Group]) -> Outcome:
        _, group = element
        edges = concatenate(group[EDGES], prune.EDGE_SCHEMA)
        outputs: list[tuple[str, Any]] = []
        if self.find_hubs:
            hubs = find_hubs(edges["src"].to_numpy(), concatenate_images(group[IMAGES]))
            outputs.append((HUBS, (0, hubs)))
        kept = prune.keep_strongest(edges, self.config.top_k, by="src", seed=self.seed)
        if self.config.symmetry == "directed":
            keyed = split_by(kept, "dst", self.layout.hash_bounds)
        else:
            low = np.minimum(kept["src"].to_numpy(), kept["dst"].to_numpy())
            keyed = split_by(
                kept.append_column("low", pa.array(low)), "low", self.layout.hash_bounds
            )
        outputs += [(EDGES, part) for part in keyed]
        return Outcome(outputs, {EDGES_WITHIN_TOP_K: kept.num_rows})


@dataclass
class Symmetrize(beam.PTransform):
    """Edges that both ends keep, or that either does, ranked anew.

    Input: (shard of the lower image, edges). Output: (shard of dst, edges with their rank).
    """

    config: GraphConfig
    layout: Layout
    seed: int

    def expand(self, edges: beam.PCollection[Shipped]) -> beam.PCollection[Keyed]:
        symmetric = (
            {EDGES: edges}
            | "PairEdges" >> JoinShards()
            | "Symmetrize" >> beam.FlatMap(self._symmetrize).with_output_types(Keyed)
        )
        return (
            {EDGES: symmetric}
            | "EdgesToSourcesAgain" >> JoinShards()
            | "RankAgain" >> beam.FlatMap(self._rank).with_output_types(Keyed)
        )

    def _symmetrize(self, element: tuple[int, Group]) -> Iterable[Keyed]:
        _, group = element
        edges = concatenate(group[EDGES]).select(prune.EDGE_SCHEMA.names)
        symmetric = prune.symmetrize(edges, self.config.symmetry)
        return split_by(symmetric, "src", self.layout.hash_bounds)

    def _rank(self, element: tuple[int, Group]) -> Iterable[Keyed]:
        _, group = element
        edges = concatenate(group[EDGES])
        ranked = prune.keep_strongest(edges, edges.num_rows, by="src", seed=self.seed)
        return split_by(ranked, "dst", self.layout.hash_bounds)


@dataclass
class NameTargets(beam.PTransform):
    """Edges with the id of the image that they lead to.

    Input: {EDGES: (shard of dst, edges with their rank), IMAGES}. Output: {EDGES: (file of src,
    edges with `dst_id`), HUBS: (0, HUB_SCHEMA)}. Counter: EDGES_KEPT.
    """

    layout: Layout

    def expand(self, inputs: Mapping[str, beam.PCollection[Keyed]]) -> dict[str, beam.PCollection]:
        step = InThreads(
            self._name, {EDGES: Shipped, HUBS: Shipped}, self.layout.threads, NAMESPACE
        )
        return inputs | "EdgesToNames" >> JoinShards() | "NameTargets" >> step

    def _name(self, element: tuple[int, Group]) -> Outcome:
        _, group = element
        parts = list(group[EDGES])
        if not parts:
            return Outcome()
        edges, images = concatenate(parts), concatenate_images(group[IMAGES])
        hubs = find_hubs(edges["dst"].to_numpy(), images)
        rows = look_up(edges["dst"].to_numpy(), images)
        check_found(rows)
        # Encoded: an image's id travels once for all the edges that lead to it.
        ids = pa.DictionaryArray.from_arrays(
            pa.array(rows.astype(np.int32)), images["image_id"].combine_chunks()
        )
        named = edges.append_column("dst_id", ids)
        keyed = split_by(named, "src", self.layout.file_bounds)
        outputs: list[tuple[str, Any]] = [(EDGES, part) for part in keyed]
        return Outcome([*outputs, (HUBS, (0, hubs))], {EDGES_KEPT: edges.num_rows})


def find_hubs(targets: np.ndarray, images: pa.Table) -> pa.Table:
    """HUB_SCHEMA of the images that most edges lead to; targets: [edges] hashes."""
    targets = np.sort(targets)
    starts = run_starts(targets)
    degrees = run_lengths(starts, len(targets))
    if len(degrees) > _HUBS:  # ids are only looked up where the degrees do not decide
        large = degrees >= np.partition(degrees, -_HUBS)[-_HUBS]
        starts, degrees = starts[large], degrees[large]
    rows = look_up(targets[starts], images)
    check_found(rows)
    ids = images["image_id"].take(pa.array(rows))
    return top_hubs([pa.table([ids, degrees], schema=HUB_SCHEMA)])


def top_hubs(tables: Iterable[pa.Table]) -> pa.Table:
    """HUB_SCHEMA of the ten images of most edges; equal ones in order of their ids."""
    hubs = concatenate(tables, HUB_SCHEMA)
    return hubs.sort_by([("degree", "descending"), ("image_id", "ascending")]).slice(0, _HUBS)


def finish_file(
    edges: Iterable[pa.Table], images: pa.Table, *, only_linked: bool
) -> tuple[pa.Table, pa.Table]:
    """(schema.EDGE_SCHEMA with encoded ids, schema.NODE_SCHEMA) of one file, in order.

    edges: with their rank and `dst_id`. images: IMAGE_SCHEMA of the file, those of the graph.
    only_linked: leave out images from which no edge leads.
    """
    by_id = pc.sort_indices(images["image_id"]).to_numpy()
    place = np.empty(len(by_id), np.int64)
    place[by_id] = np.arange(len(by_id))
    degree = np.zeros(len(by_id), np.int64)
    parts = list(edges)
    table = schema.EDGE_SCHEMA.empty_table()
    if parts:
        found = concatenate(parts)
        rows = look_up(found["src"].to_numpy(), images)
        check_found(rows)
        degree = np.bincount(rows, minlength=len(by_id))
        rank = found["rank"].to_numpy()
        order = np.argsort(place[rows] * (int(rank.max()) + 1) + rank)
        src_id = pa.DictionaryArray.from_arrays(
            pa.array(rows[order].astype(np.int32)), images["image_id"].combine_chunks()
        )
        table = _edge_table(found.take(pa.array(order)), src_id)
    columns = [images["image_id"], images["sessions"], degree]
    nodes = pa.table(columns, schema=schema.NODE_SCHEMA).take(pa.array(by_id))
    return table, nodes.filter(pc.greater(nodes["degree"], 0)) if only_linked else nodes


def _edge_table(edges: pa.Table, src_id: pa.DictionaryArray) -> pa.Table:
    columns = {name: edges[name] for name in schema.EDGE_SCHEMA.names if name in edges.column_names}
    dst_id = _by_hash(edges["dst_id"].combine_chunks(), edges["dst"].to_numpy())
    columns |= {"src": src_id, "dst": dst_id}
    return pa.table({name: columns[name] for name in schema.EDGE_SCHEMA.names})


def _by_hash(ids: pa.DictionaryArray, hashes: np.ndarray) -> pa.DictionaryArray:
    """The same ids, encoded by those alone that there are, in ascending order of their hashes.

    A file holds the list of ids as it is, and which shards gave a part of it, and which came first,
    must not show. hashes: [rows] uint64 of the ids.
    """
    rows = ids.indices.to_numpy()
    hash_of = np.zeros(len(ids.dictionary), np.uint64)
    hash_of[rows] = hashes
    used = np.flatnonzero(np.bincount(rows, minlength=len(hash_of)))
    used = used[np.argsort(hash_of[used])]
    place = np.empty(len(hash_of), np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    names = ids.dictionary.take(pa.array(used))
    return pa.DictionaryArray.from_arrays(pa.array(place[rows]), names)
