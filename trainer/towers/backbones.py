"""The tower for pictures around a class of keras.applications; weights come from a local file."""

from __future__ import annotations

import difflib
import io
import math
import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import ConfigError, ImgembedError
from trainer.config import ModelConfig
from trainer.towers.layers import NORM_MOMENTUM, Augment, Projection

IMAGENET_DEVIATIONS = np.array([0.229, 0.224, 0.225])


class BackboneTower(keras.Model):
    """[rows, side, side, 3] uint8 -> [rows, dim]: a class without its top, averaged, projected.

    The class scales pixels as it does itself. Unless it is fine-tuned, its weights stay, the
    statistics of its batch normalizations too.
    """

    def __init__(
        self, config: ModelConfig, *, image_size: int, augmentation: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        builder = _find(config.image_tower)
        if config.backbone_weights is None and not config.fine_tune:
            raise ConfigError(
                f"model.image_tower: {config.image_tower} would stay at random weights; name a "
                "file in model.backbone_weights, or set model.fine_tune"
            )
        self._fine_tune = config.fine_tune
        self._augment = Augment(augmentation)
        self._scale: Callable[[tf.Tensor], tf.Tensor] = sys.modules[
            builder.__module__
        ].preprocess_input
        self.network = _build(builder, config.image_tower, image_size)
        if config.backbone_weights is not None:
            load_weights(self.network, config.backbone_weights, config.image_tower)
        self.network.trainable = config.fine_tune
        self._center = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM)
        self._project = Projection(config.dim, config.dropout)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x = self._scale(self._augment(inputs, training=training))
        x = self.network(x, training=training if self._fine_tune else False)
        return self._project(self._center(x, training=training), training=training)


def backbone_names() -> list[str]:
    """The classes of keras.applications, by name."""
    return [n for n in dir(keras.applications) if n[0].isupper()]


def _find(name: str) -> Callable[..., keras.Model]:
    names = backbone_names()
    if name in names:
        return getattr(keras.applications, name)
    near = {other.lower(): other for other in (*names, "residual")}
    found = difflib.get_close_matches(name.lower(), near, n=1)
    hint = f"did you mean {near[found[0]]!r}?" if found else f"there are {', '.join(names)}"
    raise ConfigError(f"model.image_tower: unknown tower {name!r}; {hint}")


def _build(builder: Callable[..., keras.Model], name: str, side: int) -> keras.Model:
    try:
        return builder(include_top=False, weights=None, input_shape=(side, side, 3), pooling="avg")
    except ValueError as error:
        reason = str(error).split(";")[0]
        raise ConfigError(
            f"model.image_tower: {name} does not take pictures of {side} x {side} pixels "
            f"({reason}); raise images.image_size, or take another class"
        ) from error


def load_weights(network: keras.Model, path: str, name: str) -> None:
    """Loads the file into `network`, a `name` without its top; ImgembedError if it is of another.

    .weights.h5 and .keras as Keras 3 writes them, .h5 as Keras 2 did.
    """
    if not os.path.isfile(path):
        raise ImgembedError(f"model.backbone_weights: {path!r}: there is no such file")
    if not path.endswith((".h5", ".keras")):
        raise ImgembedError(
            f"model.backbone_weights: {path!r}: is neither a .weights.h5 nor a .keras nor a .h5"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what does not fit is an error here
            network.load_weights(path)
        _check_all_used(network, path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ImgembedError(
            f"model.backbone_weights: {path!r}: is not of {name} without its top: {reason}"
        ) from error
    _scale_like_imagenet(network, name)


def _check_all_used(network: keras.Model, path: str) -> None:
    """ValueError where a file holds more than the network; Keras would leave that out in silence.

    Files of Keras 2 are checked by Keras.
    """
    if path.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            found = _numbers(io.BytesIO(archive.read("model.weights.h5")))
    elif path.endswith(".weights.h5"):
        found = _numbers(path)
    else:
        return
    if found != network.count_params():
        raise ValueError(f"{found:,} numbers where there must be {network.count_params():,}")


def _numbers(file: Any) -> int:
    """How many numbers the layers of a weights file hold; seeds of random layers are none."""
    sizes: list[int] = []

    def visit(name: str, item: Any) -> None:
        of_layer = name.split("/")[0] not in ("optimizer", "metrics")
        if isinstance(item, h5py.Dataset) and of_layer and "seed_generator" not in name:
            sizes.append(math.prod(item.shape))

    with h5py.File(file, "r") as opened:
        opened.visititems(visit)
    return sum(sizes)


def _scale_like_imagenet(network: keras.Model, name: str) -> None:
    """Completes the input scaling of EfficientNetB0 to B7, as Keras does for its own weights.

    Those were trained on (x - mean) / deviation^1.5, their normalization divides by the deviation
    alone. Keras adds the rest where it downloads the weights, not where it reads a file; here it
    goes into the variance, where that is ImageNet's.
    """
    if not name.startswith("EfficientNetB"):
        return
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            variance = layer.adapt_variance
            if np.allclose(np.ravel(variance), IMAGENET_DEVIATIONS**2, rtol=1e-2):
                variance.assign(variance * np.float32(IMAGENET_DEVIATIONS))
                layer.finalize_state()
