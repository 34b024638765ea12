"""The tower for ready features: dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.towers.layers import Projection


class FeatureTower(keras.Model):
    """[rows, feature_dim] float32, scaled by the transform -> [rows, dim]."""

    def __init__(self, *, dim: int, hidden: Sequence[int], dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hidden = [keras.layers.Dense(units, activation="relu") for units in hidden]
        self._project = Projection(dim, dropout)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = inputs
        for layer in self._hidden:
            x = layer(x)
        return self._project(x, training=training)
