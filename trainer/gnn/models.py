"""Models of nodes with neighbours, drop-in replacements of one another.

GraphRegularizationModel            one model for all nodes; neighbours may not differ for free
GraphConvolutionalNodeClassifier    two blocks of CommNet
MessagePassingModel                 rounds of messages by edge and node models of one's own
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.gnn import layers, networks, regularization
from trainer.gnn.configs import GraphNeighborConfig, GraphRegConfig, Reduction
from trainer.gnn.distances import require_axis
from trainer.gnn.layers import PACKAGE
from trainer.gnn.networks import Aggregation
from trainer.gnn.node_graph_model import NodeGraphModel
from trainer.gnn.packing import seed_rows
from trainer.gnn.regularization import Normalization, Over

LayerFactory = Callable[[], keras.layers.Layer]


@keras.saving.register_keras_serializable(PACKAGE)
class GraphRegularizationModel(NodeGraphModel):
    """Applies one model to all nodes; connected nodes whose outputs differ cost something.

    Adds `multiplier` times the graph loss to the loss, in training and in evaluation, and reports
    the graph loss as the metric `graph_loss`. node_model_fn makes the node model: a Keras layer or
    model from the dict of node features to [nodes, dim]. A saved model holds that layer and not the
    function, so any function will do whose layer Keras can save.

    graph_loss_normalization: see `gnn.loss_of_graph`, as graph_loss_over. None: what the reduction
    of the config means to neural-structured-learning. NONE, which its graph models ask for, is the
    readout. Any other gives what its GraphRegularization adds: `pairwise_distance` of seeds and
    neighbours, with negative weights, which all else takes for no edge.
    The loss is over edges between seeds and neighbours; edges among neighbours have no part in it.
    """

    def __init__(
        self,
        config: GraphRegConfig,
        node_model_fn: LayerFactory,
        *,
        graph_loss_normalization: Normalization | None = None,
        graph_loss_over: Over = "all",
        **kwargs: Any,
    ) -> None:
        regularization.check_options(graph_loss_normalization, graph_loss_over)
        if graph_loss_normalization is None and config.distance_config.reduction == Reduction.NONE:
            graph_loss_normalization = "readout"
        if graph_loss_normalization is None:
            require_axis(config.distance_config)
        super().__init__(config.neighbor_config, neighbor_edges=False, **kwargs)
        self._config = config
        self._normalization = graph_loss_normalization
        self._over = graph_loss_over
        self.node_model = node_model_fn()
        self._graph_loss = keras.metrics.Mean(name="graph_loss")

    def graph_call(self, graph: Any) -> Any:
        graph = networks.update_nodes(graph, self.node_model)
        loss = self._loss(graph)
        self.add_loss(self._config.multiplier * loss)
        self._graph_loss.update_state(loss, sample_weight=tf.size(graph.n_node))
        return graph

    def _loss(self, graph: Any) -> tf.Tensor:
        config = self._config.distance_config
        if self._normalization is None:
            slots = tf.size(graph.n_node) * self._config.neighbor_config.max_neighbors
            return regularization.reduced_loss(graph, config, slots)
        return regularization.loss_of_graph(
            graph,
            config,
            seeds=seed_rows(graph.n_node),
            normalization=self._normalization,
            over=self._over,
        )

    def _keeps_negative_weights(self) -> bool:
        return self._normalization is None

    def get_config(self) -> dict[str, Any]:
        base = super().get_config()
        return {
            **{key: base[key] for key in ("name", "trainable", "dtype")},
            "config": self._config.to_dict(),
            "node_model": layers.serialize(self.node_model),
            "graph_loss_normalization": self._normalization,
            "graph_loss_over": self._over,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        node_model = layers.deserialize(config.pop("node_model"))
        reg_config = GraphRegConfig.from_dict(config.pop("config"))
        return cls(reg_config, lambda: node_model, **config)


@keras.saving.register_keras_serializable(PACKAGE)
class ConcatFeatures(keras.layers.Layer):
    """{name: [nodes, ...] numbers} -> [nodes, numbers] float32, features in order of name."""

    def call(self, nodes: Mapping[str, tf.Tensor]) -> tf.Tensor:
        for name, x in nodes.items():
            if x.dtype == tf.string:
                raise ValueError(f"feature {name!r} is text; a node_encoder can make numbers of it")
        flat = [_flatten(tf.cast(nodes[name], tf.float32)) for name in sorted(nodes)]
        return tf.concat(flat, axis=1)


def _flatten(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [tf.shape(x)[0], x.shape[1:].num_elements()])


class _MessageModel(NodeGraphModel):
    """Encodes all nodes alike, then rounds of messages; what is last comes out as float32.

    node_encoder: a Keras layer from the dict of node features to [nodes, dim]; None: a
    ConcatFeatures.
    """

    def __init__(
        self,
        neighbor_config: GraphNeighborConfig | None,
        node_encoder: keras.layers.Layer | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(neighbor_config, **kwargs)
        self.node_encoder = node_encoder or ConcatFeatures()
        self.rounds: list[keras.layers.Layer] = []
        self.head: keras.layers.Layer | None = None

    def graph_call(self, graph: Any) -> Any:
        graph = networks.update_nodes(graph, self.node_encoder)
        nodes = graph.nodes
        for each in self.rounds:
            nodes = each(nodes, graph.edges[:, 0], graph.senders, graph.receivers)
        if self.head is not None:
            nodes = self.head(nodes)
        return graph.replace(nodes=tf.cast(nodes, tf.float32))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "node_encoder": layers.serialize(self.node_encoder)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        encoder = layers.deserialize(config["node_encoder"])
        return super().from_config({**config, "node_encoder": encoder})


@keras.saving.register_keras_serializable(PACKAGE)
class GraphConvolutionalNodeClassifier(_MessageModel):
    """Two blocks of CommNet over encoded nodes: [batch, num_classes] float32 logits.

    Block 1 has one linear layer for messages and nodes, and ReLU; block 2 two layers with ReLU, and
    gives the logits. aggregation "mean": messages count by their edges' weights over the weighted
    degree; "sum": as they did in neural-structured-learning, which asks for no weights.
    """

    def __init__(
        self,
        num_classes: int,
        hidden_units: int = 16,
        dropout_rate: float = 0.25,
        neighbor_config: GraphNeighborConfig | None = None,
        *,
        node_encoder: keras.layers.Layer | None = None,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(neighbor_config, node_encoder, **kwargs)
        self._arguments = {
            "num_classes": num_classes,
            "hidden_units": hidden_units,
            "dropout_rate": dropout_rate,
            "aggregation": aggregation,
        }
        self.rounds = layers.comm_net_blocks(
            units=num_classes,
            hidden=hidden_units,
            dropout=dropout_rate,
            aggregation=aggregation,
            dtype=self.dtype_policy,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._arguments}


@keras.saving.register_keras_serializable(PACKAGE)
class MessagePassingModel(_MessageModel):
    """Rounds of messages of Gilmer et al. 2017, then a layer of `num_classes`.

    In a round m_v is the aggregate of edge_model([e_vw || h_v || h_w]) over the neighbours w, and
    h_v becomes node_model([m_v || h_v]). edge_model_fn, node_model_fn: called once a round, give
    any Keras layer from [rows, any dim] to [rows, dim]; None: dropout and a dense layer of
    hidden_units with ReLU. num_classes None: the seeds' h come out as they are after the rounds.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        hidden_units: int = 16,
        dropout_rate: float = 0.25,
        neighbor_config: GraphNeighborConfig | None = None,
        *,
        rounds: int = 2,
        edge_model_fn: LayerFactory | None = None,
        node_model_fn: LayerFactory | None = None,
        node_encoder: keras.layers.Layer | None = None,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(neighbor_config, node_encoder, **kwargs)
        self._arguments = {
            "num_classes": num_classes,
            "hidden_units": hidden_units,
            "dropout_rate": dropout_rate,
            "rounds": rounds,
            "aggregation": aggregation,
        }

        def hidden() -> keras.layers.Layer:
            return layers.dense(hidden_units, "relu", dropout_rate, self.dtype_policy)

        self.rounds = [
            layers.MessageRound(
                (edge_model_fn or hidden)(),
                (node_model_fn or hidden)(),
                aggregation=aggregation,
                dtype=self.dtype_policy,
            )
            for _ in range(rounds)
        ]
        if num_classes is not None:
            self.head = keras.layers.Dense(num_classes, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self._arguments,
            "edge_models": [layers.serialize(each.edge_model) for each in self.rounds],
            "node_models": [layers.serialize(each.node_model) for each in self.rounds],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        made = {
            "edge_model_fn": _one_by_one(config.pop("edge_models")),
            "node_model_fn": _one_by_one(config.pop("node_models")),
        }
        return super().from_config({**config, **made})


def _one_by_one(configs: Iterable[dict[str, Any]]) -> LayerFactory:
    """A factory that gives the layers of these configs in their order."""
    return iter([layers.deserialize(config) for config in configs]).__next__
