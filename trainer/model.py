"""The model: seeds, neighbours and texts in, embeddings and the terms of the loss out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer import gnn, losses
from trainer.config import ModelConfig, TrainingConfig
from trainer.encoders import Channels, FeatureTower, PictureTower, TextTower

TERMS = ("supervised", "graph_regularization", "edge_contrast", "text_contrast")
SEED_MONITOR = "mean_cosine"  # of random seeds: the measure of collapse


class EmbeddingModel(keras.Model):
    """One space for images and texts, shaped by labels, by the graph and by clicks.

    Called on a batch of `trainer.dataset`, gives a dict: `seeds` [batch, dim], `neighbors`
    [batch, n, dim] (zeros = none), `texts` [batch, dim] where there is a text tower, `logits`
    [batch, classes] where there are classes.
    """

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingConfig,
        *,
        channels: Channels | None,
        num_classes: int,
        num_tokens: int,
        multi_label: bool = False,
    ) -> None:
        """channels: of pictures; None for ready features. num_classes, num_tokens: 0 = none.

        Where their term has no weight, classes and texts are left out too: an untrained head's
        answers would look like any others.
        """
        super().__init__(name="embedding_model")
        self.supports_jit = False  # the number of images differs from batch to batch
        missing = {"supervised": num_classes == 0, "text_contrast": num_tokens == 0}
        self._weights_of_terms = {
            term: getattr(training, term)
            for term in TERMS
            if getattr(training, term) and not missing.get(term)
        }
        self._temperature = training.temperature
        self._distance = gnn.DistanceConfig(training.distance)
        self.multi_label = multi_label
        self.image_tower = _image_tower(config, channels, training.augmentation)
        self.text_tower = None
        if self.trains("text_contrast"):
            self.text_tower = _text_tower(config, num_tokens)
        self.class_head = keras.layers.Dense(num_classes) if self.trains("supervised") else None
        reported = (*self._weights_of_terms, SEED_MONITOR)
        self._means = {name: keras.metrics.Mean(name=name) for name in reported}

    def trains(self, *terms: str) -> bool:
        """Whether one of these terms has a weight, and what it needs is there."""
        return any(term in self._weights_of_terms for term in terms)

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        seeds, neighbors = self._embed_images(inputs, training)
        outputs = {"seeds": seeds, "neighbors": neighbors}
        if self.text_tower is not None:
            outputs["texts"] = self.text_tower(inputs["tokens"], training=training)
        if self.class_head is not None:
            outputs["logits"] = self.class_head(seeds)
        return outputs

    def _embed_images(
        self, inputs: Mapping[str, tf.Tensor], training: bool | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Seeds and those neighbours that there are, in one pass through the tower."""
        seeds, weights = inputs["content"], inputs["neighbor_weight"]
        present = weights > 0
        neighbors = tf.boolean_mask(inputs["neighbor_content"], present)
        embedded = self.image_tower(tf.concat([seeds, neighbors], axis=0), training=training)
        batch = tf.shape(seeds)[0]
        shape = tf.concat([tf.shape(weights, tf.int64), [embedded.shape[-1]]], axis=0)
        spread = tf.scatter_nd(tf.where(present), embedded[batch:], shape)
        return embedded[:batch], tf.ensure_shape(spread, [None, None, embedded.shape[-1]])

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The weighted sum of the terms; each is reported under its name, unweighted."""
        total, rows = tf.constant(0.0), tf.shape(x["id"])[0]
        for term, weight in self._weights_of_terms.items():
            value = self._term(term, x, y_pred)
            self._means[term].update_state(value, sample_weight=rows)
            total += weight * value
        spread = losses.mean_cosine(y_pred["seeds"])
        self._means[SEED_MONITOR].update_state(spread, sample_weight=rows)
        return total

    def _term(
        self, term: str, x: Mapping[str, tf.Tensor], outputs: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        if term == "supervised":
            if self.multi_label:
                return losses.supervised_multi(outputs["logits"], x["labels"])
            return losses.supervised(outputs["logits"], x["label"])
        if term == "graph_regularization":
            return gnn.graph_loss(
                outputs["seeds"], outputs["neighbors"], x["neighbor_weight"], self._distance
            )
        if term == "edge_contrast":
            many = self.multi_label
            return losses.edge_contrast(
                outputs["seeds"],
                outputs["neighbors"],
                seed_ids=x["id"],
                neighbor_ids=x["neighbor_id"],
                graph_ids=x["graph_id"],
                seed_labels=x["labels"] if many else x["label"][:, None],
                neighbor_labels=x["neighbor_labels"] if many else x["neighbor_label"][:, :, None],
                temperature=self._temperature,
            )
        return losses.text_contrast(
            outputs["texts"],
            outputs["seeds"],
            text_ids=x["text_id"],
            image_text_ids=x["seed_text_id"],
            image_ids=x["id"],
            graph_ids=x["graph_id"],
            temperature=self._temperature,
        )


def _image_tower(config: ModelConfig, channels: Channels | None, augmentation: str) -> keras.Model:
    if channels is not None:
        return PictureTower(
            dim=config.dim,
            filters=config.image_filters,
            dropout=config.dropout,
            augmentation=augmentation,
            channels=channels,
        )
    return FeatureTower(dim=config.dim, hidden=config.feature_hidden, dropout=config.dropout)


def _text_tower(config: ModelConfig, num_tokens: int) -> keras.Model:
    return TextTower(
        dim=config.dim,
        num_tokens=num_tokens,
        token_dim=config.token_dim,
        dropout=config.dropout,
    )
