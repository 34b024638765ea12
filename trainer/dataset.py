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
    tokens           [batch, words] int64    of one text of the seed; -1 = padding
    text_id          [batch] int64           that text as a bag of words; 0 = the seed has no text
    seed_text_id     [batch, t] int64        all texts of the seed; 0 = padding

Draws depend on (seed, step) alone. Every dataset knows its number of batches: with an
unknown one, Keras runs a step on no data at the end of each epoch, and metrics come out wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.errors import ImgembedError
from trainer.transform import Transform

Batch = dict[str, tf.Tensor]
TRAIN, VALIDATION, TEST = schema.SPLITS
_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}
_NEIGHBOR_SALT, _TEXT_SALT = 1, 2  # keep the two draws of a step apart


@dataclass(frozen=True)
class ExampleFiles:
    """The examples stage as its manifest describes it."""

    version: Version
    feature_dim: int | None  # None: the content is pictures
    image_size: int | None
    neighbors: int  # K, the most that an example holds
    classes: tuple[str, ...]
    compression: str  # as tf.data calls it
    num_tokens: int  # tokens are 0 to num_tokens - 1
    texts: int  # in the training split; 0 = there is nothing to learn a text tower from
    labelled: int  # seeds of the training split with a label
    with_neighbors: int  # seeds of any split with a neighbour

    @classmethod
    def open(cls, version: Version) -> ExampleFiles:
        manifest = version.manifest
        images = manifest["content"] == schema.IMAGE_SIGNATURE
        return cls(
            version=version,
            feature_dim=None if images else int(manifest["feature_dim"]),
            image_size=int(manifest["image_size"]) if images else None,
            neighbors=int(manifest["neighbors"]),
            classes=tuple(manifest["classes"]),
            compression="GZIP" if manifest["compression"] == "gzip" else "",
            num_tokens=int(manifest["token_ids"]),
            texts=int(manifest["texts"].get(TRAIN, 0)),
            labelled=int(manifest["labelled"].get(TRAIN, 0)),
            with_neighbors=int(manifest["counts"]["images"]["with_neighbors"]),
        )

    def records(self, split: str) -> int:
        """How many examples the split holds, by the manifest."""
        return int(self.version.manifest["splits"].get(split, {}).get("records", 0))

    def files(self, split: str) -> list[str]:
        """The split's TFRecords; ImgembedError where the manifest tells of more than there are."""
        files = self.version.shards(split)
        if self.records(split) and not files:
            raise ImgembedError(
                f"{self.version.path}: no file {split}-*.tfrecord*, but the manifest says that "
                f"the split has {self.records(split)} examples; make the stage anew with: "
                f"{schema.STAGE_COMMANDS[schema.EXAMPLES]}"
            )
        return files

    def transform(self) -> Transform:
        """The saved tf.Transform graph of this stage."""
        return Transform(self.version.file(schema.TRANSFORM_FOLDER))

    @property
    def content_shape(self) -> tuple[int, ...]:
        """The shape of one seed's content in a batch."""
        if self.feature_dim is not None:
            return (self.feature_dim,)
        assert self.image_size is not None
        return (self.image_size, self.image_size, 3)


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

    Each epoch holds every example once, shuffled anew; its last batch may be smaller. Made twice
    with the same seed, also of TensorFlow's random numbers, it gives the same batches.
    """

    @tf.autograph.experimental.do_not_convert
    def to_batch(step: tf.Tensor, serialized: tf.Tensor) -> Batch:
        draw = tf.stack([tf.constant(seed, tf.int64), step])
        return _to_batch(serialized, examples, transform, min(neighbors, examples.neighbors), draw)

    shuffled = _read(examples, TRAIN).shuffle(shuffle_buffer, seed=seed)
    batches = shuffled.batch(batch_size).repeat(epochs).enumerate()
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _known(batches, epochs * steps_per_epoch(examples, TRAIN, batch_size))


def evaluation_batches(
    examples: ExampleFiles, transform: Transform, split: str, *, batch_size: int, neighbors: int
) -> tf.data.Dataset:
    """Every example of a split once, in the order of the files, with its strongest neighbours.

    Of each seed's texts, the one of the greatest weight.
    """

    @tf.autograph.experimental.do_not_convert
    def to_batch(serialized: tf.Tensor) -> Batch:
        return _to_batch(serialized, examples, transform, min(neighbors, examples.neighbors), None)

    batches = _read(examples, split).batch(batch_size)
    batches = batches.map(to_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _known(batches, steps_per_epoch(examples, split, batch_size))


def steps_per_epoch(examples: ExampleFiles, split: str, batch_size: int) -> int:
    """Batches in a split, the last one maybe smaller."""
    return -(-examples.records(split) // batch_size)


def _read(examples: ExampleFiles, split: str) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(examples.files(split), compression_type=examples.compression)


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
    parsed = tf.io.parse_example(serialized, parse_spec(examples))
    near = _stack_neighbors(parsed, examples)
    weights, chosen = _draw_neighbors(near["weight"], neighbors, _salted(draw, _NEIGHBOR_SALT))
    graph_id = tf.where(near["weight"] > 0, _hash(near[schema.IMAGE_ID.name]), 0)
    content = schema.content_feature(examples.feature_dim).name
    present = weights > 0
    return {
        "content": _decode(parsed[content], examples),
        "neighbor_content": _decode_present(_pick(near[content], chosen), present, examples),
        "neighbor_weight": weights,
        "id": _hash(parsed[schema.IMAGE_ID.name]),
        "neighbor_id": _pick(graph_id, chosen),
        "graph_id": graph_id,
        "label": parsed[schema.LABEL.name],
        "neighbor_label": tf.where(present, _pick(near[schema.LABEL.name], chosen), -1),
        "heldout_label": parsed[schema.HELDOUT_LABEL.name],
        **_texts(parsed, transform, _salted(draw, _TEXT_SALT)),
    }


def parse_spec(examples: ExampleFiles) -> dict[str, Any]:
    """What tf.io.parse_example is to read; the edges among neighbours are left out."""
    unread = {schema.GRAPH_SENDERS, schema.GRAPH_RECEIVERS, schema.GRAPH_WEIGHTS}
    features = schema.example_features(
        neighbors=examples.neighbors, feature_dim=examples.feature_dim
    )
    return {feature.name: _parser(feature) for feature in features if feature not in unread}


def _parser(feature: schema.Feature) -> Any:
    dtype = _DTYPES[feature.dtype]
    if feature.shape == (None,):
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    default = tf.fill(feature.shape, tf.constant(feature.default, dtype))
    return tf.io.FixedLenFeature(feature.shape, dtype, default)


def _stack_neighbors(parsed: Batch, examples: ExampleFiles) -> Batch:
    """Features of all K neighbours: [batch, K, ...] by the seed's feature name, and "weight"."""
    parts = schema.node_features(examples.feature_dim)
    if examples.neighbors == 0:
        batch = tf.shape(parsed[schema.IMAGE_ID.name])[0]
        none = {part.name: tf.zeros([batch, 0, *part.shape], _DTYPES[part.dtype]) for part in parts}
        return {"weight": tf.zeros([batch, 0]), **none}
    numbers = range(examples.neighbors)
    names = {"weight": [schema.neighbor_weight(i).name for i in numbers]}
    names |= {part.name: [schema.neighbor_feature(i, part.name) for i in numbers] for part in parts}
    return {part: tf.stack([parsed[name] for name in of], axis=1) for part, of in names.items()}


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


def _decode(content: tf.Tensor, examples: ExampleFiles) -> tf.Tensor:
    """[rows] encoded pictures -> [rows, side, side, 3] uint8; ready features stay as they are."""
    if examples.feature_dim is not None:
        return content
    shape = examples.content_shape
    return tf.map_fn(
        lambda encoded: tf.ensure_shape(
            tf.io.decode_image(encoded, 3, expand_animations=False), shape
        ),
        content,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
    )


def _decode_present(content: tf.Tensor, present: tf.Tensor, examples: ExampleFiles) -> tf.Tensor:
    """[batch, n, ...] content of neighbours, decoded where there is one, zeros elsewhere."""
    if examples.feature_dim is not None:
        return tf.where(present[:, :, None], content, 0.0)
    decoded = _decode(tf.boolean_mask(content, present), examples)
    shape = tf.concat([tf.shape(present, tf.int64), examples.content_shape], axis=0)
    spread = tf.scatter_nd(tf.where(present), decoded, shape)
    return tf.ensure_shape(spread, [None, content.shape[1], *examples.content_shape])


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
