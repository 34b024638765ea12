"""The towers: pictures, ready features or tokens in, embeddings of length 1 out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

NORM_MOMENTUM = 0.9  # Keras' 0.99 has not settled after the few hundred steps of a small catalog
COLOURFULNESS = 8.0  # weight of that channel beside red, green and blue
# Means and standard deviations of red, green and blue, from 0 to 255, [3] each.
Channels = tuple[np.ndarray, np.ndarray]
SMALLEST_SCALE = 0.75  # side of the smallest cut-out that augmentation takes, of the picture's


class UnitLength(keras.layers.Layer):
    """[rows, dim] -> the same rows scaled to length 1; a row of zeros stays."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(inputs, axis=-1, epsilon=1e-12)


class Augment(keras.layers.Layer):
    """In training, cuts out a part of each picture, scaled to the full size; keeps its colours.

    kind: "mirror" also mirrors half of the pictures, "turn" shows them in all eight ways of turning
    and mirroring a square, "none" leaves pictures as they are.
    """

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._kind = kind
        self._seeds = keras.random.SeedGenerator()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training or self._kind == "none":
            return inputs
        rows, side = tf.shape(inputs)[0], inputs.shape[1]
        draws = keras.random.uniform([rows, 6], seed=self._seeds)
        size = SMALLEST_SCALE + (1.0 - SMALLEST_SCALE) * draws[:, :1]
        start = draws[:, 1:3] * (1.0 - size)
        ends = tf.stack([start, start + size], axis=1)  # [rows, 2, 2]: from and to; down and right
        # A part that is cut out from its end to its start comes out mirrored.
        mirrored = draws[:, 3:5] < (0.5 if self._kind == "turn" else tf.constant([0.0, 0.5]))
        ends = tf.where(mirrored[:, None, :], ends[:, ::-1], ends)
        boxes = tf.reshape(ends, [rows, 4])  # top, left, bottom, right
        parts = tf.image.crop_and_resize(inputs, boxes, tf.range(rows), [side, side])
        if self._kind == "mirror":
            return parts
        flipped = draws[:, 5, None, None, None] < 0.5
        return tf.where(flipped, tf.transpose(parts, [0, 2, 1, 3]), parts)


class Standardize(keras.layers.Layer):
    """[rows, side, side, 3] in [0, 255] -> [rows, side, side, 4] float32 around 0.

    Red, green and blue become (value - mean) / deviation of the channel, which are constants. The
    fourth channel is how far the three are apart, COLOURFULNESS times as wide: objects often differ
    in it from their ground. Networks this small, trained this short, do not find it by themselves:
    on 1,600 drawn pictures they told six shapes apart at 28 % without and at 50 % with it.
    """

    def __init__(self, means: np.ndarray, deviations: np.ndarray, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._means = means
        # Multiplied by, not divided: TensorFlow would do so too, but not in every place.
        self._scales = np.float32(1.0) / deviations

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        apart = tf.reduce_max(inputs, 3, keepdims=True) - tf.reduce_min(inputs, 3, keepdims=True)
        standard = (inputs - self._means) * self._scales
        return tf.concat([standard, COLOURFULNESS / 127.5 * apart - 1.0], axis=3)


class ResidualStage(keras.layers.Layer):
    """Halves the side and sets the channels: two 3 x 3 convolutions beside a 1 x 1 shortcut."""

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        options: dict[str, Any] = {"padding": "same", "use_bias": False}
        self._shortcut = keras.layers.Conv2D(filters, 1, **options)
        self._pool = keras.layers.AveragePooling2D(2, padding="same")
        self._first = keras.layers.Conv2D(filters, 3, strides=2, **options)
        self._second = keras.layers.Conv2D(filters, 3, **options)
        self._norms = [keras.layers.BatchNormalization(momentum=NORM_MOMENTUM) for _ in range(2)]

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = tf.nn.relu(self._norms[0](self._first(inputs), training=training))
        x = self._norms[1](self._second(x), training=training)
        return tf.nn.relu(x + self._shortcut(self._pool(inputs)))


class PictureTower(keras.Model):
    """[rows, side, side, 3] uint8 -> [rows, dim]: a small residual network.

    The first convolution strides already, so that most of the work is done at a quarter of the
    pixels and less.
    """

    def __init__(
        self,
        *,
        dim: int,
        filters: Sequence[int],
        dropout: float,
        augmentation: str,
        channels: Channels,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._augment = Augment(augmentation)
        self._standardize = Standardize(*channels)
        self._stem = keras.layers.Conv2D(filters[0], 5, strides=2, padding="same", use_bias=False)
        self._norm = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM)
        self._stages = [ResidualStage(channels) for channels in filters[1:]]
        self._pools = [keras.layers.GlobalAveragePooling2D(), keras.layers.GlobalMaxPooling2D()]
        # What comes out of a ReLU is never negative: without centring, all embeddings begin in one
        # narrow cone, and the contrastive terms need long to get them out of it.
        self._center = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM)
        self._dropout = keras.layers.Dropout(dropout)
        self._head = keras.layers.Dense(dim)
        self._unit = UnitLength()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self._augment(tf.cast(inputs, tf.float32), training=training)
        x = tf.nn.relu(self._norm(self._stem(self._standardize(x)), training=training))
        for stage in self._stages:
            x = stage(x, training=training)
        x = self._center(tf.concat([pool(x) for pool in self._pools], axis=1), training=training)
        return self._unit(self._head(self._dropout(x, training=training)))


class FeatureTower(keras.Model):
    """[rows, feature_dim] float32, scaled by the transform -> [rows, dim]: dense layers."""

    def __init__(self, *, dim: int, hidden: Sequence[int], dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hidden = [keras.layers.Dense(units, activation="relu") for units in hidden]
        self._dropout = keras.layers.Dropout(dropout)
        self._head = keras.layers.Dense(dim)
        self._unit = UnitLength()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = inputs
        for layer in self._hidden:
            x = layer(x)
        return self._unit(self._head(self._dropout(x, training=training)))


class TextTower(keras.Model):
    """[rows, words] int64 tokens, -1 = padding -> [rows, dim]: a bag of words, in any order.

    The words' vectors are averaged with learned weights of the words; a learned vector that is
    always in the bag makes a text without any word an embedding too.
    """

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        token_dim: int,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._vectors = keras.layers.Embedding(num_tokens + 1, token_dim)  # 0 = always in the bag
        self._scores = keras.layers.Embedding(num_tokens + 1, 1, embeddings_initializer="zeros")
        self._hidden = keras.layers.Dense(2 * dim, activation="relu")
        self._dropout = keras.layers.Dropout(dropout)
        self._head = keras.layers.Dense(dim)
        self._unit = UnitLength()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        tokens = tf.pad(inputs + 1, [[0, 0], [1, 0]])
        in_bag = tf.pad(inputs >= 0, [[0, 0], [1, 0]], constant_values=True)
        scores = tf.where(in_bag, self._scores(tokens)[:, :, 0], -1e9)
        shares = tf.nn.softmax(scores, axis=1)
        bag = tf.reduce_sum(shares[:, :, None] * self._vectors(tokens), axis=1)
        return self._unit(self._head(self._dropout(self._hidden(bag), training=training)))
