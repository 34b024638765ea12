"""The agreement model: its network, what it learns from, how it is measured, its guards."""

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
import tensorflow as tf
from agreement_cases import World, make_world

from trainer.agreement import pair_sets
from trainer.agreement.calibration import (
    best_temperature,
    cross_entropy,
    expected_calibration_error,
    measure,
)
from trainer.agreement.fitting import Fitter, to_unit_square
from trainer.agreement.judge import Judge
from trainer.agreement.network import AgreementModel
from trainer.agreement.pair_sets import Graph, PairSet, standardized
from trainer.agreement.pair_training import draw_batches
from trainer.config import AgreementConfig
from trainer.metrics import auc

AGGREGATIONS = ("dist", "add", "concat", "project_dist", "project_add", "project_concat")
SMALL: dict[str, Any] = {"hidden": [16], "learning_rate": 0.01, "steps": 200}


def settings(**changes: Any) -> AgreementConfig:
    return AgreementConfig(**{**SMALL, **changes})


def graph_of(world: World, features: np.ndarray | None = None) -> Graph:
    return Graph.of(world.edges, features)


# The network --------------------------------------------------------------------------------------


def model_of(aggregation: Any, features: int = 0) -> AgreementModel:
    tf.keras.utils.set_random_seed(3)
    model = AgreementModel([8, 6], aggregation)
    model.make_weights(5, features)
    return model


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_answer_for_a_pair_is_that_for_its_reverse_but_for_concatenations(
    aggregation: str,
) -> None:
    left, right = np.random.default_rng(0).standard_normal((2, 50, 5)).astype(np.float32)
    model = model_of(aggregation)
    one, other = (model(pair).numpy() for pair in ((left, right, None), (right, left, None)))
    assert one.shape == (50,)
    assert one.std() > 0
    assert (np.abs(one - other).max() < 1e-6) == ("concat" not in aggregation)


def test_the_network_is_one_encoder_then_squared_differences_then_a_line() -> None:
    model = model_of("dist", features=2)
    first, a, second, b, line, c, of_edges = (each.numpy() for each in model.trainable_variables)
    assert not of_edges.any()  # before it was taught anything of edges
    model.trainable_variables[-1].assign([[2.0], [-1.0]])
    left, right = np.random.default_rng(1).standard_normal((2, 9, 5)).astype(np.float32)
    features = np.random.default_rng(2).standard_normal((9, 2)).astype(np.float32)

    def encode(nodes: np.ndarray) -> np.ndarray:
        for weights, bias in ((first, a), (second, b)):
            nodes = nodes @ weights + bias
            nodes = np.where(nodes > 0, nodes, 0.2 * nodes)
        return nodes

    wanted = (encode(left) - encode(right)) ** 2 @ line + c + features @ [[2.0], [-1.0]]
    found = model((left, right, features)).numpy()
    np.testing.assert_allclose(found, wanted[:, 0], rtol=1e-4, atol=1e-5)
    # A node and itself are as far apart as any other node and itself.
    np.testing.assert_allclose(model((left, left, None)), np.full(9, c[0]), atol=1e-6)


# What is learned from -----------------------------------------------------------------------------


def test_features_of_edges_are_logarithms_of_mean_0_and_deviation_1() -> None:
    found = standardized(np.array([[1.0, 7.0], [3.0, 7.0], [np.nan, 7.0], [-1.0, 7.0]]))
    logs = np.array([np.log(2), np.log(4), -np.log(2)])
    wanted = (logs - logs.mean()) / logs.std()
    # What is not known is the mean; what is the same of all edges is nothing.
    assert found[:, 0].tolist() == pytest.approx([wanted[0], wanted[1], 0.0, wanted[2]], abs=1e-6)
    assert not found[:, 1].any()


def test_all_pairs_of_labelled_nodes_and_the_labelled_edges_are_learned_from() -> None:
    world = make_world(labelled=6)
    graph = graph_of(world, np.arange(len(world.edges))[:, None] + 1.0)
    lesson = pair_sets.of_all_pairs(graph, world.labels, seed=0)
    learned, held_out = np.unique(lesson.learned.pairs), np.unique(lesson.held_out.pairs)
    assert not set(learned) & set(held_out)
    assert set(learned) | set(held_out) == set(np.flatnonzero(world.seeds))
    plain = lesson.learned.pairs[: len(lesson.learned.pairs) - lesson.learned.edges]
    assert len(plain) == len(learned) * (len(learned) - 1) // 2
    truth = world.truth[lesson.learned.pairs]
    np.testing.assert_array_equal(lesson.learned.targets, truth[:, 0] == truth[:, 1])
    edges = {tuple(edge): row for row, edge in enumerate(world.edges.tolist())}
    for pair, features in zip(lesson.learned.pairs, lesson.learned.features, strict=True):
        assert features[0] == 0.0 or features == graph.features[edges[tuple(pair)]]
    assert lesson.learned.edges > 0


def test_validation_labels_are_measured_by_and_all_others_learned_from() -> None:
    world = make_world(labelled=4)
    lesson = pair_sets.of_all_pairs(
        graph_of(world), world.labels, seed=0, validation=world.validation_labels
    )
    assert set(np.unique(lesson.learned.pairs)) == set(np.flatnonzero(world.seeds))
    assert set(np.unique(lesson.held_out.pairs)) == set(np.flatnonzero(world.validation))


def test_published_only_labelled_edges_are_learned_from_topped_up_with_other_pairs() -> None:
    world = make_world(labelled=20, wrong=0.1)
    lesson = pair_sets.of_edges(graph_of(world), world.labels, seed=0)
    edges = {tuple(edge) for edge in world.edges.tolist()}
    labelled = [edge for edge in edges if world.seeds[list(edge)].all()]
    agreeing, others = lesson.learned.kinds()
    assert agreeing == others
    from_edges = len(lesson.learned.pairs[-lesson.learned.edges :]) + len(lesson.held_out.pairs)
    assert from_edges == len(labelled)
    assert len(lesson.held_out.pairs) == len(labelled) // 10
    for pair, agrees in zip(lesson.learned.pairs.tolist(), lesson.learned.targets, strict=True):
        assert (world.truth[pair[0]] == world.truth[pair[1]]) == agrees
        assert tuple(pair) in edges or not agrees


def test_half_of_each_batch_is_edges_where_there_are_enough_of_both_kinds() -> None:
    draw = np.random.default_rng(0)
    targets = draw.random(3_000) < 0.3
    none = np.zeros((3_000, 0), np.float32)
    pairs = PairSet(draw.integers(0, 50, (3_000, 2)), targets, none, edges=400)
    rows = draw_batches(pairs, 64, 30, seed=0)
    assert rows.shape == (30, 64)
    assert (targets[rows].sum(axis=1) == 32).all()
    assert ((rows >= 2_600).sum(axis=1) == 32).all()
    few = PairSet(pairs.pairs, targets, none, edges=40)
    rows = draw_batches(few, 64, 30, seed=0)
    assert (targets[rows].sum(axis=1) == 32).all()
    assert (rows >= 2_960).mean() < 0.05


def test_without_a_graph_a_tenth_of_the_labelled_nodes_is_held_out() -> None:
    world = make_world(labelled=20)
    lesson = pair_sets.of_random_pairs(graph_of(world), world.labels, seed=0)
    held_out = set(np.unique(lesson.held_out.pairs))
    assert len(held_out) == 6
    assert not held_out & set(np.unique(lesson.learned.pairs))


def test_of_given_pairs_those_across_learned_and_held_out_nodes_are_left_out() -> None:
    draw = np.random.default_rng(0)
    pairs, targets = draw.integers(0, 60, (900, 2)), draw.random(900) < 0.5
    lesson = pair_sets.of_targets(pairs, targets, np.zeros((900, 1), np.float32), seed=0)
    learned, held_out = (set(np.unique(part.pairs)) for part in (lesson.learned, lesson.held_out))
    assert not learned & held_out
    assert len(held_out) == pytest.approx(12, abs=2)
    mask = draw.random(900) < 0.1
    lesson = pair_sets.of_targets(
        pairs, targets, np.zeros((900, 1), np.float32), seed=0, held_out=mask
    )
    np.testing.assert_array_equal(lesson.held_out.pairs, pairs[mask])


# How it is measured -------------------------------------------------------------------------------


def test_the_temperature_is_that_of_the_least_cross_entropy() -> None:
    draw = np.random.default_rng(0)
    targets = draw.random(400) < 0.3
    logits = (4.0 * (targets - 0.5) + 5.0 * draw.standard_normal(400)).astype(np.float32)

    def cost(log_temperature: float) -> float:
        # Each kind is a half, written with logarithms of probabilities.
        found = 1.0 / (1.0 + np.exp(-logits.astype(float) / np.exp(log_temperature)))
        return -np.log(found[targets]).mean() / 2 - np.log(1.0 - found[~targets]).mean() / 2

    wanted = scipy.optimize.minimize_scalar(cost, bounds=(-2, 3), method="bounded")
    found = best_temperature(logits, targets)
    assert found == pytest.approx(np.exp(wanted.x), rel=0.03)
    assert cross_entropy(logits / found, targets) == pytest.approx(wanted.fun, rel=1e-3)


def test_calibration_error_is_that_of_the_bins() -> None:
    # Weights: agreeing 1/4 each, the other 1/2. Bin 9: 1/4 * |.95 - 1|.
    targets = np.array([True, True, False])
    found = np.array([0.95, 0.25, 0.25])
    # Bin 2 holds weight 3/4: probability .25, of which 1/4 agrees: |3/4 * .25 - 1/4|.
    wanted = 0.05 / 4 + abs(0.75 * 0.25 - 0.25)
    assert expected_calibration_error(found, targets) == pytest.approx(wanted)


def test_figures_of_perfect_and_of_random_answers() -> None:
    targets = np.array([True, False, True, False])
    found = measure(np.array([9.0, -9.0, 9.0, -9.0]), targets)
    assert (found["auc"], found["accuracy"]) == (1.0, 1.0)
    assert found["ece"] < 0.001
    found = measure(np.zeros(4), targets)
    assert (found["auc"], found["accuracy"]) == (0.5, 0.5)


# Fits ---------------------------------------------------------------------------------------------


def test_what_is_learned_of_few_labels_tells_the_edges_that_err() -> None:
    world = make_world(labelled=6)
    fitter = Fitter(world.nodes, 0, settings(min_positive_pairs=5))
    graph = graph_of(world)
    judge = fitter.on_labels(graph, world.labels, seed=1)
    assert judge.unusable is None
    assert judge.figures["last_loss"] < 0.7 * judge.figures["first_loss"]
    found = judge.of_edges(world.nodes, graph)
    assert found.dtype == np.float32
    assert auc(found, world.agree) > 0.9
    assert judge.figures["auc"] > 0.9
    assert judge.figures["ece"] < 0.2


def test_two_labels_a_class_are_enough_to_be_trained_on_and_nothing_breaks() -> None:
    world = make_world(labelled=2)
    assert world.seeds.sum() == 6
    graph = graph_of(world)
    judge = Fitter(world.nodes, 0, settings(min_positive_pairs=3)).on_labels(
        graph, world.labels, seed=1
    )
    # No node can be held out: nothing is measured, but it is trained.
    assert judge.unusable is None
    assert judge.figures["positives"] == 3
    assert "auc" not in judge.figures
    assert judge.figures["last_loss"] < 0.7 * judge.figures["first_loss"]
    assert auc(judge.of_edges(world.nodes, graph), world.agree) > 0.8


def test_the_judge_is_of_no_use_with_too_few_pairs_or_where_it_learns_nothing() -> None:
    world = make_world(labelled=2)
    judge = Fitter(world.nodes, 0, settings()).on_labels(graph_of(world), world.labels, seed=1)
    assert judge.unusable == "3 pairs are known to agree, fewer than 20"
    world = make_world(labelled=28)
    noise = np.random.default_rng(0).standard_normal(world.nodes.shape).astype(np.float32)
    judge = Fitter(noise, 0, settings()).on_labels(graph_of(world), world.labels, seed=1)
    assert judge.unusable is not None
    assert judge.unusable.startswith("AUC of held-out pairs 0.")
    one = np.where(world.labels == 0, 0, -1)
    judge = Fitter(world.nodes, 0, settings()).on_labels(graph_of(world), one, seed=1)
    assert judge.unusable == "no pair is known to disagree"


def test_labels_that_nothing_has_seen_set_a_judge_right_that_is_too_sure() -> None:
    world = make_world(labelled=20, spread=1.6)
    # As an embedding that was trained on them has it: labelled nodes lie far nearer their class.
    corners = np.eye(3, 5, dtype=np.float32)[world.truth] * 3.0
    nodes = np.where(world.seeds[:, None], corners + 0.2 * (world.nodes - corners), world.nodes)
    sure = Fitter(nodes, 0, settings()).on_labels(graph_of(world), world.labels, seed=1)
    checked = sure.checked_by(nodes, *pairs_of(world, world.validation))
    asked, agree = pairs_of(world, world.test)

    def cost(judge: Judge) -> float:
        return float(sklearn.metrics.log_loss(agree, judge.of_pairs(nodes)(asked)))

    assert sure.figures["auc"] > 0.99  # what the labels that it learned from say of it
    assert checked.figures["validation_auc"] < 0.95
    assert checked.temperature > 2 * sure.temperature
    assert cost(checked) < 0.8 * cost(sure)
    assert checked.unusable is None
    kept = sure.checked_by(nodes, *pairs_of(world, world.validation)).arrays()
    for one, other in zip(checked.arrays(), kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_that_nothing_has_seen_may_say_that_a_judge_is_of_no_use() -> None:
    world = make_world(labelled=20)
    draw = np.random.default_rng(0).standard_normal(world.nodes.shape).astype(np.float32)
    nodes = np.where(world.seeds[:, None], world.nodes, draw)
    sure = Fitter(nodes, 0, settings()).on_labels(graph_of(world), world.labels, seed=1)
    assert sure.unusable is None
    checked = sure.checked_by(nodes, *pairs_of(world, world.validation | world.test))
    assert checked.unusable == (
        f"AUC of held-out pairs {checked.figures['validation_auc']:.2f}, below 0.6"
    )


def pairs_of(world: World, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of some nodes, and whether they agree."""
    nodes = np.flatnonzero(among)
    pairs = np.stack([nodes[end] for end in np.triu_indices(len(nodes), 1)], axis=1)
    return pairs.astype(np.int32), world.truth[pairs[:, 0]] == world.truth[pairs[:, 1]]


def test_published_without_a_labelled_edge_there_is_nothing_to_learn() -> None:
    world = make_world(labelled=4)
    graph = Graph.of(world.edges[:0])
    judge = Fitter(world.nodes, 0, settings(pair_source="edges")).on_labels(
        graph, world.labels, seed=1
    )
    assert judge.unusable == "0 pairs are known to agree, fewer than 1"


def test_published_it_learns_from_edges() -> None:
    world = make_world(labelled=20)
    graph = graph_of(world)
    judge = Fitter(world.nodes, 0, settings(pair_source="edges")).on_labels(
        graph, world.labels, seed=1
    )
    assert judge.scale == 1.0
    assert auc(judge.of_edges(world.nodes, graph), world.agree) > 0.8


def test_features_of_edges_tell_what_nodes_cannot() -> None:
    world = make_world(labelled=25, wrong=0.5, spread=50.0)
    draw = np.random.default_rng(0)
    strength = np.where(world.agree, 20.0, 2.0) * draw.uniform(0.5, 1.5, len(world.edges))
    graph = graph_of(world, strength[:, None])
    labels, found = world.labels, {}
    for used in (True, False):
        fitter = Fitter(world.nodes, 1, settings(edge_features=used, min_auc=0.0))
        judge = fitter.on_labels(graph, labels, seed=1)
        found[used] = auc(judge.of_edges(world.nodes, graph), world.agree)
        assert judge.feature_dim == used
    assert found[True] > 0.8
    assert found[False] < 0.7


def test_the_same_seed_gives_the_same_judge_and_fits_do_not_touch_each_other() -> None:
    world = make_world(labelled=6)
    graph, fitter = graph_of(world), Fitter(world.nodes, 0, settings())
    one = fitter.on_labels(graph, world.labels, seed=1)
    before = one.of_edges(world.nodes, graph)
    other = fitter.on_labels(graph, world.labels, seed=2)
    again = fitter.on_labels(graph, world.labels, seed=1)
    np.testing.assert_array_equal(one.of_edges(world.nodes, graph), before)
    np.testing.assert_array_equal(again.of_edges(world.nodes, graph), before)
    assert (other.of_edges(world.nodes, graph) != before).any()


def test_a_judge_is_a_list_of_arrays_and_back_and_a_function_of_tensors() -> None:
    world = make_world(labelled=6)
    graph, options = graph_of(world, world.agree[:, None] + 1.0), settings()
    judge = Fitter(world.nodes, 1, options).on_labels(graph, world.labels, seed=1)
    again = Judge.of_arrays(judge.arrays(), options)
    edges = judge.of_edges(world.nodes, graph)
    np.testing.assert_array_equal(again.of_edges(world.nodes, graph), edges)
    # Of pairs that are no edges, in numpy and within tf.data.
    pairs = world.edges[:70]
    wanted = judge.of_pairs(world.nodes)(pairs)
    assert (wanted != edges[:70]).any()
    judged = again.of_tensors()
    batches = tf.data.Dataset.from_tensor_slices(tuple(world.nodes[end] for end in pairs.T)).batch(
        32
    )
    found = np.concatenate(list(batches.map(judged).as_numpy_iterator()))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_blocks_of_pairs_do_not_change_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(labelled=6)
    graph = graph_of(world)
    judge = Fitter(world.nodes, 0, settings()).on_labels(graph, world.labels, seed=1)
    whole = judge.of_edges(world.nodes, graph)
    monkeypatch.setattr("trainer.agreement.judge.PAIRS_AT_ONCE", 37)
    np.testing.assert_allclose(judge.of_edges(world.nodes, graph), whole, rtol=1e-5, atol=1e-6)
    assert judge.of_edges(world.nodes, Graph.of(world.edges[:0])).shape == (0,)


def test_given_targets_are_learned_as_labels_are() -> None:
    world = make_world(labelled=4)
    draw = np.random.default_rng(0)
    pairs = draw.integers(0, len(world.truth), (4_000, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    targets = world.truth[pairs[:, 0]] == world.truth[pairs[:, 1]]
    lesson = pair_sets.of_targets(pairs, targets, np.zeros((len(pairs), 0), np.float32), seed=0)
    judge = Fitter(world.nodes, 0, settings()).on_lesson(lesson, seed=0)
    assert judge.unusable is None
    assert judge.figures["auc"] > 0.9


def test_random_pairs_teach_agreement_without_a_graph() -> None:
    world = make_world(labelled=20)
    graph = Graph.of(np.zeros((0, 2), np.int32))
    judge = Fitter(world.nodes, 0, settings()).on_random_pairs(graph, world.labels, seed=0)
    assert judge.unusable is None
    assert auc(judge.of_pairs(world.nodes)(world.edges), world.agree) > 0.9


def test_nodes_are_brought_to_a_mean_square_of_1() -> None:
    nodes = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    assert to_unit_square(0.01 * nodes) == pytest.approx(100 * to_unit_square(nodes), rel=1e-4)
    assert np.mean((to_unit_square(nodes) * nodes) ** 2) == pytest.approx(1.0, rel=1e-5)
    assert to_unit_square(np.zeros((2, 2), np.float32)) == 1.0
