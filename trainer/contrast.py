"""The contrastive terms of the loss as plain functions of tensors: no weights, no state.

An embedding is a row of length 1, so that a product of two is their cosine. InfoNCE is van den Oord
et al. 2018; the corrections for how often an image stands in a batch are Yi et al. 2019,
"Sampling-bias-corrected neural modeling for large corpus item recommendations".
"""

from __future__ import annotations

import tensorflow as tf

LOWEST = -1e9  # stands for minus infinity, but leaves gradients finite


def info_nce(
    logits: tf.Tensor,
    positive: tf.Tensor,
    negative: tf.Tensor,
    hardest: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """InfoNCE, mean over the positive pairs; 0 where there is none.

    A positive pair (a, c) costs -ln(e^l_ac / (e^l_ac + sum of e^l_an over the negatives n of a)).
    An anchor's other positives are no part of the sum, nor is any pair that is neither positive
    nor negative. An anchor without negatives costs 0.

    logits [anchors, candidates] float32; positive, negative [anchors, candidates] bool, disjoint;
    hardest: scalar int, the number of negatives of an anchor that count, those of the greatest
    logits, of equal ones either; None: all. weights [anchors, candidates], >= 0: how much each
    positive pair counts in the mean; None: all alike.
    """
    against = tf.where(negative, logits, LOWEST)
    if hardest is not None:
        against = tf.math.top_k(against, tf.minimum(hardest, tf.shape(against)[1])).values
    negatives = tf.reduce_logsumexp(against, axis=1, keepdims=True)
    cost = tf.where(positive, tf.nn.softplus(negatives - logits), 0.0)
    if weights is not None:
        weights = tf.where(positive, weights, 0.0)
        return tf.math.divide_no_nan(tf.reduce_sum(weights * cost), tf.reduce_sum(weights))
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
    copies_count_once: bool = True,
    log_expected: tf.Tensor | None = None,
    hardest: tf.Tensor | None = None,
    agreement: tf.Tensor | None = None,
) -> tf.Tensor:
    """InfoNCE over edges: a seed picks its neighbour out of the batch's images, and vice versa.

    Candidates are all images of the batch, seeds and neighbours. No negative is a pair of the same
    image, of images that share a label, or of images known to be related: one is in the other's
    neighbourhood, or both were drawn around the same seed.

    Popular images stand in more batches, and more than once in a batch. copies_count_once: one
    that stands there m times counts as one, ln m is taken from its logits as a negative.
    log_expected: ln of how often each image is to be expected, up to a constant, which is taken
    from its logits, as a positive as well.

    agreement: how far each neighbour is to be trusted; the mean over the pairs is weighted by it.
    A doubted neighbour is no negative either.

    seeds [batch, dim]; neighbors [batch, n, dim]; seed_ids [batch] int64; neighbor_ids [batch, n]
    int64, 0 = no such neighbour; graph_ids [batch, k] int64, the whole neighbourhoods, 0 = none;
    seed_labels [batch, any number], neighbor_labels [batch, n, any number] int64, -1 = none;
    log_expected [batch + batch * n], of the seeds, then of the neighbours row by row; hardest: see
    `info_nce`; agreement [batch, n], >= 0, None: all alike.
    """
    batch, drawn = tf.unstack(tf.shape(neighbor_ids))
    ids = all_ids(seed_ids, neighbor_ids)
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

    logits = tf.matmul(nodes, nodes, transpose_b=True) / temperature
    if log_expected is not None:
        logits -= log_expected[None, :]
    if copies_count_once:
        copies = tf.reduce_sum(tf.cast(same, nodes.dtype), axis=1)
        logits -= tf.where(negative, tf.math.log(copies)[None, :], 0.0)
    weights = None
    if agreement is not None:  # one side of a positive pair is a seed, the other its neighbour
        trust = tf.concat([tf.ones([batch], nodes.dtype), tf.reshape(agreement, [-1])], axis=0)
        weights = trust[:, None] * trust[None, :]
    return info_nce(logits, positive, negative, hardest, weights)


def all_ids(seed_ids: tf.Tensor, neighbor_ids: tf.Tensor) -> tf.Tensor:
    """[batch], [batch, n] -> [batch + batch * n]: seeds, then neighbours row by row."""
    return tf.concat([seed_ids, tf.reshape(neighbor_ids, [-1])], axis=0)


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
    hardest: tf.Tensor | None = None,
) -> tf.Tensor:
    """InfoNCE over (text, image), mean of both directions: each picks the other out of the batch.

    Row i of `texts` was drawn from the texts of image i. No negative is a pair of a text and an
    image that has that text too, or that is the text's image's neighbour.

    texts, images [batch, dim]; text_ids [batch] int64, 0 = the image has no text; image_text_ids
    [batch, t] int64, all texts of an image, 0 = padding; image_ids [batch] int64; graph_ids
    [batch, k] int64, the images' neighbourhoods, 0 = none; hardest: see `info_nce`.
    """
    has_text = (text_ids != 0)[:, None]
    positive = has_text & tf.eye(tf.size(text_ids), dtype=tf.bool)
    shared = tf.reduce_any(image_text_ids[None, :, :] == text_ids[:, None, None], axis=2)
    around = tf.concat([image_ids[:, None], graph_ids], axis=1)
    related = tf.reduce_any(around[:, :, None] == image_ids[None, None, :], axis=1)
    negative = has_text & ~shared & ~related & ~tf.transpose(related)
    logits = tf.matmul(texts, images, transpose_b=True) / temperature
    forward = info_nce(logits, positive, negative, hardest)
    backward = info_nce(
        tf.transpose(logits), tf.transpose(positive), tf.transpose(negative), hardest
    )
    return (forward + backward) / 2.0
