"""The served model: pictures, features and texts as the outside has them in, embeddings out.

It carries its own preparation (decoding, scaling, words), with the vocabularies inside its folder,
so that the folder is all that serving needs and may be moved. A graph network sees each image as a
graph of one node, since a new image has no neighbours yet; the signature `example` takes images
with their neighbours, as the examples that the model was trained on have them.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pipeline import schema
from trainer.dataset import node_batch
from trainer.example_files import ExampleFiles
from trainer.model import EmbeddingModel
from trainer.transform import Transform

WHITE = 255.0
_DECODED_AT_ONCE = 16


class ServedModel(tf.Module):
    """The signatures of `pipeline.schema`, as functions of a trained model."""

    def __init__(
        self,
        model: EmbeddingModel,
        transform: Transform,
        examples: ExampleFiles,
        *,
        neighbors: int = 0,
    ) -> None:
        """neighbors: of an image that a graph network looks at; 0 = it is not served with any."""
        super().__init__()
        self._embed_seeds = model.embed_seeds
        self._examples, self._neighbors = examples, neighbors
        # The parts alone: a whole Keras model would bring its optimizer along.
        self._image_tower = model.image_tower
        self._text_tower = model.text_tower
        self._graph_tower = model.graph_tower
        self._class_head = model.class_head
        self._activation = model.activation
        self._transform = transform
        self._size = examples.image_size
        self.functions = self._functions(examples.spec.feature_dim)

    def _functions(self, feature_dim: int | None) -> dict[str, Any]:
        functions = {}
        if feature_dim is None:
            functions[schema.IMAGE_SIGNATURE] = _function(
                self.image, tf.TensorSpec([None], tf.string, schema.IMAGE_SIGNATURE)
            )
        else:
            functions[schema.FEATURES_SIGNATURE] = _function(
                self.features,
                tf.TensorSpec([None, feature_dim], tf.float32, schema.FEATURES_SIGNATURE),
            )
        if self._graph_tower is not None and self._neighbors:
            functions[schema.EXAMPLE_SIGNATURE] = _function(
                self.example, tf.TensorSpec([None], tf.string, schema.EXAMPLE_SIGNATURE)
            )
        if self._text_tower is not None:
            functions[schema.TEXT_SIGNATURE] = _function(
                self.text, tf.TensorSpec([None], tf.string, schema.TEXT_SIGNATURE)
            )
        return functions

    def image(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """[batch] string, encoded pictures of any size -> embeddings and probabilities."""
        assert self._size is not None
        return self._outputs(decode_pictures(image, self._size))

    def features(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """[batch, feature_dim] float32, as in the catalog -> embeddings and probabilities."""
        return self._outputs(self._transform.features(features))

    def example(self, example: tf.Tensor) -> dict[str, tf.Tensor]:
        """[batch] string, serialized examples -> embeddings and probabilities of their seeds."""
        batch = node_batch(example, self._examples, neighbors=self._neighbors)
        return self._with_probabilities(self._embed_seeds(batch))

    def text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """[batch] string -> embeddings; an empty text, or one of no known word, has one too."""
        assert self._text_tower is not None  # else there is no such signature
        tokens = self._transform.tokens(text).to_tensor(-1)
        return {schema.EMBEDDING_OUTPUT: self._text_tower(tokens, training=False)}

    def _outputs(self, content: tf.Tensor) -> dict[str, tf.Tensor]:
        embeddings = self._image_tower(content, training=False)
        if self._graph_tower is not None:
            embeddings = self._graph_tower.isolated(embeddings)
        return self._with_probabilities(embeddings)

    def _with_probabilities(self, embeddings: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = {schema.EMBEDDING_OUTPUT: embeddings}
        if self._class_head is not None:
            logits = self._class_head(embeddings)
            outputs[schema.PROBABILITIES_OUTPUT] = self._activation(logits)
        return outputs


def _function(method: Any, spec: tf.TensorSpec) -> Any:
    return tf.function(method, input_signature=[spec], autograph=False)


def decode_pictures(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """[batch] string -> [batch, size, size, 3] uint8.

    Opaque pictures of the right size come through bit by bit. What is transparent is composited on
    white; other sizes are scaled to the square with antialiasing.
    """
    return tf.map_fn(
        lambda picture: _decode(picture, size),
        encoded,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
        parallel_iterations=_DECODED_AT_ONCE,
    )


def _decode(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """One picture; a PNG is read with its alpha, which other formats do not have."""
    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    picture = tf.cond(
        is_png,
        lambda: _on_white(tf.io.decode_png(encoded, channels=4)),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    right_size = tf.reduce_all(tf.shape(picture)[:2] == size)
    return tf.cond(right_size, lambda: picture, lambda: _resize(picture, size))


def _on_white(rgba: tf.Tensor) -> tf.Tensor:
    """[height, width, 4] uint8 -> [height, width, 3] uint8; exact where alpha is 255."""
    alpha = tf.cast(rgba[:, :, 3:], tf.float32) / WHITE
    mixed = tf.cast(rgba[:, :, :3], tf.float32) * alpha + WHITE * (1.0 - alpha)
    return tf.cast(tf.round(mixed), tf.uint8)


def _resize(picture: tf.Tensor, size: int) -> tf.Tensor:
    resized = tf.image.resize(picture, [size, size], method="bicubic", antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, WHITE)), tf.uint8)


def export(
    model: EmbeddingModel,
    transform: Transform,
    examples: ExampleFiles,
    folder: str,
    *,
    neighbors: int = 0,
) -> list[str]:
    """Writes the SavedModel and returns the names of its signatures. neighbors: see ServedModel."""
    served = ServedModel(model, transform, examples, neighbors=neighbors)
    tf.saved_model.save(served, folder, signatures=served.functions)
    return list(served.functions)
