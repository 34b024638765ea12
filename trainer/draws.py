"""What is drawn for a batch: neighbours and texts by weight, from numbers of (seed, step, row)."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

NEIGHBOR_SALT, TEXT_SALT, ORDER_SALT = 1, 2, 3  # keep the draws of one number apart


@dataclass(frozen=True)
class Draws:
    """Random numbers for some rows of a batch: the same, whichever other rows are there.

    key: [2] int64, seed and step. size: rows of the whole batch. rows: [rows] int32, which of them.
    """

    key: tf.Tensor
    size: tf.Tensor
    rows: tf.Tensor

    def uniform(self, width: int, salt: int) -> tf.Tensor:
        """[rows, width] float32 in (0, 1)."""
        key = tf.random.experimental.stateless_fold_in(self.key, salt)
        whole = tf.random.stateless_uniform([self.size, width], key, minval=1e-20)
        return tf.gather(whole, self.rows)


def draw_neighbors(
    weights: tf.Tensor, number: int, draws: Draws | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Weights and positions [batch, number] of neighbours drawn by weight, without replacement.

    weights [batch, K]. Drawn ones have weight 1, since their weight has spoken in the draw; where
    all K are taken, or the strongest without a draw, they keep their weights. 0 = none.
    """
    score = tf.where(weights > 0, tf.math.log(weights), float("-inf"))
    if draws is not None:
        # Gumbel noise makes the greatest ln(weight) a draw by weight.
        score -= tf.math.log(-tf.math.log(draws.uniform(weights.shape[1], NEIGHBOR_SALT)))
    order = tf.math.top_k(score, number).indices
    taken = tf.gather(weights, order, batch_dims=1)
    if draws is not None and number < weights.shape[1]:
        taken = tf.cast(taken > 0, tf.float32)
    return tf.maximum(taken, 0.0), order


def draw_text(weights: tf.RaggedTensor, draws: Draws | None) -> tf.Tensor:
    """[batch] int64: which of a row's texts, drawn by weight, or that of the greatest weight.

    0 where a row has none. Drawn by where a point falls on the weights laid side by side, so that
    a row takes one random number, whatever texts the others have; a text of weight 0 has no room.
    """
    padded = tf.pad(weights.to_tensor(0.0), [[0, 0], [0, 1]])
    if draws is None:
        return tf.argmax(padded, axis=1)
    ends = tf.cumsum(padded, axis=1)
    point = draws.uniform(1, TEXT_SALT) * ends[:, -1:]  # > 0, at most the end of the last weight
    return tf.math.count_nonzero(ends < point, axis=1)
