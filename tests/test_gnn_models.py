"""Laws that hold for every model of trainer.gnn, and what each alone promises."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from gnn_cases import (
    CLASSES,
    L2_INPUTS,
    MODELS,
    Identity,
    Inputs,
    NodeClassifier,
    compiled,
    drawn_inputs,
    drawn_labels,
    neighbors_of,
    reg_config,
    scaled,
)

from trainer import gnn
from trainer.gnn.layers import PACKAGE

every_model = pytest.mark.parametrize("name", MODELS)
ROWS = 12


def test_every_class_of_models_is_under_the_laws() -> None:
    models = {each for each in vars(gnn).values() if isinstance(each, type)}
    models = {each for each in models if issubclass(each, gnn.NodeGraphModel)}
    assert models - {gnn.NodeGraphModel} == {type(make()) for make in MODELS.values()}


# Laws ---------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("edges", [False, True])
def test_a_saved_model_answers_as_it_did(name: str, edges: bool, tmp_path: Path) -> None:
    inputs, labels = drawn_inputs(ROWS, 2, edges=edges), drawn_labels(ROWS)
    model = compiled(MODELS[name])
    model.fit(inputs, labels, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    for given in (inputs, {"x": inputs["x"]}):
        assert (loaded.predict(given, verbose=0) == model.predict(given, verbose=0)).all()
    before, after = (m.evaluate(inputs, labels, verbose=0) for m in (model, loaded))
    assert before == pytest.approx(after, rel=1e-6)
    loaded.fit(inputs, labels, verbose=0)  # the optimizer has come along
    assert int(loaded.optimizer.iterations) == 3


@every_model
@pytest.mark.parametrize("eagerly", [True, False])
def test_one_step_changes_every_weight(name: str, eagerly: bool) -> None:
    model = compiled(MODELS[name], run_eagerly=eagerly)
    inputs, labels = drawn_inputs(ROWS, 2, edges=True), drawn_labels(ROWS)
    model(inputs)
    before = [np.array(weights) for weights in model.trainable_variables]
    model.fit(inputs, labels, batch_size=ROWS, verbose=0)
    assert len(before) > 2
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert (old != np.array(new)).any(), new.path


@every_model
def test_eager_and_graph_mode_agree(name: str) -> None:
    model, inputs = MODELS[name](), drawn_inputs(ROWS, 2, edges=True)
    assert tf.function(model)(inputs).numpy() == pytest.approx(model(inputs).numpy(), abs=1e-5)


@every_model
def test_the_order_of_neighbours_changes_nothing(name: str) -> None:
    model, inputs = MODELS[name](), drawn_inputs(ROWS, 2, edges=True)
    swapped = {k.translate(str.maketrans("01", "10")): v for k, v in inputs.items()}
    number = tf.constant([0, 2, 1, -1], tf.int64)  # -1 is the last
    for end in ("graph_senders", "graph_receivers"):
        swapped[end] = tf.gather(number, inputs[end] % 4)
    assert outputs_and_losses(model, swapped) == pytest.approx(
        outputs_and_losses(model, inputs), abs=1e-5
    )


@every_model
def test_the_scale_of_the_weights_changes_nothing(name: str) -> None:
    model = MODELS[name]()
    inputs = drawn_inputs(ROWS, 2)
    assert outputs_and_losses(model, scaled(inputs, 7.0)) == pytest.approx(
        outputs_and_losses(model, inputs), abs=1e-5
    )


def outputs_and_losses(model: keras.Model, inputs: Inputs) -> list[float]:
    outputs = model(inputs).numpy().ravel().tolist()
    return [*outputs, *map(float, model.losses)]


@every_model
def test_isolated_seeds_are_answered_as_without_neighbours_with_finite_gradients(name: str) -> None:
    model, inputs = MODELS[name](), drawn_inputs(ROWS, 2)
    with tf.GradientTape() as tape:
        outputs = model(scaled(inputs, 0.0))
        loss = tf.reduce_sum(outputs**2) + sum(model.losses)
    assert outputs.numpy() == pytest.approx(model({"x": inputs["x"]}).numpy(), abs=1e-6)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.isfinite(np.array(gradient)).all()


@every_model
@pytest.mark.parametrize("number", [0, 1, 3])
def test_any_number_of_neighbours_and_rows_is_taken(name: str, number: int) -> None:
    model = compiled(MODELS[name])
    for rows in (ROWS, 1, 5):
        assert model.predict(drawn_inputs(rows, number), verbose=0).shape == (rows, CLASSES)


@every_model
def test_the_callers_batch_stays_as_it_was(name: str) -> None:
    inputs = drawn_inputs(ROWS, 2, edges=True)
    names, arrays = list(inputs), [value.numpy() for value in inputs.values()]
    MODELS[name]()(inputs)
    assert list(inputs) == names
    assert all((a == b.numpy()).all() for a, b in zip(arrays, inputs.values(), strict=True))


@every_model
def test_models_train_in_half_precision(name: str) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(MODELS[name])
        history = model.fit(
            drawn_inputs(ROWS, 2, edges=True), drawn_labels(ROWS), epochs=2, verbose=0
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history.history["loss"]).all()
    assert all(weights.dtype == "float32" for weights in model.trainable_variables)


@every_model
def test_xla_is_not_asked_for(name: str) -> None:
    assert MODELS[name]().supports_jit is False


# What neighbours and edges do ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if name != "graph regularization"])
def test_messages_use_weights_and_edges_among_neighbours(name: str) -> None:
    model, inputs = MODELS[name](), drawn_inputs(ROWS, 2, edges=True)
    outputs = model(inputs).numpy()
    heavier = {**inputs, "NL_nbr_1_weight": 9.0 * inputs["NL_nbr_1_weight"]}
    assert np.abs(model(heavier).numpy() - outputs).max() > 1e-3
    edgeless = {k: v for k, v in inputs.items() if not k.startswith("graph_")}
    assert np.abs(model(edgeless).numpy() - outputs).max() > 1e-3


def test_a_graph_regularization_model_answers_the_same_with_and_without_neighbours() -> None:
    model, inputs = MODELS["graph regularization"](), drawn_inputs(ROWS, 2, edges=True)
    alone = model({"x": inputs["x"]}).numpy()
    assert model(inputs).numpy() == pytest.approx(alone, abs=1e-6)


def test_edges_among_neighbours_can_be_left_out() -> None:
    inputs = drawn_inputs(ROWS, 2, edges=True)
    edgeless = {k: v for k, v in inputs.items() if not k.startswith("graph_")}
    model = gnn.GraphConvolutionalNodeClassifier(CLASSES, neighbor_edges=False)
    assert (model(inputs).numpy() == model(edgeless).numpy()).all()


def test_sums_ignore_weights_as_the_original_did() -> None:
    model = gnn.GraphConvolutionalNodeClassifier(CLASSES, aggregation="sum")
    inputs = drawn_inputs(ROWS, 2)
    assert (model(scaled(inputs, 7.0)).numpy() == model(inputs).numpy()).all()
    one = gnn.GraphConvolutionalNodeClassifier(CLASSES, neighbor_config=neighbors_of(1))
    assert np.abs(model(inputs).numpy() - one(inputs).numpy()).max() > 1e-3


def test_a_block_of_comm_net_is_its_formula() -> None:
    block = gnn.CommNetBlock(2, 3, activation="relu", dropout=0.0)
    nodes = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    weights, senders, receivers = [1.0, 3.0, 2.0], [0, 1, 3], [2, 2, 0]
    found = block(*map(tf.constant, (nodes, weights, senders, receivers))).numpy()
    (psi, psi_0), (phi, phi_0), (theta, theta_0) = (
        layer.get_weights() for layer in (block._psi, block._phi, block._theta)
    )
    sent = np.maximum(nodes @ psi + psi_0, 0.0)
    received = np.stack([sent[3], 0 * sent[0], (sent[0] + 3 * sent[1]) / 4, 0 * sent[0]])
    kept = np.maximum(nodes @ phi + phi_0, 0.0)
    expected = np.maximum(np.concatenate([received, kept], axis=1) @ theta + theta_0, 0.0)
    assert found == pytest.approx(expected, abs=1e-5)


class Doubled(keras.layers.Layer):
    def call(self, rows: tf.Tensor) -> tf.Tensor:
        return 2.0 * rows


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # Node 2: m = 2 (1/4 [1/4, 5, 7, 1, 2] + 3/4 [3/4, 5, 7, 3, 4]); node 0 of node 1 alone.
        ("mean", [[2.0, 2, 4, 6, 8, 1, 2], [0.0, 0, 0, 0, 0, 3, 4], [1.25, 10, 14, 5, 7, 5, 7]]),
        ("sum", [[4.0, 2, 4, 6, 8, 1, 2], [0.0, 0, 0, 0, 0, 3, 4], [8.0, 20, 28, 8, 12, 5, 7]]),
    ],
)
def test_a_round_of_messages_is_its_formula(aggregation: str, expected: list) -> None:
    one_round = gnn.MessageRound(Doubled(), keras.layers.Identity(), aggregation=aggregation)
    nodes = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    weights, senders, receivers = [1.0, 3.0, 2.0], [0, 1, 1], [2, 2, 0]
    found = one_round(nodes, *map(tf.constant, (weights, senders, receivers)))
    assert found.numpy() == pytest.approx(np.array(expected))


def test_a_second_round_sees_what_a_neighbours_neighbour_holds() -> None:
    layer = gnn.GraphConvolution(2, dropout=0.0)
    seeds, weights = tf.ones([1, 3]), tf.constant([[1.0, 1.0]])
    edges = {"senders": [[2]], "receivers": [[1]], "weights": [[1.0]]}
    edges = {part: tf.constant(values) for part, values in edges.items()}
    near = tf.constant([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert (layer(seeds, near, weights) != layer(seeds, near, weights, edges)).numpy().any()


@pytest.mark.parametrize("kind", [gnn.GraphConvolution, gnn.MessagePassing])
def test_layers_over_padded_neighbourhoods_save_and_serve_without_neighbours(
    kind: type, tmp_path: Path
) -> None:
    shapes = {"seeds": [4], "neighbors": [None, 4], "weights": [None]}
    given = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    layer = kind(3, hidden=5, dropout=0.1)
    model = keras.Model(given, layer(*given.values()))
    values = [np.ones([2, 4]), np.ones([2, 3, 4]), np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])]
    values = dict(zip(given, (value.astype(np.float32) for value in values), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = model(values).numpy()
    assert (loaded(values).numpy() == outputs).all()
    alone = layer(values["seeds"], np.zeros([2, 0, 4], np.float32), np.zeros([2, 0], np.float32))
    assert alone.numpy()[1] == pytest.approx(outputs[1], abs=1e-6)
    assert np.abs(alone.numpy()[0] - outputs[0]).max() > 1e-3


# Saving, and what is refused ----------------------------------------------------------------------


def test_a_node_model_made_by_a_lambda_is_saved_as_the_layer_it_is(tmp_path: Path) -> None:
    model = gnn.GraphRegularizationModel(
        reg_config(), lambda: keras.Sequential([Identity(), keras.layers.Dense(2)])
    )
    outputs = model(L2_INPUTS).numpy()
    model.save(tmp_path / "model.keras")
    assert (keras.models.load_model(tmp_path / "model.keras")(L2_INPUTS).numpy() == outputs).all()


def test_a_node_model_that_keras_cannot_save_says_so(tmp_path: Path) -> None:
    class Unsaved(keras.layers.Layer):
        def __init__(self, function: object) -> None:
            super().__init__()
            self.function = function

        def call(self, nodes: Inputs) -> tf.Tensor:
            return self.function(nodes["x"])

    model = gnn.GraphRegularizationModel(reg_config(), lambda: Unsaved(lambda x: 2.0 * x))
    model(L2_INPUTS)
    with pytest.raises(NotImplementedError, match=r"Unsaved[\s\S]*must override `get_config\(\)`"):
        model.save(tmp_path / "model.keras")


def test_classes_are_registered_under_one_package() -> None:
    for each in vars(gnn).values():
        if isinstance(each, type) and issubclass(each, keras.layers.Layer):
            assert keras.saving.get_registered_name(each) == f"{PACKAGE}>{each.__name__}"


def test_text_needs_an_encoder() -> None:
    inputs = {"x": tf.constant([[1.0]]), "title": tf.constant(["a"])}
    with pytest.raises(ValueError, match="feature 'title' is text; a node_encoder can"):
        gnn.GraphConvolutionalNodeClassifier(2)(inputs)


def test_unknown_aggregations_are_refused() -> None:
    with pytest.raises(ValueError, match="aggregation is 'max'; it can be 'mean' or 'sum'"):
        gnn.MessagePassingModel(2, aggregation="max")(L2_INPUTS)


def test_node_models_may_be_networks_of_ones_own() -> None:
    assert isinstance(MODELS["graph regularization"]().node_model, NodeClassifier)
