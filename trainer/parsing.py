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
from trainer.distinct import first_of_each
from trainer.example_files import ExampleFiles

Parsed = dict[str, tf.Tensor | tf.RaggedTensor]
WEIGHT = "weight"  # of a neighbour, among the names of its features
_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}
# What stands where there is no value.
_NOTHING: dict[str, bytes | int | float] = {"bytes": b"", "int64": schema.NO_LABEL, "float32": 0.0}
EDGE_FEATURES = (schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS, schema.GRAPH_WEIGHTS)


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


def read_features(spec: schema.ExampleSpec, *, edges: bool = False) -> list[schema.Feature]:
    """The features that training reads; those of the edges among neighbours where asked for."""
    return [feature for feature in spec.features() if edges or feature not in EDGE_FEATURES]


def star_features(spec: schema.ExampleSpec) -> list[schema.Feature]:
    """The ids of seeds and of their neighbours, and the weights of these: no content."""
    name = schema.IMAGE_ID.name
    names = {name, schema.COMPACT_PREFIX + name, schema.COMPACT_WEIGHTS.name}
    for index in range(spec.neighbors):
        names |= {schema.neighbor_feature(index, name), schema.neighbor_weight(index).name}
    return [feature for feature in spec.features() if feature.name in names]


def node_features(spec: schema.ExampleSpec) -> list[schema.Feature]:
    """The features that an embedding is made of: ids, contents, weights and edges."""
    content = schema.content_feature(spec.feature_dim)
    of_nodes = {
        name
        for feature in (schema.IMAGE_ID, content)
        for name in (
            feature.name,
            schema.COMPACT_PREFIX + feature.name,
            *(schema.neighbor_feature(index, feature.name) for index in range(spec.neighbors)),
        )
    }
    weights = {schema.neighbor_weight(index).name for index in range(spec.neighbors)}
    names = of_nodes | weights | {schema.COMPACT_WEIGHTS.name, *(f.name for f in EDGE_FEATURES)}
    return [feature for feature in spec.features() if feature.name in names]


def hash_ids(texts: tf.Tensor) -> tf.Tensor:
    """Strings -> int64 in [1, 2^62]: 0 is free to mean "none"."""
    return tf.strings.to_hash_bucket_fast(texts, 2**62) + 1


def stack_neighbors(
    parsed: Parsed, examples: ExampleFiles, parts: Sequence[schema.Feature] | None = None
) -> Parsed:
    """All K neighbours: {name of a node's feature: [batch, K, ...]}, and their WEIGHT.

    What a neighbour does not have, and neighbours that there are not, are filled up: weights with
    0, labels with -1, `labels` [batch, K, L] too, content and ids with nothing. parts: the node's
    features; None: all.
    """
    parts = examples.spec.node_features() if parts is None else parts
    if not examples.spec.neighbors:
        return _no_neighbors(tf.shape(parsed[schema.IMAGE_ID.name])[0], parts)
    stack = _stack_nsl if examples.spec.layout == "nsl" else _stack_compact
    return stack(parsed, examples, parts)


def _no_neighbors(batch: tf.Tensor, parts: Sequence[schema.Feature]) -> Parsed:
    shapes = {
        WEIGHT: ("float32", ()),
        **{part.name: (part.dtype, part.shape) for part in parts},
    }
    return {
        name: tf.zeros([batch, 0, *(0 if size is None else size for size in shape)], _DTYPES[dtype])
        for name, (dtype, shape) in shapes.items()
    }


def _stack_nsl(parsed: Parsed, examples: ExampleFiles, parts: Sequence[schema.Feature]) -> Parsed:
    numbers = range(examples.spec.neighbors)
    stacked = {
        part.name: tf.stack(
            [parsed[schema.neighbor_feature(i, part.name)] for i in numbers], axis=1
        )
        for part in parts
    }
    if schema.LABELS.name in stacked:
        stacked[schema.LABELS.name] = stacked[schema.LABELS.name].to_tensor(schema.NO_LABEL)
    weights = [parsed[schema.neighbor_weight(i).name] for i in numbers]
    return {WEIGHT: tf.stack(weights, axis=1), **stacked}


def _stack_compact(
    parsed: Parsed, examples: ExampleFiles, parts: Sequence[schema.Feature]
) -> Parsed:
    slots = examples.spec.neighbors
    return {
        WEIGHT: parsed[schema.COMPACT_WEIGHTS.name].to_tensor(0.0, shape=[None, slots]),
        **{part.name: _compact_part(parsed, part, examples) for part in parts},
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


def decode_nodes(
    seeds: tf.Tensor,
    neighbors: tf.Tensor,
    *,
    seed_ids: tf.Tensor,
    neighbor_ids: tf.Tensor,
    examples: ExampleFiles,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Contents of seeds [batch, ...] and neighbours [batch, n, ...], decoded; zeros = none.

    seed_ids [batch], neighbor_ids [batch, n] int64, 0 = none. A picture that stands more than once
    in the batch is decoded once.
    """
    present = neighbor_ids != 0
    if examples.spec.feature_dim is not None:
        return seeds, tf.where(present[:, :, None], neighbors, 0.0)
    first, place = first_of_each(
        tf.concat([seed_ids, tf.boolean_mask(neighbor_ids, present)], axis=0)
    )
    content = tf.concat([seeds, tf.boolean_mask(neighbors, present)], axis=0)
    decoded = tf.gather(decode(tf.gather(content, first), examples), place)
    batch = tf.shape(seeds)[0]
    shape = tf.concat([tf.shape(present, tf.int64), examples.content_shape], axis=0)
    spread = tf.scatter_nd(tf.where(present), decoded[batch:], shape)
    return decoded[:batch], tf.ensure_shape(
        spread, [None, neighbors.shape[1], *examples.content_shape]
    )
