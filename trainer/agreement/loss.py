"""The term of the classifier's loss that pairs of nodes give: no weights, no state."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def transformed(agreement: np.ndarray, *, penalize_negative: bool) -> np.ndarray:
    """What a pair counts by: its agreement, or what of it exceeds a half, which repels nobody.

    The published name of the latter, penalize_neg_agr, promises more than it does.
    """
    return np.maximum(agreement - np.float32(0.5), 0.0) if penalize_negative else agreement


def pair_loss(
    pulled: tf.Tensor,
    labels: tf.Tensor,
    trust: tf.Tensor,
    left: tf.Tensor,
    right: tf.Tensor,
    mutual: tf.Tensor,
    *,
    count: tf.Tensor,
    first_stays: bool = False,
) -> tf.Tensor:
    """(sum of trust |onehot(label) - pulled|² + sum of mutual |left - right|²) / count, in float32.

    Stretcu et al. 2019; one mean over the pairs of all kinds, not one a kind. Gradients go into the
    probabilities alone, into both sides of a mutual pair; first_stays: into its right side. 0 where
    there is no pair.

    pulled [a, classes], left, right [b, classes] float32: probabilities; labels [a] int; trust [a],
    mutual [b] float32: weight of the pair's kind times its agreement; count: scalar, all pairs.
    """
    if first_stays:
        left = tf.stop_gradient(left)
    wanted = tf.one_hot(labels, pulled.shape[-1], dtype=pulled.dtype)
    towards = tf.reduce_sum(tf.math.squared_difference(wanted, pulled), axis=-1)
    between = tf.reduce_sum(tf.math.squared_difference(left, right), axis=-1)
    total = tf.reduce_sum(tf.stop_gradient(trust) * towards)
    total += tf.reduce_sum(tf.stop_gradient(mutual) * between)
    return tf.math.divide_no_nan(total, tf.cast(count, total.dtype))
