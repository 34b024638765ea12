"""Cora as neural-structured-learning's examples train on it: 80 % of the papers are labelled.

In: a Cora. Out: test accuracies of its models on `trainer.gnn`, trained as there: 30 epochs,
batches of 128, Adam at 0.001, 3 neighbours packed into each example, multiplier 0.1, L2 on logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from citations import Cora

from trainer import gnn

NEIGHBORS, EPOCHS, BATCH_SIZE, UNITS = 3, 30, 128, 50
TEST_SHARE = 553 / 2708
Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Examples:
    """Packed examples: inputs as the models take them, and labels."""

    inputs: Inputs
    labels: np.ndarray

    def without_neighbors(self) -> Examples:
        """The seeds alone."""
        return Examples({"words": self.inputs["words"]}, self.labels)


class NodeClassifier(keras.Model):
    """Words to logits, by two hidden layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = keras.Sequential(
            [
                keras.layers.Dense(UNITS, activation="relu"),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(UNITS, activation="relu"),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(classes),
            ]
        )

    def build(self, *_: object) -> None:
        """Nothing: layers are built as they are called."""

    def call(self, nodes: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return self.network(nodes["words"])


def pack_examples(cora: Cora, papers: np.ndarray) -> Examples:
    """Examples of some papers with up to NEIGHBORS of all papers, those of greater number first."""
    near: list[list[int]] = [[] for _ in range(cora.papers)]
    for one, other in cora.edges:
        near[one].append(other)
        near[other].append(one)
    words = cora.dense_words()
    inputs = {"words": words[papers]}
    chosen = [sorted(near[paper], reverse=True)[:NEIGHBORS] for paper in papers]
    for i in range(NEIGHBORS):
        present = np.array([len(each) > i for each in chosen])
        packed = words[[each[i] if len(each) > i else 0 for each in chosen]]
        inputs[f"NL_nbr_{i}_words"] = packed * present[:, None]
        inputs[f"NL_nbr_{i}_weight"] = present.astype(np.float32)
    return Examples(inputs, cora.labels[papers])


def split(cora: Cora, seed: int) -> tuple[Examples, Examples]:
    """(training, test) examples, drawn by the seed."""
    order = np.random.default_rng(seed).permutation(cora.papers)
    tests = round(TEST_SHARE * cora.papers)
    return pack_examples(cora, order[tests:]), pack_examples(cora, order[:tests])


def make_model(kind: str, classes: int) -> keras.Model:
    """kind: "mlp", "graph regularization", "gcn" (sums, as the original) or "gcn, weighted"."""
    neighbors = gnn.GraphNeighborConfig(max_neighbors=NEIGHBORS)
    if kind in ("mlp", "graph regularization"):
        distance = gnn.DistanceConfig("l2", reduction="none", sum_over_axis=-1)
        used = neighbors if kind == "graph regularization" else gnn.GraphNeighborConfig()
        config = gnn.GraphRegConfig(used, 0.1, distance)
        return gnn.GraphRegularizationModel(config, lambda: NodeClassifier(classes))
    aggregation = "sum" if kind == "gcn" else "mean"
    return gnn.GraphConvolutionalNodeClassifier(
        classes, neighbor_config=neighbors, aggregation=aggregation
    )


def accuracies(cora: Cora, kind: str, seed: int) -> tuple[float, float]:
    """Test accuracy with the test papers' neighbours, and without any, after the last epoch."""
    training, tests = split(cora, seed)
    keras.utils.set_random_seed(seed)
    model = make_model(kind, cora.classes)
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(training.inputs, training.labels, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    return accuracy(model, tests), accuracy(model, tests.without_neighbors())


def accuracy(model: keras.Model, examples: Examples) -> float:
    """Share of the examples whose greatest logit is their label's."""
    logits = model.predict(examples.inputs, batch_size=BATCH_SIZE, verbose=0)
    return float((logits.argmax(axis=1) == examples.labels).mean())
