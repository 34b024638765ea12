"""A SavedModel with the signatures of a trained model, small enough to make in a test."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import Version

SIDE = 16  # pixels of the pictures that the image signature takes
DIM = 6


class TinyModel(tf.Module):
    """Pictures, features and texts to unit vectors through random matrices drawn by a seed.

    broken: the vectors come out twice as long.
    """

    def __init__(self, *, feature_dim: int = 4, broken: bool = False) -> None:
        super().__init__()
        draw = np.random.default_rng(0)
        self.of_pixels = self._matrix(draw, SIDE * SIDE * 3)
        self.of_features = self._matrix(draw, feature_dim)
        self.of_words = self._matrix(draw, 100)
        self.length = 2.0 if broken else 1.0

    def _matrix(self, draw: np.random.Generator, rows: int) -> tf.Variable:
        return tf.Variable(draw.normal(size=(rows, DIM)).astype(np.float32))

    def _answer(self, hidden: tf.Tensor) -> dict[str, tf.Tensor]:
        return {schema.EMBEDDING_OUTPUT: tf.math.l2_normalize(hidden, axis=1) * self.length}

    def image(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        def pixels(data: tf.Tensor) -> tf.Tensor:
            picture = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reshape(tf.cast(picture, tf.float32), [SIDE * SIDE * 3]) - 127.0

        return self._answer(
            tf.map_fn(pixels, image, fn_output_signature=tf.float32) @ self.of_pixels
        )

    def features(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answer(features @ self.of_features)

    def text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        # Filled up to the longest text of the batch, as the trained text tower does.
        words = tf.strings.split(text).to_tensor("")
        vectors = tf.gather(self.of_words, tf.strings.to_hash_bucket_fast(words, 100))
        return self._answer(tf.reduce_sum(tf.where((words == "")[:, :, None], 0.0, vectors), 1))


def save_model(
    folder: Path,
    *,
    signatures: tuple[str, ...] = (schema.IMAGE_SIGNATURE, schema.TEXT_SIGNATURE),
    feature_dim: int = 4,
    broken: bool = False,
) -> Version:
    """A committed model version in `folder`, as the training would leave it."""
    module = TinyModel(feature_dim=feature_dim, broken=broken)
    specs = {
        schema.IMAGE_SIGNATURE: tf.TensorSpec([None], tf.string, schema.IMAGE_SIGNATURE),
        schema.FEATURES_SIGNATURE: tf.TensorSpec(
            [None, feature_dim], tf.float32, schema.FEATURES_SIGNATURE
        ),
        schema.TEXT_SIGNATURE: tf.TensorSpec([None], tf.string, schema.TEXT_SIGNATURE),
    }
    functions = {
        name: tf.function(getattr(module, name), input_signature=[specs[name]])
        for name in signatures
    }
    concrete: Any = {name: made.get_concrete_function() for name, made in functions.items()}
    tf.saved_model.save(module, str(folder / schema.SAVED_MODEL_FOLDER), signatures=concrete)
    of_pictures = schema.IMAGE_SIGNATURE in signatures
    manifest = {
        "fingerprint": "0123456789abcdef",
        "dim": DIM,
        "signatures": list(signatures),
        "content": "image" if of_pictures else "features",
        "image_size": SIDE if of_pictures else None,
        "image_encoding": "png" if of_pictures else None,
        "feature_dim": None if of_pictures else feature_dim,
        "multi_label": False,
    }
    return Version(schema.MODEL, "v0001", str(folder), manifest)
