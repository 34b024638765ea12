"""Write the neighbour-augmented tf.train.Examples.

In: for each shard of seeds its out-edges and the nodes they lead to. Out: gzip TFRecords, one set
of files a split. In what file and at which place a record stands follows from a hash of its id and
the seed: the order is as good as random, and always the same.

The edges among seed (node 0) and neighbours (node i + 1 = neighbour i) are those of the graph with
both ends in the example: of an edge src -> dst, `graph_senders` has src and `graph_receivers` dst.
They are sorted by (sender, receiver).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from pipeline import columnar, schema, storage
from pipeline.examples import neighbors, nodes, spill
from pipeline.examples.prepare import count

RECORD_SCHEMA = pa.schema(
    [("order", pa.uint64()), ("image_id", pa.string()), ("record", pa.large_binary())]
)
RECORDS = "records"
SHARD_BYTES = 128 << 20
_BLOCK_SEEDS = 2_048  # seeds whose records are in memory at once
# Pictures are compressed already: level 0 costs 1 % of size and is 20 times faster.
_PICTURE_GZIP_LEVEL, _FEATURES_GZIP_LEVEL = 0, 1
_TFRECORD_EXTENSIONS = {"gzip": "tfrecord.gz", "none": "tfrecord"}
Row = Mapping[str, Any]
# (split, number of the file within it)
FileKey = tuple[str, int]


# One example ------------------------------------------------------------------------------------


def edges_among(graph_nodes: Sequence[Row]) -> list[tuple[int, int, float]]:
    """(sender, receiver, weight) of the edges with both ends in `graph_nodes`, sorted.

    graph_nodes: the seed and its neighbours, each with its out-edges.
    """
    place = {node["image_id"]: index for index, node in enumerate(graph_nodes)}
    return sorted(
        (sender, place[dst], weight)
        for sender, node in enumerate(graph_nodes)
        for dst, weight in zip(node[neighbors.OUT_DST], node[neighbors.OUT_WEIGHT], strict=True)
        if dst in place
    )


def example_values(seed: Row, found: Sequence[tuple[Row, float]], *, slots: int) -> dict[str, Any]:
    """{feature name: value or values} of one example.

    seed: a node with its texts, split and out-edges. found: at most `slots` neighbours and the
    weights of the edges to them, from the strongest on; empty slots have weight 0 and nothing else.
    """
    values: dict[str, Any] = {name: seed[name] for name in nodes.NODE_COLUMNS}
    if seed["split"] == schema.SPLITS[0]:
        del values[schema.HELDOUT_LABEL.name]
    values[schema.TEXT.name] = seed["text"]
    values[schema.TEXT_WEIGHT.name] = seed["text_weight"]
    values[schema.NUM_NEIGHBORS.name] = len(found)
    for index in range(slots):
        values[schema.neighbor_weight(index).name] = found[index][1] if index < len(found) else 0.0
    for index, (node, _) in enumerate(found):
        for name in nodes.NODE_COLUMNS[:-1]:
            values[schema.neighbor_feature(index, name)] = node[name]
    edges = edges_among([seed, *(node for node, _ in found)])
    for position, feature in enumerate(
        (schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS, schema.GRAPH_WEIGHTS)
    ):
        values[feature.name] = [edge[position] for edge in edges]
    return values


def encode(values: Mapping[str, Any], layout: Iterable[schema.Feature]) -> bytes:
    """A serialized tf.train.Example of the features of `layout` that have a value.

    The same values give the same bytes: fields stand in the order of their names.
    """
    example = tf.train.Example()
    features = example.features.feature
    for feature in layout:
        value = values.get(feature.name)
        if value is not None:
            _fill(features[feature.name], feature, value)
    return example.SerializeToString(deterministic=True)


def _fill(target: tf.train.Feature, feature: schema.Feature, value: Any) -> None:
    items = [value] if feature.shape == () else value
    if feature.dtype == "bytes":
        encoded = [item.encode() if isinstance(item, str) else item for item in items]
        target.bytes_list.value.extend(encoded)
    elif feature.dtype == "int64":
        target.int64_list.value.extend(items)
    else:
        target.float_list.value.extend(items)


# A shard of seeds -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordOptions:
    """What records depend on beside the data.

    files: {split: number of its files}. target: the version's folder.
    """

    nodes: nodes.NodeFiles
    neighbors: int
    seed: int
    files: Mapping[str, int]
    target: str
    compression: str

    def layout(self) -> tuple[schema.Feature, ...]:
        """The features of an example."""
        return tuple(
            schema.example_features(neighbors=self.neighbors, feature_dim=self.nodes.feature_dim)
        )

    def file_keys(self) -> list[FileKey]:
        """Every file that will be there, records or not."""
        return [(split, index) for split in schema.SPLITS for index in range(self.files[split])]


def spill_records(
    element: neighbors.Joined, options: RecordOptions
) -> Iterator[tuple[FileKey, str]]:
    """Encodes the examples of a shard's seeds, in one table for each file they go to."""
    shard, joined = element
    adjacency = columnar.concatenate(joined[neighbors.ADJACENCY], neighbors.ADJACENCY_SCHEMA)
    seeds = options.nodes.read_nodes(shard)
    _count_known_labels(seeds)
    texts = seeds.select(["text", "text_weight", "split"])
    seeds = neighbors.with_out_edges(seeds, adjacency)
    for name in texts.column_names:
        seeds = seeds.append_column(name, texts[name])
    known = _by_id(spill.read_table(path) for path in joined[neighbors.REPLIES])
    for block, start in enumerate(range(0, seeds.num_rows, _BLOCK_SEEDS)):
        part = seeds.slice(start, _BLOCK_SEEDS).combine_chunks()
        records = encode_seeds(part.to_pylist(), known, options)
        origin = f"{shard:05d}-{block:05d}"
        yield from _spill_by_file(part, records, origin=origin, options=options)


def _count_known_labels(seeds: pa.Table) -> None:
    for name in (schema.LABEL.name, schema.HELDOUT_LABEL.name):
        known = pc.not_equal(seeds[name], schema.NO_LABEL)
        count(f"known {name}", pc.sum(known).as_py() or 0)


def _by_id(replies: Iterable[pa.Table]) -> dict[str, Row]:
    return {row["image_id"]: row for table in replies for row in table.to_pylist()}


def encode_seeds(
    seeds: Sequence[Row], known: Mapping[str, Row], options: RecordOptions
) -> list[bytes]:
    """One record a seed. known: {image_id: node}, all neighbours among them."""
    layout = options.layout()
    sizes: Counter[int] = Counter()
    records = []
    for seed in seeds:
        out_edges = zip(seed[neighbors.OUT_DST], seed[neighbors.OUT_WEIGHT], strict=True)
        strongest = itertools.islice(out_edges, options.neighbors)
        found = [(known[dst], weight) for dst, weight in strongest]
        sizes[len(found)] += 1
        records.append(encode(example_values(seed, found, slots=options.neighbors), layout))
    for size, amount in sizes.items():
        count(f"neighbors/{size}", amount)
    return records


def _spill_by_file(
    seeds: pa.Table, records: list[bytes], *, origin: str, options: RecordOptions
) -> Iterator[tuple[FileKey, str]]:
    order = columnar.hash_values(seeds["image_id"], salt=f"order:{options.seed}")
    table = pa.table([order, seeds["image_id"], records], schema=RECORD_SCHEMA)
    splits = np.asarray(seeds["split"].to_pylist(), dtype=object)
    for split in schema.SPLITS:
        mine = splits == split
        if not mine.any():
            continue
        number = options.files[split]
        place = file_of(order[mine], number)
        for index, part in columnar.split_by_shard(table.filter(pa.array(mine)), place, number):
            name = f"{RECORDS}-{split}-{index:05d}-{origin}.parquet"
            yield (split, index), spill.write_table(storage.join(options.nodes.folder, name), part)


def file_of(order: np.ndarray, files: int) -> np.ndarray:
    """[rows] int64: the file of each record. order: [rows] uint64, uniform.

    Files take equal stretches of the order, so that one after the other they are in order.
    """
    # The upper 32 bits are enough, and their product with the number of files cannot overflow.
    return ((order >> np.uint64(32)) * np.uint64(files) >> np.uint64(32)).astype(np.int64)


# Files ------------------------------------------------------------------------------------------


def file_counts(
    *, records: Mapping[str, int], content_bytes: int, neighbors: int
) -> dict[str, int]:
    """{split: number of files} of about SHARD_BYTES each; 0 for a split without records.

    records: {split: seeds}. content_bytes: of all pictures or features, each once.
    """
    images = max(1, sum(records.values()))
    each = content_bytes / images * (neighbors + 1)
    return {
        split: int(-(-records[split] * each // SHARD_BYTES)) or 1 if records[split] else 0
        for split in schema.SPLITS
    }


def write_records(element: tuple[FileKey, Iterable[str | None]], options: RecordOptions) -> None:
    """Writes one file of the version; one without records is empty, but there."""
    (split, index), paths = element
    parts = [spill.read_table(path) for path in paths if path is not None]
    table = columnar.sort_rows(columnar.concatenate(parts, RECORD_SCHEMA), ["order", "image_id"])
    extension = _TFRECORD_EXTENSIONS[options.compression]
    path = storage.join(
        options.target, schema.shard_name(split, index, options.files[split], extension)
    )
    with tf.io.TFRecordWriter(path, _compression(options)) as writer:
        for record in table["record"].to_pylist():
            writer.write(record)
    count(f"records/{split}", table.num_rows)


def _compression(options: RecordOptions) -> tf.io.TFRecordOptions:
    pictures = options.nodes.feature_dim is None
    return tf.io.TFRecordOptions(
        compression_type="GZIP" if options.compression == "gzip" else "",
        compression_level=_PICTURE_GZIP_LEVEL if pictures else _FEATURES_GZIP_LEVEL,
    )


@dataclass
class WriteExamples(beam.PTransform):
    """Encodes every seed and writes the records of each split.

    Input: (shard, joined) of neighbors.JoinNeighbors. Output: none but the files.
    Counters: neighbors/<how many> (seeds), records/<split>.
    """

    options: RecordOptions

    def expand(self, joined: beam.PCollection[neighbors.Joined]) -> beam.PCollection[None]:
        keys = [(key, None) for key in self.options.file_keys()]
        files = joined.pipeline | "EveryFile" >> beam.Create(keys).with_output_types(
            tuple[FileKey, Any]
        )
        records = joined | "Encode" >> beam.FlatMap(spill_records, self.options).with_output_types(
            tuple[FileKey, Any]
        )
        return (
            (files, records)
            | "FlattenFiles" >> beam.Flatten()
            | "GroupByFile" >> beam.GroupByKey()
            | "WriteRecords" >> beam.Map(write_records, self.options)
        )
