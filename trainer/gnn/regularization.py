"""The graph loss: what it costs that connected nodes differ."""

from __future__ import annotations

from typing import Any, Literal

import tensorflow as tf

from trainer.gnn import networks
from trainer.gnn.configs import DistanceConfig, Reduction
from trainer.gnn.distances import pairwise_distance, row_distance
from trainer.gnn.packing import pack, seed_rows

Normalization = Literal["readout", "nonzero", "weighted_mean"]
Over = Literal["all", "connected"]


def graph_loss(
    seeds: tf.Tensor,
    neighbors: tf.Tensor,
    weights: tf.Tensor,
    config: DistanceConfig,
    *,
    normalization: Normalization = "readout",
    over: Over = "all",
    agreement: tf.Tensor | None = None,
) -> tf.Tensor:
    """The loss of ready outputs, a scalar; what the words mean stands at `loss_of_graph`.

    seeds: [batch, dim]; neighbors: [batch, n, dim]; weights: [batch, n], <= 0 = no such neighbour;
    agreement: [batch, n], how far to trust each of them, from 0 to 1; None: wholly.
    """
    weights = tf.cast(weights, tf.float32)
    graph = networks.from_packed(pack(seeds, neighbors, weights))
    if agreement is not None:  # edges stand row by row, as the slots that hold a neighbour do
        agreement = tf.boolean_mask(tf.cast(agreement, tf.float32), weights > 0.0)[:, None]
    return loss_of_graph(
        graph,
        config,
        seeds=seed_rows(graph.n_node),
        normalization=normalization,
        over=over,
        agreement=agreement,
    )


def loss_of_graph(
    graph: Any,
    config: DistanceConfig,
    *,
    seeds: tf.Tensor,
    normalization: Normalization = "readout",
    over: Over = "all",
    agreement: tf.Tensor | None = None,
) -> tf.Tensor:
    """The loss of a GraphsTuple whose edges all end in a seed; nodes [nodes, dim].

    seeds: [seeds] rows of nodes. d is the distance of an edge's ends as whole rows: of `config`
    only distance_type and transform_fn are asked for.
    readout: of each seed v the mean of d(h_v, h_w) by weight, 0 where it has no neighbour; then the
    mean over `all` seeds, or over the `connected` ones alone.
    nonzero: the sum of e_vw d over the number of edges. weighted_mean: the same sum over that of
    the weights. Both are means of edges, in which seeds without neighbours have no part.
    Scaling all weights changes nothing but in nonzero. Without edges it is 0.
    agreement: [edges, 1], a factor of each distance alone, never of what it is divided by: where
    all are a, the loss is a times what it would be.
    """
    check_options(normalization, over)
    if normalization == "readout":
        costs = tf.gather(networks.readout(graph, config, agreement), seeds)
        if over == "all":
            return _ratio(tf.reduce_sum(costs), tf.size(costs))
        degrees = tf.math.unsorted_segment_sum(
            graph.edges[:, 0], graph.receivers, tf.reduce_sum(graph.n_node)
        )
        connected = tf.cast(tf.gather(degrees, seeds) > 0.0, costs.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(costs), tf.reduce_sum(connected))
    distance = row_distance(*networks.edge_ends(graph), config)
    if agreement is not None:
        distance *= tf.cast(agreement, distance.dtype)
    weights = tf.cast(graph.edges, distance.dtype)
    total = tf.reduce_sum(weights * distance)
    counted = tf.ones_like(weights) if normalization == "nonzero" else weights
    return tf.math.divide_no_nan(total, tf.reduce_sum(counted))


def check_options(normalization: str | None, over: str) -> None:
    """ValueError for words that mean nothing."""
    if normalization not in (None, "readout", "nonzero", "weighted_mean"):
        raise ValueError(
            f"graph_loss_normalization is {normalization!r}; "
            "it can be 'readout', 'nonzero' or 'weighted_mean'"
        )
    if over not in ("all", "connected"):
        raise ValueError(f"graph_loss_over is {over!r}; it can be 'all' or 'connected'")


def reduced_loss(graph: Any, config: DistanceConfig, slots: tf.Tensor) -> tf.Tensor:
    """What neural-structured-learning's GraphRegularization adds for the same inputs, a scalar.

    That is `pairwise_distance` over all slots of the batch, of which this graph holds those whose
    weight is not 0. slots: seeds times neighbours an input may hold, for SUM_OVER_BATCH_SIZE, which
    counts empty ones too.
    """
    loss = pairwise_distance(*networks.edge_ends(graph), graph.edges, config)
    if config.reduction != Reduction.SUM_OVER_BATCH_SIZE:
        return loss
    return loss * _ratio(tf.size(graph.receivers), slots)


def _ratio(part: tf.Tensor, whole: tf.Tensor) -> tf.Tensor:
    """Of a sum or a number to a number; 0 where that is 0."""
    part = part if part.dtype.is_floating else tf.cast(part, tf.float32)
    return tf.math.divide_no_nan(part, tf.cast(whole, part.dtype))
