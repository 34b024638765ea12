"""Join the graph to the catalog: every image with its neighbours and the edges among them.

In: edge tables and the settled images. Out: for each shard of seeds its out-edges, and a table of
all nodes that are neighbours of its seeds (NEIGHBOR_SCHEMA), each with its own out-edges, so that
edges among the nodes of an example are found without a further join. An image that many seeds of a
shard share is sent there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columnar, schema, storage
from pipeline.examples import nodes, sharding, spill
from pipeline.examples.prepare import count

EDGE_COLUMNS = ("src", "dst", "rank", "weight")
MARKED_SCHEMA = pa.schema(
    [*(schema.EDGE_SCHEMA.field(name) for name in EDGE_COLUMNS), ("dst_known", pa.bool_())]
)
# Out-edges of images that both are in the catalog, by src and then from the strongest on.
ADJACENCY_SCHEMA = pa.schema([schema.EDGE_SCHEMA.field(n) for n in ("src", "dst", "weight")])
REQUEST_SCHEMA = pa.schema([("image_id", pa.string()), ("seed_shard", pa.int64())])
OUT_DST, OUT_WEIGHT = "out_dst", "out_weight"  # list columns: a node's out-edges

EDGES, ADJACENCY, REQUESTS, REPLIES, EVERY = "edges", "adjacency", "requests", "replies", "every"
Joined = tuple[int, Mapping[str, Iterable[Any]]]


def mark_known(element: Joined, files: nodes.NodeFiles) -> Iterator[pa.Table]:
    """The edges that end in this shard, with `dst_known`: is the image in the catalog?"""
    shard, joined = element
    for edges in joined[EDGES]:
        known = pc.is_in(edges["dst"], files.read_ids(shard))
        yield edges.append_column("dst_known", known)


def choose_neighbors(element: Joined, files: nodes.NodeFiles, neighbors: int) -> Iterator[Any]:
    """(shard, ADJACENCY_SCHEMA) of the edges that start in this shard; edges of which an end is
    not in the catalog are counted and skipped.

    Under REQUESTS goes out (shard, REQUEST_SCHEMA): which nodes the seeds need, to their shards.
    """
    shard, joined = element
    edges = columnar.concatenate(joined[EDGES], MARKED_SCHEMA)
    src_known = pc.is_in(edges["src"], files.read_ids(shard))
    count("edges", edges.num_rows)
    count("edges touching", pc.sum(pc.or_(src_known, edges["dst_known"])).as_py() or 0)
    known = edges.filter(pc.and_(src_known, edges["dst_known"]))
    count("edges skipped", edges.num_rows - known.num_rows)
    adjacency = columnar.sort_rows(known, ["src", "rank", "dst"]).select(ADJACENCY_SCHEMA.names)
    if adjacency.num_rows:
        yield shard, adjacency
    wanted = pc.unique(adjacency.filter(pa.array(first_of_each(adjacency, neighbors)))["dst"])
    requests = pa.table([wanted, pa.array(np.full(len(wanted), shard))], schema=REQUEST_SCHEMA)
    for request in columnar.split_by_column(requests, column="image_id", shards=files.shards):
        yield beam.pvalue.TaggedOutput(REQUESTS, request)


def first_of_each(adjacency: pa.Table, limit: int) -> np.ndarray:
    """[rows] bool: is the row one of the first `limit` of its src? Rows are sorted by src."""
    if adjacency.num_rows == 0:
        return np.zeros(0, bool)
    source = pc.dictionary_encode(adjacency["src"].combine_chunks()).indices.to_numpy()
    starts = np.flatnonzero(np.diff(source, prepend=-1))
    place = np.arange(len(source)) - np.repeat(starts, np.diff(starts, append=len(source)))
    return place < limit


def serve_neighbors(element: Joined, files: nodes.NodeFiles) -> Iterator[tuple[int, str]]:
    """Writes, for each shard of seeds that asked, the nodes of this shard that it needs.

    Yields (shard of the seeds, path).
    """
    shard, joined = element
    requests = columnar.concatenate(joined[REQUESTS], REQUEST_SCHEMA)
    if requests.num_rows == 0:
        return
    found = with_out_edges(
        files.read_nodes(shard), columnar.concatenate(joined[ADJACENCY], ADJACENCY_SCHEMA)
    )
    for seeds in sorted(pc.unique(requests["seed_shard"]).to_pylist()):
        wanted = requests.filter(pc.equal(requests["seed_shard"], seeds))["image_id"]
        part = found.filter(pc.is_in(found["image_id"], wanted.combine_chunks()))
        name = f"{REPLIES}-{seeds:05d}-{shard:05d}.parquet"
        yield seeds, spill.write_table(storage.join(files.folder, name), part)


def with_out_edges(images: pa.Table, adjacency: pa.Table) -> pa.Table:
    """The nodes with their out-edges as two list columns, from the strongest on.

    images: by ascending id. adjacency: ADJACENCY_SCHEMA, by ascending src; each src is an image.
    """
    place = pc.index_in(adjacency["src"], images["image_id"].combine_chunks())
    degrees = np.bincount(place.to_numpy(), minlength=images.num_rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(degrees)]), pa.int64())
    kept = images.select([*nodes.NODE_COLUMNS])
    for name, column in ((OUT_DST, "dst"), (OUT_WEIGHT, "weight")):
        values = columnar.concatenate([adjacency])[column].combine_chunks()
        kept = kept.append_column(name, pa.LargeListArray.from_arrays(offsets, values))
    return kept


@dataclass
class JoinNeighbors(beam.PTransform):
    """Brings to every shard of seeds their out-edges and the nodes those lead to.

    Input: the root. Output: (shard, {"adjacency": tables of ADJACENCY_SCHEMA, "replies": paths of
    tables of `with_out_edges`, "every": …}), one element a shard.
    Counters: edges, edges touching (an end is in the catalog), edges skipped.
    """

    files: nodes.NodeFiles
    edge_files: tuple[str, ...]
    neighbors: int

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Joined]:
        number = self.files.shards
        every = root | "EveryShard" >> sharding.EveryShard(number)
        edges_by_dst = root | "ReadEdges" >> sharding.ReadShards(
            self.edge_files, column="dst", shards=number, columns=EDGE_COLUMNS
        )
        edges_by_src = (
            {EDGES: edges_by_dst}
            | "JoinDst" >> beam.CoGroupByKey()
            | "MarkKnown" >> beam.FlatMap(mark_known, self.files).with_output_types(pa.Table)
            | "SplitBySrc" >> columnar.SplitByColumn("src", number)
        )
        adjacency, requests = (
            {EDGES: edges_by_src}
            | "JoinSrc" >> beam.CoGroupByKey()
            | "ChooseNeighbors"
            >> beam.FlatMap(choose_neighbors, self.files, self.neighbors)
            .with_output_types(columnar.Keyed)
            .with_outputs(REQUESTS, main=ADJACENCY)
        )
        replies = (
            {ADJACENCY: adjacency, REQUESTS: requests}
            | "JoinRequests" >> beam.CoGroupByKey()
            | "ServeNeighbors"
            >> beam.FlatMap(serve_neighbors, self.files).with_output_types(tuple[int, str])
        )
        joined = {ADJACENCY: adjacency, REPLIES: replies, EVERY: every}
        return joined | "JoinSeeds" >> beam.CoGroupByKey()
