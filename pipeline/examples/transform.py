"""The tf.Transform graph: vocabularies of labels and tokens, statistics of pictures and features.

In: tables of INPUT_SCHEMA. Out: a folder that `tft.TFTransformOutput` reads. The graph travels with
the model, so that a query text at search is cut into the same words, with the same numbers, as the
texts of the training data, and a picture is standardized by the same means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.tfxio import tensor_adapter

from pipeline import schema, storage
from pipeline.examples import vocabularies, words
from pipeline.sorting import run_bounds

# What the analysis reads of an image; other columns may stand beside.
INPUT_SCHEMA = pa.schema(
    [
        (schema.TRANSFORM_LABEL, pa.list_(pa.string())),  # null or empty = none
        (schema.TRANSFORM_TEXT, pa.list_(pa.string())),
        ("split", pa.string()),
        (schema.TRANSFORM_FEATURES, pa.list_(pa.float32())),  # null in a catalog of pictures
        # null in a catalog of ready features
        (schema.TRANSFORM_CHANNEL_SUMS, pa.list_(pa.int64(), 3)),
        (schema.TRANSFORM_CHANNEL_SQUARES, pa.list_(pa.int64(), 3)),
    ]
)
CHANNELS = 3
_GRAPH_FOLDER = "transform_fn"
# Below this share of the mean, a standard deviation is rounding: the column is constant.
_CONSTANT = 1e-6
_BATCH_ROWS = 4_096


@dataclass(frozen=True)
class TransformSettings:
    """What the transform is to be like.

    max_tokens: tokens in the vocabulary, the most frequent. min_token_count: rarer ones are left
    out. token_buckets: hash buckets for those that are not in it. min_label_count: labels of fewer
    training images are left out. subword_length: characters of the pieces of words that are tokens
    too; 0 = none. feature_dim: None for pictures. image_pixels: of one picture; features ignore it.
    """

    max_tokens: int
    min_token_count: int
    token_buckets: int
    min_label_count: int
    subword_length: int
    feature_dim: int | None
    image_pixels: int


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing function of tf.Transform."""

    settings: TransformSettings

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Inputs and outputs as schema.TRANSFORM_… and schema.TRANSFORMED_… say."""
        outputs = self._numbered(
            inputs[schema.TRANSFORM_LABEL],
            words.tokens(
                inputs[schema.TRANSFORM_TEXT], subword_length=self.settings.subword_length
            ).merge_dims(1, 2),
        )
        if self.settings.feature_dim is not None:
            outputs[schema.TRANSFORM_FEATURES] = z_scores(inputs[schema.TRANSFORM_FEATURES])
            return outputs
        means, deviations = channel_statistics(
            inputs[schema.TRANSFORM_CHANNEL_SUMS],
            inputs[schema.TRANSFORM_CHANNEL_SQUARES],
            pixels=self.settings.image_pixels,
        )
        rows = inputs[schema.TRANSFORM_LABEL].nrows()
        outputs[schema.TRANSFORMED_CHANNEL_MEANS] = tf.tile(means[None], [rows, 1])
        outputs[schema.TRANSFORMED_CHANNEL_DEVIATIONS] = tf.tile(deviations[None], [rows, 1])
        return outputs

    def _numbered(self, labels: tf.RaggedTensor, tokens: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        """Labels and tokens by their places in vocabularies of them."""
        settings = self.settings
        label_file, token_file = vocabularies.analyze(
            [labels.flat_values, tokens.flat_values],
            [
                vocabularies.Vocabulary(schema.LABEL_VOCABULARY, settings.min_label_count),
                vocabularies.Vocabulary(
                    schema.TOKEN_VOCABULARY, settings.min_token_count, settings.max_tokens
                ),
            ],
        )
        return {
            schema.TRANSFORMED_LABEL: tft.apply_vocabulary(
                labels, label_file, default_value=schema.NO_LABEL
            ),
            schema.TRANSFORMED_TOKENS: tft.apply_vocabulary(
                tokens, token_file, num_oov_buckets=settings.token_buckets
            ),
        }


def z_scores(features: tf.Tensor) -> tf.Tensor:
    """(x - mean) / standard deviation of each column; 0 in constant columns.

    features: [batch, dim] float32. Mean and deviation (of the population) are summed in 64 bits and
    rounded to 32, so that the order in which rows arrive does not show.
    """
    exact = tf.cast(features, tf.float64)
    mean = tft.mean(exact, reduce_instance_dims=False)
    deviation = tf.sqrt(tft.var(exact, reduce_instance_dims=False))
    varies = deviation > _CONSTANT * tf.abs(mean)
    mean, deviation = tf.cast(mean, tf.float32), tf.cast(deviation, tf.float32)
    scaled = tf.math.divide_no_nan(features - mean, deviation)
    return tf.where(varies, scaled, tf.zeros_like(scaled))


def channel_statistics(
    sums: tf.Tensor, squares: tf.Tensor, *, pixels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and standard deviation of red, green and blue over all pixels of all pictures.

    sums, squares: [batch, 3] int64, of a picture's `pixels` values from 0 to 255. Returns [3]
    float32 each; the deviation is at least 1. Whole numbers are added up, so that no order of the
    pictures shows.
    """
    ones = tf.ones_like(sums[:, :1])
    added = tft.sum(tf.concat([sums, squares, ones], axis=1), reduce_instance_dims=False)
    total, total_squares, pictures = tf.split(tf.cast(added, tf.float64), [CHANNELS, CHANNELS, 1])
    means = tf.math.divide_no_nan(total, pictures * pixels)
    variances = tf.math.divide_no_nan(total_squares, pictures * pixels) - means**2
    deviations = tf.sqrt(tf.maximum(variances, 1.0))
    return tf.cast(means, tf.float32), tf.cast(deviations, tf.float32)


# Arrow and tf.Transform -------------------------------------------------------------------------


def arrow_schema(feature_dim: int | None) -> pa.Schema:
    """Columns of the record batches that tf.Transform analyzes."""
    columns = {
        schema.TRANSFORM_LABEL: pa.large_binary(),
        schema.TRANSFORM_TEXT: pa.large_binary(),
        **{name: dtype for name, (dtype, _) in _dense_columns(feature_dim).items()},
    }
    return pa.schema([(name, pa.large_list(dtype)) for name, dtype in columns.items()])


def _dense_columns(feature_dim: int | None) -> dict[str, tuple[pa.DataType, int]]:
    """{column: (type, numbers in each row)}."""
    if feature_dim is not None:
        return {schema.TRANSFORM_FEATURES: (pa.float32(), feature_dim)}
    channels = (schema.TRANSFORM_CHANNEL_SUMS, schema.TRANSFORM_CHANNEL_SQUARES)
    return dict.fromkeys(channels, (pa.int64(), CHANNELS))


def adapter_config(feature_dim: int | None) -> tensor_adapter.TensorAdapterConfig:
    """How those columns become tensors: labels and texts ragged, numbers dense."""
    representations = {
        name: f'ragged_tensor {{ feature_path {{ step: "{name}" }} row_partition_dtype: INT64 }}'
        for name in (schema.TRANSFORM_LABEL, schema.TRANSFORM_TEXT)
    } | {
        name: f'dense_tensor {{ column_name: "{name}" shape {{ dim {{ size: {size} }} }} }}'
        for name, (_, size) in _dense_columns(feature_dim).items()
    }
    return tensor_adapter.TensorAdapterConfig(
        arrow_schema(feature_dim),
        {
            name: text_format.Parse(text, schema_pb2.TensorRepresentation())
            for name, text in representations.items()
        },
    )


def analysis_batches(images: pa.Table, feature_dim: int | None) -> Iterator[pa.RecordBatch]:
    """What the analysis may see of images: no label from outside the training split.

    images: the columns of INPUT_SCHEMA.
    """
    target = arrow_schema(feature_dim)
    for start in range(0, images.num_rows, _BATCH_ROWS):
        rows = images.slice(start, _BATCH_ROWS)
        training = pc.equal(rows["split"], schema.SPLITS[0]).to_numpy()
        columns = [
            _rebased(rows[name], keep=training if name == schema.TRANSFORM_LABEL else None)
            for name in target.names
        ]
        yield pa.RecordBatch.from_arrays(
            [column.cast(field.type) for column, field in zip(columns, target, strict=True)],
            schema=target,
        )


def _rebased(column: pa.ChunkedArray, *, keep: np.ndarray | None = None) -> pa.LargeListArray:
    """The same lists with offsets from 0, as tfx_bsl takes them; nulls are empty.

    keep: [rows] bool, whose lists come along; the others are empty too.
    """
    lists = _in_one_piece(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = lists.flatten()
    if keep is not None:
        values = values.filter(pa.array(np.repeat(keep, lengths)))
        lengths = np.where(keep, lengths, 0)
    return pa.LargeListArray.from_arrays(_offsets(lengths), values)


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(run_bounds(lengths))


@dataclass
class WriteTransform(beam.PTransform):
    """Analyzes the images in a full pass and writes the transform.

    Input: pa.Table of the columns of INPUT_SCHEMA. Output: none but the files. Must be applied
    inside of a `tft_beam.Context` with a temporary folder.
    """

    folder: str
    preprocess: Preprocess

    def expand(self, images: beam.PCollection[pa.Table]) -> object:
        feature_dim = self.preprocess.settings.feature_dim
        batches = images | "MaskLabels" >> beam.FlatMap(
            analysis_batches, feature_dim
        ).with_output_types(pa.RecordBatch)
        analyzed = (batches, adapter_config(feature_dim)) | (
            "Analyze" >> tft_beam.AnalyzeDataset(self.preprocess)
        )
        return analyzed | "WriteTransformFn" >> tft_beam.WriteTransformFn(self.folder)


# Application ------------------------------------------------------------------------------------


@cache
def _layer(folder: str) -> tf.Module:
    return tft.TFTransformOutput(folder).transform_features_layer()


@cache
def _entries(folder: str, name: str) -> list[tuple[str, int]]:
    return vocabularies.read(storage.join(folder, _GRAPH_FOLDER, "assets"), name)


@cache
def _known_labels(folder: str) -> pa.Array:
    return pa.array(vocabulary(folder, schema.LABEL_VOCABULARY), pa.string())


def vocabulary(folder: str, name: str) -> list[str]:
    """The entries of a vocabulary, by id."""
    return [entry for entry, _ in _entries(folder, name)]


def label_counts(folder: str) -> dict[str, int]:
    """{label: training images that have it}, by id."""
    return dict(_entries(folder, schema.LABEL_VOCABULARY))


def label_lists(folder: str, labels: pa.Array | pa.ChunkedArray) -> pa.LargeListArray:
    """Places of labels in the label vocabulary, in order; unknown labels are left out.

    labels: [rows] list<string>. Returns [rows] large_list<int64>, empty for null.
    """
    column = labels if isinstance(labels, pa.ChunkedArray) else pa.chunked_array([labels])
    lists = _rebased(column)
    ids = pc.index_in(lists.values, value_set=_known_labels(folder))
    known = ids.is_valid().to_numpy(zero_copy_only=False)
    before = run_bounds(known)
    offsets = before[lists.offsets.to_numpy()]
    return pa.LargeListArray.from_arrays(pa.array(offsets), ids.drop_null().cast(pa.int64()))


def scaled_features(folder: str, features: np.ndarray) -> np.ndarray:
    """[rows, dim] float32 of features as in the catalog, of the same shape."""
    found = _layer(folder)({schema.TRANSFORM_FEATURES: tf.constant(features, tf.float32)})
    return found[schema.TRANSFORM_FEATURES].numpy()


def forget() -> None:
    """Forgets loaded transforms: a folder may have been written anew."""
    for loaded in (_layer, _entries, _known_labels):
        loaded.cache_clear()
