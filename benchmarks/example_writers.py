"""Other ways to write the examples, to measure imgembed against.

Each reads a catalog and edges and writes into a folder, and does the whole job: it decodes, resizes
and encodes each picture, makes the vocabularies of labels and tokens and the channel statistics
(`analysis.json`), joins each image with its strongest neighbours and the edges among them.
"""

from __future__ import annotations

import collections
import io
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from catalogs import BLOCK, SHARES, SIDE
from PIL import Image

NEIGHBORS, NO_LABEL = 5, -1
QUALITY = 95  # of the JPEGs, without loss of colour, as imgembed has them
SUBWORD = 3  # letters of the pieces of words, imgembed's default
EXAMPLES_FILE = "examples.tfrecord"  # of all splits


def read_rows(catalog: str) -> Iterator[dict[str, Any]]:
    """The rows of the catalog."""
    for batch in pq.ParquetFile(catalog).iter_batches(BLOCK):
        yield from batch.to_pylist()


@dataclass
class Analysis:
    """What is found in a full pass: vocabularies with counts, and sums over all pixels."""

    labels: collections.Counter[str]  # of the training split
    tokens: collections.Counter[str]
    pictures: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))

    @classmethod
    def of(cls, catalog: str) -> Analysis:
        """The vocabularies of a catalog; pictures are added later."""
        columns = ["label", "text", "split"]
        table = pq.read_table(catalog, columns=columns)
        labels, texts, splits = (table[name].to_pylist() for name in columns)
        words = collections.Counter(word for text in texts if text for word in text.lower().split())
        pieces: collections.Counter[str] = collections.Counter()
        for word, number in words.items():
            framed = f"<{word}>"
            for start in range(len(framed) - SUBWORD + 1):
                pieces["#" + framed[start : start + SUBWORD]] += number
        of_training = (
            label for label, split in zip(labels, splits, strict=True) if label and split == "train"
        )
        return cls(collections.Counter(of_training), words + pieces)

    def label_ids(self) -> collections.defaultdict[str | None, int]:
        """Places in the vocabulary: the most frequent first, equal ones by name; else NO_LABEL."""
        order = sorted(self.labels, key=lambda label: (-self.labels[label], label))
        places: dict[str | None, int] = {label: place for place, label in enumerate(order)}
        return collections.defaultdict(lambda: NO_LABEL, places)

    def add(self, pictures: int, sums: np.ndarray, squares: np.ndarray) -> None:
        """Adds the sums over the pixels of some pictures."""
        self.pictures += pictures
        self.sums += sums
        self.squares += squares

    def to_json(self) -> dict[str, Any]:
        pixels = self.pictures * SIDE * SIDE
        means = self.sums / pixels
        deviations = np.sqrt(self.squares / pixels - means**2)
        vocabularies = {"labels": dict(self.labels), "tokens": dict(self.tokens)}
        return {**vocabularies, "means": means.tolist(), "deviations": deviations.tolist()}

    def write(self, out: str) -> None:
        Path(out, "analysis.json").write_text(json.dumps(self.to_json()))


def edges_among(nodes: Sequence[Any], graph: Mapping[Any, Mapping[Any, float]]) -> list[tuple]:
    """(sender, receiver, weight) of all edges among the nodes of an example, by their places."""
    found = []
    for sender, node in enumerate(nodes):
        out_edges = graph.get(node, {})
        for receiver, other in enumerate(nodes):
            if other in out_edges:
                found.append((sender, receiver, out_edges[other]))
    return found


def add_edges(features: Any, edges: Sequence[tuple]) -> None:
    """Puts edges into the features of an example."""
    features["graph_senders"].int64_list.value.extend([edge[0] for edge in edges])
    features["graph_receivers"].int64_list.value.extend([edge[1] for edge in edges])
    features["graph_weights"].float_list.value.extend([edge[2] for edge in edges])


def run_nsl(catalog: str, edges: str, out: str) -> None:
    """Examples of single images, then what pack_nbrs makes of them. edges: lines."""
    import tensorflow as tf

    analysis = Analysis.of(catalog)
    label_ids = analysis.label_ids()
    singles = f"{out}/images.tfrecord"
    with tf.io.TFRecordWriter(singles) as writer:
        for row in read_rows(catalog):
            picture = Image.open(io.BytesIO(row["image"])).convert("RGB")
            picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            analysis.add(1, *channel_sums(picture))
            writer.write(single_example(row, picture, label_ids[row["label"]]).SerializeToString())
    analysis.write(out)
    pack_neighbors(singles, edges, f"{out}/{EXAMPLES_FILE}")


CHANNEL_VALUES = np.arange(256)


def channel_sums(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values and of their squares, [3] int64 each."""
    counts = np.array(picture.histogram()).reshape(3, 256)
    return counts @ CHANNEL_VALUES, counts @ CHANNEL_VALUES**2


def single_example(row: Mapping[str, Any], picture: Image.Image, label: int) -> Any:
    """A tf.train.Example of one image."""
    import tensorflow as tf

    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=QUALITY, subsampling=0)
    example = tf.train.Example()
    features = example.features.feature
    features["image_id"].bytes_list.value.append(row["image_id"].encode())
    features["image"].bytes_list.value.append(sink.getvalue())
    add_labels_and_texts(features, row, label)
    return example


def add_labels_and_texts(features: Any, row: Mapping[str, Any], label: int) -> None:
    """Puts into a seed's features what they hold beside the picture: no label outside training."""
    training = row["split"] == "train"
    features["label"].int64_list.value.append(label if training else NO_LABEL)
    if not training:
        features["heldout_label"].int64_list.value.append(label)
    if row["text"]:
        features["text"].bytes_list.value.append(row["text"].encode())
        features["text_weight"].float_list.value.append(1.0)


def pack_neighbors(examples: str, edges: str, target: str) -> None:
    """The steps of pack_nbrs, and the edges among the nodes, which it does not know."""
    import tensorflow as tf

    by_id = {}
    for record in tf.data.TFRecordDataset([examples]):
        example = tf.train.Example()
        example.ParseFromString(record.numpy())
        by_id[example.features.feature["image_id"].bytes_list.value[0].decode()] = example
    graph = read_lines(edges)
    with tf.io.TFRecordWriter(target) as writer:
        for image_id, example in by_id.items():
            writer.write(merge_neighbors(image_id, example, by_id, graph).SerializeToString())


def read_lines(edges: str) -> dict[str, dict[str, float]]:
    """{src: {dst: weight}}; of edges that are there twice the stronger one."""
    graph: dict[str, dict[str, float]] = {}
    with open(edges) as file:
        for line in file:
            src, dst, text = line.rstrip("\n").split("\t")
            out_edges, weight = graph.setdefault(src, {}), float(text)
            if dst not in out_edges or weight > out_edges[dst]:
                out_edges[dst] = weight
    return graph


def merge_neighbors(
    image_id: str,
    example: Any,
    by_id: Mapping[str, Any],
    graph: Mapping[str, Mapping[str, float]],
) -> Any:
    """A copy of the seed's example with every feature of its strongest neighbours."""
    import tensorflow as tf

    known = [(weight, dst) for dst, weight in graph.get(image_id, {}).items() if dst in by_id]
    strongest = sorted(known, reverse=True)[:NEIGHBORS]
    merged = tf.train.Example()
    merged.CopyFrom(example)
    features = merged.features.feature
    features["NL_num_nbrs"].int64_list.value.append(len(strongest))
    for index, (weight, neighbor) in enumerate(strongest):
        prefix = f"NL_nbr_{index}_"
        features[f"{prefix}weight"].float_list.value.append(weight)
        for name, value in by_id[neighbor].features.feature.items():
            features[prefix + name].CopyFrom(value)
    add_edges(features, edges_among([image_id, *(dst for _, dst in strongest)], graph))
    return merged


def split_file(split: str) -> str:
    """The file of one split."""
    return f"{split}.tfrecord.gz"


def run_tf_data(catalog: str, edges: str, out: str) -> None:
    """Pictures in parallel by TensorFlow, the rest in dicts. edges: Parquet."""
    import tensorflow as tf

    analysis = Analysis.of(catalog)
    label_ids = analysis.label_ids()
    rows = pq.read_table(catalog).to_pylist()
    pictures = decode_in_parallel([row["image"] for row in rows], analysis)
    analysis.write(out)
    nodes = {
        row["image_id"]: (
            row["image_id"].encode(),
            picture,
            label_ids[row["label"]] if row["split"] == "train" else NO_LABEL,
        )
        for row, picture in zip(rows, pictures, strict=True)
    }
    table = pq.read_table(edges)
    graph: dict[str, dict[str, float]] = {}
    for src, dst, weight in zip(
        *(table[name].to_pylist() for name in table.column_names), strict=True
    ):
        graph.setdefault(src, {})[dst] = weight
    # The JPEGs are compressed already: level 0, as imgembed has it, makes this one faster as well.
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=0)
    writers = {
        split: tf.io.TFRecordWriter(f"{out}/{split_file(split)}", options) for split in SHARES
    }
    for row in rows:
        example = plain_example(row, label_ids[row["label"]], nodes, graph)
        writers[row["split"]].write(example)
    for writer in writers.values():
        writer.close()


def decode_in_parallel(images: Sequence[bytes], analysis: Analysis) -> list[bytes]:
    """The pictures decoded, resized and encoded; their sums are added to the analysis."""
    import tensorflow as tf

    def prepare(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pixels = tf.io.decode_jpeg(image, 3, dct_method="INTEGER_ACCURATE")
        pixels = tf.cond(
            tf.reduce_all(tf.shape(pixels)[:2] == SIDE), lambda: pixels, lambda: resize(pixels)
        )
        encoded = tf.io.encode_jpeg(pixels, quality=QUALITY, chroma_downsampling=False)
        values = tf.reshape(tf.cast(pixels, tf.int32), [-1, 3])
        return encoded, tf.reduce_sum(values, 0), tf.reduce_sum(values**2, 0)

    def resize(pixels: tf.Tensor) -> tf.Tensor:
        resized = tf.image.resize(pixels, (SIDE, SIDE), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(images)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(BLOCK).prefetch(1)
    pictures = []
    for encoded, sums, squares in dataset.as_numpy_iterator():
        pictures += encoded.tolist()
        totals = (part.sum(axis=0, dtype=np.int64) for part in (sums, squares))
        analysis.add(len(encoded), *totals)
    return pictures


# The names of a neighbour's features, made once.
SLOTS = [
    tuple(f"NL_nbr_{index}_{name}" for name in ("weight", "image_id", "image", "label"))
    for index in range(NEIGHBORS)
]


def plain_example(
    row: Mapping[str, Any],
    label: int,
    nodes: Mapping[str, tuple[bytes, bytes, int]],
    graph: Mapping[str, Mapping[str, float]],
) -> bytes:
    """A seed with its strongest neighbours, serialized. nodes: {id: (id, picture, label)}."""
    import tensorflow as tf

    out_edges = graph.get(row["image_id"], {})
    known = [item for item in out_edges.items() if item[0] in nodes]
    strongest = sorted(known, key=operator.itemgetter(1), reverse=True)[:NEIGHBORS]
    example = tf.train.Example()
    features = example.features.feature
    image_id, picture, _ = nodes[row["image_id"]]
    features["image_id"].bytes_list.value.append(image_id)
    features["image"].bytes_list.value.append(picture)
    add_labels_and_texts(features, row, label)
    features["NL_num_nbrs"].int64_list.value.append(len(strongest))
    for names, (dst, weight) in zip(SLOTS, strongest, strict=False):
        neighbor_id, picture, neighbor_label = nodes[dst]
        features[names[0]].float_list.value.append(weight)
        features[names[1]].bytes_list.value.append(neighbor_id)
        features[names[2]].bytes_list.value.append(picture)
        features[names[3]].int64_list.value.append(neighbor_label)
    add_edges(features, edges_among([row["image_id"], *(dst for dst, _ in strongest)], graph))
    return example.SerializeToString()
