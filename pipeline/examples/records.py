"""Write the examples: seeds, their neighbours and the edges among them to TFRecords.

In: for each shard of seeds its out-edges and the nodes they lead to. Out: TFRecords, one set of
files a split. The files of a split one after the other hold its records by ascending place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import columnar, progress, schema, storage
from pipeline.columnar import EveryShard, Joined, JoinShards, Keyed
from pipeline.errors import ImgembedError
from pipeline.examples import layouts, subgraphs, wire
from pipeline.examples.neighbors import (
    ADJACENCY,
    ADJACENCY_SCHEMA,
    EVERY,
    OUT_PLACE,
    OUT_WEIGHT,
    REPLIES,
    with_out_edges,
)
from pipeline.examples.nodes import HELDOUT_LABELS, LABELS, NODE_COLUMNS, NodeFiles
from pipeline.examples.packing import pack
from pipeline.examples.places import PLACE, column, stretch
from pipeline.examples.prepare import NAMESPACE
from pipeline.memory import release_freed_memory
from pipeline.parallel import InThreads, Outcome
from pipeline.parcels import Shipped
from pipeline.sorting import rows_of
from pipeline.tables.framing import frame_records

RECORDS, WRITTEN = "records", "written"  # tags
# Framed records of a file, one after the other, by the place of the first.
PART_SCHEMA = pa.schema(
    [(PLACE, pa.uint64()), ("records", pa.int64()), ("frames", pa.large_binary())]
)
_BLOCK_BYTES = 16 << 20  # of records that are in memory at once
_TFRECORD_EXTENSIONS = {"gzip": "tfrecord.gz", "none": "tfrecord"}
_NODES = (*NODE_COLUMNS, OUT_PLACE, OUT_WEIGHT)


@dataclass(frozen=True)
class RecordOptions:
    """What records depend on beside the data.

    files: {split: number of its files}. target: the version's folder. record_bytes: about.
    """

    nodes: NodeFiles
    spec: schema.ExampleSpec
    files: Mapping[str, int]
    target: str
    compression: str
    record_bytes: int
    threads: int

    @property
    def files_in_order(self) -> list[tuple[str, str]]:
        """(split, path) of every file that will be there, records or not."""
        extension = _TFRECORD_EXTENSIONS[self.compression]
        names = [
            (split, schema.shard_name(split, index, self.files[split], extension))
            for split in schema.SPLITS
            for index in range(self.files[split])
        ]
        return [(split, storage.join(self.target, name)) for split, name in names]

    def first_file(self, split: str) -> int:
        """Where the files of a split begin among `files_in_order`."""
        before = schema.SPLITS[: schema.SPLITS.index(split)]
        return sum(self.files[name] for name in before)


@dataclass
class WriteExamples(beam.PTransform):
    """Encodes every seed and writes the records of each split.

    Input: {ADJACENCY, REPLIES} of neighbors.JoinNeighbors. Output: the paths of
    the files.
    Counters: neighbors/<how many> (seeds), neighbors (in all), edges among, known labels,
    records/<split>, bytes/<split> (of the files).
    """

    options: RecordOptions

    def expand(self, joined: Mapping[str, beam.PCollection[Keyed]]) -> beam.PCollection[str]:
        options, root = self.options, joined[ADJACENCY].pipeline
        shards = root | "EveryShard" >> EveryShard(options.nodes.shards)
        files = root | "EveryFile" >> EveryShard(len(options.files_in_order))
        records = (
            {ADJACENCY: joined[ADJACENCY], REPLIES: joined[REPLIES], EVERY: shards}
            | "JoinSeeds" >> JoinShards()
            | "Encode"
            >> InThreads(
                partial(encode_block, options=options),
                {RECORDS: Shipped},
                options.threads,
                NAMESPACE,
                unfold=partial(read_blocks, options=options),
            )
        )
        return (
            {RECORDS: records[RECORDS], EVERY: files}
            | "JoinRecords" >> JoinShards()
            | "WriteFiles"
            >> InThreads(
                partial(write_file, options=options), {WRITTEN: str}, options.threads, NAMESPACE
            )
        )[WRITTEN]


@dataclass(frozen=True)
class Shard:
    """Seeds of a shard and the nodes that are their neighbours, each with its out-edges.

    nodes: in any order; `order` sorts them by place.
    """

    seeds: pa.Table
    seed_edges: subgraphs.OutEdges
    nodes: pa.Table
    node_edges: subgraphs.OutEdges
    order: np.ndarray


# A shard, and the rows of its seeds that make a block.
Block = tuple[Shard, slice]


def read_blocks(element: Joined, options: RecordOptions) -> Iterator[Block]:
    """The seeds of a shard, block by block.

    element: (shard, {ADJACENCY: tables of ADJACENCY_SCHEMA, REPLIES: tables of `with_out_edges`}).
    """
    shard, joined = element
    seeds = options.nodes.read_seeds(shard)
    adjacency = columnar.concatenate(joined[ADJACENCY], ADJACENCY_SCHEMA)
    seeds = with_out_edges(seeds, adjacency, column(seeds, PLACE))
    nodes = columnar.concatenate([seeds.slice(0, 0).select(_NODES), *joined[REPLIES]])
    found = Shard(
        seeds,
        subgraphs.OutEdges.of(seeds),
        nodes,
        subgraphs.OutEdges.of(nodes),
        np.argsort(column(nodes, PLACE).to_numpy()),
    )
    size = max(1, _BLOCK_BYTES // options.record_bytes)
    for start in range(0, seeds.num_rows, size):
        yield found, slice(start, min(start + size, seeds.num_rows))


def encode_block(block: Block, *, options: RecordOptions) -> Outcome:
    """PART_SCHEMA of a block's records, for each file that they go to."""
    release_freed_memory()
    shard, rows = block
    seeds = shard.seeds.slice(rows.start, rows.stop - rows.start)
    near = _neighborhoods(shard, rows, options.spec.neighbors)
    edges = subgraphs.edges_among(
        shard.seed_edges, shard.node_edges, np.arange(rows.start, rows.stop), near.rows
    )
    columns = layouts.example_columns(seeds, near, edges, options.spec)
    records = wire.encode_examples(columns, seeds.num_rows)
    progress.add("examples", seeds.num_rows)
    parts = [(RECORDS, part) for part in _parts(seeds, records, options)]
    return Outcome(parts, _counts(seeds, near, edges))


def _neighborhoods(shard: Shard, rows: slice, limit: int) -> layouts.Neighborhoods:
    places_, weights = subgraphs.strongest(shard.seed_edges.part(rows), limit)
    known = shard.node_edges.place[shard.order]
    found = rows_of(places_.ravel(), known).reshape(places_.shape)
    present = weights > 0
    if (found[present] < 0).any():  # a runner that loses data must not go unseen
        raise ImgembedError("images were lost between two steps; run it again")
    ordered = shard.order[np.maximum(found, 0)] if len(known) else np.zeros(found.shape, np.int64)
    return layouts.Neighborhoods(shard.nodes, np.where(present, ordered, -1), weights)


def _parts(
    seeds: pa.Table, records: pa.LargeBinaryArray, options: RecordOptions
) -> Iterator[Keyed]:
    """(number of the file, PART_SCHEMA of one row) of a block's records."""
    place, split = column(seeds, PLACE).to_numpy(), column(seeds, "split")
    for name in schema.SPLITS:
        rows = np.flatnonzero(pc.equal(split, name).to_numpy(zero_copy_only=False))
        file = stretch(place[rows], options.files[name])
        for index in np.unique(file):
            mine = rows[file == index]
            frames = _one_value(frame_records(records, mine.tolist()))
            part = pa.table([[place[mine[0]]], [len(mine)], frames], schema=PART_SCHEMA)
            yield options.first_file(name) + int(index), part


def _one_value(data: bytes) -> pa.LargeBinaryArray:
    """[1] large_binary, which does not copy the data."""
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])


def _counts(seeds: pa.Table, near: layouts.Neighborhoods, edges: subgraphs.Edges) -> dict[str, int]:
    sizes, amounts = np.unique((near.rows >= 0).sum(axis=1), return_counts=True)
    counts = {f"neighbors/{size}": int(n) for size, n in zip(sizes, amounts, strict=True)}
    labels = (column(seeds, name).flatten() for name in (LABELS, HELDOUT_LABELS))
    return counts | {
        "edges among": len(edges.weights),
        "known labels": sum(len(known) for known in labels),
    }


def write_file(element: Joined, *, options: RecordOptions) -> Outcome:
    """Writes one file of the version; one without records is empty, but there.

    element: (number of the file, {RECORDS: tables of PART_SCHEMA}).
    """
    number, joined = element
    split, path = options.files_in_order[number]
    parts = sorted(joined[RECORDS], key=lambda part: part[PLACE][0].as_py())
    size = 0
    with storage.open_write(path) as sink:
        frames = (memoryview(part["frames"][0].as_buffer()) for part in parts)
        for data in pack(frames, options.spec, options.compression):
            size += sink.write(data)
    records = sum(part["records"][0].as_py() for part in parts)
    return Outcome([(WRITTEN, path)], {f"records/{split}": records, f"bytes/{split}": size})
