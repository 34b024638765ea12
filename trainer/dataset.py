"""Reads the examples stage: neighbour-augmented TFRecords in, batches as dicts of tensors out.

A batch has one leading dimension, the seeds, everything else is padded; models pack it into graphs
inside `call`, because only this shape survives what Keras and tf.distribute do to a batch:

    content          [batch, side, side, 3] uint8, or [batch, feature_dim] float32 (scaled)
    neighbor_content [batch, n, ...]         the neighbours of this step; zeros = none
    neighbor_weight  [batch, n] float32      0 = none; see `_draw_neighbors`
    id               [batch] int64           hash of the image id, never 0
    neighbor_id      [batch, n] int64        0 = none
    graph_id         [batch, k] int64        all neighbours in the file; 0 = none
    label            [batch] int64           -1 = none
    neighbor_label   [batch, n] int64        -1 = none
    heldout_label    [batch] int64           -1 = none; never in the training split
    labels, neighbor_labels, heldout_labels
                     [..., labels] int64     all labels, -1 = padding; where any image has several
    tokens           [batch, words] int64    of one text of the seed; -1 = padding
    text_id          [batch] int64           that text as a bag of words; 0 = the seed has no text
    seed_text_id     [batch, t] int64        all texts of the seed; 0 = padding

The order of the examples depends on (seed, epoch) alone, draws on (seed, step). Every dataset knows
its number of batches: with an unknown one, Keras runs a step on no data at the end of each epoch,
and metrics come out wrong.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline import schema
from trainer import parsing
from trainer.example_files import TRAIN, ExampleFiles
from trainer.transform import Transform

Batch = dict[str, tf.Tensor]
_NEIGHBOR_SALT, _TEXT_SALT, _ORDER_SALT = 1, 2, 3  # keep the draws of one number apart
_FILES_AT_ONCE = 16


def training_batches(
    examples: ExampleFiles,
    transform: Transform,
    *,
    batch_size: int,
    neighbors: int,
    epochs: int,
    seed: int,
    shuffle_buffer: int,
) -> tf.data.Dataset:
    """All batches of all epochs, `steps_per_epoch` to an epoch.

    Each epoch holds every example once, in another order; its last batch may be smaller. Made twice
    with the same seed, it gives the same batches.
    """

    @tf.autograph.experimental.do_not_convert
    def to_batch(step: tf.Tensor, serialized: tf.Tensor) -> Batch:
        draw = tf.stack([tf.constant(seed, tf.int64), step])
        return _to_batch(
            serialized, examples, transform, min(neighbors, examples.spec.neighbors), draw
        )

    @tf.autograph.experimental.do_not_convert
    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        draw = _salted(tf.stack([tf.constant(seed, tf.int64), epoch]), _ORDER_SALT)
        return _shuffled(examples, draw, shuffle_buffer).rebatch(batch_size)

    batches = tf.data.Dataset.range(epochs).flat_map(epoch_batches).enumerate()
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _known(batches, epochs * steps_per_epoch(examples, TRAIN, batch_size))


def _shuffled(examples: ExampleFiles, draw: tf.Tensor, buffer: int) -> tf.data.Dataset:
    """The serialized examples of an epoch, `buffer` at a time, in an order drawn by `draw`.

    Files come in drawn order, several at once. In a file and across files examples already stand
    as if drawn; what is left to do is to give each epoch other batches. Shuffling whole buffers,
    unlike Dataset.shuffle, asks for no random numbers but those of `draw`.
    """
    paths = tf.constant(examples.files(TRAIN), tf.string)
    paths = tf.random.experimental.stateless_shuffle(paths, draw)
    records = tf.data.Dataset.from_tensor_slices(paths).interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type=examples.compression),
        cycle_length=_FILES_AT_ONCE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return (
        records.batch(buffer)
        .enumerate()
        .map(
            lambda part, serialized: tf.random.experimental.stateless_shuffle(
                serialized, tf.random.experimental.stateless_fold_in(draw, part + 1)
            )
        )
    )


def evaluation_batches(
    examples: ExampleFiles, transform: Transform, split: str, *, batch_size: int, neighbors: int
) -> tf.data.Dataset:
    """Every example of a split once, in the order of the files, with its strongest neighbours.

    Of each seed's texts, the one of the greatest weight.
    """

    @tf.autograph.experimental.do_not_convert
    def to_batch(serialized: tf.Tensor) -> Batch:
        return _to_batch(
            serialized, examples, transform, min(neighbors, examples.spec.neighbors), None
        )

    records = tf.data.TFRecordDataset(
        tf.constant(examples.files(split), tf.string), compression_type=examples.compression
    )
    batches = records.batch(batch_size)
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _known(batches, steps_per_epoch(examples, split, batch_size))


def steps_per_epoch(examples: ExampleFiles, split: str, batch_size: int) -> int:
    """Batches in a split, the last one maybe smaller."""
    return -(-examples.records(split) // batch_size)


def _known(batches: tf.data.Dataset, number: int) -> tf.data.Dataset:
    return batches.apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)


def _to_batch(
    serialized: tf.Tensor,
    examples: ExampleFiles,
    transform: Transform,
    neighbors: int,
    draw: tf.Tensor | None,
) -> Batch:
    """[batch] serialized examples -> a batch. draw: [2] int64, seeds the draws; None: no draws."""
    parsed = parsing.parse(serialized, parsing.read_features(examples.spec))
    near = parsing.stack_neighbors(parsed, examples)
    weights, chosen = _draw_neighbors(
        near[parsing.WEIGHT], neighbors, _salted(draw, _NEIGHBOR_SALT)
    )
    graph_id = tf.where(near[parsing.WEIGHT] > 0, _hash(near[schema.IMAGE_ID.name]), 0)
    content = schema.content_feature(examples.spec.feature_dim).name
    drawn = {name: _pick(values, chosen) for name, values in near.items()}
    present = weights > 0
    return {
        "content": parsing.decode(parsed[content], examples),
        "neighbor_content": parsing.decode_present(drawn[content], present, examples),
        "neighbor_weight": weights,
        "id": _hash(parsed[schema.IMAGE_ID.name]),
        "neighbor_id": _pick(graph_id, chosen),
        "graph_id": graph_id,
        **_labels(parsed, drawn, present, multi_label=examples.spec.multi_label),
        **_texts(parsed, transform, _salted(draw, _TEXT_SALT)),
    }


def _labels(
    parsed: parsing.Parsed, drawn: parsing.Parsed, present: tf.Tensor, *, multi_label: bool
) -> Batch:
    """Labels of seeds and of drawn neighbours. present: [batch, n] bool."""
    none = schema.NO_LABEL
    found = {
        "label": parsed[schema.LABEL.name],
        "neighbor_label": tf.where(present, drawn[schema.LABEL.name], none),
        "heldout_label": parsed[schema.HELDOUT_LABEL.name],
    }
    if multi_label:
        found["labels"] = parsed[schema.LABELS.name].to_tensor(none)
        found["neighbor_labels"] = tf.where(present[:, :, None], drawn[schema.LABELS.name], none)
        found["heldout_labels"] = parsed[schema.HELDOUT_LABELS.name].to_tensor(none)
    return found


def _salted(draw: tf.Tensor | None, salt: int) -> tf.Tensor | None:
    return None if draw is None else tf.random.experimental.stateless_fold_in(draw, salt)


def _gumbel(shape: tf.Tensor, draw: tf.Tensor | None) -> tf.Tensor:
    """Noise that makes the greatest ln(weight) a draw by weight; zeros where nothing is drawn."""
    if draw is None:
        return tf.zeros(shape)
    uniform = tf.random.stateless_uniform(shape, draw, minval=1e-20)
    return -tf.math.log(-tf.math.log(uniform))


def _draw_neighbors(
    weights: tf.Tensor, number: int, draw: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Weights and positions [batch, number] of neighbours drawn by weight, without replacement.

    weights [batch, K]. Drawn ones have weight 1, since their weight has spoken in the draw; where
    all K are taken, or the strongest without a draw, they keep their weights. 0 = none.
    """
    score = tf.where(weights > 0, tf.math.log(weights), float("-inf"))
    order = tf.math.top_k(score + _gumbel(tf.shape(weights), draw), number).indices
    taken = tf.gather(weights, order, batch_dims=1)
    if draw is not None and number < weights.shape[1]:
        taken = tf.cast(taken > 0, tf.float32)
    return tf.maximum(taken, 0.0), order


def _pick(values: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """[batch, K, ...], [batch, n] -> [batch, n, ...]."""
    return tf.gather(values, chosen, batch_dims=1)


def _hash(texts: tf.Tensor) -> tf.Tensor:
    """Strings -> int64 in [1, 2^62]: 0 is free to mean "none"."""
    return tf.strings.to_hash_bucket_fast(texts, 2**62) + 1


def _texts(parsed: Batch, transform: Transform, draw: tf.Tensor | None) -> Batch:
    """One text a seed, drawn by weight, as tokens; and what tells texts apart.

    Texts are the same when they hold the same words, in whatever order: the text tower cannot tell
    more. A text's id is a hash of its bag of words.
    """
    texts, weights = parsed[schema.TEXT.name], parsed[schema.TEXT_WEIGHT.name]
    tokens = transform.tokens(texts.flat_values)
    word_ids = tokens.with_flat_values(_hash(tf.strings.as_string(tokens.flat_values)))
    bags = tf.reduce_sum(word_ids, axis=1) | 1  # sums wrap around; odd, so never 0
    score = tf.math.log(weights.flat_values)
    score = texts.with_flat_values(score + _gumbel(tf.shape(score), draw))
    any_text = tf.pad(
        score.to_tensor(float("-inf")), [[0, 0], [0, 1]], constant_values=float("-inf")
    )
    place = texts.row_starts() + tf.argmax(any_text, axis=1)
    has_text = texts.row_lengths() > 0
    drawn = tf.gather(tokens, tf.boolean_mask(place, has_text))
    lengths = tf.scatter_nd(tf.where(has_text), drawn.row_lengths(), tf.shape(has_text, tf.int64))
    words = tf.RaggedTensor.from_row_lengths(drawn.flat_values, lengths, validate=False)
    picked = tf.gather(tf.pad(bags, [[0, 1]]), tf.minimum(place, tf.size(bags, tf.int64)))
    return {
        "tokens": words.to_tensor(-1),
        "text_id": tf.where(has_text, picked, 0),
        "seed_text_id": texts.with_flat_values(bags).to_tensor(0),
    }
