"""Join the graph to the catalog: every image with its neighbours and the edges among them.

In: the edges, and the settled images. Out: for each shard of seeds its out-edges (ADJACENCY_SCHEMA)
and a table of the nodes that are neighbours of its seeds, each with its own out-edges, so that
edges among the nodes of an example are found without a further join. An image that many seeds of a
shard share is sent there once.

    edges ─► shard of dst: is it in the catalog? ─► shard of src: is it? the strongest K
          ─► shard of dst: the nodes that are asked for ─► shard of src: examples
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columnar
from pipeline.columnar import EveryShard, Joined, JoinShards, Keyed
from pipeline.examples import coverage
from pipeline.examples.nodes import NODE_COLUMNS, NodeFiles
from pipeline.examples.places import PLACE, Places, column
from pipeline.examples.prepare import NAMESPACE
from pipeline.examples.settle import SESSIONS
from pipeline.examples.trust import Trust
from pipeline.memory import release_freed_memory
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.reading import ReadTables
from pipeline.sorting import order_by, rows_of, run_bounds, run_lengths, run_starts

_EDGE_COLUMNS = ("src", "dst", "rank", "weight")
_FLOAT32 = np.finfo(np.float32)
# Ids while nobody knows yet whether they are in the catalog; places beside them.
EDGE_SCHEMA = pa.schema(
    [
        ("src_place", pa.uint64()),
        ("dst_place", pa.uint64()),
        ("src", pa.string()),
        ("dst", pa.string()),
        ("rank", pa.int32()),
        ("weight", pa.float64()),
    ]
)
MARKED_SCHEMA = pa.schema([*EDGE_SCHEMA.remove(3), ("dst_known", pa.bool_())])
# Out-edges between images of the catalog: by place of src, then from the strongest on.
ADJACENCY_SCHEMA = pa.schema(
    [("src_place", pa.uint64()), ("dst_place", pa.uint64()), ("weight", pa.float32())]
)
REQUEST_SCHEMA = pa.schema([(PLACE, pa.uint64()), ("seed_shard", pa.int32())])
OUT_PLACE, OUT_WEIGHT = "out_place", "out_weight"  # list columns: a node's out-edges

EDGES, ADJACENCY, REQUESTS, REPLIES = "edges", "adjacency", "requests", "replies"
COVERAGE, EVERY = "coverage", "every"


@dataclass(frozen=True)
class JoinOptions:
    """What the join depends on beside the data.

    neighbors: the most of an image. relative: weights are divided by the image's strongest. trust:
    what is made of the edges' agreement; None: they have none.
    """

    files: NodeFiles
    places: Places
    neighbors: int
    relative: bool
    threads: int
    trust: Trust | None = None


def with_places(edges: pa.Table, places_: Places, trust: Trust | None = None) -> Iterator[Keyed]:
    """EDGE_SCHEMA of edges of the graph, for the shards of their dst."""
    if trust is not None:
        edges = trust.applied(edges)
    dst = places_.of(edges["dst"])
    columns = [pa.array(places_.of(edges["src"])), pa.array(dst)]
    columns += [edges[name] for name in _EDGE_COLUMNS]
    yield from places_.split(pa.table(columns, schema=EDGE_SCHEMA), dst)


def mark_known(element: Joined, options: JoinOptions) -> Outcome:
    """MARKED_SCHEMA of the edges that end in this shard, for the shards of their src."""
    shard, joined = element
    edges = columnar.concatenate(joined[EDGES], EDGE_SCHEMA)
    known = _is_known(edges, "dst", options.files.read_places(shard))
    marked = edges.drop_columns(["dst"]).append_column("dst_known", pa.array(known))
    parts = options.places.split(marked, column(edges, "src_place").to_numpy())
    return Outcome([(EDGES, part) for part in parts])


def _is_known(edges: pa.Table, end: str, images: pa.Table) -> np.ndarray:
    """[edges] bool: is that end of the edge one of the images? The id decides, not its hash."""
    ids = column(images, "image_id")
    rows = rows_of(edges[f"{end}_place"].to_numpy(), column(images, PLACE).to_numpy())
    same = pc.equal(ids.take(pa.array(rows, mask=rows < 0)), column(edges, end))
    return pc.fill_null(same, False).to_numpy(zero_copy_only=False)


def choose_neighbors(element: Joined, options: JoinOptions) -> Outcome:
    """The edges that start in this shard; those with an end outside of the catalog, and loops, are
    counted and left out.

    Outputs: ADJACENCY; REQUESTS, which nodes the seeds need, for the shards of those; COVERAGE, how
    many neighbours each image has.
    """
    shard, joined = element
    images = options.files.read_places(shard)
    edges = columnar.concatenate(joined[EDGES], MARKED_SCHEMA)
    src_known = _is_known(edges, "src", images)
    dst_known = column(edges, "dst_known").to_numpy(zero_copy_only=False)
    src, dst = (column(edges, f"{end}_place").to_numpy() for end in ("src", "dst"))
    kept = src_known & dst_known & (src != dst)
    adjacency = sort_edges(edges.filter(pa.array(kept)), relative=options.relative)
    src, dst = (column(adjacency, f"{end}_place").to_numpy() for end in ("src", "dst"))
    place = column(images, PLACE).to_numpy()
    degrees = np.bincount(rows_of(src, place), minlength=len(place))
    wanted = np.unique(dst[first_of_each(src, options.neighbors)])
    requests = pa.table([wanted, np.full(len(wanted), shard, np.int32)], schema=REQUEST_SCHEMA)
    tally = coverage.tally(column(images, SESSIONS), np.minimum(degrees, max(1, options.neighbors)))
    return Outcome(
        [
            (ADJACENCY, (shard, adjacency)),
            (COVERAGE, (0, tally)),
            *((REQUESTS, part) for part in options.places.split(requests, wanted)),
        ],
        {
            "edges": edges.num_rows,
            "edges touching": int((src_known | dst_known).sum()),
            "edges skipped": int(edges.num_rows - kept.sum()),
        },
    )


def sort_edges(edges: pa.Table, *, relative: bool) -> pa.Table:
    """ADJACENCY_SCHEMA of MARKED_SCHEMA: by place of src, then rank, then place of dst."""
    src, dst = (column(edges, f"{end}_place").to_numpy() for end in ("src", "dst"))
    order = order_by(src, column(edges, "rank").to_numpy(), dst)
    src, dst = src[order], dst[order]
    weight = column(edges, "weight").to_numpy()[order]
    if relative and len(weight):
        starts = run_starts(src)
        strongest = np.maximum.reduceat(weight, starts)
        weight = weight / np.repeat(strongest, run_lengths(starts, len(weight)))
    # Within what 32 bits hold: a weight of 0 would say that there is no neighbour.
    weight = np.clip(weight, _FLOAT32.tiny, _FLOAT32.max)
    return pa.table([src, dst, weight.astype(np.float32)], schema=ADJACENCY_SCHEMA)


def first_of_each(ascending: np.ndarray, limit: int) -> np.ndarray:
    """[rows] bool: is the row one of the first `limit` of its value?"""
    starts = run_starts(ascending)
    first = np.repeat(starts, run_lengths(starts, len(ascending)))
    return np.arange(len(ascending)) - first < limit


def serve_neighbors(element: Joined, options: JoinOptions) -> Outcome:
    """For each shard of seeds that asked, the nodes of this shard that it needs."""
    release_freed_memory()
    shard, joined = element
    requests = columnar.concatenate(joined[REQUESTS], REQUEST_SCHEMA)
    if requests.num_rows == 0:
        return Outcome()
    nodes = options.files.read_seeds(shard).select(NODE_COLUMNS)
    found = with_out_edges(
        nodes, columnar.concatenate(joined[ADJACENCY], ADJACENCY_SCHEMA), column(nodes, PLACE)
    )
    seeds = column(requests, "seed_shard").to_numpy()
    rows = rows_of(column(requests, PLACE).to_numpy(), column(nodes, PLACE).to_numpy())
    return Outcome(
        [
            (REPLIES, (int(asking), found.take(pa.array(np.sort(rows[seeds == asking])))))
            for asking in np.unique(seeds)
        ]
    )


def with_out_edges(nodes: pa.Table, adjacency: pa.Table, place: pa.Array) -> pa.Table:
    """The nodes with their out-edges as two list columns, from the strongest on.

    nodes: by ascending place. adjacency: ADJACENCY_SCHEMA; every src is one of the nodes.
    """
    rows = rows_of(column(adjacency, "src_place").to_numpy(), place.to_numpy())
    degrees = np.bincount(rows, minlength=nodes.num_rows)
    offsets = pa.array(run_bounds(degrees))
    for name, values in ((OUT_PLACE, "dst_place"), (OUT_WEIGHT, "weight")):
        lists = pa.LargeListArray.from_arrays(offsets, column(adjacency, values))
        nodes = nodes.append_column(name, lists)
    return nodes


@dataclass
class JoinNeighbors(beam.PTransform):
    """Brings to every shard of seeds their out-edges and the nodes those lead to.

    Input: the root. Output: {ADJACENCY: (shard, ADJACENCY_SCHEMA), REPLIES: (shard, table of
    `with_out_edges`), COVERAGE: (0, coverage.COVERAGE_SCHEMA)}.
    Counters: edges, edges touching (an end is in the catalog), edges skipped.
    """

    edge_files: Sequence[str]
    options: JoinOptions

    def expand(self, root: beam.Pipeline) -> dict[str, beam.PCollection]:
        options = self.options
        columns = _EDGE_COLUMNS if options.trust is None else (*_EDGE_COLUMNS, "agreement")
        every = root | "EveryShard" >> EveryShard(options.places.shards)
        edges_by_dst = (
            root
            | "ReadEdges" >> ReadTables(self.edge_files, columns)
            | "SplitByDst"
            >> beam.FlatMap(with_places, options.places, options.trust).with_output_types(Keyed)
        )
        edges_by_src = (
            {EDGES: edges_by_dst}
            | "JoinDst" >> JoinShards()
            | "MarkKnown" >> self._threads(mark_known, EDGES)
        )
        chosen = (
            {EDGES: edges_by_src[EDGES], EVERY: every}
            | "JoinSrc" >> JoinShards()
            | "ChooseNeighbors" >> self._threads(choose_neighbors, ADJACENCY, REQUESTS, COVERAGE)
        )
        replies = (
            {ADJACENCY: chosen[ADJACENCY], REQUESTS: chosen[REQUESTS]}
            | "JoinRequests" >> JoinShards()
            | "ServeNeighbors" >> self._threads(serve_neighbors, REPLIES)
        )
        return {
            ADJACENCY: chosen[ADJACENCY],
            REPLIES: replies[REPLIES],
            COVERAGE: chosen[COVERAGE],
        }

    def _threads(self, function: Callable[..., Outcome], *tags: str) -> InThreads:
        return InThreads(
            partial(function, options=self.options),
            dict.fromkeys(tags, Shipped),
            self.options.threads,
            NAMESPACE,
        )
