"""Images that stand more than once in a batch: each is looked at once, and copied from there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf


def first_of_each(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(where each distinct id stands first [distinct], for each row its distinct id [rows]), int32.

    Distinct ids come in the order in which they stand first, so that `gather(gather(x, first),
    place)` is x itself for rows x that equal ids share.
    """
    distinct, place = tf.unique(ids)
    rows = tf.range(tf.size(ids))
    return tf.math.unsorted_segment_min(rows, place, tf.size(distinct)), place


def count_images(batch: Mapping[str, tf.Tensor]) -> tuple[int, int]:
    """(distinct images, seeds and neighbours that there are) of a batch of `trainer.dataset`.

    What the model encodes, and what it would if it encoded each where it stands.
    """
    standing = np.concatenate([np.ravel(batch["id"]), np.ravel(batch["neighbor_id"])])
    standing = standing[standing != 0]
    return len(np.unique(standing)), len(standing)
