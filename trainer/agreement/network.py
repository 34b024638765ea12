"""The agreement model: two nodes, and what is known of an edge between them, to one logit.

    left  [p, d] ─► encoder ─┐
                             ├─► aggregated [p, h] ─► W d + b ──┐
    right [p, d] ─► encoder ─┘                                  ├─► logits [p]
    features [p, f] of edges ──────────────────────► V f ───────┘

The encoder is the same for both; for squared differences and sums, so is the answer for (i, j) and
(j, i). A pair that is no edge has features 0, which leave the logit as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.config import Aggregation

SLOPE = 0.2  # of the leaky ReLU, for negative numbers

_AGGREGATE: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "dist": tf.math.squared_difference,
    "add": tf.add,
    "concat": lambda left, right: tf.concat([left, right], axis=-1),
}
_PROJECT = "project_"


def _layers(units: Sequence[int]) -> list[keras.layers.Layer]:
    """Dense layers, each with its leaky ReLU."""
    return [
        layer
        for width in units
        for layer in (keras.layers.Dense(width), keras.layers.LeakyReLU(negative_slope=SLOPE))
    ]


class AgreementModel(keras.Model):
    """Logits that pairs of nodes are of one class, [p] float32.

    hidden: units of the encoder's layers. aggregation: how two encoded nodes become one row;
    `project_…`: after another shared layer, as wide as the last one.
    """

    def __init__(self, hidden: Sequence[int], aggregation: Aggregation = "dist") -> None:
        super().__init__()
        projected = aggregation.startswith(_PROJECT)
        self._aggregate = _AGGREGATE[aggregation.removeprefix(_PROJECT)]
        self._encoder = _layers([*hidden, *(hidden[-1:] if projected else [])])
        self._of_nodes = keras.layers.Dense(1, name="of_nodes")
        # Where no labelled edge has taught it anything, it says nothing.
        self._of_edges = keras.layers.Dense(
            1, use_bias=False, kernel_initializer="zeros", name="of_edges"
        )

    def make_weights(self, node_dim: int, feature_dim: int) -> None:
        """The weights for nodes and edges of so many numbers; 0: edges have none."""
        nodes, features = (
            np.zeros((1, node_dim), np.float32),
            np.zeros((1, feature_dim), np.float32),
        )
        self((nodes, nodes, features if feature_dim else None))

    def build(self, *_: object) -> None:
        """Nothing: layers are built as they are called."""

    def encode(self, nodes: tf.Tensor) -> tf.Tensor:
        """[n, d] float32 -> [n, h] float32."""
        for layer in self._encoder:
            nodes = layer(nodes)
        return nodes

    def compare(
        self, left: tf.Tensor, right: tf.Tensor, features: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Encoded nodes [p, h] each, features of the edges [p, f] -> logits [p]."""
        logits = self._of_nodes(self._aggregate(left, right))
        if features is not None:
            logits += self._of_edges(features)
        return logits[:, 0]

    def call(self, pairs: tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]) -> tf.Tensor:
        """(left [p, d], right [p, d], features [p, f] or None) -> logits [p]."""
        left, right, features = pairs
        return self.compare(self.encode(left), self.encode(right), features)
