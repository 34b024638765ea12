"""The source's programs as their users would write them; test_gnn_snippets.py runs them."""

from pathlib import Path

import graph_nets
import keras
import numpy as np
import tensorflow as tf

from trainer import gnn

WORDS, CLASSES, PAPERS = 12, 3, 90


def papers(batch_size: int, neighbors: int = 3) -> tf.data.Dataset:
    """Papers of three topics, as neural-structured-learning's examples hold them."""
    draw = np.random.default_rng(0)
    topics = draw.integers(0, CLASSES, PAPERS)

    def words_of(topic: np.ndarray) -> np.ndarray:
        share = np.where(np.arange(WORDS) % CLASSES == topic[:, None], 0.6, 0.2)
        return (draw.random((PAPERS, WORDS)) < share).astype(np.int64)

    inputs = {"words": words_of(topics)}
    for i in range(neighbors):
        inputs[f"NL_nbr_{i}_words"] = words_of(topics)
        inputs[f"NL_nbr_{i}_weight"] = (draw.random((PAPERS, 1)) < 0.7).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((inputs, topics)).batch(batch_size)


def test_graph_regularization_of_a_node_classifier() -> None:
    keras.utils.set_random_seed(0)
    train_dataset, eval_dataset = papers(32), papers(32, neighbors=0)

    class NodeClassifier(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = keras.layers.Dense(50, activation="relu")
            self.dropout = keras.layers.Dropout(0.5)
            self.logits = keras.layers.Dense(CLASSES)

        def call(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
            words = tf.cast(features["words"], tf.float32)
            return self.logits(self.dropout(self.hidden(words)))

    graph_reg_config = gnn.GraphRegConfig(
        neighbor_config=gnn.GraphNeighborConfig(max_neighbors=3),
        multiplier=0.1,
        distance_config=gnn.DistanceConfig(
            distance_type=gnn.DistanceType.L2, reduction="none", sum_over_axis=-1
        ),
    )
    model = gnn.GraphRegularizationModel(config=graph_reg_config, node_model_fn=NodeClassifier)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        train_dataset, epochs=30, validation_data=eval_dataset, verbose=0, shuffle=False
    ).history
    assert history["val_accuracy"][-1] > 0.6
    assert history["graph_loss"][-1] > 0.0
    assert history["val_graph_loss"][-1] == 0.0


def test_graph_regularization_with_default_configs() -> None:
    model = gnn.GraphRegularizationModel(
        config=gnn.GraphRegConfig(),
        node_model_fn=lambda: keras.Sequential([gnn.ConcatFeatures(), keras.layers.Dense(CLASSES)]),
    )
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(papers(32), verbose=0, shuffle=False).history
    assert history["graph_loss"] == [0.0]  # the default of max_neighbors


@keras.saving.register_keras_serializable("tests")
class GraphConvolutionalNodeClassifier(gnn.NodeGraphModel):
    """Two blocks of CommNet on graph_nets."""

    def __init__(
        self,
        num_classes: int,
        hidden_units: int = 16,
        dropout_rate: float = 0.25,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self._features = gnn.ConcatFeatures()
        self._encoder_1 = self._edge_model_1 = keras.layers.Dense(hidden_units)
        self._node_model_1 = keras.Sequential(
            [keras.layers.Dropout(dropout_rate), keras.layers.Dense(hidden_units, "relu")]
        )
        self._edge_model_2 = keras.layers.Dense(hidden_units, activation="relu")
        self._encoder_2 = keras.layers.Dense(hidden_units, activation="relu")
        self._node_model_2 = keras.Sequential(
            [keras.layers.Dropout(dropout_rate), keras.layers.Dense(num_classes, name="logits")]
        )

    def graph_call(self, graph: graph_nets.graphs.GraphsTuple) -> graph_nets.graphs.GraphsTuple:
        graph = graph_nets.modules.GraphIndependent(node_model_fn=lambda: self._features)(graph)
        graph = graph_nets.modules.CommNet(
            edge_model_fn=lambda: self._edge_model_1,
            node_encoder_model_fn=lambda: self._encoder_1,
            node_model_fn=lambda: self._node_model_1,
        )(graph)
        return graph_nets.modules.CommNet(
            edge_model_fn=lambda: self._edge_model_2,
            node_encoder_model_fn=lambda: self._encoder_2,
            node_model_fn=lambda: self._node_model_2,
        )(graph)

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "num_classes": self.num_classes}


def test_a_graph_convolutional_classifier_of_ones_own(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = GraphConvolutionalNodeClassifier(num_classes=CLASSES)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(0.01),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    dataset = papers(32)
    model.fit(dataset, epochs=20, verbose=0, shuffle=False)
    assert len(model.trainable_variables) == 10
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.8
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.predict(dataset, verbose=0) == model.predict(dataset, verbose=0)).all()


def test_the_original_is_the_packages_own_with_sums() -> None:
    """The same layers in the same places, once on graph_nets by hand."""
    (inputs, _), *_ = papers(32)
    by_hand = GraphConvolutionalNodeClassifier(num_classes=CLASSES)
    packages = gnn.GraphConvolutionalNodeClassifier(CLASSES, aggregation="sum")
    by_hand(inputs), packages(inputs)
    assert len(by_hand.weights) > 0
    own = {
        "psi_1": by_hand._encoder_1,
        "theta_1": by_hand._node_model_1.layers[-1],
        "psi_2": by_hand._edge_model_2,
        "phi_2": by_hand._encoder_2,
        "theta_2": by_hand._node_model_2.layers[-1],
    }
    first, second = packages.rounds
    theirs = (first._psi, first._theta, second._psi, second._phi, second._theta)
    for mine, layer in zip(own.values(), theirs, strict=True):
        layer.set_weights(mine.get_weights())
    assert np.allclose(packages(inputs), by_hand(inputs), atol=1e-5)
