"""Embeddings for TensorBoard's projector: vectors, what they are of, and the file that names both.

projector_config.pbtxt   names the other two
tensors.tsv              a vector a line
metadata.tsv             image id, label and text of each, under a line of headings
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from pipeline import schema
from trainer import parsing
from trainer.dataset import Batch, evaluation_batches
from trainer.example_files import TRAIN, VALIDATION, ExampleFiles
from trainer.model import EmbeddingModel
from trainer.transform import Transform

CONFIG_FILE = "projector_config.pbtxt"  # TensorBoard looks for this name
_VECTORS_FILE, _METADATA_FILE = "tensors.tsv", "metadata.tsv"
MOST_IMAGES = 2_000
_BATCH = 64
_CONFIG = f"""embeddings {{
  tensor_name: "images"
  tensor_path: "{_VECTORS_FILE}"
  metadata_path: "{_METADATA_FILE}"
}}
"""


def write(
    folder: str,
    network: EmbeddingModel,
    files: ExampleFiles,
    transform: Transform,
) -> None:
    """Embeds the first validation images, or training images where there are none."""
    split = VALIDATION if files.records(VALIDATION) else TRAIN
    batches = evaluation_batches(files, transform, split, batch_size=_BATCH, neighbors=0)
    embed = tf.function(functools.partial(_served, network), autograph=False, reduce_retracing=True)
    vectors = [embed(batch).numpy() for batch in batches.take(-(-MOST_IMAGES // _BATCH))]
    _write(folder, _VECTORS_FILE, _lines(_cells(np.concatenate(vectors)[:MOST_IMAGES])))
    described = [("image_id", "label", "text"), *_described(files, split)]
    _write(folder, _METADATA_FILE, _lines(described))
    _write(folder, CONFIG_FILE, _CONFIG)


def _served(network: EmbeddingModel, batch: Batch) -> tf.Tensor:
    """[batch, dim], of images without neighbours."""
    outputs = network(batch, training=False)
    return outputs.get("isolated", outputs["seeds"])


def _described(files: ExampleFiles, split: str) -> Iterator[tuple[str, str, str]]:
    """(image id, label, text of the greatest weight) of the same images, in the same order."""
    records = tf.data.TFRecordDataset(
        tf.constant(files.files(split), tf.string), compression_type=files.compression
    )
    wanted = (schema.IMAGE_ID, schema.LABEL, schema.HELDOUT_LABEL, schema.TEXT, schema.TEXT_WEIGHT)
    for serialized in records.take(MOST_IMAGES).batch(_BATCH):
        parsed = parsing.parse(serialized, wanted)
        labels = tf.maximum(parsed[schema.LABEL.name], parsed[schema.HELDOUT_LABEL.name]).numpy()
        texts = parsed[schema.TEXT.name].to_list()
        weights = parsed[schema.TEXT_WEIGHT.name].to_list()
        for row, image_id in enumerate(parsed[schema.IMAGE_ID.name].numpy()):
            label = files.classes[labels[row]] if labels[row] >= 0 else ""
            text = texts[row][int(np.argmax(weights[row]))].decode() if texts[row] else ""
            yield image_id.decode(), label, text


def _cells(vectors: np.ndarray) -> Iterator[list[str]]:
    return ([f"{value:.7g}" for value in vector] for vector in vectors)


def _lines(rows: Iterable[Sequence[str]]) -> str:
    """Tab-separated; a cell has neither tabs nor ends of lines, and no spreadsheet runs it."""
    return "".join("\t".join(map(_cell, row)) + "\n" for row in rows)


def _cell(text: str) -> str:
    text = " ".join(text.split())
    return f"'{text}" if re.search(schema.FORMULA, text) else text


def _write(folder: str, name: str, text: str) -> None:
    with tf.io.gfile.GFile(os.path.join(folder, name), "w") as file:
        file.write(text)
