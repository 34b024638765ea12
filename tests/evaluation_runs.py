"""Committed versions of every stage, small enough to work their evaluation out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tiny_model import DIM

from pipeline import schema
from pipeline.artifacts import Version

ANGLES = {"a": 0, "b": 10, "c": 50, "d": 180}  # degrees, in the first two dimensions
FEATURES = {"a": [2.0, 1.0], "b": [-2.0, 1.0], "c": [0.5, -0.5], "d": [-0.5, -1.5]}
LABELS = {"train": {"a": 0, "b": 1}, "validation": {}, "test": {"c": 0, "d": 1}}


def at_angle(degrees: float) -> np.ndarray:
    vector = np.zeros(DIM, np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


def version(stage: str, folder: Path, **manifest: Any) -> Version:
    folder.mkdir(parents=True, exist_ok=True)
    return Version(stage, "v0001", str(folder), manifest)


def save_table(of: Version, prefix: str, columns: pa.Schema, rows: list[tuple]) -> None:
    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
    arrays = [pa.array(value, field.type) for value, field in zip(values, columns, strict=True)]
    path = of.file(schema.shard_name(prefix, 0, 1, "parquet"))
    pq.write_table(pa.table(arrays, schema=columns), path)


def save_embeddings(folder: Path, angles: dict[str, float], queries: dict[str, float]) -> Version:
    found = version(schema.EMBEDDINGS, folder, dim=DIM, model_version="v0001-01234567")
    for prefix, key, of in (("images", "image_id", angles), ("queries", "query", queries)):
        rows = [(name, at_angle(angle).tolist(), "v0001-01234567") for name, angle in of.items()]
        save_table(found, prefix, schema.embedding_schema(key, DIM), rows)
    return found


def save_graph(folder: Path, *, holdout: list[tuple]) -> Version:
    graph = version(schema.GRAPH, folder)
    edges = [("a", "c", 1, 5.0, 2, None, 2.0, 4, 2), ("b", "a", 1, 0.5, 2, None, 2.0, 3, 4)]
    save_table(graph, "edges", schema.EDGE_SCHEMA, edges)
    nodes = [("a", 4, 1), ("b", 3, 1), ("c", 2, 0), ("gone", 9, 0)]
    save_table(graph, "nodes", schema.NODE_SCHEMA, nodes)
    queries = [("red", "c", 3, None), ("red", "b", 1, None), ("red", "gone", 9, None)]
    save_table(graph, "queries", schema.QUERY_SCHEMA, queries)
    save_table(graph, "holdout", schema.HOLDOUT_SCHEMA, holdout)
    return graph


def example(values: dict[str, Any]) -> bytes:
    features = {}
    for name, value in values.items():
        if isinstance(value, bytes):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        elif isinstance(value, int):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        elif name.endswith("labels"):
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def save_examples(
    folder: Path,
    splits: dict[str, list[bytes]],
    *,
    feature_dim: int | None = None,
    encoding: str | None = None,
    multi_label: bool = False,
) -> Version:
    found = version(
        schema.EXAMPLES,
        folder,
        content="image" if feature_dim is None else "features",
        feature_dim=feature_dim,
        image_size=32 if feature_dim is None else None,
        image_encoding=encoding,
        layout="nsl",
        multi_label=multi_label,
        neighbors=0,
        classes=[],
        compression="gzip",
        token_ids=1,
        texts={},
        labelled={},
        images_of_class={},
        counts={"images": {"with_neighbors": 0}},
        splits={split: {"records": len(of), "files": 1} for split, of in splits.items()},
    )
    for split, records in splits.items():
        path = found.file(schema.shard_name(split, 0, 1, "tfrecord.gz"))
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for record in records:
                writer.write(record)
    return found


def feature_examples(folder: Path) -> Version:
    splits: dict[str, list[bytes]] = {}
    for split, labels in LABELS.items():
        label_of = "label" if split == "train" else "heldout_label"
        splits[split] = [
            example({"image_id": name.encode(), "features": FEATURES[name], label_of: label})
            for name, label in labels.items()
        ]
    return save_examples(folder, splits, feature_dim=2)


HOLDOUT = [
    (0, 0, "a", "red"), (0, 1, "b", "red"),
    (1, 0, "c", None), (1, 1, "nowhere", None), (1, 2, "a", " "),
    (2, 0, "d", "new"),
]  # fmt: skip


def commit(found: Version) -> Version:
    """Writes what makes the folder of a version the one in force of its run."""
    folder = Path(found.path)
    manifest = {"stage": found.stage, **found.manifest}
    (folder / schema.MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder.parent / schema.CURRENT_FILE).write_text(f"{found.name}\n")
    return found


QUERIES = {"red": 2, "new": 170}
SETTINGS = {"sessions": {"gap_minutes": 30.0}, "holdout": {"by": "hash", "fraction": 0.1}}


def save_run(
    folder: Path,
    angles: dict[str, float],
    *,
    holdout: list[tuple] = HOLDOUT,
    texts: bool = True,
    **config: Any,
) -> str:
    """A run directory with all that a comparison reads; its texts are all published ones."""
    graph = save_graph(folder / "graph" / "v0001", holdout=holdout)
    graph.manifest["config"] = {"seed": 0, **SETTINGS, **config}
    model = Version(
        schema.MODEL,
        "v0001",
        str(folder / "model" / "v0001"),
        {"fingerprint": "0123456789", "signatures": ["features", *(["text"] if texts else [])]},
    )
    Path(model.path).mkdir(parents=True)
    embeddings = save_embeddings(folder / "embeddings" / "v0001", angles, QUERIES)
    examples = feature_examples(folder / "examples" / "v0001")
    for version in (graph, model, embeddings, examples):
        commit(version)
    return str(folder)
