"""What co-training believes, in the batches and in the loss: against plain numpy."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tiny_examples
from test_model import make, make_batch, settings, some_batch
from tiny_examples import Form

from pipeline import schema
from pipeline.artifacts import Version
from trainer import contrast, dataset, gnn, losses, parsing
from trainer.agreement.pairs import KindWeights
from trainer.beliefs import PARTNERS, Beliefs
from trainer.example_files import ExampleFiles
from trainer.lookup import Lookup, pair_keys

PLAIN = gnn.DistanceConfig()
NORMALIZATIONS = [
    ("readout", "all"),
    ("readout", "connected"),
    ("nonzero", "all"),
    ("weighted_mean", "all"),
]


def sides(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Seeds, neighbours, weights with absent ones, agreement; two seeds have no neighbour."""
    draw = np.random.default_rng(seed)
    weights = np.where(draw.random((7, 3)) < 0.6, draw.uniform(0.5, 4, (7, 3)), 0.0)
    weights[[2, 5]] = 0.0
    return (
        draw.normal(size=(7, 4)).astype("f4"),
        draw.normal(size=(7, 3, 4)).astype("f4"),
        weights.astype("f4"),
        draw.random((7, 3)).astype("f4"),
    )


# The graph loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalization", "over"), NORMALIZATIONS)
def test_agreement_multiplies_distances_and_nothing_that_they_are_divided_by(
    normalization: Any, over: Any
) -> None:
    seeds, near, weights, agreement = sides()
    costs = weights * agreement * ((seeds[:, None] - near) ** 2).sum(axis=2)
    degree = weights.sum(axis=1)
    of_seeds = np.divide(costs.sum(axis=1), degree, out=np.zeros(7, "f4"), where=degree > 0)
    expected = {
        ("readout", "all"): of_seeds.mean(),
        ("readout", "connected"): of_seeds.sum() / 5,
        ("nonzero", "all"): costs.sum() / (weights > 0).sum(),
        ("weighted_mean", "all"): costs.sum() / weights.sum(),
    }[normalization, over]
    options: Any = {"normalization": normalization, "over": over}
    found = gnn.graph_loss(seeds, near, weights, PLAIN, **options, agreement=agreement)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # Half the trust is half the loss: it cancels nowhere.
    whole = float(gnn.graph_loss(seeds, near, weights, PLAIN, **options))
    half = gnn.graph_loss(seeds, near, weights, PLAIN, **options, agreement=np.full((7, 3), 0.5))
    assert float(half) == pytest.approx(whole / 2, rel=1e-6)
    full = gnn.graph_loss(seeds, near, weights, PLAIN, **options, agreement=np.ones((7, 3)))
    assert float(full) == whole


# The kinds of pairs -------------------------------------------------------------------------------

WEIGHTS = losses.PairWeights(KindWeights(ll=0.0, lu=1.0, uu=0.5))
# Two labelled images of class 0; one labelled, the other not; neither.
PAIRS: dict[str, Any] = {
    "seeds": tf.constant([[0.3, 0.7], [0.5, 0.5], [0.7, 0.3]]),
    "others": tf.constant([[[0.8, 0.2]], [[0.6, 0.4]], [[0.2, 0.8]]]),
    "labels": tf.constant([0, 0, -1], tf.int64),
    "other_labels": tf.constant([[0], [-1], [-1]], tf.int64),
    "agreement": tf.constant([[0.5], [0.9], [0.4]]),
    "present": tf.constant([[True], [True], [True]]),
}


def agreement_loss(weights: losses.PairWeights = WEIGHTS, **changes: Any) -> float:
    return float(losses.agreement(**{**PAIRS, **changes}, weights=weights))


def test_the_agreement_term_is_a_mean_over_three_kinds_of_pairs() -> None:
    # LU: (0.4² + 0.4²) 0.9 = 0.288; UU: 0.5 (0.5² + 0.5²) 0.4 = 0.1; LL counts, with weight 0.
    assert agreement_loss() == pytest.approx((0.288 + 0.1) / 3)
    # LL: (0.2² + 0.2²) 2 = 0.16.
    heavy = losses.PairWeights(KindWeights(ll=2.0, lu=1.0, uu=0.5))
    assert agreement_loss(heavy) == pytest.approx((0.16 + 0.288 + 0.1) / 3)
    # A label counts as well where it is the other's: u is label 1, v (0.5, 0.5).
    swapped = tf.constant([[0], [1], [-1]], tf.int64)
    found = agreement_loss(labels=tf.constant([0, -1, -1], tf.int64), other_labels=swapped)
    assert found == pytest.approx((0.9 * 0.5 + 0.1) / 3)


def test_a_doubted_pair_counts_for_nothing_where_agreement_begins_at_a_half() -> None:
    half = dataclasses.replace(WEIGHTS, certain=0.5)
    # relu(a - 0.5): 0.4 for LU, 0 for UU.
    found = agreement_loss(half, agreement=tf.constant([[0.0], [0.4], [0.0]]))
    assert found == pytest.approx(0.128 / 3)


def test_pairs_of_different_labels_are_left_out_along_edges_and_count_without_a_graph() -> None:
    other = tf.constant([[1], [-1], [-1]], tf.int64)
    heavy = losses.PairWeights(KindWeights(ll=2.0, lu=1.0, uu=0.5))
    assert agreement_loss(heavy, other_labels=other) == pytest.approx(0.388 / 2)
    found = agreement_loss(heavy, other_labels=other, disagreeing_count=True)
    assert found == pytest.approx(0.388 / 3)


def test_without_a_pair_the_agreement_term_is_zero_and_finite() -> None:
    seeds, others = tf.Variable(PAIRS["seeds"]), tf.Variable(PAIRS["others"])
    with tf.GradientTape() as tape:
        given = {**PAIRS, "seeds": seeds, "others": others, "present": tf.fill([3, 1], False)}
        loss = losses.agreement(**given, weights=WEIGHTS)
    assert float(loss) == 0.0
    for gradient in tape.gradient(loss, [seeds, others]):
        assert not gradient.numpy().any()


def test_gradients_go_into_probabilities_of_unlabelled_images_and_nowhere_else() -> None:
    sides = {name: tf.Variable(PAIRS[name]) for name in ("seeds", "others", "agreement")}
    with tf.GradientTape() as tape:
        loss = losses.agreement(**{**PAIRS, **sides}, weights=WEIGHTS)
    seeds, others, agreement = tape.gradient(
        loss, list(sides.values()), unconnected_gradients="zero"
    )
    # d/dv of LU: 2 (v - u) 0.9 / 3, with v - u = (-0.4, 0.4); of UU both sides, 2 (u - v) 0.2 / 3.
    np.testing.assert_allclose(others[1, 0], [-0.24, 0.24], rtol=1e-6)
    np.testing.assert_allclose(seeds, [[0, 0], [0, 0], [0.2 / 3, -0.2 / 3]], rtol=1e-5)
    np.testing.assert_allclose(others[2, 0], [-0.2 / 3, 0.2 / 3], rtol=1e-5)
    assert not others[0].numpy().any()
    assert not agreement.numpy().any()
    staying = dataclasses.replace(WEIGHTS, first_stays=True)
    with tf.GradientTape() as tape:
        loss = losses.agreement(**{**PAIRS, **sides}, weights=staying)
    first, second = tape.gradient(loss, [sides["seeds"], sides["others"]])
    assert not first.numpy().any()
    np.testing.assert_array_equal(second, others)


# The contrast over edges --------------------------------------------------------------------------


def test_pairs_count_in_the_contrast_as_much_as_they_are_trusted() -> None:
    """Two seeds of two neighbours, one of which is not there; written out pair by pair."""
    draw = np.random.default_rng(3)
    nodes = draw.normal(size=(6, 4))
    nodes = (nodes / np.linalg.norm(nodes, axis=1, keepdims=True)).astype("f4")
    near_ids = np.array([[11, 12], [13, 0]])
    trust = np.array([[0.9, 0.2], [0.6, 0.7]], "f4")
    found = contrast.edge_contrast(
        tf.constant(nodes[:2]),
        tf.constant(nodes[2:].reshape(2, 2, 4)),
        seed_ids=tf.constant([1, 2], tf.int64),
        neighbor_ids=tf.constant(near_ids, tf.int64),
        graph_ids=tf.constant(near_ids, tf.int64),
        seed_labels=tf.constant([[-1], [-1]], tf.int64),
        neighbor_labels=tf.fill([2, 2, 1], tf.constant(-1, tf.int64)),
        temperature=0.5,
        agreement=tf.constant(trust),
    )
    logits = np.exp(nodes @ nodes.T / 0.5)
    # Rows: seeds 1 and 2, then 11, 12, 13. Negatives are the images of the other group.
    groups = [[0, 2, 3], [1, 4]]
    total = weight = 0.0
    for (one, other), a in {(0, 2): 0.9, (0, 3): 0.2, (1, 4): 0.6}.items():
        against = groups[1] if one == 0 else groups[0]
        for anchor, positive in ((one, other), (other, one)):
            hit = logits[anchor, positive]
            total -= a * np.log(hit / (hit + logits[anchor, against].sum()))
            weight += a
    assert float(found) == pytest.approx(total / weight, rel=1e-5)


def test_a_contrast_in_which_nothing_is_trusted_is_zero_and_finite() -> None:
    logits = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = contrast.info_nce(
            logits,
            tf.constant([[True, False]]),
            tf.constant([[False, True]]),
            weights=tf.zeros([1, 2]),
        )
    assert float(loss) == 0.0
    assert tf.reduce_all(tf.math.is_finite(tape.gradient(loss, logits)))


# The model ----------------------------------------------------------------------------------------


def terms(model: Any, batch: Any) -> dict[str, float]:
    model.reset_metrics()
    model.compute_loss(batch, y_pred=model(batch))
    return {metric.name: float(metric.result()) for metric in model.metrics}


def test_the_terms_of_neighbours_take_the_agreement_of_the_batch() -> None:
    model, batch = make(settings("graph_regularization", "edge_contrast")), some_batch()
    plain = terms(model, batch)
    ones = terms(model, batch | {"neighbor_agreement": tf.ones([5, 2])})
    assert ones == pytest.approx(plain, rel=1e-6)
    half = terms(model, batch | {"neighbor_agreement": tf.fill([5, 2], 0.5)})
    assert half["graph_regularization"] == pytest.approx(plain["graph_regularization"] / 2)
    assert half["edge_contrast"] == pytest.approx(plain["edge_contrast"], rel=1e-6)
    # A neighbour that is not trusted at all is as good as not drawn, but for being no negative.
    first = batch | {"neighbor_agreement": tf.constant([[1.0, 0.0]] * 5)}
    assert terms(model, first)["edge_contrast"] != pytest.approx(plain["edge_contrast"], rel=1e-3)


@pytest.mark.parametrize("kind", ["gcn", "message_passing"])
def test_a_graph_network_sees_weights_times_agreement(kind: str) -> None:
    model = make(settings("supervised"), config={"graph_network": kind})
    draw = np.random.default_rng(2)
    trust = draw.random((5, 2)).astype("f4")
    ends = {
        "graph_senders": np.array([[0, 1, 2, 1]] * 5),
        "graph_receivers": np.array([[1, 2, 1, 0]] * 5),
        "graph_weights": draw.uniform(1, 3, (5, 4)).astype("f4"),
    }
    inner = draw.random((5, 4)).astype("f4")
    batch = make_batch(
        draw.normal(size=(5, 6)), draw.normal(size=(5, 2, 6)), draw.uniform(1, 3, (5, 2)), **ends
    )
    believed = batch | {"neighbor_agreement": trust, "graph_agreement": inner}
    weighed = batch | {
        "neighbor_weight": batch["neighbor_weight"] * trust,
        "graph_weights": batch["graph_weights"] * inner,
    }
    expected = model(weighed)["seeds"].numpy()
    np.testing.assert_allclose(model(believed)["seeds"], expected, atol=1e-6)
    assert np.abs(model(batch)["seeds"] - expected).max() > 1e-3


# The batches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return tiny_examples.write_examples(tmp_path_factory.mktemp("features"), Form(features=True))


def batches(examples: Version, **changes: Any) -> tf.data.Dataset:
    files = ExampleFiles.open(examples)
    given: dict[str, Any] = {"batch_size": 8, "neighbors": 2, "epochs": 1, "seed": 1}
    return dataset.training_batches(files, files.transform(), shuffle_buffer=99, **given | changes)


def hashed(*indices: int) -> np.ndarray:
    return parsing.hash_ids(tf.constant([f"img-{index}" for index in indices])).numpy()


def test_labels_and_agreement_are_looked_up_by_the_ids_of_the_batch(examples: Version) -> None:
    everyone = hashed(*range(sum(tiny_examples.RECORDS.values())))
    labels = {int(one): 100 + index for index, one in enumerate(everyone) if index % 3}
    pairs = [(i, j) for i in range(60) for j, _ in tiny_examples.neighbors_of(i) if (i + j) % 4]
    sources, targets = (hashed(*ends) for ends in zip(*pairs, strict=True))
    trust = np.random.default_rng(0).random(len(pairs)).astype("f4")
    beliefs = Beliefs(
        labels=Lookup(np.array(list(labels)), np.array(list(labels.values())), -1),
        agreement=Lookup(pair_keys(tf.constant(sources), tf.constant(targets)).numpy(), trust, 1.0),
    )
    known = dict(zip(zip(sources.tolist(), targets.tolist(), strict=True), trust, strict=True))
    given = 0
    for plain in batches(examples, edges=True):
        batch = beliefs.into_training(plain)
        ids, near = plain["id"].numpy(), plain["neighbor_id"].numpy()
        assert batch["label"].numpy().tolist() == [labels.get(int(one), -1) for one in ids]
        assert batch["neighbor_label"].numpy().tolist() == [
            [labels.get(int(one), -1) for one in row] for row in near
        ]
        expected = [
            [known.get((int(one), int(other)), 1.0) for other in row]
            for one, row in zip(ids, near, strict=True)
        ]
        np.testing.assert_array_equal(batch["neighbor_agreement"], expected)
        nodes = np.concatenate([ids[:, None], near], axis=1)
        senders, receivers = plain["graph_senders"].numpy(), plain["graph_receivers"].numpy()
        for row, slot in zip(*np.nonzero(senders >= 0), strict=True):
            edge = (int(nodes[row, senders[row, slot]]), int(nodes[row, receivers[row, slot]]))
            assert float(batch["graph_agreement"][row, slot]) == known.get(edge, 1.0)
            given += edge in known
        # What it does not speak of stays, and evaluation is told of agreement alone.
        assert all(batch[name] is plain[name] for name in ("content", "neighbor_weight", "tokens"))
        measured = beliefs.into_evaluation(plain)
        assert measured["label"] is plain["label"]
        np.testing.assert_array_equal(measured["neighbor_agreement"], expected)
    assert given > 20


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_without_a_graph_each_seed_stands_beside_those_that_follow_it(rows: int) -> None:
    ids = np.arange(10, 10 + rows)
    beliefs = Beliefs(pair_agreement=lambda one, other: tf.cast(100 * one + other, tf.float32))
    batch = beliefs.into_training({"id": tf.constant(ids)})
    expected = [[(row + k) % rows for k in range(1, PARTNERS + 1)] for row in range(rows)]
    assert batch["partner"].numpy().tolist() == expected
    for row, partners in enumerate(expected):
        found = batch["partner_agreement"][row].numpy().tolist()
        assert found == [0 if p == row else 100 * ids[row] + ids[p] for p in partners]
    assert schema.LABEL.name not in batch
