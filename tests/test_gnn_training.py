"""Training by Keras: every example counts once, metrics are right, lengths are known."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from gnn_cases import (
    CLASSES,
    MODELS,
    Identity,
    compiled,
    convolutional,
    drawn_inputs,
    drawn_labels,
    reg_config,
    regularized,
)

from trainer import gnn

ROWS = 22  # two batches of 8 and one of 6


def dataset(batch_size: int = 8) -> tf.data.Dataset:
    inputs, labels = drawn_inputs(ROWS, 2, edges=True), drawn_labels(ROWS)
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(batch_size)


def of_unknown_length() -> tf.data.Dataset:
    """As TFRecordDataset is, and what filter gives."""
    return dataset().filter(lambda inputs, labels: True)


@pytest.mark.parametrize("name", MODELS)
def test_a_last_batch_that_is_smaller_counts_with_every_example(name: str) -> None:
    model = compiled(MODELS[name])
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    logits = model.predict(dataset(), verbose=0)
    assert logits.shape == (ROWS, CLASSES)
    right = logits.argmax(axis=1) == drawn_labels(ROWS).numpy()
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    model.fit(dataset(), epochs=2, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 6


@pytest.mark.parametrize("name", MODELS)
def test_dropout_is_on_in_training_alone(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = compiled(MODELS[name])
    model.optimizer.learning_rate = 0.0
    losses = [model.evaluate(dataset(), verbose=0, return_dict=True)["loss"] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    history = model.fit(dataset(), epochs=2, verbose=0, shuffle=False).history
    assert len({round(loss, 4) for loss in (*history["loss"], losses[0])}) == 3


def test_the_graph_loss_of_an_epoch_is_the_mean_over_seeds() -> None:
    model = compiled(regularized)
    by_batches = model.evaluate(dataset(), verbose=0, return_dict=True)["graph_loss"]
    at_once = model.evaluate(dataset(ROWS), verbose=0, return_dict=True)["graph_loss"]
    assert by_batches == pytest.approx(at_once, rel=1e-5)


def test_the_loss_is_the_models_own_and_multiplier_times_the_graph_loss() -> None:
    inputs, labels = drawn_inputs(ROWS, 2), drawn_labels(ROWS)
    losses = {}
    for multiplier in (0.0, 0.5):
        config = reg_config(2, reduction="none", multiplier=multiplier)
        model = gnn.GraphRegularizationModel(
            config, lambda: keras.Sequential([Identity(), keras.layers.Dense(CLASSES, None, True)])
        )
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model(inputs)
        draw = np.random.default_rng(0)
        model.set_weights([draw.normal(size=weights.shape) for weights in model.get_weights()])
        losses[multiplier] = model.evaluate(inputs, labels, verbose=0, return_dict=True)
    expected = losses[0.0]["loss"] + 0.5 * losses[0.5]["graph_loss"]
    assert losses[0.5]["loss"] == pytest.approx(expected, rel=1e-5)


def test_regularization_pulls_neighbours_together() -> None:
    distances = []
    for multiplier in (0.0, 10.0):
        keras.utils.set_random_seed(0)
        config = reg_config(2, reduction="none", multiplier=multiplier, transform_fn="softmax")
        model = compiled(
            lambda config=config: gnn.GraphRegularizationModel(
                config, lambda: keras.Sequential([Identity(), keras.layers.Dense(CLASSES)])
            )
        )
        history = model.fit(dataset(), epochs=15, verbose=0, shuffle=False).history
        distances.append(history["graph_loss"][-1])
    assert distances[1] < 0.5 * distances[0]


# The phantom step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [regularized, convolutional])
def test_datasets_of_unknown_length_are_refused(make: Callable[[], gnn.NodeGraphModel]) -> None:
    model, message = compiled(make), "does not know its number of batches"
    with pytest.raises(ValueError, match=f"{message}[^;]*; .*, or give steps_per_epoch"):
        model.fit(of_unknown_length(), verbose=0)
    with pytest.raises(ValueError, match=f"{message}[^;]*; .*, or give validation_steps"):
        model.fit(dataset(), validation_data=of_unknown_length(), verbose=0)
    with pytest.raises(ValueError, match=f"{message}[^;]*; .*, or give steps"):
        model.evaluate(of_unknown_length(), verbose=0)


def test_datasets_whose_length_is_asserted_or_that_repeat_are_right() -> None:
    model = compiled(regularized)
    asserted = of_unknown_length().apply(tf.data.experimental.assert_cardinality(3))
    expected = model.evaluate(dataset(), verbose=0, return_dict=True)
    assert model.evaluate(asserted, verbose=0, return_dict=True) == pytest.approx(expected)
    model.fit(asserted, epochs=2, validation_data=asserted, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 6
    model.fit(of_unknown_length().repeat(), steps_per_epoch=4, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 10


def test_keras_itself_is_wrong_about_datasets_of_unknown_length() -> None:
    """The reason of the refusal; when this fails, Keras is mended and the refusal can go."""
    model = compiled(regularized)
    keras.Model.fit(model, of_unknown_length(), verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 4  # of 3 batches
