"""Distances and their reductions against neural-structured-learning's results and TensorFlow's."""

import itertools
import pickle

import numpy as np
import pytest
import tensorflow as tf

from trainer import gnn

SOURCES = tf.constant([[1.0, 1.0], [2.0, 2.0], [0.0, 2.0], [5.0, 5.0]])
TARGETS = tf.constant([[1.0, 1.0], [0.0, 2.0], [4.0, 4.0], [1.0, 4.0]])
WEIGHTS = tf.constant([[1.0], [0.5], [0.0], [2.0]])
REDUCTIONS = ("sum", "mean", "sum_over_batch_size", "sum_by_nonzero_weights")


def distance(*arguments: object) -> float:
    return float(gnn.pairwise_distance(SOURCES, TARGETS, WEIGHTS, gnn.DistanceConfig(*arguments)))


@pytest.mark.parametrize(
    ("reduction", "axis", "expected"),
    [
        # |s - t|^2 is 0, 4, 20, 17; weighted 0 + 2 + 0 + 34 = 36, of 8 numbers, 6 with a weight.
        ("sum", None, 36.0),
        ("sum", -1, 36.0),
        ("mean", None, 36 / 7),
        ("mean", -1, 10.285714),
        ("sum_over_batch_size", None, 4.5),
        ("sum_over_batch_size", -1, 9.0),
        ("sum_by_nonzero_weights", None, 6.0),
        ("sum_by_nonzero_weights", -1, 12.0),
    ],
)
def test_l2_is_reduced_as_by_neural_structured_learning(
    reduction: str, axis: int | None, expected: float
) -> None:
    assert distance("l2", reduction, axis) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "transform", "expected"),
    [
        ("l1", "none", 3.6666667),
        ("cosine", "none", 0.1438202),
        ("kl_divergence", "softmax", 0.6425896),
        ("jensen_shannon_divergence", "softmax", 0.1115307),
    ],
)
def test_other_distances_are_those_of_neural_structured_learning(
    kind: str, transform: str, expected: float
) -> None:
    found = distance(kind, "sum_by_nonzero_weights", -1, transform)
    assert found == pytest.approx(expected, abs=1e-6)


V1 = tf.compat.v1.losses
V1_LOSSES = {
    "l1": V1.absolute_difference,
    "l2": V1.mean_squared_error,
    "cosine": lambda s, t, **options: V1.cosine_distance(
        tf.math.l2_normalize(s, -1), tf.math.l2_normalize(t, -1), axis=-1, **options
    ),
}


@pytest.mark.parametrize("kind", V1_LOSSES)
@pytest.mark.parametrize("reduction", [each.value for each in gnn.Reduction])
@pytest.mark.parametrize("signs", [(0.0, 1.0), (-1.0, 2.0), (0.0, 0.0)])
def test_every_reduction_is_that_of_tensorflow_1(
    kind: str, reduction: str, signs: tuple[float, float]
) -> None:
    """The losses that neural-structured-learning itself calls, with negative weights and none."""
    draw = np.random.default_rng(3)
    sides = [tf.constant(draw.normal(size=(7, 5)), tf.float32) for _ in range(2)]
    weights = np.round(draw.uniform(*signs, (7, 1)), 1)
    expected = V1_LOSSES[kind](
        *sides, weights=tf.constant(weights, tf.float32), reduction=reduction, loss_collection=None
    )
    rows = kind == "cosine"
    found = gnn.pairwise_distance(
        *sides, weights, gnn.DistanceConfig(kind, reduction, -1 if rows else None)
    )
    assert found.shape == expected.shape
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl_divergence", "jensen_shannon_divergence"])
def test_divergences_equal_scipys(kind: str) -> None:
    special = pytest.importorskip("scipy.special")
    draw = np.random.default_rng(1)
    p, q = (special.softmax(draw.normal(size=(6, 4)), axis=1) for _ in range(2))
    middle = (p + q) / 2
    expected = {
        "kl_divergence": special.rel_entr(p, q),
        "jensen_shannon_divergence": (special.rel_entr(p, middle) + special.rel_entr(q, middle))
        / 2,
    }[kind].sum(axis=1, keepdims=True)
    found = gnn.pairwise_distance(p, q, 1.0, gnn.DistanceConfig(kind, "none", -1))
    assert found.numpy() == pytest.approx(expected, abs=1e-5)


def test_the_axis_may_be_another_than_the_last() -> None:
    turned = [tf.transpose(side) for side in (SOURCES, TARGETS, WEIGHTS)]
    for kind, reduction in itertools.product(("l2", "cosine"), REDUCTIONS):
        found = gnn.pairwise_distance(*turned, gnn.DistanceConfig(kind, reduction, 0))
        assert float(found) == pytest.approx(distance(kind, reduction, -1), rel=1e-6)


def test_the_worked_examples_of_neural_structured_learning() -> None:
    # {(0+0) + (4+0) + (16+4) + (16+1)} over 4 pairs, or over 8 numbers.
    pairs = gnn.pairwise_distance(SOURCES, TARGETS, config=gnn.DistanceConfig(sum_over_axis=-1))
    assert float(pairs) == pytest.approx(10.25)
    assert float(gnn.pairwise_distance(SOURCES, TARGETS)) == pytest.approx(5.125)


def test_half_precision_is_measured_in_float32() -> None:
    sides = [tf.cast(side, tf.bfloat16) for side in (SOURCES, TARGETS)]
    assert gnn.pairwise_distance(*sides).dtype == tf.float32


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cosine", "kl_divergence", "jensen_shannon_divergence"])
def test_distances_of_rows_need_an_axis(kind: str) -> None:
    with pytest.raises(ValueError, match=f"'{kind}' needs sum_over_axis, such as -1; it is None"):
        distance(kind)


def test_divergences_of_logits_are_refused() -> None:
    for reduce in (lambda x: x, tf.function):
        run = reduce(lambda: distance_tensor("kl_divergence"))
        with pytest.raises(tf.errors.InvalidArgumentError, match="which sum to 1"):
            run()


def distance_tensor(kind: str) -> tf.Tensor:
    return gnn.pairwise_distance(SOURCES, TARGETS, 1.0, gnn.DistanceConfig(kind, "sum", -1))


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_there_is_not_is_refused(axis: int) -> None:
    with pytest.raises(ValueError, match=f"sum_over_axis is {axis}, of tensors with 2 axes"):
        distance("l2", "sum", axis)


def test_weights_are_one_for_all_numbers_along_the_axis() -> None:
    with pytest.raises(ValueError, match=r"along axis -1 there can be one"):
        gnn.pairwise_distance(SOURCES, TARGETS, TARGETS, gnn.DistanceConfig(sum_over_axis=-1))


@pytest.mark.parametrize("name", ["distance_type", "reduction", "transform_fn"])
def test_unknown_words_are_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'euclid'; known are '"):
        gnn.DistanceConfig(**{name: "euclid"})


# Configs ------------------------------------------------------------------------------------------


def test_defaults_are_those_of_neural_structured_learning() -> None:
    config = gnn.GraphRegConfig()
    assert config.multiplier == 0.01
    assert config.neighbor_config == gnn.GraphNeighborConfig("NL_nbr_", "_weight", 0)
    distances = config.distance_config
    assert distances.distance_type is gnn.DistanceType.L2
    assert distances.reduction is gnn.Reduction.SUM_BY_NONZERO_WEIGHTS
    assert distances.sum_over_axis is None
    assert distances.transform_fn is gnn.TransformType.NONE
    assert gnn.make_graph_reg_config() == config


def test_reductions_are_known_by_tensorflows_values_and_by_their_names() -> None:
    for each in gnn.Reduction:
        assert each.value == getattr(V1.Reduction, each.name)
        for word in (each.value, each.name, each.name.lower(), each):
            assert gnn.DistanceConfig(reduction=word).reduction is each


def test_configs_pickle_and_travel_as_plain_values() -> None:
    config = gnn.make_graph_reg_config("n_", "_w", 3, 0.5, "cosine", "mean", -1, "softmax")
    assert pickle.loads(pickle.dumps(config)) == config
    assert gnn.GraphRegConfig.from_dict(config.to_dict()) == config
