"""Inputs and models that the tests of trainer.gnn share."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer import gnn

Inputs = dict[str, tf.Tensor]
CLASSES = 3


def inputs_of(x: list, neighbors: list, weights: list) -> Inputs:
    """x [batch, dim], neighbors [slots, batch, dim], weights [slots, batch] as one dict."""
    slots = {f"NL_nbr_{i}_x": tf.constant(values) for i, values in enumerate(neighbors)}
    slots |= {f"NL_nbr_{i}_weight": tf.constant(w)[:, None] for i, w in enumerate(weights)}
    return {"x": tf.constant(x), **slots}


# Node 0 has neighbours of weights 1 and 3, node 1 one of weight 0.25, node 2 is isolated: what
# stands in its slots means nothing.
L2_INPUTS = inputs_of(
    [[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]],
    [[[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]], [[0.0, 2.0], [8.0, 8.0], [7.0, 7.0]]],
    [[1.0, 0.25, 0.0], [3.0, 0.0, 0.0]],
)
COSINE_INPUTS = inputs_of(
    [[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]],
    [[[1.0, 1.0], [3.0, 0.0], [9.0, 9.0]], [[0.0, 2.0], [8.0, 8.0], [7.0, 7.0]]],
    [[1.0, 0.25, 0.0], [3.0, 0.0, 0.0]],
)


def scaled(inputs: Inputs, factor: float) -> Inputs:
    """The same with all weights times `factor`; 0 leaves every seed isolated."""
    return {k: factor * v if k.endswith("weight") else v for k, v in inputs.items()}


def drawn_inputs(rows: int, neighbors: int, *, seed: int = 0, edges: bool = False) -> Inputs:
    """A batch with 4 features a node, a third of the slots empty; every seventh seed isolated."""
    draw = np.random.default_rng(seed)
    weights = draw.uniform(0.5, 4.0, (neighbors, rows)) * (draw.random((neighbors, rows)) > 0.33)
    weights[:, ::7] = 0.0
    batch = {"x": tf.constant(draw.normal(size=(rows, 4)), tf.float32)}
    for i in range(neighbors):
        batch[f"NL_nbr_{i}_x"] = tf.constant(draw.normal(size=(rows, 4)), tf.float32)
        batch[f"NL_nbr_{i}_weight"] = tf.constant(weights[i], tf.float32)
    if edges:
        ends = draw.integers(-1, neighbors + 1, (2, rows, 5))
        batch["graph_senders"], batch["graph_receivers"] = (
            tf.constant(ends[0]),
            tf.constant(ends[1]),
        )
        batch["graph_weights"] = tf.constant(draw.uniform(0.5, 4.0, (rows, 5)), tf.float32)
    return batch


def drawn_labels(rows: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, CLASSES, rows))


@keras.saving.register_keras_serializable("tests")
class Identity(keras.layers.Layer):
    def call(self, nodes: Inputs) -> tf.Tensor:
        return nodes["x"]


@keras.saving.register_keras_serializable("tests")
class NodeClassifier(keras.Model):
    """The node model of someone who regularizes a classifier of their own."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.dropout = keras.layers.Dropout(0.5)
        self.logits = keras.layers.Dense(CLASSES)

    def call(self, nodes: Inputs) -> tf.Tensor:
        return self.logits(self.dropout(self.hidden(nodes["x"])))


def reg_config(neighbors: int = 2, **options: object) -> gnn.GraphRegConfig:
    return gnn.make_graph_reg_config(
        max_neighbors=neighbors, **{"multiplier": 0.1, "sum_over_axis": -1, **options}
    )


def regularized() -> gnn.NodeGraphModel:
    return gnn.GraphRegularizationModel(reg_config(reduction="none"), NodeClassifier)


def convolutional() -> gnn.NodeGraphModel:
    return gnn.GraphConvolutionalNodeClassifier(CLASSES, neighbor_config=neighbors_of(2))


def message_passing() -> gnn.NodeGraphModel:
    return gnn.MessagePassingModel(CLASSES, neighbor_config=neighbors_of(2))


def own_messages() -> gnn.NodeGraphModel:
    """Edge and node models that someone brings: a network, and layers of other kinds."""
    return gnn.MessagePassingModel(
        CLASSES,
        rounds=3,
        edge_model_fn=lambda: keras.Sequential(
            [keras.layers.Dense(6, activation="tanh"), keras.layers.LayerNormalization()]
        ),
        node_model_fn=lambda: keras.layers.Dense(5, activation="gelu"),
        node_encoder=NodeClassifier(),
    )


def neighbors_of(number: int) -> gnn.GraphNeighborConfig:
    return gnn.GraphNeighborConfig(max_neighbors=number)


# Every class of models, by what makes one of it.
MODELS: dict[str, Callable[[], gnn.NodeGraphModel]] = {
    "graph regularization": regularized,
    "graph convolution": convolutional,
    "message passing": message_passing,
    "message passing of one's own layers": own_messages,
}


def compiled(make: Callable[[], gnn.NodeGraphModel], **options: object) -> gnn.NodeGraphModel:
    model = make()
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model
