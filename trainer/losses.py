"""The terms of the loss that labels give, as plain functions of tensors: no weights, no state.

Each is a mean over the labelled seeds, and 0 where no seed has a label. `class_weights` [classes]
says how much an example of each class counts, None: all alike; the mean stays one over the number
of labelled seeds, so that with `balanced_weights` the size of the loss does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.agreement.loss import pair_loss
from trainer.agreement.pairs import KindWeights


def supervised(
    logits: tf.Tensor, labels: tf.Tensor, class_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Softmax cross-entropy, -ln(e^l_y / sum over c of e^l_c).

    logits [batch, classes] float32; labels [batch] int64, -1 = none.
    """
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
    return _mean_of_labelled(each, labels, class_weights)


def _mean_of_labelled(
    each: tf.Tensor, labels: tf.Tensor, class_weights: tf.Tensor | None
) -> tf.Tensor:
    """each [batch], the cost of each seed; labels [batch], -1 = the seed does not count."""
    known = tf.cast(labels >= 0, each.dtype)
    weights = known
    if class_weights is not None:
        weights *= tf.gather(tf.cast(class_weights, each.dtype), tf.maximum(labels, 0))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * each), tf.reduce_sum(known))


def supervised_multi(
    logits: tf.Tensor, labels: tf.Tensor, class_weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Sigmoid cross-entropy, the mean over all classes: -y ln s(l) - (1 - y) ln(1 - s(l)).

    Each class is a question of its own: has the image this label, or not? class_weights are of
    the answers yes: they stand before y.
    logits [batch, classes] float32; labels [batch, any number] int64, -1 = padding.
    """
    answers = tf.reduce_max(tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=1)
    answers = tf.maximum(answers, 0.0)  # of a batch that is 0 labels wide
    if class_weights is None:
        each = tf.nn.sigmoid_cross_entropy_with_logits(answers, logits)
    else:
        yes = tf.cast(class_weights, logits.dtype)
        each = tf.nn.weighted_cross_entropy_with_logits(answers, logits, yes)
    known = tf.cast(tf.reduce_any(labels >= 0, axis=1), logits.dtype)
    return tf.math.divide_no_nan(
        tf.reduce_sum(known * tf.reduce_mean(each, axis=1)), tf.reduce_sum(known)
    )


def balanced_weights(counts: Sequence[int]) -> np.ndarray:
    """n / (classes * n_c) of each class, [classes] float32: their mean over all n labels is 1.

    counts: labels of each class, n_c; a class without any counts as one with 1.
    """
    known = np.maximum(np.asarray(counts, np.float64), 1.0)
    return (known.sum() / (len(known) * known)).astype(np.float32)


def sampled_supervised(
    embeddings: tf.Tensor,
    labels: tf.Tensor,
    *,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    expected: tf.Tensor,
    start: tf.Tensor,
    class_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Softmax cross-entropy over the label and a sample of the classes, for very many classes.

    -ln(e^l_y / (e^l_y + sum over the sampled c != y of e^l_c / p_c)), p_c how likely c was to be in
    the sample: the sum over the sample has the mean of that over all classes (Blanc, Rendle 2018,
    section 2.2, where c is drawn m times with the probability p_c / m).

    embeddings [batch, dim]; labels [batch] int64, -1 = none; kernel [dim, classes]; bias [classes];
    expected [classes] as of `expected_in_sample`; start: scalar in [0, 1), seeds the draw.
    """
    sampled = sample_classes(expected, start)
    expected = tf.cast(expected, embeddings.dtype)
    each = tf.nn.sampled_softmax_loss(
        weights=tf.transpose(kernel),
        biases=bias,
        labels=tf.maximum(labels, 0)[:, None],
        inputs=embeddings,
        num_sampled=tf.size(sampled),
        num_classes=tf.size(expected),
        # The label is there for certain.
        sampled_values=(sampled, tf.ones_like(embeddings[:, :1]), tf.gather(expected, sampled)),
    )
    return _mean_of_labelled(each, labels, class_weights)


def expected_in_sample(num_classes: int, sampled: int) -> np.ndarray:
    """How likely each class is to be in a sample of `sampled` classes, [classes] float64.

    In proportion to ln((c + 2) / (c + 1)), the shares of Zipf's law, since classes are numbered
    from the most frequent on; none is likelier than 1. They sum to `sampled`.
    """
    sampled = min(sampled, num_classes)
    shares = np.diff(np.log(np.arange(1, num_classes + 2, dtype=np.float64)))
    # The first classes are certain; what is left goes to the others by their shares.
    rest = np.cumsum(shares[::-1])[::-1]
    left = sampled - np.arange(num_classes)
    certain = int(np.argmin(left * shares > rest)) if sampled < num_classes else num_classes
    expected = np.ones(num_classes)
    if certain < num_classes:
        expected[certain:] = left[certain] * shares[certain:] / rest[certain]
    return expected


def sample_classes(expected: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """[sum of `expected`] int64: classes, each with exactly its probability, none twice.

    Systematic sampling (Madow 1949): the classes lie side by side on a line, as long as they are
    likely, and those at start, start + 1, start + 2 … are taken.
    """
    ends = tf.cumsum(tf.cast(expected, tf.float64))
    number = tf.cast(tf.round(ends[-1]), tf.int64)
    points = tf.cast(start, tf.float64) + tf.cast(tf.range(number), tf.float64)
    last = tf.size(ends, tf.int64) - 1
    return tf.minimum(tf.searchsorted(ends, points, side="right", out_type=tf.int64), last)


def mean_cosine(embeddings: tf.Tensor) -> tf.Tensor:
    """Mean cosine of the pairs of different rows of [batch, dim]; 0 where there is one row.

    The measure of collapse: near 0 while the embedding uses its room, 1 when all rows are alike.
    """
    rows = tf.cast(tf.shape(embeddings)[0], embeddings.dtype)
    total = tf.reduce_sum(tf.square(tf.reduce_sum(embeddings, axis=0)))
    norms = tf.reduce_sum(tf.square(embeddings))
    return tf.math.divide_no_nan(total - norms, rows * (rows - 1.0))


@dataclass(frozen=True)
class PairWeights:
    """How much pairs count in `agreement`: of two labelled images, of one, of none.

    certain: the agreement of two images of one label. first_stays: of two images without a label
    only the second is pulled.
    """

    kinds: KindWeights
    certain: float = 1.0
    first_stays: bool = False


def agreement(
    seeds: tf.Tensor,
    others: tf.Tensor,
    *,
    labels: tf.Tensor,
    other_labels: tf.Tensor,
    agreement: tf.Tensor,
    present: tf.Tensor,
    weights: PairWeights,
    disagreeing_count: bool = False,
) -> tf.Tensor:
    """The term of graph agreement models, `trainer.agreement.loss.pair_loss`, of a batch's pairs.

    Of two labelled images the other one is pulled to the seed's label, with the agreement `certain`
    where their labels are equal and 0 where they are not; of a labelled and an unlabelled one the
    latter, wherever it stands; two unlabelled ones to one another. 0 where there is no pair.

    seeds [batch, classes], others [batch, n, classes] float32, probabilities; labels [batch],
    other_labels [batch, n] int64, -1 = none; agreement [batch, n] float32; present [batch, n] bool,
    whether there is such a pair; disagreeing_count: pairs of different labels are part of the mean,
    as where pairs are drawn without a graph; along edges they are left out.
    """
    left = tf.broadcast_to(seeds[:, None], tf.shape(others))
    own = tf.broadcast_to(labels[:, None], tf.shape(other_labels))
    both, none = (own >= 0) & (other_labels >= 0), (own < 0) & (other_labels < 0)
    same, kinds = own == other_labels, weights.kinds
    counted = present if disagreeing_count else present & (~both | same)
    trust = tf.where(both, kinds.ll * tf.where(same, weights.certain, 0.0), kinds.lu * agreement)
    pulled = tf.where((own >= 0)[..., None], others, left)
    towards, mutual = counted & ~none, counted & none
    return pair_loss(
        tf.boolean_mask(pulled, towards),
        tf.boolean_mask(tf.where(own >= 0, own, other_labels), towards),
        tf.boolean_mask(trust, towards),
        tf.boolean_mask(left, mutual),
        tf.boolean_mask(others, mutual),
        tf.boolean_mask(kinds.uu * agreement, mutual),
        count=tf.math.count_nonzero(counted),
        first_stays=weights.first_stays,
    )
