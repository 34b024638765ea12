"""Graphs out of padded inputs, and the graph loss against neural-structured-learning's."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from gnn_cases import (
    COSINE_INPUTS,
    L2_INPUTS,
    Identity,
    Inputs,
    drawn_inputs,
    inputs_of,
    neighbors_of,
    reg_config,
    scaled,
)

from trainer import gnn
from trainer.gnn import inputs as gnn_inputs
from trainer.gnn import networks
from trainer.gnn.packing import pack

L2_SEEDS = L2_INPUTS["x"]
L2_NEIGHBORS = tf.stack([L2_INPUTS["NL_nbr_0_x"], L2_INPUTS["NL_nbr_1_x"]], axis=1)
L2_WEIGHTS = tf.constant([[1.0, 3.0], [0.25, 0.0], [0.0, 0.0]])
PLAIN = gnn.DistanceConfig()


def added_loss(inputs: Inputs, reduction: str, distance: str = "l2", **options: str) -> float:
    """What GraphRegularizationModel adds to the loss for a multiplier of 1."""
    config = reg_config(2, multiplier=1.0, reduction=reduction, distance_type=distance)
    model = gnn.GraphRegularizationModel(config, Identity, **options)
    model(inputs)
    return float(model.losses[0])


# The graph loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        # (1 * 1 + 3 * 4) / 4 = 3.25; 0.25 * 9 / 0.25 = 9; isolated: 0.
        ("none", (3.25 + 9 + 0) / 3),
        ("none", 4.0833333),
        # 1 * 1 + 3 * 4 + 0.25 * 9 = 15.25, over 3 edges, weights of 4.25, 6 slots.
        ("sum_by_nonzero_weights", 5.0833333),
        ("mean", 3.5882353),
        ("sum_over_batch_size", 2.5416667),
        ("sum", 15.25),
    ],
)
def test_l2_is_what_neural_structured_learning_computes(reduction: str, expected: float) -> None:
    assert added_loss(L2_INPUTS, reduction) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("none", 0.6077411), ("sum_by_nonzero_weights", 1.1809644), ("mean", 0.8336219)],
)
def test_cosine_is_what_neural_structured_learning_computes(
    reduction: str, expected: float
) -> None:
    assert added_loss(COSINE_INPUTS, reduction, "cosine") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("none", (1 + 9 + 0) / 3), ("sum_by_nonzero_weights", -2.9166667)],
)
def test_negative_weights_repel_in_reductions_and_are_no_edges_in_the_readout(
    reduction: str, expected: float
) -> None:
    changed = {**L2_INPUTS, "NL_nbr_1_weight": tf.constant([[-3.0], [0.0], [0.0]])}
    assert added_loss(changed, reduction) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("normalization", "over", "expected"),
    [
        ("readout", "all", 4.0833333),
        ("readout", "connected", (3.25 + 9) / 2),
        ("nonzero", "all", 15.25 / 3),
        ("weighted_mean", "all", 15.25 / 4.25),
    ],
)
def test_normalization_goes_before_the_reduction(
    normalization: str, over: str, expected: float
) -> None:
    options = {"normalization": normalization, "over": over}
    loss = gnn.graph_loss(L2_SEEDS, L2_NEIGHBORS, L2_WEIGHTS, PLAIN, **options)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    chosen = {"graph_loss_normalization": normalization, "graph_loss_over": over}
    for reduction in ("none", "sum", "mean"):
        assert added_loss(L2_INPUTS, reduction, **chosen) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "reduction", [each.value for each in gnn.Reduction if each.value != "none"]
)
def test_any_batch_gives_what_the_padded_arithmetic_of_tensorflow_1_gives(reduction: str) -> None:
    batch = drawn_inputs(23, 2, seed=5)
    near = tf.stack([batch["NL_nbr_0_x"], batch["NL_nbr_1_x"]], axis=1)
    weights = tf.stack([batch["NL_nbr_0_weight"], batch["NL_nbr_1_weight"]], axis=1)
    expected = tf.compat.v1.losses.mean_squared_error(
        tf.repeat(batch["x"], 2, axis=0),
        tf.reshape(near, [-1, 4]),
        tf.reshape(weights, [-1, 1]),
        reduction=reduction,
        loss_collection=None,
    )
    axis = 1.0 if reduction == "weighted_sum" else 4.0
    assert added_loss(batch, reduction) == pytest.approx(axis * float(expected), rel=1e-5)


def test_any_batch_gives_the_readout_that_plain_python_gives() -> None:
    batch = drawn_inputs(23, 3, seed=6)
    x, near, weights = (np.asarray(part) for part in stacked(batch, 3))
    costs = [
        np.average(((near[v] - x[v]) ** 2).sum(axis=1), weights=weights[v])
        for v in range(23)
        if weights[v].any()
    ]
    assert 0 < len(costs) < 23
    for over, rows in (("all", 23), ("connected", len(costs))):
        loss = gnn.graph_loss(x, near, weights, PLAIN, over=over)
        assert float(loss) == pytest.approx(sum(costs) / rows, rel=1e-5)


def stacked(batch: Inputs, neighbors: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    near = [batch[f"NL_nbr_{i}_x"] for i in range(neighbors)]
    weights = [batch[f"NL_nbr_{i}_weight"] for i in range(neighbors)]
    return batch["x"], tf.stack(near, axis=1), tf.stack(weights, axis=1)


NORMALIZATIONS = [
    ("readout", "all"),
    ("readout", "connected"),
    ("nonzero", "all"),
    ("weighted_mean", "all"),
]


@pytest.mark.parametrize(("normalization", "over"), NORMALIZATIONS)
def test_a_batch_of_isolated_seeds_costs_nothing_and_has_zero_gradients(
    normalization: str, over: str
) -> None:
    seeds, near = tf.Variable([[1.0, 0.0], [0.0, 0.0]]), tf.Variable(tf.ones([2, 2, 2]))
    for kind, rows in itertools.product(gnn.DistanceType, (2, 0)):
        config = gnn.DistanceConfig(kind, transform_fn="softmax")
        with tf.GradientTape() as tape:
            loss = gnn.graph_loss(
                seeds[:rows],
                near[:rows],
                tf.zeros([rows, 2]),
                config,
                normalization=normalization,
                over=over,
            )
        assert float(loss) == 0.0
        gradient = tf.convert_to_tensor(tape.gradient(loss, seeds))
        assert gradient.numpy().tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sum_over_batch_size"])
def test_isolated_seeds_add_nothing_to_a_models_loss(reduction: str) -> None:
    assert added_loss(scaled(COSINE_INPUTS, 0.0), reduction, "cosine") == 0.0
    assert added_loss({"x": L2_SEEDS}, reduction) == 0.0


@pytest.mark.parametrize("kind", [each.value for each in gnn.DistanceType])
@pytest.mark.parametrize(("normalization", "over"), NORMALIZATIONS)
def test_gradients_are_those_of_finite_differences(
    kind: str, normalization: str, over: str
) -> None:
    seeds, near, weights = stacked(drawn_inputs(4, 2, seed=2), 2)
    config = gnn.DistanceConfig(kind, transform_fn="softmax")

    @tf.function
    def loss(seeds: tf.Tensor, near: tf.Tensor) -> tf.Tensor:
        return gnn.graph_loss(seeds, near, weights, config, normalization=normalization, over=over)

    sides = [tf.cast(side, tf.float64) for side in (seeds, near)]
    found, differences = tf.test.compute_gradient(loss, sides)
    for gradient, difference in zip(found, differences, strict=True):
        assert gradient == pytest.approx(difference, abs=1e-6)
        assert np.abs(gradient).max() > 0.005


@pytest.mark.parametrize("normalization", ["readout", "weighted_mean"])
def test_scaling_all_weights_changes_nothing(normalization: str) -> None:
    losses = [
        float(
            gnn.graph_loss(
                L2_SEEDS, L2_NEIGHBORS, factor * L2_WEIGHTS, PLAIN, normalization=normalization
            )
        )
        for factor in (1.0, 7.0, 1e-3)
    ]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-5)


def test_the_loss_of_one_graph_of_all_nodes_is_that_of_its_neighbourhoods() -> None:
    # 0 -- 1 by weight 2, 1 -- 2 by weight 1; node 3 is alone.
    nodes = tf.constant([[0.0], [1.0], [3.0], [9.0]])
    graph = gnn.to_graph(
        nodes,
        weights=tf.constant([2.0, 2.0, 1.0, 1.0]),
        senders=tf.constant([1, 0, 2, 1]),
        receivers=tf.constant([0, 1, 1, 2]),
    )
    loss = gnn.loss_of_graph(graph, PLAIN, seeds=tf.range(4))
    assert float(loss) == pytest.approx((1 + (2 * 1 + 1 * 4) / 3 + 4 + 0) / 4)


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="graph_loss_normalization is 'edges'; it can be"):
        added_loss(L2_INPUTS, "none", graph_loss_normalization="edges")
    with pytest.raises(ValueError, match="graph_loss_over is 'some'; it can be"):
        gnn.graph_loss(L2_SEEDS, L2_NEIGHBORS, L2_WEIGHTS, PLAIN, over="some")
    config = gnn.make_graph_reg_config(distance_type="cosine")
    with pytest.raises(ValueError, match="'cosine' needs sum_over_axis"):
        gnn.GraphRegularizationModel(config, Identity)


# Packing ------------------------------------------------------------------------------------------


def test_a_graph_holds_the_present_neighbours_first_and_the_seed_last() -> None:
    graph = networks.from_packed(
        pack(
            {"x": tf.constant([10, 20, 30])},
            {"x": tf.constant([[11, 12], [21, 22], [31, 32]])},
            tf.constant([[1.0, 3.0], [0.0, 0.25], [0.0, 0.0]]),
        )
    )
    assert graph.nodes["x"].numpy().tolist() == [11, 12, 10, 22, 20, 30]
    assert graph.n_node.numpy().tolist() == [3, 2, 1]
    assert graph.n_edge.numpy().tolist() == [2, 1, 0]
    assert graph.senders.numpy().tolist() == [0, 1, 3]
    assert graph.receivers.numpy().tolist() == [2, 2, 4]
    assert graph.edges.numpy().tolist() == [[1.0], [3.0], [0.25]]
    assert networks.seed_nodes(graph)["x"].numpy().tolist() == [10, 20, 30]


def test_edges_among_neighbours_stand_with_their_graph() -> None:
    packed = pack(
        tf.constant([10, 20]),
        tf.constant([[11, 12], [21, 22]]),
        tf.constant([[1.0, 3.0], [0.0, 0.25]]),
        {
            "senders": tf.constant([[0, 1, 2], [0, 2, -1]]),
            "receivers": tf.constant([[1, 2, 1], [2, 2, -1]]),
            "weights": tf.constant([[0.5, 0.6, 0.7], [0.8, 0.9, 0.0]]),
        },
    )
    assert packed.nodes.numpy().tolist() == [11, 12, 10, 22, 20]
    edges = zip(packed.senders.numpy(), packed.receivers.numpy(), strict=True)
    assert [(int(a), int(b)) for a, b in edges] == [
        (0, 2),
        (1, 2),
        (2, 0),
        (0, 1),
        (1, 0),
        (3, 4),
        (4, 3),
        (3, 3),
    ]
    weights = [1.0, 3.0, 0.5, 0.6, 0.7, 0.25, 0.8, 0.9]
    assert packed.weights.numpy() == pytest.approx(weights)
    assert packed.n_edge.numpy().tolist() == [5, 3]


@pytest.mark.parametrize(
    ("sender", "receiver", "weight"),
    [
        (-1, -1, 0.0),  # padding
        (-1, 1, 1.0),
        (1, -5, 1.0),
        (3, 1, 1.0),  # neighbour 2 of two
        (2, 1, 1.0),  # neighbour 1 is absent
        (0, 2, 1.0),
        (0, 1, 0.0),
        (0, 1, -1.0),
        (1, 0, 1.0),  # ends in the seed, as neighbour 0's own edge does
        (0, 0, 1.0),
    ],
)
def test_edges_that_are_none_are_left_out(sender: int, receiver: int, weight: float) -> None:
    edges = {"senders": [[sender]], "receivers": [[receiver]], "weights": [[weight]]}
    packed = pack(
        tf.constant([10]),
        tf.constant([[11, 12]]),
        tf.constant([[1.0, 0.0]]),
        {part: tf.constant(values) for part, values in edges.items()},
    )
    assert packed.senders.numpy().tolist() == [0]
    assert packed.receivers.numpy().tolist() == [1]


def test_padding_costs_no_node() -> None:
    few = pack(tf.zeros([5, 2]), tf.zeros([5, 9, 2]), tf.one_hot([0, 4, 4, 8, -1], 9))
    assert few.nodes.shape[0] == 5 + 4


# Inputs -------------------------------------------------------------------------------------------


def test_as_many_neighbours_are_used_as_configured() -> None:
    for number in range(4):
        found = gnn_inputs.split_inputs(L2_INPUTS, neighbors_of(number))
        assert found.weights.shape == (3, min(number, 2))
        assert found.neighbors["x"].shape == (3, min(number, 2), 2)
    assert gnn_inputs.split_inputs(L2_INPUTS, None).weights.shape == (3, 2)


def test_other_prefixes_name_neighbours_too() -> None:
    config = gnn.GraphNeighborConfig("n", "_w", 1)
    batch = {"x": L2_SEEDS, "n0_x": L2_SEEDS + 1.0, "n0_w": tf.constant([1.0, 2.0, 0.0])}
    found = gnn_inputs.split_inputs(batch, config)
    assert found.neighbors["x"].numpy()[:, 0].tolist() == (L2_SEEDS + 1.0).numpy().tolist()
    assert found.weights.numpy().tolist() == [[1.0], [2.0], [0.0]]


def test_inputs_that_cannot_be_meant_are_refused() -> None:
    lacking = {k: v for k, v in L2_INPUTS.items() if k != "NL_nbr_1_x"}
    with pytest.raises(ValueError, match="no 'NL_nbr_1_x' in the inputs, which have 'x'"):
        gnn_inputs.split_inputs(lacking, None)
    gap = inputs_of([[0.0]], [[[1.0]]], [[1.0]])
    gap["NL_nbr_2_weight"] = gap["NL_nbr_0_weight"]
    with pytest.raises(ValueError, match=r"weights of neighbours \[0, 2\], but not of those"):
        gnn_inputs.split_inputs(gap, neighbors_of(3))
    with pytest.raises(ValueError, match="no features of the seeds"):
        gnn_inputs.split_inputs({"NL_nbr_0_x": L2_SEEDS}, neighbors_of(1))
    half = {**L2_INPUTS, "graph_senders": tf.zeros([3, 1], tf.int64)}
    with pytest.raises(ValueError, match=r"lack \['graph_receivers', 'graph_weights'\]"):
        gnn_inputs.split_inputs(half, None)
