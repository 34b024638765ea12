"""Every name that leaves the process: stages, files, columns and features, each once.

Writers, readers, parse specs and tests derive from what stands here. Imports neither Beam nor
TensorFlow, so that a search or a `--help` stays light.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import pyarrow as pa

# Stages, in the order in which a run makes them, and the command that makes each.
GRAPH = "graph"
EXAMPLES = "examples"
MODEL = "model"
EMBEDDINGS = "embeddings"
INDEX = "index"
EVALUATION = "evaluation"
AGREEMENT = "agreement"
REPORT = "report"
STAGE_COMMANDS = {
    GRAPH: "imgembed build-graph --sessions PATH",
    EXAMPLES: "imgembed build-graph --sessions PATH --images PATH",
    MODEL: "imgembed train",
    EMBEDDINGS: "imgembed export",
    INDEX: "imgembed export",
    EVALUATION: "imgembed evaluate",
    AGREEMENT: "imgembed denoise",
    REPORT: "imgembed report",
}

# Files of a version folder.
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "CURRENT"
CHECKPOINTS_FOLDER = ".checkpoints"  # of the model stage, beside its versions
LOGS_FOLDER = "logs"
REJECTED_FOLDER = "rejected"
TRANSFORM_FOLDER = "transform"
SAVED_MODEL_FOLDER = "saved_model"
TENSORBOARD_FOLDER = "tensorboard"
HISTORY_FILE = "history.json"
METRICS_FILE = "metrics.json"
PSEUDO_LABELS_FILE = "pseudo_labels.parquet"
AGREEMENT_MODEL_FILE = "agreement_model.npz"
DOUBTED_FILE = "doubted.png"
INDEX_VECTORS_FILE = "vectors.npy"
INDEX_IDS_FILE = "ids.arrow"
INDEX_CELLS_FILE = "cells.faiss"  # of an approximate index
REPORT_FILE = "index.html"
EXAMPLE_SCHEMA_FILE = "schema.pbtxt"  # of the examples, a TensorFlow Metadata schema

# Prefixes of sharded files: `<prefix>-00000-of-00004.parquet`.
EDGES = "edges"
NODES = "nodes"
QUERIES = "queries"
HOLDOUT = "holdout"
IMAGE_EMBEDDINGS = "images"
QUERY_EMBEDDINGS = "queries"
AGREEMENTS = "agreement"
SPLITS = ("train", "validation", "test")

EDGE_SCHEMA = pa.schema(
    [
        ("src", pa.string()),
        ("dst", pa.string()),
        ("rank", pa.int32()),  # 1 = the strongest out-edge of src
        ("weight", pa.float64()),  # the measure that the config names
        ("sessions", pa.int64()),  # c_ij
        ("users", pa.int64()),  # distinct users of those sessions; null without user ids
        ("strength", pa.float64()),
        ("src_sessions", pa.int64()),  # n_i
        ("dst_sessions", pa.int64()),  # n_j
    ]
)
NODE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("sessions", pa.int64()),  # n_i
        ("degree", pa.int64()),  # out-edges after pruning
    ]
)
QUERY_SCHEMA = pa.schema(
    [
        ("query", pa.string()),
        ("image_id", pa.string()),
        ("sessions", pa.int64()),  # sessions in which the image was opened for the query
        ("users", pa.int64()),
    ]
)
HOLDOUT_SCHEMA = pa.schema(
    [
        ("session", pa.int64()),  # a running number, no trace of the session's id
        ("position", pa.int32()),  # 0 = the first image of the session
        ("image_id", pa.string()),
        ("query", pa.string()),  # null where the log has none
    ]
)
# How well images answer queries, in somebody's judgment: what an evaluation is given.
JUDGMENT_SCHEMA = pa.schema(
    [("query", pa.string()), ("image_id", pa.string()), ("grade", pa.float64())]
)
# Counts before pruning, for a later run to be added to; hashes of image ids and of queries.
COUNTS_FOLDER = "counts"
COUNTED_PAIRS, COUNTED_IMAGES = "pairs", "images"
COUNTED_QUERIES, COUNTED_QUERY_USERS, COUNTED_INPUTS = "queries", "query_users", "inputs"
PAIR_COUNT_SCHEMA = pa.schema(
    [
        ("low", pa.uint64()),
        ("high", pa.uint64()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
        ("strength", pa.int64()),  # units of 2^-28
    ]
)
IMAGE_COUNT_SCHEMA = pa.schema(
    [("image", pa.uint64()), ("image_id", pa.string()), ("sessions", pa.int64())]
)
QUERY_COUNT_SCHEMA = pa.schema(
    [
        ("query", pa.uint64()),
        ("image", pa.uint64()),
        ("sessions", pa.int64()),
        ("users", pa.int64()),
    ]
)
QUERY_USER_COUNT_SCHEMA = pa.schema(
    [("query", pa.uint64()), ("users", pa.int64()), ("text", pa.string())]
)
INPUT_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("modified", pa.float64())])
EDGES_TSV_FILE = "edges.tsv"
# A cell that a spreadsheet would run as a formula with effects: a call, or a command (DDE). Ids
# such as "-123" or "@name" are none.
FORMULA = r"(?s)^[=+\-@].*([A-Za-z0-9.]\(|\|)"

# The graph's edges between images of the examples (of the model) or of the catalog (of denoise).
AGREEMENT_SCHEMA = pa.schema(
    [
        ("src", pa.string()),
        ("dst", pa.string()),
        ("rank", pa.int32()),  # these two as in the graph
        ("weight", pa.float64()),
        ("agreement", pa.float32()),  # the probability that both are of one class
    ]
)
# Labels that nobody gave: of images that the model was sure of while it was trained.
PSEUDO_LABEL_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),  # the probability of that label
        ("iteration", pa.int32()),  # of co-training, after which the image was labelled
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),  # 1 = the first row of data
        ("reason", pa.string()),
        ("content", pa.string()),  # the row as it was read
    ]
)


# How numbers of an embedding are stored; of float16 and int8 see pipeline/precision.py.
Precision = Literal["float32", "float16", "int8"]
# Of the content that an image's embedding was made of; in the files of images alone.
CONTENT_HASH = pa.field("content_hash", pa.binary(16))
# Vectors in float32 of some images and queries, beside files of fewer bits: what was measured.
SAMPLE_PREFIX = "sample_"
# Folders beside the Parquet files of an export, with the same rows in other formats.
TFRECORD_FOLDER, NPY_FOLDER = "tfrecord", "npy"


def embedding_schema(key: str, dim: int, dtype: Precision = "float32") -> pa.Schema:
    """Columns of an embeddings file: `key` ("image_id" or "query"), unit vector, model version."""
    return pa.schema(
        [
            (key, pa.string()),
            ("embedding", pa.list_(pa.type_for_alias(dtype), dim)),
            ("model_version", pa.string()),
        ]
    )


def shard_name(prefix: str, shard: int, shards: int, extension: str) -> str:
    """`edges`, 0, 4, `parquet` -> `edges-00000-of-00004.parquet`."""
    return f"{prefix}-{shard:05d}-of-{shards:05d}.{extension}"


# Examples: a tf.train.Example a seed image, with its neighbours. In the layout `nsl`, that of
# neural-structured-learning, neighbour i has features of its own, `NL_nbr_<i>_<name>`; in `compact`
# one feature `nbr_<name>` holds those of all neighbours, one after the other.
Layout = Literal["nsl", "compact"]
ImageEncoding = Literal["jpeg", "png", "raw"]
NEIGHBOR_PREFIX = "NL_nbr_"
WEIGHT_SUFFIX = "_weight"
COMPACT_PREFIX = "nbr_"
NO_LABEL = -1


@dataclass(frozen=True)
class Feature:
    """One feature of an example.

    shape: () one value; (n,) exactly n values; (None,) any number of values; (None, n) any number
    of rows of n values. default: what a reader puts where an example lacks a feature of shape ().
    """

    name: str
    dtype: str  # "bytes" | "int64" | "float32"
    shape: tuple[int | None, ...] = ()
    default: bytes | int | float | None = None


IMAGE_ID = Feature("image_id", "bytes", (), b"")
# A picture of image_size x image_size, RGB: a JPEG, a PNG, or its bytes row by row ("raw").
IMAGE = Feature("image", "bytes", (), b"")
LABEL = Feature("label", "int64", (), NO_LABEL)  # of several the first
# The label of a seed outside the training split: in validation and test files only.
HELDOUT_LABEL = Feature("heldout_label", "int64", (), NO_LABEL)
# All labels, where any image of the catalog has more than one; else there is no such feature.
LABELS = Feature("labels", "int64", (None,))
HELDOUT_LABELS = Feature("heldout_labels", "int64", (None,))
TEXT = Feature("text", "bytes", (None,))  # captions and published queries of the seed
TEXT_WEIGHT = Feature("text_weight", "float32", (None,))  # > 0, one for each text
NUM_NEIGHBORS = Feature("NL_num_nbrs", "int64", (), 0)
# Edges among the seed (node 0) and its neighbours (node i + 1 = neighbour i).
GRAPH_SENDERS = Feature("graph_senders", "int64", (None,))
GRAPH_RECEIVERS = Feature("graph_receivers", "int64", (None,))
GRAPH_WEIGHTS = Feature("graph_weights", "float32", (None,))
# Of the layout `compact`: how many of `nbr_labels` are of each neighbour.
COMPACT_LABEL_COUNTS = Feature(COMPACT_PREFIX + "num_labels", "int64", (None,))
COMPACT_WEIGHTS = Feature(COMPACT_PREFIX + "weight", "float32", (None,))


def features_feature(dim: int) -> Feature:
    """Ready features of `dim` numbers, scaled by the transform."""
    return Feature("features", "float32", (dim,), 0.0)


def neighbor_feature(index: int, name: str) -> str:
    """0, "image" -> "NL_nbr_0_image"."""
    return f"{NEIGHBOR_PREFIX}{index}_{name}"


def neighbor_weight(index: int) -> Feature:
    """The weight of neighbour `index`; 0 = there is no such neighbour."""
    return Feature(f"{NEIGHBOR_PREFIX}{index}{WEIGHT_SUFFIX}", "float32", (), 0.0)


def content_feature(feature_dim: int | None) -> Feature:
    """What the towers look at: ready features where there are any, else the picture."""
    return IMAGE if feature_dim is None else features_feature(feature_dim)


@dataclass(frozen=True)
class ExampleSpec:
    """What the examples of a version look like: all that a reader or writer of them must know.

    neighbors: the most that an example holds. feature_dim: None for pictures. image_encoding: None
    for ready features.
    """

    neighbors: int
    feature_dim: int | None = None
    image_encoding: ImageEncoding | None = "png"
    layout: Layout = "nsl"
    multi_label: bool = False

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> ExampleSpec:
        """What `to_manifest` wrote; KeyError where an older program did not."""
        return cls(**{field.name: manifest[field.name] for field in fields(cls)})

    def to_manifest(self) -> dict[str, Any]:
        """The part of the examples' manifest that says so."""
        return asdict(self)

    def node_features(self) -> tuple[Feature, ...]:
        """What a node has, seed or neighbour."""
        labels = (LABEL, LABELS) if self.multi_label else (LABEL,)
        return (IMAGE_ID, content_feature(self.feature_dim), *labels)

    def features(self) -> Iterator[Feature]:
        """Every feature of an example."""
        yield from self.node_features()
        yield from (HELDOUT_LABEL, HELDOUT_LABELS) if self.multi_label else (HELDOUT_LABEL,)
        yield from (TEXT, TEXT_WEIGHT)
        if self.neighbors:
            yield NUM_NEIGHBORS
            yield from self._nsl() if self.layout == "nsl" else self._compact()
            yield from (GRAPH_SENDERS, GRAPH_RECEIVERS, GRAPH_WEIGHTS)

    def _nsl(self) -> Iterator[Feature]:
        for index in range(self.neighbors):
            yield neighbor_weight(index)
            for part in self.node_features():
                name = neighbor_feature(index, part.name)
                yield Feature(name, part.dtype, part.shape, part.default)

    def _compact(self) -> Iterator[Feature]:
        yield COMPACT_WEIGHTS
        for part in self.node_features():
            name = COMPACT_PREFIX + part.name
            if part == IMAGE and self.image_encoding == "raw":
                yield Feature(name, part.dtype, (), b"")  # the pictures one after the other
            else:
                size = part.shape if part.shape != (None,) else ()
                yield Feature(name, part.dtype, (None, *size))
        if self.multi_label:
            yield COMPACT_LABEL_COUNTS


# Signatures of the SavedModel: name = the one input's name; outputs below.
IMAGE_SIGNATURE = "image"  # string [batch], encoded pictures of any size
FEATURES_SIGNATURE = "features"  # float32 [batch, feature_dim], as in the catalog
TEXT_SIGNATURE = "text"  # string [batch]
EXAMPLE_SIGNATURE = "example"  # string [batch], serialized examples: images with their neighbours
EMBEDDING_OUTPUT = "embedding"  # float32 [batch, dim], unit norm
PROBABILITIES_OUTPUT = "probabilities"  # float32 [batch, classes]; images and features only

# Inputs of the tf.Transform graph in `examples/<version>/transform`.
TRANSFORM_LABEL = "label"  # string, any number a row
TRANSFORM_TEXT = "text"  # string, any number a row
TRANSFORM_FEATURES = "features"  # float32 [feature_dim]; only for catalogs of ready features
# Of a picture's pixels, from 0 to 255: their sum and that of their squares, for red, green, blue.
TRANSFORM_CHANNEL_SUMS = "channel_sums"  # int64 [3]; only for catalogs of pictures
TRANSFORM_CHANNEL_SQUARES = "channel_squares"  # int64 [3]
# Outputs.
TRANSFORMED_LABEL = "label"  # int64, indices in the label vocabulary, one row of all labels
TRANSFORMED_TOKENS = "tokens"  # int64, one row of all texts' tokens, ids from 0
TRANSFORMED_CHANNEL_MEANS = "channel_means"  # float32 [3], of all pictures, on the scale 0 to 255
TRANSFORMED_CHANNEL_DEVIATIONS = "channel_deviations"  # float32 [3], at least 1
LABEL_VOCABULARY = "labels"
TOKEN_VOCABULARY = "tokens"
