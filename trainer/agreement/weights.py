"""Weights that begin anew in place, and Adam on them: thousands of steps in one call of TensorFlow.

A model that is trained again and again keeps its variables, so that nothing is traced twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def fresh(shape: Sequence[int], draw: np.random.Generator) -> np.ndarray:
    """Glorot and Bengio's uniform weights, [in, out] or [height, width, in, out]; biases [n] 0."""
    if len(shape) < 2:
        return np.zeros(shape, np.float32)
    area = math.prod(shape[:-2])
    bound = math.sqrt(6.0 / (area * (shape[-2] + shape[-1])))
    return draw.uniform(-bound, bound, shape).astype(np.float32)


class Adam:
    """Kingma and Ba 2015, as Keras has it, in one operation a variable."""

    def __init__(self, variables: Sequence[tf.Variable], learning_rate: float) -> None:
        self._variables, self._rate = list(variables), learning_rate
        self._means = [tf.Variable(tf.zeros_like(each)) for each in variables]
        self._squares = [tf.Variable(tf.zeros_like(each)) for each in variables]

    def reset(self) -> None:
        """Forgets all gradients."""
        for slot in (*self._means, *self._squares):
            slot.assign(tf.zeros_like(slot))

    def apply(self, gradients: Sequence[tf.Tensor], step: tf.Tensor) -> None:
        """step: scalar int32, from 0."""
        power = tf.cast(step + 1, tf.float32)
        every = zip(self._variables, self._means, self._squares, gradients, strict=True)
        for variable, mean, square, gradient in every:
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=0.9**power,
                beta2_power=0.999**power,
                lr=self._rate,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )


def decay(variables: Sequence[tf.Variable]) -> tf.Tensor:
    """The sum of half the squared weights; biases do not count."""
    return tf.add_n([tf.nn.l2_loss(each) for each in variables if each.shape.rank > 1])
