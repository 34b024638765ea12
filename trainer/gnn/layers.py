"""Layers that pass messages: over padded neighbourhoods, or over any graph of row numbers.

`GraphConvolution` and `MessagePassing` take what batches hold:

    layer(seeds [batch, dim], neighbors [batch, n, dim], weights [batch, n], edges=None)
        -> [batch, units]

A weight <= 0 means that there is no such neighbour; a seed without any is a graph of one node.
edges: None, or a dict of `senders`, `receivers` [batch, edges] integers (0 = seed, i + 1 =
neighbour i, -1 = padding) and `weights` [batch, edges]: with them neighbours hear of each other
and of the seed before the seed hears of them, so that two rounds see as far as two edges.

The rounds they are made of, `CommNetBlock` and `MessageRound`, take a graph as tensors:

    block(nodes [nodes, dim], weights [edges], senders [edges], receivers [edges]) -> [nodes, units]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.gnn import networks
from trainer.gnn.networks import Aggregation
from trainer.gnn.packing import pack, seed_rows

Shape = Any  # of a tensor, as Keras hands it to build
PACKAGE = "imgembed.gnn"  # under which Keras finds the classes of a saved model


@keras.saving.register_keras_serializable(PACKAGE)
class CommNetBlock(keras.layers.Layer):
    """h_v = Theta([aggregate of Psi(h_w) || Phi(h_v)]) over the edges w -> v.

    Psi and Phi have `hidden` units: two layers with ReLU, or where `shared` one linear layer for
    both. Theta is dropout and a layer of `units`.
    """

    def __init__(
        self,
        units: int,
        hidden: int,
        *,
        dropout: float = 0.25,
        activation: str | None = None,
        shared: bool = False,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # weights of edges stay float32
        self._config: dict[str, Any] = {
            "units": units,
            "hidden": hidden,
            "dropout": dropout,
            "activation": activation,
            "shared": shared,
            "aggregation": aggregation,
        }
        options = {"activation": None if shared else "relu", "dtype": self.dtype_policy}
        self._psi = keras.layers.Dense(hidden, **options)
        self._phi = self._psi if shared else keras.layers.Dense(hidden, **options)
        self._dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self._theta = keras.layers.Dense(units, activation=activation, dtype=self.dtype_policy)

    def build(self, nodes_shape: Shape, weights_shape: Shape, *_: Shape) -> None:
        self._psi.build(nodes_shape)
        if self._phi is not self._psi:
            self._phi.build(nodes_shape)
        self._theta.build((None, 2 * self._config["hidden"]))

    def call(
        self,
        nodes: tf.Tensor,
        weights: tf.Tensor,
        senders: tf.Tensor,
        receivers: tf.Tensor,
        training: bool | None = None,
    ) -> tf.Tensor:
        nodes = tf.cast(nodes, self.compute_dtype)
        return networks.comm_net(
            networks.to_graph(nodes, weights, senders, receivers),
            message_model=self._psi,
            node_encoder=self._phi,
            node_model=lambda x: self._theta(self._dropout(x, training=training)),
            aggregation=self._config["aggregation"],
        ).nodes

    def get_config(self) -> dict[str, Any]:
        return {**_base_config(self), **self._config}


@keras.saving.register_keras_serializable(PACKAGE)
class MessageRound(keras.layers.Layer):
    """m_v = aggregate of edge_model([e_vw || h_v || h_w]), h_v = node_model([m_v || h_v]).

    edge_model, node_model: Keras layers from [rows, any dim] to [rows, dim].
    """

    def __init__(
        self,
        edge_model: keras.layers.Layer,
        node_model: keras.layers.Layer,
        *,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.edge_model = edge_model
        self.node_model = node_model
        self._aggregation = aggregation

    def build(self, nodes_shape: Shape, weights_shape: Shape, *_: Shape) -> None:
        # Models that are called on a shape alone are built by Keras, whatever they are.
        messages = self.edge_model(keras.KerasTensor((None, 1 + 2 * nodes_shape[-1])))
        self.node_model(keras.KerasTensor((None, messages.shape[-1] + nodes_shape[-1])))

    def call(
        self, nodes: tf.Tensor, weights: tf.Tensor, senders: tf.Tensor, receivers: tf.Tensor
    ) -> tf.Tensor:
        nodes = tf.cast(nodes, self.compute_dtype)
        return networks.message_passing(
            networks.to_graph(nodes, weights, senders, receivers),
            edge_model=self.edge_model,
            node_model=self.node_model,
            aggregation=self._aggregation,
        ).nodes

    def get_config(self) -> dict[str, Any]:
        return {
            **_base_config(self),
            "edge_model": serialize(self.edge_model),
            "node_model": serialize(self.node_model),
            "aggregation": self._aggregation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MessageRound:
        models = {name: deserialize(config[name]) for name in ("edge_model", "node_model")}
        return cls(**{**config, **models})


class _OverNeighborhoods(keras.layers.Layer):
    """Rounds of messages over padded neighbourhoods; subclasses make the rounds."""

    def __init__(self, config: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self._config = config
        self._rounds: list[keras.layers.Layer] = []

    def build(self, seeds_shape: Shape, *_: Shape) -> None:
        nodes = keras.KerasTensor((None, seeds_shape[-1]))
        weights, ends = keras.KerasTensor((None,)), keras.KerasTensor((None,), "int32")
        for each in self._rounds:
            nodes = each(nodes, weights, ends, ends)

    def call(
        self,
        seeds: tf.Tensor,
        neighbors: tf.Tensor,
        weights: tf.Tensor,
        edges: Mapping[str, tf.Tensor] | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        packed = pack(seeds, neighbors, tf.cast(weights, tf.float32), edges)
        nodes = packed.nodes
        for each in self._rounds:
            nodes = each(nodes, packed.weights, packed.senders, packed.receivers)
        return tf.gather(nodes, seed_rows(packed.n_node))

    def get_config(self) -> dict[str, Any]:
        return {**_base_config(self), **self._config}


@keras.saving.register_keras_serializable(PACKAGE)
class GraphConvolution(_OverNeighborhoods):
    """Two blocks of CommNet, as in neural-structured-learning's GCN; see the module's docstring."""

    def __init__(
        self,
        units: int,
        *,
        hidden: int = 16,
        dropout: float = 0.25,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        own: dict[str, Any] = {
            "units": units,
            "hidden": hidden,
            "dropout": dropout,
            "aggregation": aggregation,
        }
        super().__init__(own, **kwargs)
        self._rounds = comm_net_blocks(**own, dtype=self.dtype_policy)


@keras.saving.register_keras_serializable(PACKAGE)
class MessagePassing(_OverNeighborhoods):
    """`rounds` rounds of messages of Gilmer et al. 2017; see the module's docstring.

    Edge and node models are dense layers of `hidden` units with ReLU; the last node model gives
    `units` and is linear.
    """

    def __init__(
        self,
        units: int,
        *,
        hidden: int = 16,
        dropout: float = 0.25,
        rounds: int = 2,
        aggregation: Aggregation = "mean",
        **kwargs: Any,
    ) -> None:
        own = {"units": units, "hidden": hidden, "dropout": dropout, "rounds": rounds}
        super().__init__({**own, "aggregation": aggregation}, **kwargs)
        policy = self.dtype_policy
        self._rounds = [
            MessageRound(
                dense(hidden, "relu", dropout, policy),
                dense(units, None, dropout, policy)
                if i == rounds - 1
                else dense(hidden, "relu", dropout, policy),
                aggregation=aggregation,
                dtype=policy,
            )
            for i in range(rounds)
        ]


def comm_net_blocks(
    *, units: int, hidden: int, dropout: float, aggregation: Aggregation, dtype: Any
) -> list[keras.layers.Layer]:
    """The two blocks of neural-structured-learning's GCN."""
    options: dict[str, Any] = {"dropout": dropout, "aggregation": aggregation, "dtype": dtype}
    return [
        CommNetBlock(hidden, hidden, activation="relu", shared=True, **options),
        CommNetBlock(units, hidden, **options),
    ]


def dense(units: int, activation: str | None, dropout: float, dtype: Any) -> keras.layers.Layer:
    """Dropout, then a dense layer."""
    return keras.Sequential(
        [
            keras.layers.Dropout(dropout, dtype=dtype),
            keras.layers.Dense(units, activation=activation, dtype=dtype),
        ]
    )


def serialize(layer: keras.layers.Layer | None) -> dict[str, Any] | None:
    """A layer's class and config, without how it was built: its owner builds it again."""
    if layer is None:
        return None
    config = keras.saving.serialize_keras_object(layer)
    return {key: value for key, value in config.items() if key != "build_config"}


def deserialize(config: Any) -> Any:
    """What `serialize` was given; a layer that Keras has made already stays."""
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


def _base_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """Name and dtype of a layer, whatever its class."""
    config = keras.layers.Layer.get_config(layer)
    return {key: config[key] for key in ("name", "trainable", "dtype")}
