"""Graphs out of padded inputs, and graph regularization against neural-structured-learning's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import gnn

Inputs = dict[str, tf.Tensor]


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


class Identity(keras.layers.Layer):
    def call(self, nodes: Inputs) -> tf.Tensor:
        return nodes["x"]


class Classifier(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, nodes: Inputs) -> tf.Tensor:
        return self.dense(nodes["x"])


def config(distance: str = "l2", multiplier: float = 0.1, **options: str) -> gnn.GraphRegConfig:
    return gnn.GraphRegConfig(
        neighbor_config=gnn.GraphNeighborConfig(max_neighbors=2),
        multiplier=multiplier,
        distance_config=gnn.DistanceConfig(distance, **options),
    )


def regularization(inputs: Inputs, distance: str = "l2", **options: str) -> float:
    model = gnn.GraphRegularizationModel(config(distance, **options), Identity)
    model(inputs)
    return float(model.losses[0]) / 0.1


def test_l2_equals_what_neural_structured_learning_computes() -> None:
    # (1 * 1 + 3 * 4) / 4 = 3.25; 0.25 * 9 / 0.25 = 9; isolated: 0.
    assert regularization(L2_INPUTS) == pytest.approx((3.25 + 9 + 0) / 3, abs=1e-5)
    assert regularization(L2_INPUTS) == pytest.approx(4.0833333, abs=1e-5)


def test_cosine_equals_what_neural_structured_learning_computes() -> None:
    assert regularization(COSINE_INPUTS, "cosine") == pytest.approx(0.6077411, abs=1e-6)


def test_l1_sums_absolute_differences() -> None:
    assert regularization(L2_INPUTS, "l1") == pytest.approx(((1 + 3 * 2) / 4 + 3 + 0) / 3)


@pytest.mark.parametrize("distance", ["kl_divergence", "jensen_shannon_divergence"])
def test_divergences_equal_scipys(distance: str) -> None:
    special = pytest.importorskip("scipy.special")
    a, b = np.array([[1.0, 2.0]], np.float32), np.array([[0.5, -1.0]], np.float32)
    p, q = special.softmax(a), special.softmax(b)
    middle = (p + q) / 2
    expected = {
        "kl_divergence": special.rel_entr(p, q).sum(),
        "jensen_shannon_divergence": (
            special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()
        )
        / 2,
    }
    found = gnn.pairwise_distance(
        tf.constant(a), tf.constant(b), gnn.DistanceConfig(distance, transform_fn="softmax")
    )
    assert found.numpy() == pytest.approx([expected[distance]], abs=1e-5)


def test_negative_weights_are_no_edges() -> None:
    changed = {**L2_INPUTS, "NL_nbr_1_weight": tf.constant([[-3.0], [0.0], [0.0]])}
    assert regularization(changed) == pytest.approx((1 + 9 + 0) / 3, abs=1e-5)


def test_scaling_all_weights_changes_nothing() -> None:
    scaled = {k: 7 * v if k.endswith("weight") else v for k, v in L2_INPUTS.items()}
    assert regularization(scaled) == pytest.approx(4.0833333, abs=1e-5)


def test_isolated_nodes_cost_nothing_and_give_finite_gradients() -> None:
    isolated = {k: 0 * v if k.endswith("weight") else v for k, v in COSINE_INPUTS.items()}
    assert regularization(isolated, "cosine") == 0.0
    seeds = tf.Variable([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = gnn.graph_loss(seeds, tf.zeros([1, 2, 2]), tf.zeros([1, 2]), gnn.DistanceConfig())
    assert float(loss) == 0.0
    assert tape.gradient(loss, seeds).numpy().tolist() == [[0.0, 0.0]]


def test_the_loss_of_ready_embeddings_is_the_models_loss() -> None:
    neighbors = tf.stack([L2_INPUTS["NL_nbr_0_x"], L2_INPUTS["NL_nbr_1_x"]], axis=1)
    weights = tf.constant([[1.0, 3.0], [0.25, 0.0], [0.0, 0.0]])
    loss = gnn.graph_loss(L2_INPUTS["x"], neighbors, weights, gnn.DistanceConfig())
    assert float(loss) == pytest.approx(4.0833333, abs=1e-5)


def test_a_graph_holds_the_present_neighbours_first_and_the_seed_last() -> None:
    graph = gnn.pack_stars(
        {"x": tf.constant([10, 20, 30])},
        {"x": tf.constant([[11, 12], [21, 22], [31, 32]])},
        tf.constant([[1.0, 3.0], [0.0, 0.25], [0.0, 0.0]]),
    )
    assert graph.nodes["x"].numpy().tolist() == [11, 12, 10, 22, 20, 30]
    assert graph.n_node.numpy().tolist() == [3, 2, 1]
    assert graph.n_edge.numpy().tolist() == [2, 1, 0]
    assert graph.senders.numpy().tolist() == [0, 1, 3]
    assert graph.receivers.numpy().tolist() == [2, 2, 4]
    assert graph.edges.numpy().tolist() == [[1.0], [3.0], [0.25]]
    assert gnn.center_nodes(graph)["x"].numpy().tolist() == [10, 20, 30]


def test_a_model_answers_the_same_with_and_without_neighbours_and_leaves_its_inputs_alone() -> None:
    model = gnn.GraphRegularizationModel(config(), Classifier)
    inputs = dict(L2_INPUTS)
    with_neighbors = model(inputs).numpy()
    assert inputs.keys() == L2_INPUTS.keys()
    assert model({"x": L2_INPUTS["x"]}).numpy() == pytest.approx(with_neighbors)


def test_fit_trains_the_layers_and_evaluate_reports_the_graph_loss() -> None:
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(96, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    near = x + 0.1 * draw.normal(size=x.shape).astype(np.float32)
    inputs = {
        "x": x,
        "NL_nbr_0_x": near,
        "NL_nbr_0_weight": (np.arange(96) % 2).astype(np.float32),
        "NL_nbr_1_x": np.zeros_like(x),
        "NL_nbr_1_weight": np.zeros(96, np.float32),
    }
    data = tf.data.Dataset.from_tensor_slices((inputs, y)).batch(32)
    model = gnn.GraphRegularizationModel(config=config(), node_model_fn=Classifier)
    model.compile(
        optimizer=keras.optimizers.Adam(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data, epochs=10, validation_data=data, verbose=0, shuffle=False)
    assert len(model.trainable_variables) == 2
    found = model.evaluate(data, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.9
    kernel = model.node_model.dense.kernel.numpy()
    expected = (((near - x) @ kernel) ** 2).sum(axis=1)[1::2].sum() / 96
    assert found["graph_loss"] == pytest.approx(expected, rel=1e-4)


def test_reductions_that_the_readout_would_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        gnn.DistanceConfig(reduction="sum")
    with pytest.raises(ValueError, match="sum_over_axis is 0"):
        gnn.DistanceConfig(sum_over_axis=0)
    with pytest.raises(ValueError, match="'euclid'"):
        gnn.DistanceConfig("euclid")
