"""The terms of the loss against arithmetic that is written out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainer import contrast, gnn, losses

# Three unit vectors in the plane and their cosines: east.north 0, east.northeast sqrt(1/2).
EAST, NORTH, NORTHEAST = (1.0, 0.0), (0.0, 1.0), (math.sqrt(0.5), math.sqrt(0.5))
HALF = math.sqrt(0.5)


def ids(*values: int) -> tf.Tensor:
    return tf.constant(values, tf.int64)


def test_cross_entropy_is_the_mean_over_labelled_seeds_alone() -> None:
    logits = tf.constant([[math.log(3.0), 0.0], [5.0, -5.0], [0.0, 0.0]])
    # Row 0: -ln(3/4); row 1 has no label; row 2: -ln(1/2).
    expected = (math.log(4 / 3) + math.log(2)) / 2
    assert float(losses.supervised(logits, ids(0, -1, 1))) == pytest.approx(expected)


def test_cross_entropy_of_a_batch_without_labels_is_zero_and_has_zero_gradients() -> None:
    logits = tf.Variable([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        loss = losses.supervised(logits, ids(-1))
    assert float(loss) == 0.0
    assert tape.gradient(loss, logits).numpy().tolist() == [[0.0, 0.0]]


def test_sigmoid_cross_entropy_asks_for_each_class_of_the_labelled_seeds() -> None:
    logits = tf.constant([[math.log(3.0), 0.0, -math.log(3.0)], [5.0, -5.0, 1.0], [0.0, 0.0, 0.0]])
    labels = tf.constant([[0, 2], [-1, -1], [1, -1]], tf.int64)
    # Row 0: yes at 3/4, no at 1/2, yes at 1/4; row 1 has no label; row 2: three times 1/2.
    row_0 = (math.log(4 / 3) + math.log(2) + math.log(4)) / 3
    expected = (row_0 + math.log(2)) / 2
    assert float(losses.supervised_multi(logits, labels)) == pytest.approx(expected)
    none = tf.zeros([3, 0], tf.int64)
    assert float(losses.supervised_multi(logits, none)) == 0.0


def test_class_weights_stand_before_the_cost_of_their_class_and_not_in_the_number_of_seeds() -> (
    None
):
    logits = tf.constant([[math.log(3.0), 0.0], [5.0, -5.0], [0.0, 0.0]])
    weights = tf.constant([0.5, 4.0])
    # Row 0: 0.5 * -ln(3/4); row 1 has no label; row 2: 4 * -ln(1/2); two seeds are labelled.
    expected = (0.5 * math.log(4 / 3) + 4 * math.log(2)) / 2
    found = losses.supervised(logits, ids(0, -1, 1), weights)
    assert float(found) == pytest.approx(expected)
    # Of several labels, they stand before the answers yes: row 0 has class 1, row 2 both.
    labels = tf.constant([[1, -1], [-1, -1], [0, 1]], tf.int64)
    row_0 = (math.log(4) + 4 * math.log(2)) / 2  # no at 3/4, yes at 1/2
    row_2 = (0.5 * math.log(2) + 4 * math.log(2)) / 2
    found = losses.supervised_multi(logits, labels, weights)
    assert float(found) == pytest.approx((row_0 + row_2) / 2)


def test_balanced_weights_are_inverse_to_the_counts_and_1_in_the_mean_over_the_labels() -> None:
    weights = losses.balanced_weights([6, 3, 1])
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert (weights * [6, 3, 1]).sum() / 10 == pytest.approx(1.0)
    assert np.isfinite(losses.balanced_weights([2, 0])).all()


CLASSES, DIM = 40, 4


def head(seed: int = 0, rows: int = 5) -> dict[str, tf.Tensor]:
    """Embeddings, labels (one is missing) and a class head, float64."""
    draw = np.random.default_rng(seed)
    return {
        "embeddings": tf.constant(draw.normal(size=(rows, DIM))),
        "labels": tf.constant([3, -1, *draw.integers(0, CLASSES, rows - 2)], tf.int64),
        "kernel": tf.constant(draw.normal(size=(DIM, CLASSES))),
        "bias": tf.constant(draw.normal(size=CLASSES)),
    }


def full(given: dict[str, tf.Tensor]) -> tf.Tensor:
    logits = given["embeddings"] @ given["kernel"] + given["bias"]
    return losses.supervised(logits, given["labels"])


def test_a_sample_of_all_classes_is_the_full_softmax() -> None:
    given = head()
    everything = losses.expected_in_sample(CLASSES, 1_000)
    found = losses.sampled_supervised(**given, expected=everything, start=0.3)
    assert float(found) == pytest.approx(float(full(given)), rel=1e-12)


def test_a_sampled_softmax_is_the_full_one_in_the_mean() -> None:
    """The mean over all draws, of which there is one for each number in [0, 1): 400 of them."""
    given, expected = head(), losses.expected_in_sample(CLASSES, 20)
    given["embeddings"] *= 0.5
    (logits,) = given["embeddings"][:1] @ given["kernel"] + given["bias"]
    alone = {**given, "embeddings": given["embeddings"][:1], "labels": ids(3)}
    cost = tf.function(
        lambda start: losses.sampled_supervised(**alone, expected=expected, start=start)
    )
    costs = np.array([float(cost(tf.constant((i + 0.5) / 400))) for i in range(400)])
    # The sum in the denominator is the full one in the mean; the loss by Jensen a little less.
    sums = np.exp(costs + logits[3])
    assert sums.mean() == pytest.approx(float(tf.reduce_sum(tf.exp(logits))), rel=0.01)
    assert 0.0 < float(full(alone)) - costs.mean() < 0.3
    assert costs.std() > 0.05


def test_a_sample_holds_each_class_as_often_as_is_said_and_none_twice() -> None:
    for sampled in (1, 8, 39, 40, 60):
        expected = losses.expected_in_sample(CLASSES, sampled)
        assert expected.sum() == pytest.approx(min(sampled, CLASSES))
        assert (np.diff(expected) <= 1e-12).all()  # the more frequent class first
        assert expected.max() <= 1.0
        draws = [losses.sample_classes(expected, (i + 0.5) / 200).numpy() for i in range(200)]
        assert {len(set(drawn)) for drawn in draws} == {min(sampled, CLASSES)}
        shares = np.bincount(np.concatenate(draws), minlength=CLASSES) / 200
        np.testing.assert_allclose(shares, expected, atol=5.1e-3)
    # Of 8 of 40: Zipf's shares, ln((c + 2) / (c + 1)) / ln 41, times 8 are more than 1 for the
    # first; of the 7 that are left the others have their share, ln(3/2) / ln(41/2) and so on.
    found = losses.expected_in_sample(CLASSES, 8)[:3]
    assert found.tolist() == pytest.approx(
        [1.0, 7 * math.log(3 / 2) / math.log(41 / 2), 7 * math.log(4 / 3) / math.log(41 / 2)]
    )


def test_without_a_label_a_sampled_softmax_costs_nothing() -> None:
    given = {**head(rows=2), "labels": ids(-1, -1)}
    expected = losses.expected_in_sample(CLASSES, 8)
    assert float(losses.sampled_supervised(**given, expected=expected, start=0.5)) == 0.0


def test_contrast_is_info_nce_over_the_positive_pairs() -> None:
    logits = tf.math.log(tf.constant([[2.0, 3.0, 5.0], [7.0, 1.0, 1.0]]))
    positive = tf.constant([[True, True, False], [False, True, False]])
    negative = tf.constant([[False, False, True], [True, False, False]])
    # Row 0, two positives, never in each other's sum: -ln(2/7), -ln(3/8). Row 1, one pair that is
    # neither: -ln(1/8).
    expected = (math.log(7 / 2) + math.log(8 / 3) + math.log(8)) / 3
    assert float(contrast.info_nce(logits, positive, negative)) == pytest.approx(expected)


def test_contrast_without_negatives_or_without_positives_is_zero_and_finite() -> None:
    logits = tf.Variable([[1.0, 2.0]])
    one, none = tf.constant([[True, False]]), tf.constant([[False, False]])
    for positive in (one, none):
        with tf.GradientTape() as tape:
            loss = contrast.info_nce(logits, positive, none)
        assert float(loss) == 0.0
        assert tf.reduce_all(tf.math.is_finite(tape.gradient(loss, logits)))


def test_only_the_hardest_negatives_of_an_anchor_count() -> None:
    logits = tf.math.log(tf.constant([[2.0, 3.0, 5.0, 4.0], [7.0, 1.0, 1.0, 1.0]]))
    positive = tf.constant([[True, False, False, False], [False, True, False, False]])
    negative = tf.constant([[False, True, True, True], [True, False, False, False]])
    for hardest, of_row_0 in ((1, 7), (2, 11), (3, 14), (tf.int32.max, 14)):
        # Row 0: -ln(2 / (2 + 5)), then 4 and 3 come in. Row 1 has one negative: -ln(1/8).
        expected = (math.log(of_row_0 / 2) + math.log(8)) / 2
        found = contrast.info_nce(logits, positive, negative, tf.constant(hardest))
        assert float(found) == pytest.approx(expected)


def edge_contrast(**changes: Any) -> float:
    """Seeds 1 (east), 2 (north), each with a neighbour: 11 (northeast), 12 (north)."""
    inputs = {
        "seed_ids": ids(1, 2),
        "neighbor_ids": ids(11, 12)[:, None],
        "graph_ids": ids(11, 12)[:, None],
        "seed_labels": ids(-1, -1)[:, None],
        "neighbor_labels": ids(-1, -1)[:, None, None],
        **changes,
    }
    seeds, neighbors = tf.constant([EAST, NORTH]), tf.constant([[NORTHEAST], [NORTH]])
    return float(contrast.edge_contrast(seeds, neighbors, temperature=1.0, **inputs))


def nce(positive: float, *negatives: float) -> float:
    return -math.log(math.exp(positive) / sum(math.exp(s) for s in (positive, *negatives)))


def test_edge_contrast_takes_all_other_images_of_the_batch_as_negatives_in_both_directions() -> (
    None
):
    expected = (
        nce(HALF, 0.0, 0.0)  # seed 1 -> 11; negatives 2, 12
        + nce(1.0, 0.0, HALF)  # seed 2 -> 12; negatives 1, 11
        + nce(HALF, HALF, HALF)  # 11 -> seed 1; negatives 2, 12
        + nce(1.0, 0.0, HALF)  # 12 -> seed 2; negatives 1, 11
    ) / 4
    assert edge_contrast() == pytest.approx(expected)


def test_equal_labels_are_no_negatives() -> None:
    # Seeds 1 and 2 share label 5: the pair falls out on both sides. A missing label is no label.
    expected = (nce(HALF, 0.0) + nce(1.0, HALF) + nce(HALF, HALF, HALF) + nce(1.0, 0.0, HALF)) / 4
    assert edge_contrast(seed_labels=ids(5, 5)[:, None]) == pytest.approx(expected)


def test_images_that_share_one_of_several_labels_are_no_negatives() -> None:
    # Seed 1 has the labels 5 and 7, neighbour 12 has 3, 9 and 7: the pair falls out on both sides.
    # Seed 2 has 6 alone, neighbour 11 has none.
    found = edge_contrast(
        seed_labels=tf.constant([[5, 7], [6, -1]], tf.int64),
        neighbor_labels=tf.constant([[[-1, -1, -1]], [[3, 9, 7]]], tf.int64),
    )
    expected = (nce(HALF, 0.0) + nce(1.0, 0.0, HALF) + nce(HALF, HALF, HALF) + nce(1.0, HALF)) / 4
    assert found == pytest.approx(expected)


def test_images_in_one_anothers_neighbourhood_are_no_negatives() -> None:
    # 12, which was drawn for seed 2, is also in the neighbourhood of seed 1: it is no negative of
    # seed 1, nor of 11, which was drawn around seed 1; and the reverse.
    graph = tf.constant([[11, 12], [12, 0]], tf.int64)
    # Anchors: 1 (12 out), 2 (nothing out), 11 (12 out), 12 (1 and 11 out).
    expected = (
        nce(HALF, 0.0)  # 1 -> 11; negative 2
        + nce(1.0, 0.0, HALF)  # 2 -> 12; negatives 1, 11
        + nce(HALF, HALF)  # 11 -> 1; negative 2
        + nce(1.0)  # 12 -> 2; no negative is left
    ) / 4
    assert edge_contrast(graph_ids=graph) == pytest.approx(expected)


def test_the_same_image_twice_in_a_batch_is_no_negative_of_itself_and_counts_once() -> None:
    # Both seeds drew image 11, one of them with another embedding, to tell the copies apart.
    # Seed 1 -> its 11: the other 11 is the same image as its neighbour, no negative; only seed 2
    # is... but seed 2 has 11 in its neighbourhood and is related to 11's group, not to seed 1.
    found = edge_contrast(neighbor_ids=ids(11, 11)[:, None], graph_ids=ids(11, 11)[:, None])
    expected = (
        nce(HALF, 0.0)  # 1 -> 11; negative: 2
        + nce(1.0, 0.0)  # 2 -> 11; negative: 1
        + nce(HALF)  # 11 -> 1; 2 is related, the other 11 the same image
        + nce(1.0)  # 11 -> 2
    ) / 4
    assert found == pytest.approx(expected)


def contrast_of_copies(**options: bool) -> tf.Tensor:
    """Seeds 1 (east), 2 and 3 (north); 1 drew 11 (east), 2 and 3 the same image 12 (north)."""
    return contrast.edge_contrast(
        tf.constant([EAST, NORTH, NORTH]),
        tf.constant([[EAST], [NORTH], [NORTH]]),
        seed_ids=ids(1, 2, 3),
        neighbor_ids=ids(11, 12, 12)[:, None],
        graph_ids=ids(11, 12, 12)[:, None],
        seed_labels=ids(-1, -1, -1)[:, None],
        neighbor_labels=ids(-1, -1, -1)[:, None, None],
        temperature=1.0,
        **options,
    )


def test_copies_of_a_negative_count_as_one() -> None:
    # Seeds 1, 2, 3; 2 and 3 drew the same image 12. For seed 1, 12 stands in the batch twice: each
    # copy has its logit lowered by ln 2, so that the two together weigh as one.
    loss = contrast_of_copies()
    to_one = math.log((math.e + 1 + 1 + 2 * 0.5) / math.e)  # 1 <-> 11; negatives 2, 3, 12 once
    of_two = math.log((math.e + 1 + 1 + math.e) / math.e)  # 2 -> 12; negatives 1, 11, 3
    of_12 = math.log((math.e + 1 + 1) / math.e)  # 12 -> 2; negatives 1, 11; 3 is a neighbour of 12
    assert float(loss) == pytest.approx((2 * to_one + 2 * of_two + 2 * of_12) / 6)


def test_copies_count_as_they_stand_where_nothing_is_corrected() -> None:
    # As above: seed 2's own positive is 12; for seed 1 the two copies of 12 are two negatives.
    loss = contrast_of_copies(copies_count_once=False)
    to_one = nce(1.0, 0.0, 0.0, 0.0, 0.0)  # 1 <-> 11; negatives 2, 3, 12, 12
    of_two = nce(1.0, 0.0, 0.0, 1.0)  # 2 -> 12; negatives 1, 11, 3
    of_12 = nce(1.0, 0.0, 0.0)  # 12 -> 2; negatives 1, 11
    assert float(loss) == pytest.approx((2 * to_one + 2 * of_two + 2 * of_12) / 6)


def test_popular_images_weigh_less_as_negatives_and_as_positives() -> None:
    # Expected 1, 2, 4, 8 times: seeds 1, 2, neighbours 11, 12; their logits fall by the logarithm.
    log_expected = tf.math.log(tf.constant([1.0, 2.0, 4.0, 8.0]))
    one, two, four, eight = 0.0, math.log(2), math.log(4), math.log(8)
    expected = (
        nce(HALF - four, -two, -eight)  # seed 1 -> 11; negatives 2, 12
        + nce(1.0 - eight, -one, HALF - four)  # seed 2 -> 12; negatives 1, 11
        + nce(HALF - one, HALF - two, HALF - eight)  # 11 -> seed 1; negatives 2, 12
        + nce(1.0 - two, -one, HALF - four)  # 12 -> seed 2; negatives 1, 11
    ) / 4
    found = edge_contrast(log_expected=log_expected, copies_count_once=False)
    assert found == pytest.approx(expected)
    # A constant factor changes nothing.
    shifted = edge_contrast(log_expected=log_expected + 3.0, copies_count_once=False)
    assert shifted == pytest.approx(expected)


def test_absent_neighbours_count_for_nothing() -> None:
    found = edge_contrast(neighbor_ids=ids(11, 0)[:, None], graph_ids=ids(11, 0)[:, None])
    assert found == pytest.approx((nce(HALF, 0.0) + nce(HALF, HALF)) / 2)
    nothing = tf.zeros([2, 0], tf.int64)
    loss = contrast.edge_contrast(
        tf.constant([EAST, NORTH]),
        tf.zeros([2, 0, 2]),
        seed_ids=ids(1, 2),
        neighbor_ids=nothing,
        graph_ids=nothing,
        seed_labels=ids(-1, -1)[:, None],
        neighbor_labels=nothing[:, :, None],
        temperature=1.0,
    )
    assert float(loss) == 0.0


def text_contrast(**changes: tf.Tensor) -> float:
    """Texts 7, 8, none (east, north, northeast) of images 1, 2, 3 (northeast, north, east)."""
    inputs = {
        "text_ids": ids(7, 8, 0),
        "image_text_ids": tf.constant([[7, 0], [8, 0], [0, 0]], tf.int64),
        "image_ids": ids(1, 2, 3),
        "graph_ids": tf.zeros([3, 0], tf.int64),
        **changes,
    }
    texts = tf.constant([EAST, NORTH, NORTHEAST])
    images = tf.constant([NORTHEAST, NORTH, EAST])
    return float(contrast.text_contrast(texts, images, temperature=1.0, **inputs))


def test_text_contrast_picks_the_image_and_the_text() -> None:
    texts = (nce(HALF, 0.0, 1.0) + nce(1.0, HALF, 0.0)) / 2  # 7: negatives 2, 3; 8: 1, 3
    images = (nce(HALF, HALF) + nce(1.0, 0.0)) / 2  # image 1: text 8; image 2: text 7
    assert text_contrast() == pytest.approx((texts + images) / 2)


def test_images_that_have_the_text_too_are_no_negatives() -> None:
    found = text_contrast(image_text_ids=tf.constant([[7, 0], [8, 7], [0, 0]], tf.int64))
    texts = (nce(HALF, 1.0) + nce(1.0, HALF, 0.0)) / 2  # image 2 has text 7 as well
    images = (nce(HALF, HALF) + nce(1.0)) / 2  # so text 7 is no negative of image 2
    assert found == pytest.approx((texts + images) / 2)


def test_neighbours_of_a_texts_image_are_no_negatives() -> None:
    found = text_contrast(graph_ids=tf.constant([[3], [0], [0]], tf.int64))
    texts = (nce(HALF, 0.0) + nce(1.0, HALF, 0.0)) / 2  # image 3 is a neighbour of image 1
    images = (nce(HALF, HALF) + nce(1.0, 0.0)) / 2
    assert found == pytest.approx((texts + images) / 2)


def test_mean_cosine_leaves_out_the_pairs_of_a_row_with_itself() -> None:
    found = losses.mean_cosine(tf.constant([EAST, NORTH, NORTHEAST]))
    assert float(found) == pytest.approx((0.0 + HALF + HALF) / 3, rel=1e-5)
    assert float(losses.mean_cosine(tf.constant([EAST]))) == 0.0


def unit(*shape: int, seed: int) -> tf.Tensor:
    return tf.math.l2_normalize(np.random.default_rng(seed).normal(size=shape), axis=-1)


LABELS = tf.constant([2, -1, 0, 1], tf.int64)
SEVERAL = tf.constant([[0, 2], [-1, -1], [1, -1], [2, -1]], tf.int64)
WEIGHTS = np.array([0.5, 2.0, 1.0])
AROUND = {
    "seed_ids": ids(1, 2, 3, 4),
    "neighbor_ids": tf.constant([[11, 12], [12, 0], [1, 13], [0, 0]], tf.int64),
    "graph_ids": tf.constant([[11, 12], [12, 14], [1, 13], [0, 0]], tf.int64),
    "seed_labels": LABELS[:, None],
    "neighbor_labels": tf.constant([[[2], [-1]], [[0], [-1]], [[-1], [1]], [[-1], [-1]]], tf.int64),
    "temperature": 0.5,
}
OF_TEXTS = {
    "text_ids": ids(7, 8, 0, 9),
    "image_text_ids": tf.constant([[7, 8], [8, 0], [0, 0], [9, 0]], tf.int64),
    "image_ids": ids(1, 2, 3, 4),
    "graph_ids": tf.constant([[3], [0], [0], [0]], tf.int64),
    "temperature": 0.5,
}
PRESENT = tf.constant([[2.0, 1.0], [0.5, 0.0], [1.0, 3.0], [0.0, 0.0]])
LOGITS, HEAD = unit(4, 3, seed=1), head(rows=4)
NODES = [unit(4, 5, seed=2), unit(4, 2, 5, seed=3)]
POPULARITY = tf.constant(np.random.default_rng(4).normal(size=12))


def graph_loss(distance: str, **options: Any) -> Callable[..., tf.Tensor]:
    config = gnn.DistanceConfig(distance)

    def loss(seeds: tf.Tensor, neighbors: tf.Tensor) -> tf.Tensor:
        if "divergence" in distance:
            seeds, neighbors = tf.nn.softmax(seeds), tf.nn.softmax(neighbors)
        return gnn.graph_loss(seeds, neighbors, PRESENT, config, **options)

    return loss


def sampled(embeddings: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    return losses.sampled_supervised(
        embeddings,
        HEAD["labels"],
        kernel=kernel,
        bias=bias,
        expected=losses.expected_in_sample(CLASSES, 9),
        start=0.4,
        class_weights=np.arange(CLASSES),
    )


CASES: dict[str, tuple[Callable[..., tf.Tensor], list[tf.Tensor]]] = {
    "softmax": (lambda x: losses.supervised(x, LABELS), [LOGITS]),
    "weighted softmax": (lambda x: losses.supervised(x, LABELS, WEIGHTS), [LOGITS]),
    "sigmoid": (lambda x: losses.supervised_multi(x, SEVERAL), [LOGITS]),
    "weighted sigmoid": (lambda x: losses.supervised_multi(x, SEVERAL, WEIGHTS), [LOGITS]),
    "sampled softmax": (sampled, [HEAD[name] for name in ("embeddings", "kernel", "bias")]),
    "edges": (lambda *x: contrast.edge_contrast(*x, **AROUND), NODES),
    "edges by popularity": (
        lambda *x: contrast.edge_contrast(
            *x, **AROUND, copies_count_once=False, log_expected=POPULARITY
        ),
        NODES,
    ),
    "hardest edges": (
        lambda *x: contrast.edge_contrast(*x, **AROUND, hardest=tf.constant(2)),
        NODES,
    ),
    "texts": (
        lambda *x: contrast.text_contrast(*x, **OF_TEXTS),
        [unit(4, 5, seed=5), unit(4, 5, seed=6)],
    ),
    "hardest texts": (
        lambda *x: contrast.text_contrast(*x, **OF_TEXTS, hardest=tf.constant(1)),
        [unit(4, 5, seed=5), unit(4, 5, seed=6)],
    ),
    "mean cosine": (losses.mean_cosine, [unit(4, 5, seed=7)]),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss, at = CASES[name]
    theirs, finite = tf.test.compute_gradient(tf.function(loss), at, delta=1e-5)
    for one, other in zip(theirs, finite, strict=True):
        assert np.abs(other).max() > 1e-3  # the loss does depend on it
        np.testing.assert_allclose(one, other, atol=1e-8)


@pytest.mark.parametrize("normalization", ["readout", "nonzero", "weighted_mean"])
@pytest.mark.parametrize("distance", ["l2", "cosine", "kl_divergence", "jensen_shannon_divergence"])
def test_gradients_of_the_graph_loss_are_those_of_finite_differences(
    distance: str, normalization: str
) -> None:
    """In float32, which this loss is computed in: differences of 0.01 are right to 1e-3."""
    loss = graph_loss(distance, normalization=normalization, over="connected")
    at = [tf.cast(x, tf.float32) for x in NODES]
    theirs, finite = tf.test.compute_gradient(tf.function(loss), at, delta=1e-2)
    for one, other in zip(theirs, finite, strict=True):
        assert np.abs(other).max() > 1e-2
        np.testing.assert_allclose(one, other, atol=1e-3)
