"""Distances between rows of numbers, with the results of neural-structured-learning.

In: two tensors of one shape and weights. Out: weighted distances, reduced as the config says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainer.gnn.configs import DistanceConfig, DistanceType, Reduction, TransformType

EPSILON = 1e-7  # within the logarithms of the divergences
SUM_TOLERANCE = 1e-4  # of a distribution from 1: float32 sums of a thousand classes are that good
_OF_ROWS = (
    DistanceType.COSINE,
    DistanceType.JENSEN_SHANNON_DIVERGENCE,
    DistanceType.KL_DIVERGENCE,
)
_AVERAGES = (Reduction.MEAN, Reduction.SUM_OVER_BATCH_SIZE, Reduction.SUM_BY_NONZERO_WEIGHTS)


def pairwise_distance(
    sources: tf.Tensor,
    targets: tf.Tensor,
    weights: Any = 1.0,
    config: DistanceConfig | None = None,
) -> tf.Tensor:
    """Weighted distances of two tensors of the same shape, reduced to a scalar.

    The `pairwise_distance_wrapper` of neural-structured-learning. weights: a number, or a tensor of
    the rank of `sources` that broadcasts to it, of size 1 along `sum_over_axis`. With reduction
    NONE the result is of the shape of `sources`, for cosine and the divergences with size 1 along
    the axis; sum_over_axis does not change it for l1 and l2, nor that of SUM.
    A denominator of 0 gives 0.
    """
    config = config or DistanceConfig()
    require_axis(config)
    sources, targets = _at_least_float32(sources), _at_least_float32(targets)
    axis = config.sum_over_axis
    if axis is not None and not -sources.shape.rank <= axis < sources.shape.rank:
        raise ValueError(f"sum_over_axis is {axis}, of tensors with {sources.shape.rank} axes")
    each = _distances(sources, targets, config)
    weights = tf.cast(weights, each.dtype)
    if axis is not None and weights.shape.rank and weights.shape[axis] != 1:
        raise ValueError(f"weights of shape {weights.shape}; along axis {axis} there can be one")
    reduced = _reduce(each * weights, tf.broadcast_to(weights, tf.shape(each)), config.reduction)
    if axis is None or config.distance_type in _OF_ROWS or config.reduction not in _AVERAGES:
        return reduced
    return reduced * tf.cast(tf.shape(each)[axis], each.dtype)


def require_axis(config: DistanceConfig) -> None:
    """ValueError where a distance of whole rows does not know along which axis they lie."""
    if config.distance_type in _OF_ROWS and config.sum_over_axis is None:
        raise ValueError(
            f"distance_type {DistanceType(config.distance_type).value!r} needs sum_over_axis, "
            "such as -1; it is None"
        )


def row_distance(sources: tf.Tensor, targets: tf.Tensor, config: DistanceConfig) -> tf.Tensor:
    """[rows, dim], [rows, dim] -> [rows, 1]: of whole rows, whatever the config reduces to."""
    along_rows = DistanceConfig(config.distance_type, Reduction.NONE, -1, config.transform_fn)
    return tf.reduce_sum(_distances(sources, targets, along_rows), axis=-1, keepdims=True)


def _distances(sources: tf.Tensor, targets: tf.Tensor, config: DistanceConfig) -> tf.Tensor:
    """Unweighted and unreduced, at least float32; along the axis of a distance of rows size 1."""
    sources, targets = _at_least_float32(sources), _at_least_float32(targets)
    axis = -1 if config.sum_over_axis is None else config.sum_over_axis
    if config.transform_fn == TransformType.SOFTMAX:
        sources, targets = tf.nn.softmax(sources, axis), tf.nn.softmax(targets, axis)
    elif config.distance_type in _DIVERGENCES:
        _check_distributions(axis, sources, targets)
    if config.distance_type == DistanceType.L1:
        return tf.abs(sources - targets)
    if config.distance_type == DistanceType.L2:
        return tf.math.squared_difference(sources, targets)
    if config.distance_type == DistanceType.COSINE:
        sources, targets = (tf.math.l2_normalize(side, axis) for side in (sources, targets))
        return 1.0 - tf.reduce_sum(sources * targets, axis, keepdims=True)
    divergence = _DIVERGENCES[DistanceType(config.distance_type)]
    return tf.reduce_sum(divergence(sources, targets), axis, keepdims=True)


def _at_least_float32(side: tf.Tensor) -> tf.Tensor:
    side = tf.convert_to_tensor(side)
    return side if side.dtype == tf.float64 else tf.cast(side, tf.float32)


def _check_distributions(axis: int, *sides: tf.Tensor) -> None:
    for side in sides:
        tf.debugging.assert_non_negative(side, "a divergence is of probabilities; these are not")
        tf.debugging.assert_near(
            tf.reduce_sum(side, axis),
            tf.ones([], side.dtype),
            atol=SUM_TOLERANCE,
            message="a divergence is of probabilities, which sum to 1; transform_fn 'softmax' "
            "makes them of logits",
        )


def _kl(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    return p * (tf.math.log(p + EPSILON) - tf.math.log(q + EPSILON))


def _js(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    middle = (p + q) / 2.0
    return (_kl(p, middle) + _kl(q, middle)) / 2.0


_DIVERGENCES: dict[DistanceType, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    DistanceType.KL_DIVERGENCE: _kl,
    DistanceType.JENSEN_SHANNON_DIVERGENCE: _js,
}


def _reduce(weighted: tf.Tensor, weights: tf.Tensor, reduction: Reduction | str) -> tf.Tensor:
    """weighted: distances times weights; weights: of the same shape."""
    if reduction == Reduction.NONE:
        return weighted
    total = tf.reduce_sum(weighted)
    if reduction == Reduction.SUM:
        return total
    if reduction == Reduction.MEAN:
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights))
    if reduction == Reduction.SUM_OVER_BATCH_SIZE:
        return tf.math.divide_no_nan(total, tf.cast(tf.size(weights), total.dtype))
    return tf.math.divide_no_nan(total, tf.math.count_nonzero(weights, dtype=total.dtype))
