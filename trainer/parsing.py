"""Serialized examples to tensors, the same ones for every layout and encoding.

Parsed by the batch, never one by one. Pictures stay encoded until those that a step needs are
chosen: decoding is most of what reading examples costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from pipeline import schema
from trainer.example_files import ExampleFiles

Parsed = dict[str, tf.Tensor | tf.RaggedTensor]
WEIGHT = "weight"  # of a neighbour, among the names of its features
_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}
# What stands where there is no value.
_NOTHING: dict[str, bytes | int | float] = {"bytes": b"", "int64": schema.NO_LABEL, "float32": 0.0}
# The edges among neighbours are for other readers.
_UNREAD = {schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS, schema.GRAPH_WEIGHTS}


def parse(serialized: tf.Tensor, features: Sequence[schema.Feature]) -> Parsed:
    """[batch] string -> {name: [batch], [batch, n], or [batch, (values)] where any number is}.

    Rows of a feature of shape (None, n) come one after the other, as they are written.
    """
    return tf.io.parse_example(serialized, {f.name: _parser(f) for f in features})


def _parser(feature: schema.Feature) -> Any:
    dtype = _DTYPES[feature.dtype]
    if None in feature.shape:
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    default = tf.fill(feature.shape, tf.constant(feature.default, dtype))
    return tf.io.FixedLenFeature(feature.shape, dtype, default)


def read_features(spec: schema.ExampleSpec) -> list[schema.Feature]:
    """The features that training reads."""
    return [feature for feature in spec.features() if feature not in _UNREAD]


def stack_neighbors(parsed: Parsed, examples: ExampleFiles) -> Parsed:
    """All K neighbours: {name of a node's feature: [batch, K, ...]}, and their WEIGHT.

    What a neighbour does not have, and neighbours that there are not, are filled up: weights with
    0, labels with -1, `labels` [batch, K, L] too, content and ids with nothing.
    """
    if not examples.spec.neighbors:
        return _no_neighbors(tf.shape(parsed[schema.IMAGE_ID.name])[0], examples.spec)
    return (_stack_nsl if examples.spec.layout == "nsl" else _stack_compact)(parsed, examples)


def _no_neighbors(batch: tf.Tensor, spec: schema.ExampleSpec) -> Parsed:
    parts = {part.name: (part.dtype, part.shape) for part in spec.node_features()}
    shapes = {WEIGHT: ("float32", ()), **parts}
    return {
        name: tf.zeros([batch, 0, *(0 if size is None else size for size in shape)], _DTYPES[dtype])
        for name, (dtype, shape) in shapes.items()
    }


def _stack_nsl(parsed: Parsed, examples: ExampleFiles) -> Parsed:
    numbers = range(examples.spec.neighbors)
    stacked = {
        part.name: tf.stack(
            [parsed[schema.neighbor_feature(i, part.name)] for i in numbers], axis=1
        )
        for part in examples.spec.node_features()
    }
    if examples.spec.multi_label:
        stacked[schema.LABELS.name] = stacked[schema.LABELS.name].to_tensor(schema.NO_LABEL)
    weights = [parsed[schema.neighbor_weight(i).name] for i in numbers]
    return {WEIGHT: tf.stack(weights, axis=1), **stacked}


def _stack_compact(parsed: Parsed, examples: ExampleFiles) -> Parsed:
    slots = examples.spec.neighbors
    parts = {p.name: _compact_part(parsed, p, examples) for p in examples.spec.node_features()}
    return {
        WEIGHT: parsed[schema.COMPACT_WEIGHTS.name].to_tensor(0.0, shape=[None, slots]),
        **parts,
    }


def _compact_part(parsed: Parsed, part: schema.Feature, examples: ExampleFiles) -> tf.Tensor:
    """[batch, K, ...] of one feature, of which a seed has as many values as it has neighbours."""
    values, slots = parsed[schema.COMPACT_PREFIX + part.name], examples.spec.neighbors
    if part == schema.LABELS:
        of_each = parsed[schema.COMPACT_LABEL_COUNTS.name]
        lists = tf.RaggedTensor.from_row_lengths(values.flat_values, of_each.flat_values)
        lists = of_each.with_flat_values(lists)
        return lists.to_tensor(schema.NO_LABEL, shape=[None, slots, None])
    if part == schema.IMAGE and examples.spec.image_encoding == "raw":
        return _cut(values, slots, math.prod(examples.content_shape))
    width = math.prod(size for size in part.shape if size)
    rows = values.to_tensor(_NOTHING[part.dtype], shape=[None, slots * width])
    return tf.reshape(rows, [-1, slots, *part.shape])


def _cut(whole: tf.Tensor, slots: int, size: int) -> tf.Tensor:
    """[batch] string -> [batch, slots] string: `size` bytes each, nothing behind the end."""
    start = tf.range(slots)[None, :] * size
    start = tf.minimum(start, tf.strings.length(whole)[:, None])
    return tf.strings.substr(whole[:, None], start, tf.fill(tf.shape(start), size))


def decode(content: tf.Tensor, examples: ExampleFiles) -> tf.Tensor:
    """[rows] pictures as they are written -> [rows, side, side, 3] uint8; features stay."""
    if examples.spec.feature_dim is not None:
        return content
    shape = examples.content_shape
    if examples.spec.image_encoding == "raw":
        flat = tf.io.decode_raw(content, tf.uint8, fixed_length=math.prod(shape))
        return tf.reshape(flat, [-1, *shape])
    # Batches are decoded side by side; anything finer costs more than it saves.
    return tf.map_fn(_decoder(shape), content, fn_output_signature=tf.TensorSpec(shape, tf.uint8))


def _decoder(shape: tuple[int, ...]) -> Callable[[tf.Tensor], tf.Tensor]:
    def decode_one(encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.ensure_shape(pixels, shape)

    return decode_one


def decode_present(content: tf.Tensor, present: tf.Tensor, examples: ExampleFiles) -> tf.Tensor:
    """[batch, n, ...] content of neighbours, decoded where `present`, zeros elsewhere."""
    if examples.spec.feature_dim is not None:
        return tf.where(present[:, :, None], content, 0.0)
    decoded = decode(tf.boolean_mask(content, present), examples)
    shape = tf.concat([tf.shape(present, tf.int64), examples.content_shape], axis=0)
    spread = tf.scatter_nd(tf.where(present), decoded, shape)
    return tf.ensure_shape(spread, [None, content.shape[1], *examples.content_shape])
