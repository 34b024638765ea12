"""Reads the examples stage: neighbour-augmented TFRecords in, batches as dicts of tensors out.

A batch has one leading dimension, the seeds, everything else is padded; models pack it into graphs
inside `call`, because only this shape survives what Keras and tf.distribute do to a batch:

    content          [batch, side, side, 3] uint8, or [batch, feature_dim] float32 (scaled)
    neighbor_content [batch, n, ...]         the neighbours of this step; zeros = none
    neighbor_weight  [batch, n] float32      0 = none; see `draw_neighbors`
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
    graph_senders, graph_receivers
                     [batch, E] int64        edges among the nodes of an example, where asked for:
                                             0 = the seed, i + 1 = neighbour i of this step; those
                                             of other nodes are left out; -1 = padding
    graph_weights    [batch, E] float32      theirs, as the graph has them; 0 = padding

The order of the examples depends on (seed, epoch) alone, draws on (seed, step, row): a dataset that
begins at a later step, or that holds a worker's share of the rows, gives what the whole one gives
there. Every dataset knows its number of batches: with an unknown one, Keras runs a step on no data
at the end of each epoch, and metrics come out wrong.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline import schema
from trainer import parsing
from trainer.draws import ORDER_SALT, Draws, draw_neighbors, draw_text
from trainer.example_files import TRAIN, ExampleFiles
from trainer.transform import Transform

Batch = dict[str, tf.Tensor]
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
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    edges: bool = False,
) -> tf.data.Dataset:
    """The batches of all epochs from `start_step` on, `steps_per_epoch` to an epoch.

    Each epoch holds every example once, in another order; its last batch may be smaller. Made twice
    with the same seed, it gives the same batches. Those before start_step are read, but neither
    parsed nor decoded, and of whole epochs not even that.

    shard: (index, count) of a replica: of every batch it has the rows index, index + count …, so
    that all replicas together see the batches of one. Where the last batch of an epoch has fewer
    rows than there are replicas, those left over get a batch of 0 rows, which batch normalization
    would make no number of: whoever runs the step sees to it.
    """
    steps = steps_per_epoch(examples, TRAIN, batch_size)
    index, count = shard

    @tf.autograph.experimental.do_not_convert
    def to_batch(step: tf.Tensor, serialized: tf.Tensor) -> Batch:
        size = tf.size(serialized)
        rows = tf.range(tf.minimum(index, size), size, count)
        draws = Draws(tf.stack([tf.constant(seed, tf.int64), step]), size, rows)
        return _to_batch(
            tf.gather(serialized, rows), examples, transform, neighbors, draws, edges=edges
        )

    serialized = _serialized_batches(
        examples,
        start_step=start_step,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        shuffle_buffer=shuffle_buffer,
    )
    batches = serialized.enumerate(start_step).map(
        to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return _known(batches, epochs * steps - start_step)


def image_ids(
    examples: ExampleFiles, *, step: int, batch_size: int, seed: int, shuffle_buffer: int
) -> list[str]:
    """The ids of the seeds of one step of `training_batches`, as the catalog has them."""
    epoch = step // steps_per_epoch(examples, TRAIN, batch_size)
    serialized = _serialized_batches(
        examples,
        start_step=step,
        epochs=epoch + 1,
        batch_size=batch_size,
        seed=seed,
        shuffle_buffer=shuffle_buffer,
    )
    parsed = parsing.parse(next(iter(serialized)), [schema.IMAGE_ID])
    return [one.decode() for one in parsed[schema.IMAGE_ID.name].numpy()]


def _serialized_batches(
    examples: ExampleFiles,
    *,
    start_step: int,
    epochs: int,
    batch_size: int,
    seed: int,
    shuffle_buffer: int,
) -> tf.data.Dataset:
    """[batch] string each, from a step on, as they are in the files."""
    epoch, skipped = divmod(start_step, steps_per_epoch(examples, TRAIN, batch_size))

    @tf.autograph.experimental.do_not_convert
    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        draw = tf.random.experimental.stateless_fold_in(
            tf.stack([tf.constant(seed, tf.int64), epoch]), ORDER_SALT
        )
        return _shuffled(examples, draw, shuffle_buffer).rebatch(batch_size)

    return tf.data.Dataset.range(epoch, epochs).flat_map(epoch_batches).skip(skipped)


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
    examples: ExampleFiles,
    transform: Transform,
    split: str,
    *,
    batch_size: int,
    neighbors: int,
    edges: bool = False,
) -> tf.data.Dataset:
    """Every example of a split once, in the order of the files, with its strongest neighbours.

    Of each seed's texts, the one of the greatest weight.
    """

    @tf.autograph.experimental.do_not_convert
    def to_batch(serialized: tf.Tensor) -> Batch:
        return _to_batch(serialized, examples, transform, neighbors, None, edges=edges)

    records = tf.data.TFRecordDataset(
        tf.constant(examples.files(split), tf.string), compression_type=examples.compression
    )
    batches = records.batch(batch_size)
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _known(batches, steps_per_epoch(examples, split, batch_size))


def node_batch(serialized: tf.Tensor, examples: ExampleFiles, *, neighbors: int) -> Batch:
    """[batch] serialized examples -> what embeddings are made of, as in evaluation batches.

    `id`, `content`, those of the strongest `neighbors`, and the edges among them.
    """
    parsed = parsing.parse(serialized, parsing.node_features(examples.spec))
    parts = [schema.IMAGE_ID, schema.content_feature(examples.spec.feature_dim)]
    near = parsing.stack_neighbors(parsed, examples, parts)
    nodes, _, chosen = _nodes(parsed, near, examples, neighbors, None)
    return {**nodes, **_edges(parsed, tf.where(nodes["neighbor_weight"] > 0, chosen, -1))}


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
    draws: Draws | None,
    *,
    edges: bool,
) -> Batch:
    """[batch] serialized examples -> a batch. draws: None: the strongest, nothing is drawn."""
    parsed = parsing.parse(serialized, parsing.read_features(examples.spec, edges=edges))
    near = parsing.stack_neighbors(parsed, examples)
    nodes, drawn, chosen = _nodes(parsed, near, examples, neighbors, draws)
    present = nodes["neighbor_weight"] > 0
    return {
        **nodes,
        **_labels(parsed, drawn, present, multi_label=examples.spec.multi_label),
        **_texts(parsed, transform, draws),
        **(_edges(parsed, tf.where(present, chosen, -1)) if edges else {}),
    }


def _nodes(
    parsed: parsing.Parsed,
    near: parsing.Parsed,
    examples: ExampleFiles,
    neighbors: int,
    draws: Draws | None,
) -> tuple[Batch, parsing.Parsed, tf.Tensor]:
    """(the part of a batch that tells of nodes, features of drawn neighbours, their places)."""
    neighbors = min(neighbors, examples.spec.neighbors)
    weights, chosen = draw_neighbors(near[parsing.WEIGHT], neighbors, draws)
    seed_id = parsing.hash_ids(parsed[schema.IMAGE_ID.name])
    graph_id = tf.where(near[parsing.WEIGHT] > 0, parsing.hash_ids(near[schema.IMAGE_ID.name]), 0)
    drawn = {name: _pick(values, chosen) for name, values in near.items()}
    neighbor_id = _pick(graph_id, chosen)
    name = schema.content_feature(examples.spec.feature_dim).name
    content, neighbor_content = parsing.decode_nodes(
        parsed[name],
        drawn[name],
        seed_ids=seed_id,
        neighbor_ids=neighbor_id,
        examples=examples,
    )
    nodes = {
        "content": content,
        "neighbor_content": neighbor_content,
        "neighbor_weight": weights,
        "id": seed_id,
        "neighbor_id": neighbor_id,
        "graph_id": graph_id,
    }
    return nodes, drawn, chosen


def _edges(parsed: parsing.Parsed, chosen: tf.Tensor) -> Batch:
    """The edges whose two ends are in the batch. chosen: [batch, n] int32, -1 = none."""
    senders, receivers, weights = (f.name for f in parsing.EDGE_FEATURES)
    if senders not in parsed:  # examples without any slot for a neighbour
        none = tf.zeros([tf.shape(chosen)[0], 0], tf.int64)
        return {senders: none, receivers: none, weights: tf.cast(none, tf.float32)}
    ends = [_node_of(parsed[name], chosen) for name in (senders, receivers)]
    kept = (ends[0] >= 0) & (ends[1] >= 0)
    values = {senders: ends[0], receivers: ends[1], weights: parsed[weights]}
    padding = {senders: -1, receivers: -1, weights: 0.0}
    return {
        name: tf.ragged.boolean_mask(found, kept).to_tensor(padding[name])
        for name, found in values.items()
    }


def _node_of(numbers: tf.RaggedTensor, chosen: tf.Tensor) -> tf.RaggedTensor:
    """Numbers of nodes in the file -> in the batch: 0 the seed, i + 1 chosen[i], -1 not there."""
    flat = numbers.flat_values
    of_row = tf.gather(tf.cast(chosen, tf.int64), numbers.value_rowids())  # [edges, n]
    nodes = tf.concat([tf.zeros_like(flat)[:, None], of_row + 1], axis=1)
    found = (nodes == flat[:, None]) & tf.pad(of_row >= 0, [[0, 0], [1, 0]], constant_values=True)
    at = tf.where(tf.reduce_any(found, axis=1), tf.argmax(tf.cast(found, tf.int32), axis=1), -1)
    return numbers.with_flat_values(at)


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


def _pick(values: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """[batch, K, ...], [batch, n] -> [batch, n, ...]."""
    return tf.gather(values, chosen, batch_dims=1)


def _texts(parsed: Batch, transform: Transform, draws: Draws | None) -> Batch:
    """One text a seed, drawn by weight, as tokens; and what tells texts apart.

    Texts are the same when they hold the same words, in whatever order: the text tower cannot tell
    more. A text's id is a hash of its bag of words.
    """
    texts = parsed[schema.TEXT.name]
    tokens = transform.tokens(texts.flat_values)
    word_ids = tokens.with_flat_values(parsing.hash_ids(tf.strings.as_string(tokens.flat_values)))
    bags = tf.reduce_sum(word_ids, axis=1) | 1  # sums wrap around; odd, so never 0
    place = texts.row_starts() + draw_text(parsed[schema.TEXT_WEIGHT.name], draws)
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
