"""How often an image is to be expected in the batches of an epoch: what the logQ correction takes.

Training files in, read without a look at a picture; a table out that a step looks ids up in.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from pipeline import schema
from trainer import parsing
from trainer.example_files import TRAIN, ExampleFiles

_RECORDS_AT_ONCE = 512
_ADDED_UP_AT_ONCE = 1_024  # batches
# The trapezoid rule over ln t: what it integrates falls off steeply on both sides.
_LOG_STEP = 0.5
_TIMES = np.exp(np.arange(-15.0, 16.0, _LOG_STEP))  # the mean time to the first is 1


class Popularity:
    """ln of how often each image is to be expected: once as a seed, and as a drawn neighbour.

    ids: [images] int64, sorted. expected: [images] float64, > 0.
    """

    def __init__(self, ids: np.ndarray, expected: np.ndarray) -> None:
        self.ids, self.expected = ids, expected
        self._ids = tf.constant(ids, tf.int64)
        self._logs = tf.constant(np.log(expected), tf.float32)

    def log_expected(self, ids: tf.Tensor) -> tf.Tensor:
        """[n] int64 -> [n] float32; 0 for an id that no training example holds."""
        if not len(self.ids):
            return tf.zeros(tf.shape(ids))
        at = tf.minimum(tf.searchsorted(self._ids, ids), len(self.ids) - 1)
        known = tf.gather(self._ids, at) == ids
        return tf.where(known, tf.gather(self._logs, at), 0.0)

    @classmethod
    def of(cls, examples: ExampleFiles, neighbors: int) -> Popularity:
        """That of the training split, of whose neighbours `neighbors` a seed are drawn."""
        total, parts = (np.zeros(0, np.int64), np.zeros(0)), []
        for ids, near, weights in _read(examples):
            likely = drawn_probabilities(weights, neighbors)
            there = weights > 0
            parts.append(
                (
                    np.concatenate([ids, near[there]]),
                    np.concatenate([np.ones(len(ids)), likely[there]]),
                )
            )
            if len(parts) == _ADDED_UP_AT_ONCE:
                total, parts = _add_up([total, *parts]), []
        return cls(*_add_up([total, *parts]))


def _add_up(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(ids, numbers) each -> (distinct ids in order, the sums of their numbers)."""
    ids, numbers = (np.concatenate(values) for values in zip(*parts, strict=True))
    distinct, place = np.unique(ids, return_inverse=True)
    return distinct, np.bincount(place, numbers, len(distinct))


def _read(examples: ExampleFiles) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids [n], ids of all neighbours and their weights [n, K] of the training seeds, 0 = none."""

    @tf.autograph.experimental.do_not_convert
    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        parsed = parsing.parse(serialized, parsing.star_features(examples.spec))
        near = parsing.stack_neighbors(parsed, examples, [schema.IMAGE_ID])
        name = schema.IMAGE_ID.name
        return parsing.hash_ids(parsed[name]), parsing.hash_ids(near[name]), near[parsing.WEIGHT]

    records = tf.data.TFRecordDataset(
        tf.constant(examples.files(TRAIN), tf.string), compression_type=examples.compression
    )
    batches = records.batch(_RECORDS_AT_ONCE).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    yield from batches.as_numpy_iterator()


def drawn_probabilities(weights: np.ndarray, number: int) -> np.ndarray:
    """How likely each neighbour is to be among `number` drawn by weight without replacement.

    weights [seeds, K], 0 = no such neighbour -> [seeds, K] float64. To 1e-6: drawing one after the
    other by weight is to wait for all, each for an exponential time of the rate of its weight, and
    to take the first. Neighbour i is drawn if fewer than `number` of the others come before it,
    which is integrated over the time at which it comes.
    """
    weights = np.asarray(weights, np.float64)
    shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    if number == 1:
        return shares
    likely = (weights > 0).astype(np.float64)
    some = likely.sum(axis=1) > number
    if some.any():
        likely[some] = _integrate(shares[some], number)
    return likely


def _integrate(rates: np.ndarray, number: int) -> np.ndarray:
    """[rows, K] -> [rows, K]: the integral over t of rate e^(-rate t) P(others by t < number)."""
    staying = np.exp(-rates[:, :, None] * _TIMES)  # [rows, K, times]
    before = _arrivals(staying, number)
    after = _arrivals(staying[:, ::-1], number)[::-1]
    likely = np.empty_like(rates)
    for i, (former, later) in enumerate(zip(before[:-1], after[1:], strict=True)):
        fewer = (former * np.cumsum(later, axis=1)[:, ::-1]).sum(axis=1)
        likely[:, i] = rates[:, i] * (staying[:, i] * fewer) @ (_TIMES * _LOG_STEP)
    return likely


def _arrivals(staying: np.ndarray, number: int) -> list[np.ndarray]:
    """For 0 to K of the neighbours, how likely 0 … number - 1 of them have come by each time.

    staying [rows, K, times] -> K + 1 of [rows, number, times].
    """
    none = np.zeros((len(staying), number, staying.shape[2]))
    none[:, 0] = 1.0
    found = [none]
    for i in range(staying.shape[1]):
        stays = staying[:, i : i + 1]
        came = np.pad(found[-1][:, :-1], [(0, 0), (1, 0), (0, 0)])
        found.append(found[-1] * stays + came * (1.0 - stays))
    return found
