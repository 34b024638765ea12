"""The tower for texts: a bag of words."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainer.towers.layers import Projection


class TextTower(keras.Model):
    """[rows, words] int64 tokens, -1 = padding -> [rows, dim]: a bag of words, in any order.

    pooling: "attention" averages the words' vectors with learned weights of the words, "mean" with
    equal ones. A learned vector that is always in the bag makes a text without any word an
    embedding too.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        token_dim: int,
        hidden: int,
        pooling: str,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._vectors = keras.layers.Embedding(num_tokens + 1, token_dim)  # 0 = always in the bag
        self._scores = None
        if pooling == "attention":
            self._scores = keras.layers.Embedding(
                num_tokens + 1, 1, embeddings_initializer="zeros", dtype="float32"
            )
        self._hidden = keras.layers.Dense(hidden, activation="relu")
        self._project = Projection(dim, dropout)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        tokens = tf.pad(inputs + 1, [[0, 0], [1, 0]])
        in_bag = tf.pad(inputs >= 0, [[0, 0], [1, 0]], constant_values=True)
        scores = self._scores(tokens)[:, :, 0] if self._scores else tf.zeros(tf.shape(tokens))
        shares = tf.nn.softmax(tf.where(in_bag, scores, -1e9), axis=1)
        vectors = self._vectors(tokens)
        bag = tf.reduce_sum(tf.cast(shares, vectors.dtype)[:, :, None] * vectors, axis=1)
        return self._project(self._hidden(bag), training=training)
