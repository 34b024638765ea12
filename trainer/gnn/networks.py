"""The graph networks, on DeepMind's graph_nets: the only module that touches it.

Layers belong to Keras objects; the modules of graph_nets here are glue around them. They own no
variables and are made anew in each call, which is cheap: a layer made inside of one would be
invisible to Keras, and would never learn.

A graph's `edges` are [edges, 1] float32 weights, an edge goes from its sender to its receiver, and
all graphs of a batch are one GraphsTuple. What stands here works on any such graph: the small ones
of a batch, and one of all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf
from graph_nets import blocks, graphs, modules

from trainer.gnn.configs import DistanceConfig
from trainer.gnn.distances import row_distance
from trainer.gnn.packing import Packed, seed_rows

Model = Callable[[tf.Tensor], tf.Tensor]
# How a node adds up its messages: their mean, each counting by its edge's weight over the node's
# weighted degree, so that the scale of the weights does not matter; or their plain sum without
# regard to weights, as CommNet did originally.
Aggregation = Literal["mean", "sum"]


def to_graph(
    nodes: Any,
    weights: tf.Tensor,
    senders: tf.Tensor,
    receivers: tf.Tensor,
) -> graphs.GraphsTuple:
    """One graph. nodes: [nodes, ...]; weights: [edges]; senders, receivers: [edges] rows."""
    n_node = tf.shape(tf.nest.flatten(nodes)[0])[:1]
    return from_packed(Packed(nodes, weights, senders, receivers, n_node, tf.shape(weights)[:1]))


def from_packed(packed: Packed) -> graphs.GraphsTuple:
    """The graphs of a batch; globals are [batch, 0]."""
    return graphs.GraphsTuple(
        nodes=packed.nodes,
        edges=packed.weights[:, None],
        senders=tf.cast(packed.senders, tf.int32),
        receivers=tf.cast(packed.receivers, tf.int32),
        globals=tf.zeros([tf.size(packed.n_node), 0]),
        n_node=packed.n_node,
        n_edge=packed.n_edge,
    )


def seed_nodes(graph: graphs.GraphsTuple) -> Any:
    """The seeds' nodes, [batch, ...]: the last one of each graph."""
    rows = seed_rows(graph.n_node)
    return tf.nest.map_structure(lambda x: tf.gather(x, rows), graph.nodes)


def update_nodes(graph: graphs.GraphsTuple, model: Callable[[Any], Any]) -> graphs.GraphsTuple:
    """Each node on its own: h_v = model(h_v)."""
    return modules.GraphIndependent(node_model_fn=lambda: model)(graph)


def comm_net(
    graph: graphs.GraphsTuple,
    *,
    message_model: Model,
    node_encoder: Model,
    node_model: Model,
    aggregation: Aggregation,
) -> graphs.GraphsTuple:
    """h_v = node_model([aggregate of message_model(h_w) || node_encoder(h_v)]) over edges w -> v.

    Sukhbaatar, Szlam, Fergus 2016, in the form of Hoshen 2017, equation 2.
    """
    return modules.CommNet(
        edge_model_fn=lambda: message_model,
        node_encoder_model_fn=lambda: node_encoder,
        node_model_fn=lambda: node_model,
        reducer=_reducer(graph, aggregation),
    )(graph)


def message_passing(
    graph: graphs.GraphsTuple,
    *,
    edge_model: Model,
    node_model: Model,
    aggregation: Aggregation,
) -> graphs.GraphsTuple:
    """One round of Gilmer et al. 2017; edges keep their weights.

    m_v = aggregate of edge_model([e_vw || h_v || h_w]) over edges w -> v, and
    h_v = node_model([m_v || h_v]). e_vw is the edge's weight, over the weighted degree of v where
    the aggregation is a mean.
    """
    nodes = tf.nest.flatten(graph.nodes)[0]
    features = edge_shares(graph) if aggregation == "mean" else graph.edges
    passed = modules.InteractionNetwork(
        edge_model_fn=lambda: lambda edges: tf.cast(edge_model(edges), nodes.dtype),
        node_model_fn=lambda: node_model,
        reducer=_reducer(graph, aggregation),
    )(graph.replace(edges=tf.cast(features, nodes.dtype)))
    return graph.replace(nodes=passed.nodes)


def edge_shares(graph: graphs.GraphsTuple) -> tf.Tensor:
    """e_vw over the weighted degree of v, [edges, 1]: what an edge counts among its receiver's."""
    degrees = blocks.ReceivedEdgesToNodesAggregator(tf.math.unsorted_segment_sum)(graph)
    return tf.math.divide_no_nan(graph.edges, tf.gather(degrees, graph.receivers))


def _reducer(
    graph: graphs.GraphsTuple, aggregation: Aggregation
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Adds up messages [edges, dim] by receiver, in float32 whatever the messages come in."""
    if aggregation not in ("mean", "sum"):
        raise ValueError(f"aggregation is {aggregation!r}; it can be 'mean' or 'sum'")
    shares = edge_shares(graph) if aggregation == "mean" else tf.ones_like(graph.edges)

    def reduce(messages: tf.Tensor, receivers: tf.Tensor, nodes: tf.Tensor) -> tf.Tensor:
        added = tf.math.unsorted_segment_sum(
            tf.cast(messages, tf.float32) * shares, receivers, nodes
        )
        return tf.cast(added, messages.dtype)

    return reduce


def edge_ends(graph: graphs.GraphsTuple) -> tuple[tf.Tensor, tf.Tensor]:
    """What the edges' receivers and their senders are, [edges, dim] each."""
    return (
        blocks.broadcast_receiver_nodes_to_edges(graph),
        blocks.broadcast_sender_nodes_to_edges(graph),
    )


def readout(
    graph: graphs.GraphsTuple, config: DistanceConfig, agreement: tf.Tensor | None = None
) -> tf.Tensor:
    """l_v = sum_w e_vw a_vw d(h_v, h_w) / sum_w e_vw of each node, [nodes]; 0 without in-edges.

    Graph regularization as messages: an edge carries its weight times the distance of its ends, a
    node sums what it receives, and the readout divides by the weighted degree. agreement: a,
    [edges, 1]; None: 1 everywhere. The degree is without it: a node whose edges are all doubted
    is to be pulled less.
    """
    distance = row_distance(*edge_ends(graph), config)
    if agreement is not None:
        distance *= tf.cast(agreement, distance.dtype)
    messages = graph.replace(edges=tf.cast(edge_shares(graph), distance.dtype) * distance)
    return blocks.ReceivedEdgesToNodesAggregator(tf.math.unsorted_segment_sum)(messages)[:, 0]
