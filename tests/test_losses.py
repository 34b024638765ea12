"""The terms of the loss against arithmetic that is written out."""

import math

import pytest
import tensorflow as tf

from trainer import losses

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


def test_contrast_is_info_nce_over_the_positive_pairs() -> None:
    logits = tf.math.log(tf.constant([[2.0, 3.0, 5.0], [7.0, 1.0, 1.0]]))
    positive = tf.constant([[True, True, False], [False, True, False]])
    negative = tf.constant([[False, False, True], [True, False, False]])
    # Row 0, two positives, never in each other's sum: -ln(2/7), -ln(3/8). Row 1, one pair that is
    # neither: -ln(1/8).
    expected = (math.log(7 / 2) + math.log(8 / 3) + math.log(8)) / 3
    assert float(losses.contrast(logits, positive, negative)) == pytest.approx(expected)


def test_contrast_without_negatives_or_without_positives_is_zero_and_finite() -> None:
    logits = tf.Variable([[1.0, 2.0]])
    one, none = tf.constant([[True, False]]), tf.constant([[False, False]])
    for positive in (one, none):
        with tf.GradientTape() as tape:
            loss = losses.contrast(logits, positive, none)
        assert float(loss) == 0.0
        assert tf.reduce_all(tf.math.is_finite(tape.gradient(loss, logits)))


def edge_contrast(**changes: tf.Tensor) -> float:
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
    return float(losses.edge_contrast(seeds, neighbors, temperature=1.0, **inputs))


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


def test_copies_of_a_negative_count_as_one() -> None:
    # Seeds 1, 2, 3; 2 and 3 drew the same image 12. For seed 1, 12 stands in the batch twice: each
    # copy has its logit lowered by ln 2, so that the two together weigh as one.
    seeds = tf.constant([EAST, NORTH, NORTH])
    neighbors = tf.constant([[EAST], [NORTH], [NORTH]])
    loss = losses.edge_contrast(
        seeds,
        neighbors,
        seed_ids=ids(1, 2, 3),
        neighbor_ids=ids(11, 12, 12)[:, None],
        graph_ids=ids(11, 12, 12)[:, None],
        seed_labels=ids(-1, -1, -1)[:, None],
        neighbor_labels=ids(-1, -1, -1)[:, None, None],
        temperature=1.0,
    )
    to_one = math.log((math.e + 1 + 1 + 2 * 0.5) / math.e)  # 1 <-> 11; negatives 2, 3, 12 once
    of_two = math.log((math.e + 1 + 1 + math.e) / math.e)  # 2 -> 12; negatives 1, 11, 3
    of_12 = math.log((math.e + 1 + 1) / math.e)  # 12 -> 2; negatives 1, 11; 3 is a neighbour of 12
    assert float(loss) == pytest.approx((2 * to_one + 2 * of_two + 2 * of_12) / 6)


def test_absent_neighbours_count_for_nothing() -> None:
    found = edge_contrast(neighbor_ids=ids(11, 0)[:, None], graph_ids=ids(11, 0)[:, None])
    assert found == pytest.approx((nce(HALF, 0.0) + nce(HALF, HALF)) / 2)
    nothing = tf.zeros([2, 0], tf.int64)
    loss = losses.edge_contrast(
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
    return float(losses.text_contrast(texts, images, temperature=1.0, **inputs))


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
