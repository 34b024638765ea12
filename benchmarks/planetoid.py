"""Cora's standard split, 20 labels a class: models over one graph of all papers.

In: a Cora without the labels of its test papers, and a Recipe. Out: a trained model, which answers
for all papers at once. Only `trainer.gnn` passes messages and knows the graph loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from citations import HIDDEN, Cora

from trainer import gnn

LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained.

    regularization: multiplier of the graph loss on the probabilities of all papers, labelled or
    not. decay: of the first layer's weights, squared and halved. patience: steps without a better
    validation accuracy after which training ends; the best weights are kept.
    """

    network: str  # "mlp", "gcn" or "comm_net"
    hidden: int
    dropout: float
    regularization: float = 0.0
    decay: float = 5e-4
    steps: int = 250
    patience: int = 100


class Words(keras.layers.Layer):
    """The first layer, over words that are sparse: [papers, units] of all papers.

    A paper's words count 1 over their number. In training, dropout leaves out single words.
    """

    def __init__(self, cora: Cora, units: int, dropout: float) -> None:
        super().__init__()
        self._places, self._shape = cora.words, (cora.papers, cora.vocabulary)
        papers = cora.words[:, 0]
        self._values = (1.0 / np.bincount(papers, minlength=cora.papers)[papers]).astype(np.float32)
        self._dropout = keras.layers.Dropout(dropout)
        self.kernel = self.add_weight((cora.vocabulary, units), name="kernel")
        self.bias = self.add_weight((units,), initializer="zeros", name="bias")

    def call(self, training: bool = False) -> tf.Tensor:
        values = self._dropout(self._values, training=training)
        words = tf.SparseTensor(self._places, values, self._shape)
        return tf.sparse.sparse_dense_matmul(words, self.kernel.value) + self.bias


class WeighedSender(keras.layers.Layer):
    """A message of Kipf and Welling 2017: what the sender holds, times the edge's weight."""

    def call(self, edges: tf.Tensor) -> tf.Tensor:
        weight, ends = edges[:, :1], edges[:, 1:]
        return weight * tf.split(ends, 2, axis=1)[1]


class Received(keras.layers.Layer):
    """A node becomes what it received; its own part came over the edge to itself."""

    def call(self, nodes: tf.Tensor) -> tf.Tensor:
        return tf.split(nodes, 2, axis=1)[0]


class Papers(keras.Model):
    """Logits of all papers, [papers, classes], by the network that the recipe names."""

    def __init__(self, cora: Cora, recipe: Recipe) -> None:
        super().__init__()
        self.network = recipe.network
        self.words = Words(cora, recipe.hidden, recipe.dropout)
        self.edges = normalized_edges(cora) if recipe.network == "gcn" else plain_edges(cora)
        if recipe.network == "comm_net":
            options: dict[str, Any] = {"hidden": recipe.hidden, "dropout": recipe.dropout}
            self.blocks = [
                gnn.CommNetBlock(recipe.hidden, activation="relu", shared=True, **options),
                gnn.CommNetBlock(cora.classes, **options),
            ]
        else:
            self.dropout = keras.layers.Dropout(recipe.dropout)
            self.logits = keras.layers.Dense(cora.classes)
            self.convolve = gnn.MessageRound(WeighedSender(), Received(), aggregation="sum")

    def build(self, *_: Any) -> None:
        """Nothing: layers are built as they are called."""

    def call(self, training: bool = False) -> tf.Tensor:
        hidden = self.words(training=training)
        if self.network == "comm_net":
            for block in self.blocks:
                hidden = block(hidden, *self.edges, training=training)
            return hidden
        hidden = self.dropout(tf.nn.relu(self.spread(hidden)), training=training)
        return self.spread(self.logits(hidden))

    def spread(self, nodes: tf.Tensor) -> tf.Tensor:
        """Nodes after a round of messages; as they are in an mlp."""
        return self.convolve(nodes, *self.edges) if self.network == "gcn" else nodes


Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


def plain_edges(cora: Cora) -> Edges:
    """(weights, senders, receivers), all weights 1."""
    senders, receivers = cora.both_ways()
    return np.ones(len(senders), np.float32), senders, receivers


def normalized_edges(cora: Cora) -> Edges:
    """D^-1/2 (A + I) D^-1/2 as edges, an edge from each paper to itself among them."""
    selves = np.arange(cora.papers, dtype=np.int32)
    senders, receivers = (np.concatenate([ends, selves]) for ends in cora.both_ways())
    degrees = np.bincount(receivers).astype(np.float32)
    return 1.0 / np.sqrt(degrees[senders] * degrees[receivers]), senders, receivers


def train(cora: Cora, recipe: Recipe, seed: int) -> tuple[Papers, float]:
    """A model with the weights of its best step, and its validation accuracy then."""
    if (cora.labels[cora.test] != HIDDEN).any():
        raise ValueError("labels of test papers are in sight")
    keras.utils.set_random_seed(seed)
    model = Papers(cora, recipe)
    step, judge = make_step(model, cora, recipe), make_judge(model, cora)
    best, best_step, weights = (-1.0, 0.0), 0, []
    for number in range(recipe.steps):
        step()
        accuracy, loss = (float(value) for value in judge())
        if (accuracy, -loss) > best:
            best, best_step, weights = (accuracy, -loss), number, model.get_weights()
        elif number - best_step >= recipe.patience:
            break
    model.set_weights(weights)
    return model, best[0]


def make_step(model: Papers, cora: Cora, recipe: Recipe) -> Callable[[], None]:
    """A step over all papers."""
    model(training=False)  # makes the weights
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(model.trainable_variables)
    labels = tf.constant(cora.labels[cora.train])
    edges, papers = plain_edges(cora), tf.range(cora.papers)
    distance = gnn.DistanceConfig(gnn.DistanceType.L2, transform_fn="softmax")

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            logits = model(training=True)
            loss = cross_entropy(labels, tf.gather(logits, cora.train))
            loss += recipe.decay * tf.nn.l2_loss(model.words.kernel.value)
            if recipe.regularization:
                graph = gnn.to_graph(logits, *edges)
                loss += recipe.regularization * gnn.loss_of_graph(graph, distance, seeds=papers)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))

    return step


def make_judge(model: Papers, cora: Cora) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
    """(accuracy, cross-entropy) of the validation papers."""
    labels = tf.constant(cora.labels[cora.validation])

    @tf.function
    def judge() -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.gather(model(training=False), cora.validation)
        hits = tf.argmax(logits, axis=1, output_type=labels.dtype) == labels
        return tf.reduce_mean(tf.cast(hits, tf.float32)), cross_entropy(labels, logits)

    return judge


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean over the rows."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def choose(cora: Cora, recipes: Sequence[Recipe], seeds: Sequence[int]) -> Recipe:
    """The recipe of the best mean validation accuracy."""
    if len(recipes) == 1:
        return recipes[0]
    return max(recipes, key=lambda each: np.mean([train(cora, each, seed)[1] for seed in seeds]))


def score_on_test(cora: Cora, recipe: Recipe, seeds: Sequence[int]) -> list[float]:
    """Of a model a seed; the only place that reads the labels of test papers."""
    models = [train(cora.hide_test(), recipe, seed)[0] for seed in seeds]
    answers = [np.argmax(model(training=False)[: cora.papers], axis=1) for model in models]
    return [float((answer[cora.test] == cora.labels[cora.test]).mean()) for answer in answers]
