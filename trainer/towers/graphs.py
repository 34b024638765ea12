"""The tower over towers: an image's embedding out of its own and its neighbours'."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer import gnn
from trainer.towers.layers import UnitLength


class GraphTower(keras.layers.Layer):
    """Embeddings of seeds and of their neighbours -> [batch, dim] float32 of length 1.

    kind: "gcn" or "message_passing", see `trainer.gnn`. What the network finds is added to the
    seed's own embedding: an image without neighbours keeps what the tower saw, and none ends as
    zeros where all units of the network are silent.
    """

    def __init__(self, kind: str, *, dim: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        layer = {"gcn": gnn.GraphConvolution, "message_passing": gnn.MessagePassing}[kind]
        self._network = layer(dim, hidden=dim, dropout=dropout)
        self._unit = UnitLength()

    def call(
        self,
        seeds: tf.Tensor,
        neighbors: tf.Tensor,
        weights: tf.Tensor,
        edges: dict[str, tf.Tensor] | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """seeds [batch, dim]; neighbors [batch, n, dim]; weights [batch, n], 0 = none.

        edges: of the nodes among one another, `senders`, `receivers` and `weights` [batch, E]; node
        0 is the seed, i + 1 neighbour i, -1 padding.
        """
        found = self._network(seeds, neighbors, weights, edges, training=training)
        return self._unit(seeds + tf.cast(found, tf.float32))

    def isolated(self, nodes: tf.Tensor) -> tf.Tensor:
        """[rows, dim] -> [rows, dim]: each a graph of one node, as a new image is."""
        none = tf.zeros([tf.shape(nodes)[0], 0, nodes.shape[-1]])
        return self(nodes, none, none[:, :, 0], training=False)
