"""Models over neighbour-augmented inputs, as graphs of DeepMind's graph_nets.

An input dict holds a batch of seeds: features `<name>` [batch, ...], and for neighbour i in
0 … max_neighbors - 1 `NL_nbr_<i>_<name>` [batch, ...] and `NL_nbr_<i>_weight`, [batch] or
[batch, 1]. Inside the model each seed becomes one star-shaped graph: its neighbours of weight > 0
first, the seed last, an edge from each neighbour to the seed, the edge's feature its weight. A
model is what its `graph_call` does with these graphs:

    class NodeClassifier(keras.layers.Layer): ...         # features of nodes -> [nodes, classes]

    model = gnn.GraphRegularizationModel(config=graph_reg_config, node_model_fn=NodeClassifier)
    model.compile(optimizer="adam", loss=...)
    model.fit(train_dataset, epochs=30, validation_data=eval_dataset)

graph_nets appears in this module alone. Its modules are built anew in each call, which is cheap
because they own no variables: every layer belongs to the Keras model (Keras cannot see a layer that
was made inside a Sonnet module, and would train nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import keras
import tensorflow as tf
from graph_nets import blocks, graphs, modules

from pipeline import schema

Features = Mapping[str, tf.Tensor]
EPSILON = 1e-7  # within the logarithms of kl and js


class DistanceType(str, Enum):
    """Distances between two rows of numbers; l2 is squared. kl and js are for distributions."""

    L1 = "l1"
    L2 = "l2"
    COSINE = "cosine"
    KL_DIVERGENCE = "kl_divergence"
    JENSEN_SHANNON_DIVERGENCE = "jensen_shannon_divergence"


class TransformType(str, Enum):
    """What is done to both sides before their distance is taken."""

    NONE = "none"
    SOFTMAX = "softmax"


@dataclass(frozen=True)
class DistanceConfig:
    """The distance of two nodes.

    reduction and sum_over_axis are there for neural-structured-learning's configs. Here each edge
    has one distance, summed over the last axis, and the readout of the graph reduces them; so
    reduction must be "none" and sum_over_axis -1 or None.
    """

    distance_type: DistanceType | str = DistanceType.L2
    reduction: str = "none"
    sum_over_axis: int | None = -1
    transform_fn: TransformType | str = TransformType.NONE

    def __post_init__(self) -> None:
        DistanceType(self.distance_type)
        TransformType(self.transform_fn)
        if self.reduction != "none":
            raise ValueError(f"reduction is {self.reduction!r}; only 'none' is possible")
        if self.sum_over_axis not in (None, -1):
            raise ValueError(f"sum_over_axis is {self.sum_over_axis!r}; it can be -1 or None")


@dataclass(frozen=True)
class GraphNeighborConfig:
    """What the neighbours' features are called, and how many of them are used."""

    prefix: str = schema.NEIGHBOR_PREFIX
    weight_suffix: str = schema.WEIGHT_SUFFIX
    max_neighbors: int = 0


@dataclass(frozen=True)
class GraphRegConfig:
    """Graph regularization: the graph loss counts `multiplier` times."""

    neighbor_config: GraphNeighborConfig = field(default_factory=GraphNeighborConfig)
    multiplier: float = 0.01
    distance_config: DistanceConfig = field(default_factory=DistanceConfig)


def unpack_neighbors(
    inputs: Features, config: GraphNeighborConfig
) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor], tf.Tensor]:
    """Seeds' features [batch, ...], neighbours' [batch, n, ...], weights [batch, n] float32.

    n is max_neighbors; 0 where the inputs hold no weight of any neighbour, as in serving. A
    neighbour that the inputs lack has weight 0.
    """
    seeds = {name: x for name, x in inputs.items() if not name.startswith(config.prefix)}
    names = [f"{config.prefix}{i}" for i in range(config.max_neighbors)]
    names = [name for name in names if name + config.weight_suffix in inputs]
    if not names:
        batch = tf.shape(next(iter(seeds.values())))[0]
        return seeds, {name: x[:, None][:, :0] for name, x in seeds.items()}, tf.zeros([batch, 0])
    weights = [tf.reshape(inputs[name + config.weight_suffix], [-1]) for name in names]
    neighbors = {
        feature: tf.stack([inputs[f"{name}_{feature}"] for name in names], axis=1)
        for feature in seeds
    }
    return seeds, neighbors, tf.stack(weights, axis=1)


def pack_stars(seeds: Any, neighbors: Any, weights: tf.Tensor) -> graphs.GraphsTuple:
    """One graph a seed: the neighbours of weight > 0 in their order, then the seed.

    seeds: a tensor [batch, ...] or a dict of them; neighbors: the same with [batch, n, ...];
    weights [batch, n] float32. Out: nodes [nodes, ...] (or a dict), edges [edges, 1] the weights,
    senders the neighbours, receivers the seeds, globals [batch, 0].
    """
    present = weights > 0
    is_node = tf.pad(present, [[0, 0], [0, 1]], constant_values=True)  # [batch, n + 1]
    number = tf.reshape(tf.cumsum(tf.reshape(tf.cast(is_node, tf.int32), [-1])), tf.shape(is_node))
    centers = tf.broadcast_to(number[:, -1:], tf.shape(weights)) - 1
    n_edge = tf.math.count_nonzero(present, axis=1, dtype=tf.int32)
    nodes = tf.nest.map_structure(
        lambda seed, near: tf.boolean_mask(tf.concat([near, seed[:, None]], axis=1), is_node),
        seeds,
        neighbors,
    )
    return graphs.GraphsTuple(
        nodes=nodes,
        edges=tf.boolean_mask(weights, present)[:, None],
        senders=tf.boolean_mask(number[:, :-1] - 1, present),
        receivers=tf.boolean_mask(centers, present),
        globals=tf.zeros([tf.shape(weights)[0], 0]),
        n_node=n_edge + 1,
        n_edge=n_edge,
    )


def center_nodes(graph: graphs.GraphsTuple) -> Any:
    """The seeds' nodes, [batch, ...]: the last one of each graph."""
    last = tf.cumsum(graph.n_node) - 1
    return tf.nest.map_structure(lambda x: tf.gather(x, last), graph.nodes)


def pairwise_distance(a: tf.Tensor, b: tf.Tensor, config: DistanceConfig) -> tf.Tensor:
    """[rows, dim], [rows, dim] float32 -> [rows]; rows of kl and js must sum to 1."""
    if TransformType(config.transform_fn) is TransformType.SOFTMAX:
        a, b = tf.nn.softmax(a), tf.nn.softmax(b)
    kind = DistanceType(config.distance_type)
    if kind is DistanceType.L1:
        return tf.reduce_sum(tf.abs(a - b), axis=-1)
    if kind is DistanceType.L2:
        return tf.reduce_sum(tf.math.squared_difference(a, b), axis=-1)
    if kind is DistanceType.COSINE:
        a, b = tf.math.l2_normalize(a, axis=-1), tf.math.l2_normalize(b, axis=-1)
        return 1.0 - tf.reduce_sum(a * b, axis=-1)
    if kind is DistanceType.KL_DIVERGENCE:
        return _kl(a, b)
    middle = (a + b) / 2.0
    return (_kl(a, middle) + _kl(b, middle)) / 2.0


def _kl(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * (tf.math.log(a + EPSILON) - tf.math.log(b + EPSILON)), axis=-1)


def readout_distance(graph: graphs.GraphsTuple, config: DistanceConfig) -> tf.Tensor:
    """l_v = sum_w e_vw d(h_v, h_w) / sum_w e_vw of each graph, [batch]; 0 for isolated seeds.

    As messages: an edge carries its weight times the distance of its ends, the graph sums what
    its edges carry, and the readout divides by the weighted degree. Scaling all weights of a graph
    changes nothing.
    """

    def weighted_distance(edge_receiver_sender: tf.Tensor) -> tf.Tensor:
        weight, ends = edge_receiver_sender[:, :1], edge_receiver_sender[:, 1:]
        receiver, sender = tf.split(ends, 2, axis=1)
        return weight * pairwise_distance(receiver, sender, config)[:, None]

    sum_edges = blocks.EdgesToGlobalsAggregator(tf.math.unsorted_segment_sum)
    messages = blocks.EdgeBlock(edge_model_fn=lambda: weighted_distance, use_globals=False)(graph)
    return tf.math.divide_no_nan(sum_edges(messages), sum_edges(graph))[:, 0]


def graph_loss(
    seeds: tf.Tensor, neighbors: tf.Tensor, weights: tf.Tensor, config: DistanceConfig
) -> tf.Tensor:
    """The mean of `readout_distance` over all seeds, isolated ones included, which count 0.

    seeds [batch, dim], neighbors [batch, n, dim], weights [batch, n]: 0 = no such neighbour.
    """
    return tf.reduce_mean(readout_distance(pack_stars(seeds, neighbors, weights), config))


class NodeGraphModel(keras.Model):
    """Packs a batch into graphs, asks `graph_call`, and returns what the seeds' nodes became.

    Inputs without neighbours, as in serving, are graphs of one node.
    """

    # The number of nodes differs from batch to batch: XLA would compile each step anew.
    supports_jit = False

    def __init__(self, neighbor_config: GraphNeighborConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False
        self._neighbor_config = neighbor_config

    def graph_call(self, graph: graphs.GraphsTuple) -> graphs.GraphsTuple:
        """The graph with new nodes; nodes come as a dict of features."""
        raise NotImplementedError

    def call(self, inputs: Features) -> Any:
        graph = pack_stars(*unpack_neighbors(inputs, self._neighbor_config))
        return center_nodes(self.graph_call(graph))


class GraphRegularizationModel(NodeGraphModel):
    """Applies one model to all nodes; connected nodes whose outputs differ cost something.

    Adds multiplier x the mean over seeds of `readout_distance` to the loss, in training and in
    evaluation, and reports the mean as the metric `graph_loss`. node_model_fn makes the node model:
    a Keras layer or model from the dict of node features to [nodes, dim].
    """

    def __init__(
        self, config: GraphRegConfig, node_model_fn: Callable[[], keras.Layer], **kwargs: Any
    ) -> None:
        super().__init__(config.neighbor_config, **kwargs)
        self._config = config
        self.node_model = node_model_fn()
        self._graph_loss = keras.metrics.Mean(name="graph_loss")

    def graph_call(self, graph: graphs.GraphsTuple) -> graphs.GraphsTuple:
        graph = modules.GraphIndependent(node_model_fn=lambda: self.node_model)(graph)
        loss = tf.reduce_mean(readout_distance(graph, self._config.distance_config))
        self.add_loss(self._config.multiplier * loss)
        self._graph_loss.update_state(loss)
        return graph
