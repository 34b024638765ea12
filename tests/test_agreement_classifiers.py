"""Classifiers in memory: their networks, a step, when they end, and what they say."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from agreement_cases import CLASSES, World, make_world

from trainer.agreement.classifiers import EdgeDraws, Guidance, InMemoryClassifier, Recipe
from trainer.agreement.networks import (
    Incidence,
    Mlp,
    Neighbors,
    SmallCnn,
    WholeGraph,
)
from trainer.agreement.pairs import GraphPairs, KindWeights
from trainer.agreement.weights import Adam, decay, fresh

NOTHING = Guidance()


def classifier_of(world: World, network: Any = None, **recipe: Any) -> InMemoryClassifier:
    return InMemoryClassifier(
        network or Mlp(world.nodes, (16, 8), CLASSES),
        Recipe(**{"steps": 60, "learning_rate": 0.01, "batch": 8, **recipe}),
        nodes=len(world.nodes),
        validation=world.validation_labels,
    )


def accuracy(classifier: InMemoryClassifier, world: World, nodes: np.ndarray) -> float:
    found = classifier.probabilities().argmax(axis=1)
    return float((found[nodes] == world.truth[nodes]).mean())


# Weights ------------------------------------------------------------------------------------------


def test_adam_is_that_of_keras() -> None:
    draw = np.random.default_rng(0)
    start = [draw.standard_normal(shape).astype("f4") for shape in ((4, 3), (3,))]
    ours, theirs = ([tf.Variable(each) for each in start] for _ in range(2))
    adam, keras_adam = Adam(ours, 0.01), keras.optimizers.Adam(0.01)
    variables = [keras.Variable(each) for each in start]
    keras_adam.build(variables)
    del theirs
    for step in range(20):
        gradients = [tf.constant(draw.standard_normal(each.shape), tf.float32) for each in start]
        adam.apply(gradients, tf.constant(step))
        keras_adam.apply(gradients, variables)
    for mine, other in zip(ours, variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


def test_fresh_weights_are_uniform_within_glorots_bound() -> None:
    draw = np.random.default_rng(0)
    assert not fresh((7,), draw).any()
    dense, conv = fresh((300, 100), draw), fresh((3, 3, 20, 30), draw)
    assert abs(dense).max() == pytest.approx((6 / 400) ** 0.5, rel=0.01)
    assert abs(conv).max() == pytest.approx((6 / (9 * 50)) ** 0.5, rel=0.01)
    assert dense.std() == pytest.approx((6 / 400) ** 0.5 / 3**0.5, rel=0.02)


def test_decay_is_half_the_squares_of_matrices() -> None:
    weights = [tf.Variable([[1.0, 2.0], [0.0, 1.0]]), tf.Variable([9.0])]
    assert float(decay(weights)) == pytest.approx(3.0)


# Networks -----------------------------------------------------------------------------------------


def test_products_of_an_incidence_are_those_of_its_matrix_in_both_directions() -> None:
    draw = np.random.default_rng(0)
    dense = (draw.random((30, 20)) < 0.15).astype(np.float32)
    dense[[0, 7, 29]] = 0.0
    incidence = Incidence.of(dense)
    assert len(incidence) == dense.sum()
    right, above = (tf.constant(draw.standard_normal(s), tf.float32) for s in ((20, 4), (30, 4)))
    kept = draw.random(len(incidence)) < 0.5
    thinned = dense.copy()
    thinned[tuple(np.argwhere(dense)[~kept].T)] = 0.0
    for mask, matrix in ((None, dense), (tf.constant(kept), thinned)):
        with tf.GradientTape() as tape:
            tape.watch(right)
            found = incidence.times(right, mask)
        np.testing.assert_allclose(found, matrix @ right.numpy(), rtol=1e-4, atol=1e-5)
        gradient = tape.gradient(found, right, output_gradients=above)
        np.testing.assert_allclose(gradient, matrix.T @ above.numpy(), rtol=1e-4, atol=1e-5)


def test_an_incidence_whose_rows_sum_to_one_is_a_mean_of_rows() -> None:
    dense = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    incidence = Incidence(np.argwhere(dense), dense.shape, sums_to_one=True)
    right = tf.constant(np.arange(8).reshape(4, 2), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(right)
        found = incidence.times(right)
    np.testing.assert_allclose(found, [[10 / 3, 13 / 3], [0, 0], [2, 3]], rtol=1e-6)
    # Each row of `right` counts as often as it is in a mean: 1/3, 1, 1/3, 1/3.
    gradient = tape.gradient(found, right)
    np.testing.assert_allclose(gradient, [[1 / 3] * 2, [1] * 2, [1 / 3] * 2, [1 / 3] * 2])
    # What dropout leaves out does not change what the others count.
    kept = incidence.times(right, tf.constant([True, False, False, True]))
    np.testing.assert_allclose(kept, [[0, 1 / 3], [0, 0], [2, 3]], rtol=1e-6)


def dense_adjacency(edges: np.ndarray, nodes: int) -> np.ndarray:
    """D^-1/2 (A + I) D^-1/2."""
    plain = np.eye(nodes)
    plain[tuple(edges.T)] = plain[tuple(edges.T[::-1])] = 1.0
    root = np.diag(plain.sum(axis=1) ** -0.5)
    return root @ plain @ root


def test_neighbors_are_normalized_with_loops_and_without_doubles() -> None:
    edges = np.array([[0, 1], [1, 0], [1, 2]])
    plain = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], float)
    root = np.diag(plain.sum(axis=1) ** -0.5)
    np.testing.assert_allclose(dense_adjacency(edges, 4), root @ plain @ root)
    found = Neighbors(edges, 4).spread(tf.eye(4))
    np.testing.assert_allclose(found, root @ plain @ root, rtol=1e-6)


def test_a_gcn_is_two_products_with_the_adjacency() -> None:
    world = make_world(each=10)
    words = (world.nodes > 1.0).astype(np.float32)
    neighbors, dense = Neighbors(world.edges, 30), dense_adjacency(world.edges, 30)
    rows = np.array([3, 0, 3])
    for nodes, given in ((Incidence.of(words), words), (world.nodes, world.nodes)):
        network = WholeGraph(nodes, neighbors, hidden=6, classes=CLASSES, dropout=0.5)
        first, second = (each.numpy() for each in network.trainable_variables)
        hidden = np.maximum(dense @ given @ first, 0.0)
        embeddings, logits = network.outputs(tf.constant(rows))
        np.testing.assert_allclose(embeddings, hidden[rows], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, (dense @ hidden @ second)[rows], rtol=1e-4, atol=1e-5)
        assert [each.shape.rank for each in network.decayed] == [2]


@pytest.mark.parametrize("sparse", [True, False])
def test_dropout_follows_its_seed_and_keeps_the_mean(sparse: bool) -> None:
    world = make_world(each=10)
    words = (world.nodes > 1.0).astype(np.float32)
    nodes = Incidence.of(words) if sparse else words
    network = WholeGraph(nodes, Neighbors(world.edges, 30), hidden=6, classes=CLASSES, dropout=0.5)
    # Without negative numbers ReLU does nothing, and all is linear.
    for each in network.trainable_variables:
        each.assign(tf.abs(each))

    look = tf.function(lambda noise: network.outputs(tf.range(30), noise)[1], autograph=False)
    noisy = [look(tf.constant([7, seed])).numpy() for seed in (1, 1, *range(2, 400))]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).any()
    plain = network.outputs(tf.range(30))[1]
    np.testing.assert_allclose(np.mean(noisy[1:], axis=0), plain, rtol=0.15)


def test_a_cnn_learns_what_is_on_pictures() -> None:
    world = make_world(each=30, labelled=15)
    pictures = np.zeros((len(world.truth), 16, 16, 3), np.uint8)
    draw = np.random.default_rng(0)
    for node, label in enumerate(world.truth):
        row = draw.integers(0, 12)
        pictures[node, row : row + 4, :, label] = 255
    network = SmallCnn(pictures, (8, 16), 6, CLASSES)
    classifier = classifier_of(world, network, steps=80)
    classifier.train(world.labels, NOTHING, seed=0)
    assert accuracy(classifier, world, world.test) > 0.9
    assert classifier.embeddings().shape == (90, 6)


# Trainings ----------------------------------------------------------------------------------------


def test_steps_are_those_of_the_loss_written_out() -> None:
    world = make_world(each=8)
    weights = KindWeights(ll=0.7, lu=2.0, uu=0.5)
    agreement = np.random.default_rng(0).random(len(world.edges)).astype(np.float32)

    def pairs() -> GraphPairs:
        return GraphPairs(world.edges, world.labels, agreement, weights=weights, pairs=6, seed=3)

    def draws() -> EdgeDraws:
        return EdgeDraws(world.edges, agreement, pairs=5, seed=4)

    network = Mlp(world.nodes, (7, 4), CLASSES)
    classifier = classifier_of(world, network, steps=3, batch=100, decay=0.1, contrast=0.3)
    classifier.train(world.labels, Guidance(pairs(), draws()), seed=5)
    found = classifier.get_weights()

    # The same steps by hand, from weights of the same draw.
    draw = np.random.default_rng(np.random.SeedSequence(5).generate_state(2)[0])
    variables = [tf.Variable(fresh(each.shape, draw)) for each in network.trainable_variables]
    a, b, c, d, e, f = variables
    adam = Adam(variables, 0.01)
    block, (ends, trust) = pairs().draw(3), draws().draw(3)
    known = np.flatnonzero(world.seeds)
    for step in range(3):
        with tf.GradientTape() as tape:
            hidden = tf.nn.leaky_relu(world.nodes @ a + b, 0.2)
            embeddings = hidden @ c + d
            p = tf.nn.softmax(tf.nn.leaky_relu(embeddings, 0.2) @ e + f)
            z = embeddings / tf.norm(embeddings, axis=1, keepdims=True)
            right = tf.gather_nd(p, np.stack([known, world.truth[known]], 1))
            loss = -tf.reduce_mean(tf.math.log(right))
            total = 0.0
            towards = block.labels[step], block.targets[step], block.trust[step]
            for label, target, t in zip(*towards, strict=True):
                total += t * tf.reduce_sum((np.eye(CLASSES)[label] - p[target]) ** 2)
            between = block.left[step], block.right[step], block.mutual[step]
            for left, other, t in zip(*between, strict=True):
                total += t * tf.reduce_sum((p[left] - p[other]) ** 2)
            loss += total / block.count
            loss += 0.1 * sum(tf.reduce_sum(each**2) / 2 for each in (a, c, e))
            loss += 0.3 * contrast_by_hand(z, ends[step], trust[step], world.labels)
        adam.apply(tape.gradient(loss, variables), tf.constant(step))
    for one, other in zip(found, variables, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=2e-5)


def contrast_by_hand(
    z: tf.Tensor, ends: np.ndarray, trust: np.ndarray, labels: np.ndarray, temperature: float = 0.2
) -> tf.Tensor:
    """InfoNCE of both directions; no negative is the same node or of the same known label."""
    total = 0.0
    for one, other in ((0, 1), (1, 0)):
        for row, (anchor, positive) in enumerate(ends[:, [one, other]]):
            scores = [tf.reduce_sum(z[anchor] * z[positive]) / temperature]
            for column, node in enumerate(ends[:, other]):
                same = labels[anchor] >= 0 and labels[anchor] == labels[node]
                if column != row and node != anchor and not same:
                    scores.append(tf.reduce_sum(z[anchor] * z[node]) / temperature)
            if len(scores) > 1:
                total += trust[row] * (tf.reduce_logsumexp(scores) - scores[0])
    return total / trust.sum() / 2.0


def test_trusted_edges_make_few_labels_go_further() -> None:
    world = make_world(labelled=1, wrong=0.0, spread=1.6)
    found = {}
    for weight in (0.0, 3.0):
        pairs = GraphPairs(
            world.edges,
            world.labels,
            np.ones(len(world.edges), np.float32),
            weights=KindWeights(lu=weight, uu=weight / 2),
            pairs=32,
            seed=0,
        )
        classifier = classifier_of(world, steps=150)
        classifier.train(world.labels, Guidance(pairs), seed=0)
        found[weight] = accuracy(classifier, world, ~world.seeds)
    assert found[3.0] > found[0.0] + 0.1


def test_distances_of_embeddings_are_regularized_where_that_is_wanted() -> None:
    world = make_world(labelled=1, wrong=0.0)
    everything = GraphPairs(
        world.edges,
        np.full(len(world.nodes), -1),
        np.ones(len(world.edges), np.float32),
        weights=KindWeights(uu=30.0),
        pairs=64,
        seed=0,
    )
    near = {}
    for guidance in (NOTHING, Guidance(everything)):
        classifier = classifier_of(world, regularized="embedding")
        classifier.train(world.labels, guidance, seed=0)
        z = classifier.embeddings()
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-5)
        near[guidance.pairs is None] = float(
            np.mean(np.sum(np.prod(z[world.edges.T], axis=0), axis=1))
        )
    assert near[False] > near[True] + 0.05


def test_the_weights_of_the_best_validation_step_are_kept_and_patience_ends_it() -> None:
    world = make_world(labelled=4, spread=1.5)
    classifier = classifier_of(
        world, steps=5_000, keep_best=True, evaluated_every=5, min_steps=20, patience=40
    )
    run, told = classifier._run, []
    classifier._run = lambda *given: (told.append(run(*given)), told[-1])[1]
    figure = classifier.train(world.labels, NOTHING, seed=0)
    assert figure[0] == pytest.approx(accuracy(classifier, world, world.validation))
    steps, best, loss, best_step = (float(each) for each in told[-1])
    assert figure == (pytest.approx(best), pytest.approx(-loss))
    assert steps == max(20, best_step + 40) < 5_000
    assert best_step % 5 == 0


def test_steps_in_several_calls_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    found = []
    for at_once in (500, 7):
        monkeypatch.setattr("trainer.agreement.classifiers._STEPS_AT_ONCE", at_once)
        classifier = classifier_of(world, steps=45, keep_best=True, evaluated_every=10)
        figure = classifier.train(world.labels, NOTHING, seed=3)
        found.append((figure, classifier.get_weights()))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    world = make_world()
    classifier = classifier_of(world)
    found = []
    for seed in (1, 2, 1):
        classifier.train(world.labels, NOTHING, seed=seed)
        found.append(classifier.get_weights()[0])
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[0] != found[1]).any()


def test_nothing_is_learned_where_no_node_has_a_label() -> None:
    world = make_world()
    with pytest.raises(ValueError, match="no node has a label"):
        classifier_of(world).train(np.full(len(world.nodes), -1), NOTHING, seed=0)
