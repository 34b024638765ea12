"""The terms of the loss as plain functions of tensors: no weights, no state.

An embedding is a row of length 1, so that a product of two is their cosine.
"""

from __future__ import annotations

import tensorflow as tf

LOWEST = -1e9  # stands for minus infinity, but leaves gradients finite


def supervised(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy, mean over the labelled seeds; 0 where no seed has a label.

    logits [batch, classes] float32; labels [batch] int64, -1 = none.
    """
    known = tf.cast(labels >= 0, logits.dtype)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
    return tf.math.divide_no_nan(tf.reduce_sum(known * each), tf.reduce_sum(known))


def supervised_multi(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sigmoid cross-entropy, mean over the labelled seeds and all classes; 0 where no label is.

    Each class is a question of its own: has the image this label, or not?
    logits [batch, classes] float32; labels [batch, any number] int64, -1 = padding.
    """
    answers = tf.reduce_max(tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=1)
    answers = tf.maximum(answers, 0.0)  # of a batch that is 0 labels wide
    known = tf.cast(tf.reduce_any(labels >= 0, axis=1), logits.dtype)
    each = tf.nn.sigmoid_cross_entropy_with_logits(answers, logits)
    return tf.math.divide_no_nan(
        tf.reduce_sum(known * tf.reduce_mean(each, axis=1)), tf.reduce_sum(known)
    )


def contrast(logits: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """InfoNCE, mean over the positive pairs; 0 where there is none.

    A positive pair (a, c) costs -ln(e^l_ac / (e^l_ac + sum of e^l_an over the negatives n of a)).
    An anchor's other positives are no part of the sum, nor is any pair that is neither positive
    nor negative. An anchor without negatives costs 0.

    logits [anchors, candidates] float32; positive, negative [anchors, candidates] bool, disjoint.
    """
    negatives = tf.reduce_logsumexp(tf.where(negative, logits, LOWEST), axis=1, keepdims=True)
    cost = tf.where(positive, tf.nn.softplus(negatives - logits), 0.0)
    pairs = tf.cast(tf.math.count_nonzero(positive), logits.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(cost), pairs)


def edge_contrast(
    seeds: tf.Tensor,
    neighbors: tf.Tensor,
    *,
    seed_ids: tf.Tensor,
    neighbor_ids: tf.Tensor,
    graph_ids: tf.Tensor,
    seed_labels: tf.Tensor,
    neighbor_labels: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """InfoNCE over edges: a seed picks its neighbour out of the batch's images, and vice versa.

    Candidates are all images of the batch, seeds and neighbours. No negative is a pair of the same
    image, of images that share a label, or of images known to be related: one is in the other's
    neighbourhood, or both were drawn around the same seed. An image that stands in the batch m
    times counts as one: m is what its frequency in the batch is, and ln m is taken from its logits
    (the logQ correction of in-batch sampling).

    seeds [batch, dim]; neighbors [batch, n, dim]; seed_ids [batch] int64; neighbor_ids [batch, n]
    int64, 0 = no such neighbour; graph_ids [batch, k] int64, the whole neighbourhoods, 0 = none;
    seed_labels [batch, any number], neighbor_labels [batch, n, any number] int64, -1 = none.
    """
    batch, drawn = tf.unstack(tf.shape(neighbor_ids))
    ids = tf.concat([seed_ids, tf.reshape(neighbor_ids, [-1])], axis=0)
    group = tf.concat([tf.range(batch), tf.repeat(tf.range(batch), drawn)], axis=0)
    nodes = tf.concat([seeds, tf.reshape(neighbors, [-1, seeds.shape[-1]])], axis=0)

    present = ids != 0
    both = present[:, None] & present[None, :]
    same = ids[:, None] == ids[None, :]
    is_seed = tf.range(tf.size(ids)) < batch
    of_group = group[:, None] == group[None, :]
    positive = both & of_group & ~same & (is_seed[:, None] != is_seed[None, :])

    around = tf.concat([seed_ids[:, None], graph_ids], axis=1)  # [batch, 1 + k]
    in_group = tf.reduce_any(around[:, :, None] == ids[None, None, :], axis=1)  # [batch, nodes]
    related = tf.gather(in_group, group)
    related |= tf.transpose(related) | of_group
    negative = both & ~same & ~related & ~_share_label(seed_labels, neighbor_labels)

    copies = tf.reduce_sum(tf.cast(same, nodes.dtype), axis=1)
    logits = tf.matmul(nodes, nodes, transpose_b=True) / temperature
    logits -= tf.where(negative, tf.math.log(copies)[None, :], 0.0)
    return contrast(logits, positive, negative)


def _share_label(seed_labels: tf.Tensor, neighbor_labels: tf.Tensor) -> tf.Tensor:
    """[nodes, nodes] bool, whether two of them have a label in common; seeds, then neighbours."""
    of_neighbors = tf.reshape(neighbor_labels, [-1, tf.shape(neighbor_labels)[-1]])
    width = tf.maximum(tf.shape(seed_labels)[1], tf.shape(of_neighbors)[1])
    labels = tf.concat([_widen(seed_labels, width), _widen(of_neighbors, width)], axis=0)
    distinct, place = tf.unique(tf.reshape(labels, [-1]))
    has = tf.one_hot(tf.reshape(place, [-1, width]), tf.size(distinct))
    has = tf.reduce_max(has * tf.cast(labels >= 0, has.dtype)[:, :, None], axis=1)
    return tf.matmul(has, has, transpose_b=True) > 0.0


def _widen(labels: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """[rows, labels] -> [rows, width], filled up with -1."""
    return tf.pad(labels, [[0, 0], [0, width - tf.shape(labels)[1]]], constant_values=-1)


def text_contrast(
    texts: tf.Tensor,
    images: tf.Tensor,
    *,
    text_ids: tf.Tensor,
    image_text_ids: tf.Tensor,
    image_ids: tf.Tensor,
    graph_ids: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """InfoNCE over (text, image), mean of both directions: each picks the other out of the batch.

    Row i of `texts` was drawn from the texts of image i. No negative is a pair of a text and an
    image that has that text too, or that is the text's image's neighbour.

    texts, images [batch, dim]; text_ids [batch] int64, 0 = the image has no text; image_text_ids
    [batch, t] int64, all texts of an image, 0 = padding; image_ids [batch] int64; graph_ids
    [batch, k] int64, the images' neighbourhoods, 0 = none.
    """
    has_text = (text_ids != 0)[:, None]
    positive = has_text & tf.eye(tf.size(text_ids), dtype=tf.bool)
    shared = tf.reduce_any(image_text_ids[None, :, :] == text_ids[:, None, None], axis=2)
    around = tf.concat([image_ids[:, None], graph_ids], axis=1)
    related = tf.reduce_any(around[:, :, None] == image_ids[None, None, :], axis=1)
    negative = has_text & ~shared & ~related & ~tf.transpose(related)
    logits = tf.matmul(texts, images, transpose_b=True) / temperature
    forward = contrast(logits, positive, negative)
    backward = contrast(tf.transpose(logits), tf.transpose(positive), tf.transpose(negative))
    return (forward + backward) / 2.0


def mean_cosine(embeddings: tf.Tensor) -> tf.Tensor:
    """Mean cosine of the pairs of different rows of [batch, dim]; 0 where there is one row.

    The measure of collapse: near 0 while the embedding uses its room, 1 when all rows are alike.
    """
    rows = tf.cast(tf.shape(embeddings)[0], embeddings.dtype)
    total = tf.reduce_sum(tf.square(tf.reduce_sum(embeddings, axis=0)))
    norms = tf.reduce_sum(tf.square(embeddings))
    return tf.math.divide_no_nan(total - norms, rows * (rows - 1.0))
