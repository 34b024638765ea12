"""The tf.Transform graph: vocabularies of labels and words, and the scaling of ready features.

In: tables of `image_id`, `label`, `text`, `features`, `split`. Out: a folder that
`tft.TFTransformOutput` reads. The graph travels with the model, so that a query text at search is
cut into the same words, with the same numbers, as the texts of the training data.
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

from pipeline import schema

# Scripts that are written without spaces: each character is a word, with the marks that follow.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}][\p{M}\x{30FC}]*"
_SKIN = r"\x{1F3FB}-\x{1F3FF}"
_JOINER = r"\x{200D}"
_ONE_EMOJI = rf"\p{{So}}[{_SKIN}]*"
_EMOJI = rf"[\x{{1F1E6}}-\x{{1F1FF}}]{{2}}|{_ONE_EMOJI}(?:{_JOINER}{_ONE_EMOJI})*"
# How a symbol is to be drawn, and what stands for bytes that are no text.
_IGNORED = r"[\x{FE0E}\x{FE0F}\x{FFFD}]"
_NO_WORD = rf"[^\p{{L}}\p{{N}}\p{{M}}\p{{So}}{_SKIN}{_JOINER}]+"

NO_TEXT_LABEL = ""
# Below this share of the mean, a standard deviation is rounding: the column is constant.
_CONSTANT = 1e-6
_BATCH_ROWS = 4_096
# What tf.Transform writes into a vocabulary without entries; it takes the id 0.
_EMPTY_VOCABULARY = b"49d0cd50-04bb-48c0-bc6f-5b575dce351a"


def words(texts: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    """The words of texts, lower-cased.

    texts: [...] string, UTF-8. Returns [..., None] string. A word is a run of letters, numbers and
    marks; one character of a script without spaces (Chinese, Japanese, Thai and their like); or one
    emoji, with its skin tones and all that is joined to it. All else parts words. There is no
    Unicode normalization: TensorFlow has none of its own.
    """
    texts = tf.strings.lower(texts, encoding="utf-8")
    texts = tf.strings.regex_replace(texts, _IGNORED, "")
    texts = tf.strings.regex_replace(texts, _NO_WORD, " ")
    texts = tf.strings.regex_replace(texts, rf"{_UNSPACED}|{_EMOJI}", r" \0 ")
    texts = tf.strings.regex_replace(texts, _JOINER, "")
    return tf.strings.split(texts)


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing function of tf.Transform.

    max_tokens: words in the vocabulary, the most frequent. token_buckets: hash buckets for others.
    """

    max_tokens: int
    token_buckets: int

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Inputs and outputs as schema.TRANSFORM_… and schema.TRANSFORMED_… say."""
        tokens = words(inputs[schema.TRANSFORM_TEXT]).merge_dims(1, 2)
        outputs = {
            schema.TRANSFORMED_LABEL: tft.compute_and_apply_vocabulary(
                inputs[schema.TRANSFORM_LABEL],
                default_value=schema.NO_LABEL,
                vocab_filename=schema.LABEL_VOCABULARY,
            ),
            schema.TRANSFORMED_TOKENS: tft.compute_and_apply_vocabulary(
                tokens,
                top_k=self.max_tokens,
                num_oov_buckets=self.token_buckets,
                vocab_filename=schema.TOKEN_VOCABULARY,
            ),
        }
        if schema.TRANSFORM_FEATURES in inputs:
            outputs[schema.TRANSFORM_FEATURES] = z_scores(inputs[schema.TRANSFORM_FEATURES])
        return outputs


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


# Arrow and tf.Transform -------------------------------------------------------------------------


def arrow_schema(feature_dim: int | None) -> pa.Schema:
    """Columns of the record batches that tf.Transform analyzes."""
    fields = [
        (schema.TRANSFORM_LABEL, pa.large_list(pa.large_binary())),
        (schema.TRANSFORM_TEXT, pa.large_list(pa.large_binary())),
    ]
    if feature_dim is not None:
        fields.append((schema.TRANSFORM_FEATURES, pa.large_list(pa.float32())))
    return pa.schema(fields)


def adapter_config(feature_dim: int | None) -> tensor_adapter.TensorAdapterConfig:
    """How those columns become tensors: labels and features dense, texts ragged."""
    representations = {
        schema.TRANSFORM_LABEL: (
            f'dense_tensor {{ column_name: "{schema.TRANSFORM_LABEL}" shape {{}} }}'
        ),
        schema.TRANSFORM_TEXT: (
            f'ragged_tensor {{ feature_path {{ step: "{schema.TRANSFORM_TEXT}" }} '
            "row_partition_dtype: INT64 }"
        ),
    }
    if feature_dim is not None:
        representations[schema.TRANSFORM_FEATURES] = (
            f'dense_tensor {{ column_name: "{schema.TRANSFORM_FEATURES}" '
            f"shape {{ dim {{ size: {feature_dim} }} }} }}"
        )
    return tensor_adapter.TensorAdapterConfig(
        arrow_schema(feature_dim),
        {
            name: text_format.Parse(text, schema_pb2.TensorRepresentation())
            for name, text in representations.items()
        },
    )


def analysis_batches(images: pa.Table, feature_dim: int | None) -> Iterator[pa.RecordBatch]:
    """What the analysis may see of images: no label from outside the training split.

    images: `label`, `text`, `split`, `features` as in prepare.SETTLED_SCHEMA.
    """
    training = pc.equal(images["split"], schema.SPLITS[0])
    labels = pc.if_else(training, pc.fill_null(images["label"], NO_TEXT_LABEL), NO_TEXT_LABEL)
    target = arrow_schema(feature_dim)
    offsets = pa.array(np.arange(images.num_rows + 1), pa.int64())
    columns = [
        pa.LargeListArray.from_arrays(offsets, labels.combine_chunks().cast(pa.large_binary())),
        images["text"].cast(target.field(schema.TRANSFORM_TEXT).type),
    ]
    if feature_dim is not None:
        columns.append(images["features"].cast(target.field(schema.TRANSFORM_FEATURES).type))
    yield from pa.table(columns, schema=target).combine_chunks().to_batches(_BATCH_ROWS)


@dataclass
class WriteTransform(beam.PTransform):
    """Analyzes the images in a full pass and writes the transform.

    Input: pa.Table of `label`, `text`, `split`, `features`. Output: none but the files. Must be
    applied inside of a `tft_beam.Context` with a temporary folder.
    """

    folder: str
    preprocess: Preprocess
    feature_dim: int | None

    def expand(self, images: beam.PCollection[pa.Table]) -> object:
        batches = images | "MaskLabels" >> beam.FlatMap(
            analysis_batches, self.feature_dim
        ).with_output_types(pa.RecordBatch)
        analyzed = (batches, adapter_config(self.feature_dim)) | (
            "Analyze" >> tft_beam.AnalyzeDataset(self.preprocess)
        )
        return analyzed | "WriteTransformFn" >> tft_beam.WriteTransformFn(self.folder)


# Application ------------------------------------------------------------------------------------


@cache
def _layer(folder: str) -> tf.Module:
    return tft.TFTransformOutput(folder).transform_features_layer()


def label_ids(folder: str, labels: pa.ChunkedArray) -> np.ndarray:
    """[rows] int64: places in the label vocabulary; -1 for null and for unknown labels."""
    texts = pc.fill_null(labels, NO_TEXT_LABEL).to_pylist()
    found = _layer(folder)({schema.TRANSFORM_LABEL: tf.constant(texts, tf.string, [len(texts)])})
    return found[schema.TRANSFORMED_LABEL].numpy()


def scaled_features(folder: str, features: np.ndarray) -> np.ndarray:
    """[rows, dim] float32 of features as in the catalog, of the same shape."""
    found = _layer(folder)({schema.TRANSFORM_FEATURES: tf.constant(features, tf.float32)})
    return found[schema.TRANSFORM_FEATURES].numpy()


def vocabulary(folder: str, name: str) -> list[str]:
    """The entries of a vocabulary, by id; none where tf.Transform wrote a stand-in for none."""
    entries = tft.TFTransformOutput(folder).vocabulary_by_name(name)
    return [entry.decode() for entry in entries if entry != _EMPTY_VOCABULARY]


def forget() -> None:
    """Forgets loaded transforms: a folder may have been written anew."""
    _layer.cache_clear()
