"""All images of the examples at once, as nodes: who they are, what is known of them, how they look.

In: the files of all splits, a trained model. Out: numpy arrays with one row an image, in the order
of the splits, of their files and of their records, so that every reader finds the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import tensorflow as tf

from pipeline import schema
from trainer import parsing
from trainer.dataset import Batch
from trainer.example_files import TRAIN, ExampleFiles
from trainer.model import EmbeddingModel

_RECORDS_AT_ONCE = 512
_EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True)
class Nodes:
    """The images of all splits.

    ids: [n] int64, as batches have them. image_ids: [n] string. split: [n] int8, the place in
    `schema.SPLITS`. labels: [n] int64, what training may see: of training images alone, -1 = none.
    heldout: [n] int64, of the other splits; for figures, never for a weight. neighbors: [edges, 2]
    int64, rows of each seed and of its neighbours, the strongest first; those of images that are
    no seed are left out. slots: [edges] int32, 0 = the strongest. weights: [edges] float32.
    """

    ids: np.ndarray
    image_ids: pa.Array
    split: np.ndarray
    labels: np.ndarray
    heldout: np.ndarray
    neighbors: np.ndarray
    slots: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, split: str) -> np.ndarray:
        """[n] bool: which nodes are of a split."""
        return self.split == schema.SPLITS.index(split)


def read_nodes(files: ExampleFiles) -> Nodes:
    """The nodes of all splits, without their pictures."""
    parts: dict[str, list[np.ndarray]] = {}
    for number, split in enumerate(schema.SPLITS):
        for found in _read(files, split):
            found["split"] = np.full(len(found["id"]), number, np.int8)
            for name, values in found.items():
                parts.setdefault(name, []).append(values)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    training = whole["split"] == schema.SPLITS.index(TRAIN)
    ends, slots, weights = _edges(whole["id"], whole["near"], whole["weight"])
    return Nodes(
        ids=whole["id"],
        image_ids=pa.array(whole["image_id"], pa.binary()).cast(pa.string()),
        split=whole["split"],
        labels=np.where(training, whole["label"], schema.NO_LABEL),
        heldout=np.where(training, schema.NO_LABEL, whole["heldout_label"]),
        neighbors=ends,
        slots=slots,
        weights=weights,
    )


def _read(files: ExampleFiles, split: str) -> Iterator[dict[str, np.ndarray]]:
    wanted = [*parsing.star_features(files.spec), schema.LABEL, schema.HELDOUT_LABEL]
    name = schema.IMAGE_ID.name

    @tf.autograph.experimental.do_not_convert
    def parse(serialized: tf.Tensor) -> Batch:
        parsed = parsing.parse(serialized, wanted)
        near = parsing.stack_neighbors(parsed, files, [schema.IMAGE_ID])
        return {
            "id": parsing.hash_ids(parsed[name]),
            "image_id": parsed[name],
            "label": parsed[schema.LABEL.name],
            "heldout_label": parsed[schema.HELDOUT_LABEL.name],
            "near": parsing.hash_ids(near[name]),
            "weight": near[parsing.WEIGHT],
        }

    if paths := files.files(split):
        records = tf.data.TFRecordDataset(paths, compression_type=files.compression)
        batches = records.batch(_RECORDS_AT_ONCE).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        yield from batches.as_numpy_iterator()


def _edges(
    ids: np.ndarray, near: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the ends [edges, 2], slots and weights [edges] of neighbours that there are.

    near, weight: [n, K], weight <= 0 = none.
    """
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids[order], near), len(ids) - 1)
    known = (weight > 0) & (ids[order][at] == near)
    source, slot = np.nonzero(known)
    ends = np.stack([source, order[at[source, slot]]], axis=1)
    return ends, slot.astype(np.int32), weight[source, slot]


def look_at(network: EmbeddingModel, files: ExampleFiles) -> tuple[np.ndarray, np.ndarray | None]:
    """(embeddings [n, dim], probabilities of the classes [n, classes]) of all nodes, float32.

    As they are served: without neighbours. Probabilities: None where no class is trained.
    """
    content = schema.content_feature(files.spec.feature_dim)

    @tf.autograph.experimental.do_not_convert
    def decode(serialized: tf.Tensor) -> tf.Tensor:
        return parsing.decode(parsing.parse(serialized, [content])[content.name], files)

    paths = [path for split in schema.SPLITS for path in files.files(split)]
    records = tf.data.TFRecordDataset(paths, compression_type=files.compression)
    batches = records.batch(_EMBEDDED_AT_ONCE).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    see = tf.function(lambda batch: _seen(network, batch), autograph=False, reduce_retracing=True)
    seen = [[part.numpy() for part in see(batch)] for batch in batches.prefetch(2)]
    vectors, *probabilities = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    return vectors, probabilities[0] if probabilities else None


def _seen(network: EmbeddingModel, content: tf.Tensor) -> list[tf.Tensor]:
    """Embeddings and, where classes are trained, probabilities."""
    vectors = network.image_tower(content, training=False)
    if network.graph_tower is not None:
        vectors = network.graph_tower.isolated(vectors)
    if network.class_head is None:
        return [vectors]
    return [vectors, network.activation(network.class_head(vectors))]
