"""The model: seeds, neighbours and texts in, embeddings and the terms of the loss out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.errors import ConfigError
from trainer import contrast, gnn, losses
from trainer.config import ModelConfig, TrainingConfig
from trainer.distinct import first_of_each
from trainer.popularity import Popularity
from trainer.towers import build
from trainer.towers.graphs import GraphTower
from trainer.towers.pictures import Channels

TERMS = ("supervised", "graph_regularization", "edge_contrast", "text_contrast")
SEED_MONITOR = "mean_cosine"  # of random seeds: the measure of collapse
DIVERGENCES = ("kl_divergence", "jensen_shannon_divergence")

Batch = Mapping[str, tf.Tensor]


class EmbeddingModel(keras.Model):
    """One space for images and texts, shaped by labels, by the graph and by clicks.

    Called on a batch of `trainer.dataset`, gives a dict of float32:

        seeds              [batch, dim]       what an image's embedding is
        neighbors          [batch, n, dim]    of the image tower; zeros = none
        texts              [batch, dim]       where there is a text tower
        logits             [batch, classes]   where there are classes; not in training, where
                                              the softmax is sampled

    With a graph network, `seeds` are made of the neighbours too, and there are

        tower_seeds        [batch, dim]       of the image tower alone, as `neighbors` are
        isolated           [batch, dim]       outside training: what the seeds would be without
        isolated_neighbors [batch, n, dim]    neighbours, as they are served; the same of neighbours
        isolated_logits    [batch, classes]

    and the terms that tell neighbours apart or bring them together take the image tower's: in the
    graph network's embedding of a seed its neighbours are to be found already.
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
        image_size: int | None = None,
        class_counts: Sequence[int] | None = None,
        popularity: Popularity | None = None,
        pair_weights: losses.PairWeights | None = None,
        steps: int = 0,
    ) -> None:
        """channels, image_size: of pictures; None for ready features.

        num_classes, num_tokens: 0 = none. class_counts: training images of each class, for
        balanced class weights. popularity: for the correction of that name. pair_weights: of the
        kinds of pairs in graph_regularization of probabilities; None: edges count as they are.
        steps: of the whole training, of which hard_negatives_after is a share.

        Where their term has no weight, classes and texts are left out too: an untrained head's
        answers would look like any others.
        """
        super().__init__(name="embedding_model", dtype="float32")
        self.supports_jit = False  # the number of images differs from batch to batch
        missing = {"supervised": num_classes == 0, "text_contrast": num_tokens == 0}
        self._weights_of_terms = {
            term: getattr(training, term)
            for term in TERMS
            if getattr(training, term) and not missing.get(term)
        }
        self._settings = training
        self._popularity = popularity
        self._pair_weights = pair_weights
        self.multi_label = multi_label
        self.activation = tf.nn.sigmoid if multi_label else tf.nn.softmax
        self.image_tower = build.image_tower(
            config, channels=channels, image_size=image_size, augmentation=training.augmentation
        )
        self.text_tower: Any = None
        if self.trains("text_contrast"):
            self.text_tower = build.text_tower(config, num_tokens)
        self.class_head: Any = None
        if self.trains("supervised"):
            self.class_head = keras.layers.Dense(num_classes, dtype="float32")
            self.class_head.build([None, config.dim])
        self.graph_tower: Any = None
        if config.graph_network != "none":
            self.graph_tower = GraphTower(
                config.graph_network, dim=config.dim, dropout=config.dropout
            )
        self._check_regularized()
        self._class_weights = self._expected = self._seeds = None
        if training.class_weights == "balanced" and class_counts and self.trains("supervised"):
            self._class_weights = losses.balanced_weights(class_counts)
        if num_classes > training.sampled_softmax_above and not multi_label:
            self._expected = losses.expected_in_sample(num_classes, training.sampled_classes)
        if self.graph_tower is not None or self._expected is not None:
            self._seeds = keras.random.SeedGenerator()
        # How many steps are done; whoever runs the steps sets it.
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self._hard_from = round(training.hard_negatives_after * steps)
        reported = (*self._weights_of_terms, SEED_MONITOR)
        self._means = {name: keras.metrics.Mean(name=name) for name in reported}

    def _check_regularized(self) -> None:
        """ConfigError where graph_regularization would compare what is not there."""
        if not self.trains("graph_regularization"):
            return
        kind, distance = self._settings.regularized, self._settings.distance
        if kind != "embedding" and self.class_head is None:
            raise ConfigError(
                f"training.regularized: {kind!r} are those of classes, but no class is trained; "
                "add labels to the catalog and raise training.supervised, or take 'embedding'"
            )
        if distance in DIVERGENCES and (kind != "probabilities" or self.multi_label):
            found = "of several labels an image" if kind == "probabilities" else f"of {kind!r}"
            raise ConfigError(
                f"training.distance: {distance!r} is between probabilities that sum to 1, not "
                f"{found}; set training.regularized to 'probabilities' of single labels, or take "
                "another distance"
            )

    def trains(self, *terms: str) -> bool:
        """Whether one of these terms has a weight, and what it needs is there."""
        return any(term in self._weights_of_terms for term in terms)

    def call(self, inputs: Batch, training: bool | None = None) -> dict[str, tf.Tensor]:
        seeds, neighbors = self._embed_images(inputs, training)
        outputs = {"seeds": seeds, "neighbors": neighbors}
        if self.graph_tower is not None:
            outputs |= self._embed_graphs(inputs, seeds, neighbors, training)
        if self.text_tower is not None:
            outputs["texts"] = self.text_tower(inputs["tokens"], training=training)
        if self.class_head is not None and not (training and self._expected is not None):
            outputs["logits"] = self.class_head(outputs["seeds"])
            if "isolated" in outputs:
                outputs["isolated_logits"] = self.class_head(outputs["isolated"])
        return outputs

    def embed_seeds(self, inputs: Batch) -> tf.Tensor:
        """[batch, dim]: what `seeds` are outside training, and nothing else."""
        seeds, neighbors = self._embed_images(inputs, training=False)
        if self.graph_tower is None:
            return seeds
        return self._embed_graphs(inputs, seeds, neighbors, training=False)["seeds"]

    def _embed_images(self, inputs: Batch, training: bool | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Seeds and those neighbours that there are, each image once through the tower."""
        weights = inputs["neighbor_weight"]
        present = weights > 0
        ids, content = (
            tf.concat([inputs[seed], tf.boolean_mask(inputs[near], present)], axis=0)
            for seed, near in (("id", "neighbor_id"), ("content", "neighbor_content"))
        )
        first, place = first_of_each(ids)
        embedded = self.image_tower(tf.gather(content, first), training=training)
        embedded = tf.gather(embedded, place)
        batch = tf.shape(inputs["id"])[0]
        shape = tf.concat([tf.shape(weights, tf.int64), [embedded.shape[-1]]], axis=0)
        spread = tf.scatter_nd(tf.where(present), embedded[batch:], shape)
        return embedded[:batch], tf.ensure_shape(spread, [None, None, embedded.shape[-1]])

    def _embed_graphs(
        self, inputs: Batch, seeds: tf.Tensor, neighbors: tf.Tensor, training: bool | None
    ) -> dict[str, tf.Tensor]:
        """The outputs that a graph network adds or replaces."""
        kept = tf.ones_like(inputs["id"], tf.bool)
        if training:
            draws = keras.random.uniform(tf.shape(kept), seed=self._seeds)
            kept = draws >= self._settings.neighbor_dropout
        outputs = {
            "seeds": self.graph_tower(
                seeds,
                neighbors,
                tf.where(kept[:, None], _trusted(inputs), 0.0),
                _edges(inputs, kept),
                training=training,
            ),
            "tower_seeds": seeds,
        }
        if not training:
            flat = tf.reshape(neighbors, [-1, neighbors.shape[-1]])
            near = tf.reshape(self.graph_tower.isolated(flat), tf.shape(neighbors))
            present = (inputs["neighbor_weight"] > 0)[:, :, None]
            outputs["isolated"] = self.graph_tower.isolated(seeds)
            outputs["isolated_neighbors"] = tf.where(present, near, 0.0)
        return outputs

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """The weighted sum of the terms; each is reported under its name, unweighted.

        Its part in a report's mean is the number of its rows; an id of 0 is none.
        """
        terms = {
            "supervised": self._supervised,
            "graph_regularization": self._graph_regularization,
            "edge_contrast": self._edge_contrast,
            "text_contrast": self._text_contrast,
        }
        total, rows = tf.constant(0.0), tf.math.count_nonzero(x["id"])
        for term, weight in self._weights_of_terms.items():
            value = terms[term](x, y_pred, training)
            self._means[term].update_state(value, sample_weight=rows)
            total += weight * value
        spread = losses.mean_cosine(y_pred["seeds"])
        self._means[SEED_MONITOR].update_state(spread, sample_weight=rows)
        return total

    def _supervised(self, x: Batch, outputs: Batch, training: bool) -> tf.Tensor:
        if self.multi_label:
            return losses.supervised_multi(outputs["logits"], x["labels"], self._class_weights)
        if not training or self._expected is None:
            return losses.supervised(outputs["logits"], x["label"], self._class_weights)
        return losses.sampled_supervised(
            outputs["seeds"],
            x["label"],
            kernel=self.class_head.kernel,
            bias=self.class_head.bias,
            expected=self._expected,
            start=keras.random.uniform([], seed=self._seeds),
            class_weights=self._class_weights,
        )

    def _graph_regularization(self, x: Batch, outputs: Batch, training: bool) -> tf.Tensor:
        sides = outputs.get("tower_seeds", outputs["seeds"]), outputs["neighbors"]
        if self._settings.regularized != "embedding":
            sides = tuple(self.class_head(side) for side in sides)
        if self._settings.regularized == "probabilities":
            sides = tuple(self.activation(logits) for logits in sides)
        seeds, others = sides
        weights, trust = x["neighbor_weight"], x.get("neighbor_agreement")
        labels = x["neighbor_label"]
        if "partner" in x:  # in place of neighbours
            others, labels = tf.gather(seeds, x["partner"]), tf.gather(x["label"], x["partner"])
            own = tf.range(tf.shape(seeds)[0])[:, None]
            weights, trust = tf.cast(x["partner"] != own, tf.float32), x["partner_agreement"]
        if self._pair_weights is not None and self._settings.regularized == "probabilities":
            return losses.agreement(
                seeds,
                others,
                labels=x["label"],
                other_labels=labels,
                agreement=tf.ones_like(weights) if trust is None else trust,
                present=weights > 0.0,
                weights=self._pair_weights,
                disagreeing_count="partner" in x,
            )
        return gnn.graph_loss(
            seeds,
            others,
            weights,
            gnn.DistanceConfig(self._settings.distance),
            normalization=self._settings.graph_loss_normalization,
            over=self._settings.graph_loss_over,
            agreement=trust,
        )

    def _edge_contrast(self, x: Batch, outputs: Batch, training: bool) -> tf.Tensor:
        many, correction = self.multi_label, self._settings.logq_correction
        log_expected = None
        if correction == "popularity" and self._popularity is not None:
            log_expected = self._popularity.log_expected(
                contrast.all_ids(x["id"], x["neighbor_id"])
            )
        return contrast.edge_contrast(
            outputs.get("tower_seeds", outputs["seeds"]),
            outputs["neighbors"],
            seed_ids=x["id"],
            neighbor_ids=x["neighbor_id"],
            graph_ids=x["graph_id"],
            seed_labels=x["labels"] if many else x["label"][:, None],
            neighbor_labels=x["neighbor_labels"] if many else x["neighbor_label"][:, :, None],
            temperature=self._settings.temperature,
            copies_count_once=correction == "batch",
            log_expected=log_expected,
            hardest=self._hardest(),
            agreement=x.get("neighbor_agreement"),
        )

    def _text_contrast(self, x: Batch, outputs: Batch, training: bool) -> tf.Tensor:
        return contrast.text_contrast(
            outputs["texts"],
            outputs["seeds"],
            text_ids=x["text_id"],
            image_text_ids=x["seed_text_id"],
            image_ids=x["id"],
            graph_ids=x["graph_id"],
            temperature=self._settings.temperature,
            hardest=self._hardest(),
        )

    def _hardest(self) -> tf.Tensor | None:
        """How many negatives of an anchor count in this step; None: all in every step."""
        if not self._settings.hard_negatives:
            return None
        warm = tf.convert_to_tensor(self.step) >= self._hard_from
        return tf.where(warm, self._settings.hard_negatives, tf.int32.max)


def _trusted(inputs: Batch) -> tf.Tensor:
    """[batch, n] float32: weights of the neighbours, times their agreement where it is known."""
    if "neighbor_agreement" not in inputs:
        return inputs["neighbor_weight"]
    return inputs["neighbor_weight"] * inputs["neighbor_agreement"]


def _edges(inputs: Batch, kept: tf.Tensor) -> dict[str, tf.Tensor] | None:
    """Edges among the nodes of the seeds that keep their neighbours; None where none are read."""
    if "graph_senders" not in inputs:
        return None
    weights = inputs["graph_weights"]
    if "graph_agreement" in inputs:
        weights *= inputs["graph_agreement"]
    return {
        "senders": tf.where(kept[:, None], inputs["graph_senders"], -1),
        "receivers": tf.where(kept[:, None], inputs["graph_receivers"], -1),
        "weights": tf.where(kept[:, None], weights, 0.0),
    }
