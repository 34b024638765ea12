"""Classifiers of nodes that lie in memory: an MLP, a small CNN, a GCN of Kipf and Welling 2017.

In: rows of nodes [r] int32. Out: embeddings [r, dim] and logits [r, classes]. What nodes look like
is a constant of the network, so that a step is given nothing but rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.agreement.network import SLOPE

Outputs = tuple[tf.Tensor, tf.Tensor]


class NodeNetwork(keras.Model):
    """What a classifier trains. decayed: the weights that decay, all matrices where it is None."""

    def build(self, *_: object) -> None:
        """Nothing: layers are built as they are called."""

    def outputs(self, rows: tf.Tensor, noise: tf.Tensor | None = None) -> Outputs:
        """Embeddings and logits of nodes. noise [2] int32: of the dropout; None: there is none."""
        raise NotImplementedError

    @property
    def decayed(self) -> list[tf.Variable]:
        """The weights that decay: all matrices."""
        return [each.value for each in self.trainable_variables if len(each.shape) > 1]


class Mlp(NodeNetwork):
    """Dense layers with leaky ReLU; the embedding is the last hidden one before its ReLU."""

    def __init__(self, nodes: np.ndarray, hidden: Sequence[int], classes: int) -> None:
        """nodes [n, d] float32."""
        super().__init__()
        self._nodes = tf.constant(nodes)
        self._hidden = [keras.layers.Dense(width) for width in hidden]
        self._logits = keras.layers.Dense(classes)
        self.outputs(tf.zeros([1], tf.int32))

    def outputs(self, rows: tf.Tensor, noise: tf.Tensor | None = None) -> Outputs:
        """Without dropout."""
        found = embedding = tf.gather(self._nodes, rows)
        for layer in self._hidden:
            embedding = layer(found)
            found = tf.nn.leaky_relu(embedding, SLOPE)
        return embedding, self._logits(found)


class SmallCnn(NodeNetwork):
    """Thumbnails: convolutions, each with ReLU and halved, then as an Mlp of one layer.

    The first one is 5x5 of stride 2, which takes two thirds of the time of 3x3 and pooling in all,
    and was the better one; the others are 3x3 and pooled.
    """

    def __init__(
        self, pictures: np.ndarray, filters: Sequence[int], dim: int, classes: int
    ) -> None:
        """pictures [n, height, width, channels] uint8."""
        super().__init__()
        self._pictures = tf.constant(pictures)
        first, *others = filters
        self._first = keras.layers.Conv2D(first, 5, strides=2, padding="same", activation="relu")
        self._filters = [keras.layers.Conv2D(number, 3, padding="same") for number in others]
        self._embed, self._logits = keras.layers.Dense(dim), keras.layers.Dense(classes)
        self.outputs(tf.zeros([1], tf.int32))

    def outputs(self, rows: tf.Tensor, noise: tf.Tensor | None = None) -> Outputs:
        """Without dropout; pixels in [-1, 1]."""
        found = self._first(tf.cast(tf.gather(self._pictures, rows), tf.float32) / 127.5 - 1.0)
        for layer in self._filters:
            found = tf.nn.max_pool2d(tf.nn.relu(layer(found)), 2, 2, "VALID")
        embedding = self._embed(
            tf.reshape(found, [tf.shape(rows)[0], found.shape[1:].num_elements()])
        )
        return embedding, self._logits(tf.nn.leaky_relu(embedding, SLOPE))


class Incidence:
    """A matrix of 0 and 1 that is mostly 0: which words a paper has, who is whose neighbour.

    Its products are sums over lists of rows, in both directions: several times faster on a CPU than
    TensorFlow's product of a sparse matrix, whose gradient is the slowest part of it.
    """

    def __init__(
        self, places: np.ndarray, shape: tuple[int, int], *, sums_to_one: bool = False
    ) -> None:
        """places: [m, 2] int, where the matrix is 1, each once. sums_to_one: each row is divided
        by how many ones it has.
        """
        self.shape = shape
        counts = np.bincount(places[:, 0], minlength=shape[0]).clip(1)[:, None]
        self._shares = tf.constant((1.0 / counts).astype(np.float32)) if sums_to_one else None
        rows, columns = places[np.lexsort(places.T[::-1])].astype(np.int32).T
        order = np.argsort(columns, kind="stable")
        self._rows, self._columns = tf.constant(rows), tf.constant(columns)
        self._order = tf.constant(order.astype(np.int32))
        self._rows_by_column = tf.constant(rows[order])
        self._columns_sorted = tf.constant(columns[order])

    @classmethod
    def of(cls, dense: np.ndarray) -> Incidence:
        """Of [n, d] of 0 and 1."""
        return cls(np.argwhere(dense), (len(dense), dense.shape[1]))

    def __len__(self) -> int:
        return len(self._rows)

    def times(self, matrix: tf.Tensor, kept: tf.Tensor | None = None) -> tf.Tensor:
        """The product with [columns, k], [rows, k]. kept: [m] bool, the ones that are not left out
        as 0; None: all.
        """

        @tf.custom_gradient
        def product(right: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            by_row = [self._columns, self._rows]
            by_column = [self._rows_by_column, self._columns_sorted]
            if kept is not None:
                kept_by_column = tf.gather(kept, self._order)
                by_row = [tf.boolean_mask(each, kept) for each in by_row]
                by_column = [tf.boolean_mask(each, kept_by_column) for each in by_column]
            found = tf.sparse.segment_sum(right, *by_row, num_segments=self.shape[0])
            return found, lambda above: tf.sparse.segment_sum(
                above, *by_column, num_segments=self.shape[1]
            )

        found = product(matrix)
        return found if self._shares is None else self._shares * found


class Neighbors:
    """D^-1/2 (A + I) D^-1/2 of a graph, Kipf and Welling 2017."""

    def __init__(self, edges: np.ndarray, nodes: int) -> None:
        """edges [edges, 2] int, each undirected edge once or in both directions; one that stands
        twice counts once.
        """
        selves = np.stack([np.arange(nodes)] * 2, axis=1)
        places = np.unique(np.concatenate([edges, edges[:, ::-1], selves]), axis=0)
        self._incidence = Incidence(places, (nodes, nodes))
        degrees = np.bincount(places[:, 0], minlength=nodes)
        self._roots = tf.constant((degrees**-0.5)[:, None].astype(np.float32))

    def spread(self, nodes: tf.Tensor) -> tf.Tensor:
        """[nodes, k] -> [nodes, k]."""
        return self._roots * self._incidence.times(self._roots * nodes)


class WholeGraph(NodeNetwork):
    """Two layers over all nodes at once, of which a step takes those that it wants: the GCN.

    As agreement models had it: ReLU, no biases, dropout before both layers, and only the first one
    decays.
    """

    def __init__(
        self,
        nodes: np.ndarray | Incidence,
        neighbors: Neighbors,
        *,
        hidden: int,
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        """nodes [n, d]: float32, or of 0 and 1."""
        super().__init__()
        self._nodes = nodes if isinstance(nodes, Incidence) else tf.constant(nodes)
        self._neighbors, self._rate = neighbors, dropout
        self._kernel = self.add_weight((nodes.shape[1], hidden), name="kernel")
        self._logits = keras.layers.Dense(classes, use_bias=False)
        self.outputs(tf.zeros([1], tf.int32))

    @property
    def decayed(self) -> list[tf.Variable]:
        """The first layer's matrix."""
        return [self._kernel.value]

    def outputs(self, rows: tf.Tensor, noise: tf.Tensor | None = None) -> Outputs:
        """The embedding is the hidden layer."""
        hidden = tf.nn.relu(self._neighbors.spread(self._first(noise)))
        logits = self._neighbors.spread(self._logits(self._dropped(hidden, noise)))
        return tf.gather(hidden, rows), tf.gather(logits, rows)

    def _first(self, noise: tf.Tensor | None) -> tf.Tensor:
        kernel = self._kernel.value
        if not isinstance(self._nodes, Incidence):
            return tf.matmul(self._dropped(self._nodes, noise, 1), kernel)
        if noise is None or not self._rate:
            return self._nodes.times(kernel)
        kept = self._drawn([len(self._nodes)], noise, 1)
        return self._nodes.times(kernel, kept) / (1.0 - self._rate)

    def _dropped(self, values: tf.Tensor, noise: tf.Tensor | None, place: int = 0) -> tf.Tensor:
        """Values of which some are left out in training, and the others are the larger for it."""
        if noise is None or not self._rate:
            return values
        kept = self._drawn(tf.shape(values), noise, place)
        return tf.where(kept, values / (1.0 - self._rate), 0.0)

    def _drawn(self, shape: tf.Tensor, noise: tf.Tensor, place: int) -> tf.Tensor:
        """Bool: what is kept."""
        seed = tf.stack([noise[0], noise[1] + place])
        return tf.random.stateless_uniform(shape, seed) >= self._rate
