"""The saved tf.Transform graph, called in training and, as a part of the served model, after it.

In: raw texts and raw features. Out: what the towers read. Because both sides call this one graph,
training and serving cannot disagree on a word or on a scale. The scale of pictures' channels goes
into their tower, which both sides share too.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import schema

GRAPH_FOLDER = "transform_fn"  # within the folder that tf.Transform writes


class Transform(tf.Module):
    """What `examples/<version>/transform` holds; saved along when a module that owns it is."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._graph = tf.saved_model.load(os.path.join(folder, GRAPH_FOLDER))
        (self._inputs,), _ = self._graph.transform_fn.structured_input_signature

    def tokens(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """[batch] string -> [batch, (words)] int64; a text without a word gives an empty row."""
        rows = tf.RaggedTensor.from_row_splits(texts, tf.range(tf.size(texts, tf.int64) + 1))
        if isinstance(self._inputs[schema.TRANSFORM_TEXT], tf.SparseTensorSpec):
            rows = rows.to_sparse()
        tokens = self._call({schema.TRANSFORM_TEXT: rows}, tf.size(texts, tf.int64))
        return _ragged(tokens[schema.TRANSFORMED_TOKENS])

    def features(self, raw: tf.Tensor) -> tf.Tensor:
        """[batch, feature_dim] float32, as in the catalog -> the same, scaled."""
        batch = tf.shape(raw, out_type=tf.int64)[0]
        return self._call({schema.TRANSFORM_FEATURES: raw}, batch)[schema.TRANSFORM_FEATURES]

    def channels(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of red, green and blue, [3] float32 each, from 0 to 255.

        Of all pictures that the transform was made of; only where those were pictures.
        """
        found = self._call({}, tf.constant(1, tf.int64))
        names = (schema.TRANSFORMED_CHANNEL_MEANS, schema.TRANSFORMED_CHANNEL_DEVIATIONS)
        means, deviations = (found[name].numpy()[0] for name in names)
        return means, deviations

    def _call(self, inputs: dict[str, Any], batch: tf.Tensor) -> dict[str, Any]:
        """Applies the graph, which wants all its inputs: those that are not given are blank."""
        blank = {n: _blank(spec, batch) for n, spec in self._inputs.items() if n not in inputs}
        return self._graph.transform_fn({**blank, **inputs})


def _blank(spec: tf.TypeSpec, batch: tf.Tensor) -> Any:
    """A batch of rows that lack a feature."""
    if isinstance(spec, tf.RaggedTensorSpec):
        nothing = tf.zeros([0], spec.dtype)
        return tf.RaggedTensor.from_row_lengths(nothing, tf.zeros([batch], tf.int64))
    if isinstance(spec, tf.SparseTensorSpec):
        nothing = tf.zeros([0], spec.dtype)
        return tf.SparseTensor(tf.zeros([0, 2], tf.int64), nothing, tf.stack([batch, 0]))
    return tf.zeros(tf.stack([batch, *spec.shape[1:]]), spec.dtype)


def _ragged(rows: tf.RaggedTensor | tf.SparseTensor) -> tf.RaggedTensor:
    """Rows that tf.Transform gives back sparse, where its graph makes them so, as ragged ones."""
    return tf.RaggedTensor.from_sparse(rows) if isinstance(rows, tf.SparseTensor) else rows
