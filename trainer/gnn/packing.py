"""Packs padded neighbourhoods into one sparse graph: nobody computes for a padded slot.

In: seeds, neighbours and weights padded to the longest list. Out: the nodes that there are, row by
row, and edges as pairs of row numbers. Each seed becomes a graph: its neighbours in their order,
then the seed; an edge from each neighbour to the seed; in addition edges among them where given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True)
class Packed:
    """Graphs of a batch, one a seed, the rows of all one after the other.

    nodes: [nodes, ...] or a dict of such. weights: [edges] float32. senders, receivers: [edges]
    int32, rows of nodes. n_node, n_edge: [batch] int32. Edges stand in the order of their graphs.
    """

    nodes: Any
    weights: tf.Tensor
    senders: tf.Tensor
    receivers: tf.Tensor
    n_node: tf.Tensor
    n_edge: tf.Tensor


def pack(
    seeds: Any,
    neighbors: Any,
    weights: tf.Tensor,
    edges: Mapping[str, tf.Tensor] | None = None,
    *,
    keep_negative: bool = False,
) -> Packed:
    """seeds: [batch, ...] or a dict of such; neighbors: the same with [batch, n, ...].

    weights: [batch, n] float32; slots of weight <= 0 hold no neighbour, or with keep_negative those
    of weight 0. edges: see `_inner_edges`.
    """
    present = weights != 0.0 if keep_negative else weights > 0.0
    is_node = tf.pad(present, [[0, 0], [0, 1]], constant_values=True)  # [batch, n + 1]
    # Rows of the nodes as edges number them: 0 = seed, i + 1 = neighbour i; -1 = absent.
    number = tf.reshape(tf.cumsum(tf.reshape(tf.cast(is_node, tf.int32), [-1])), tf.shape(is_node))
    rows = tf.where(tf.roll(is_node, 1, axis=1), tf.roll(number - 1, 1, axis=1), -1)
    ends = {
        "senders": rows[:, 1:],
        "receivers": tf.broadcast_to(rows[:, :1], tf.shape(weights)),
        "weights": weights,
    }
    kept = present
    if edges is not None:
        inner, keep_inner = _inner_edges(edges, rows)
        ends = {part: tf.concat([ends[part], inner[part]], axis=1) for part in ends}
        kept = tf.concat([present, keep_inner], axis=1)
    return Packed(
        nodes=tf.nest.map_structure(
            lambda seed, near: tf.boolean_mask(tf.concat([near, seed[:, None]], axis=1), is_node),
            seeds,
            neighbors,
        ),
        **{part: tf.boolean_mask(values, kept) for part, values in ends.items()},
        n_node=tf.math.count_nonzero(is_node, axis=1, dtype=tf.int32),
        n_edge=tf.math.count_nonzero(kept, axis=1, dtype=tf.int32),
    )


def _inner_edges(
    edges: Mapping[str, tf.Tensor], rows: tf.Tensor
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Edges that end in a neighbour as rows of nodes, and which of them there are [batch, edges].

    edges: senders, receivers [batch, edges] integers, 0 = seed, i + 1 = neighbour i, and weights
    [batch, edges] float32. rows: [batch, 1 + n] int32, -1 = absent. Left out are edges of weight
    <= 0, with an end that is negative, out of range or absent, and those that end in the seed:
    the neighbours' own weights are those already.
    """
    senders, receivers = (_rows_of(edges[end], rows) for end in ("senders", "receivers"))
    weights = tf.cast(edges["weights"], tf.float32)
    kept = (senders >= 0) & (receivers >= 0) & (weights > 0.0) & (receivers != rows[:, :1])
    return {"senders": senders, "receivers": receivers, "weights": weights}, kept


def _rows_of(ends: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """[batch, edges] numbers of nodes within their example -> rows of nodes, -1 = no such node."""
    ends = tf.cast(ends, tf.int32)
    known = (ends >= 0) & (ends < tf.shape(rows)[1])
    return tf.where(known, tf.gather(rows, tf.where(known, ends, 0), batch_dims=1), -1)


def seed_rows(n_node: tf.Tensor) -> tf.Tensor:
    """[batch] numbers of nodes -> the row of each graph's last node, the seed."""
    return tf.cumsum(n_node) - 1
