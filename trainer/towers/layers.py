"""What several towers are made of."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

NORM_MOMENTUM = 0.9  # Keras' 0.99 has not settled after the few hundred steps of a small catalog
SMALLEST_SCALE = 0.75  # side of the smallest cut-out that augmentation takes, of the picture's


class UnitLength(keras.layers.Layer):
    """[rows, dim] -> the same rows scaled to length 1, float32; a row of zeros stays."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(inputs, axis=-1, epsilon=1e-12)


class Projection(keras.layers.Layer):
    """The end of a tower: [rows, anything] -> [rows, dim] float32 of length 1."""

    def __init__(self, dim: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dropout = keras.layers.Dropout(dropout)
        self._head = keras.layers.Dense(dim)
        self._unit = UnitLength()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self._unit(self._head(self._dropout(inputs, training=training)))


class Augment(keras.layers.Layer):
    """In training, cuts out a part of each picture, scaled to the full size; keeps its colours.

    [rows, side, side, 3] in [0, 255], any type -> the same, float32. kind: "mirror" also mirrors
    half of the pictures, "turn" shows them in all eight ways of turning and mirroring a square,
    "none" leaves pictures as they are.
    """

    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self._kind = kind
        self._seeds = keras.random.SeedGenerator()

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        inputs = tf.cast(inputs, tf.float32)
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
