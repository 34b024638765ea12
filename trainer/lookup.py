"""Numbers looked up by image, or by pair of images, inside a step: what a batch does not carry.

Sorted keys and bisection: a table of ten million edges takes 120 MB, is made in seconds, and gives
the same answer on every machine, whatever the order it was filled in.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Ids are hashes, evenly spread over 62 bits; an odd factor keeps pairs of them as far apart.
_FACTOR = np.int64(-7_046_029_254_386_353_131)  # 2^64 over the golden ratio, made odd


class Lookup:
    """Values by int64 keys.

    keys: [n] int64, distinct, in any order. values: [n, ...]. missing: what all other keys have,
    a number, or an array in the form of a value.
    """

    def __init__(self, keys: np.ndarray, values: np.ndarray, missing: float | np.ndarray) -> None:
        keys = np.asarray(keys, np.int64)
        order = np.argsort(keys, kind="stable")
        self.keys, self.values = keys[order], np.asarray(values)[order]
        if np.any(self.keys[1:] == self.keys[:-1]):
            raise ValueError("a key stands twice")
        self._keys, self._values = tf.constant(self.keys), tf.constant(self.values)
        self._missing = tf.constant(missing, self._values.dtype)

    def find(self, keys: tf.Tensor) -> tf.Tensor:
        """[...] int64 -> [..., *form of a value]."""
        form = self.values.shape[1:]
        shape = tf.concat([tf.shape(keys), np.array(form, np.int32)], axis=0)
        if not len(self.keys):
            return tf.broadcast_to(self._missing, shape)
        flat = tf.reshape(keys, [-1])
        at = tf.minimum(tf.searchsorted(self._keys, flat), len(self.keys) - 1)
        known = tf.reshape(tf.gather(self._keys, at) == flat, [-1] + [1] * len(form))
        found = tf.where(known, tf.gather(self._values, at), self._missing)
        return tf.ensure_shape(tf.reshape(found, shape), [*keys.shape, *form])


def pair_keys(sources: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Keys of directed pairs of image ids, [...] int64 each, of any one shape -> [...] int64.

    For ids that are hashes, two of ten million pairs have one key in 1 of 300,000 cases; `Lookup`
    then refuses them.
    """
    return sources * _FACTOR + targets
