"""What happens while a model trains: Keras callbacks that measure, tell, and stop in time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline import schema
from pipeline.errors import ImgembedError
from trainer.model import EmbeddingModel

OnEpoch = Callable[[int, int, dict[str, float]], None]
OnStep = Callable[[int, int], None]
FIGURE = "validation_figure"
MOST_SEEDS = 4_096  # of the validation split that are looked at, to the next full batch
_IDS = ("id", "text_id", "seed_text_id", "neighbor_id", "graph_id", "heldout_label")
# Of these a batch has as many columns as its longest row; what fills the others up.
_PADDING = {"seed_text_id": 0, "heldout_labels": schema.NO_LABEL}


class Validate(keras.callbacks.Callback):
    """Adds the validation figure and its parts to an epoch's logs.

    `validation_text_mrr`: mean reciprocal rank of the first right image for each seed's text, among
    all validation seeds; an image is right when it has that text. `validation_edge_mrr`: the same
    of the strongest neighbour for each seed, among the validation seeds' strongest neighbours.
    `validation_accuracy`: of the class head, on held-out labels; its best class is right when it is
    among the image's labels. The figure is the mean of those
    there is data for and whose term is trained: ranks say what search will be like, whereas a loss
    also moves with temperature and confidence.
    """

    def __init__(self, batches: tf.data.Dataset, batch_size: int) -> None:
        super().__init__()
        self._batches = batches.take(-(-MOST_SEEDS // batch_size))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = validation_figures(self.model, self._batches)
        if logs is not None and figures:
            logs.update({f"validation_{name}": value for name, value in figures.items()})
            logs[FIGURE] = float(np.mean(list(figures.values())))


def validation_figures(model: EmbeddingModel, batches: tf.data.Dataset) -> dict[str, float]:
    """`text_mrr`, `edge_mrr` and `accuracy`, each in [0, 1] and only where there is data for it."""
    found = _embed_all(model, batches)
    figures = {}
    if model.trains("text_contrast") and found["text_id"].any():
        figures["text_mrr"] = _text_mrr(found)
    if model.trains("edge_contrast", "graph_regularization") and found["neighbor_id"].any():
        figures["edge_mrr"] = _edge_mrr(found)
    if model.trains("supervised") and (found["heldout_label"] >= 0).any():
        figures["accuracy"] = _accuracy(found)
    return figures


def _embed_all(model: EmbeddingModel, batches: tf.data.Dataset) -> dict[str, np.ndarray]:
    """Ids and embeddings of all seeds, of their neighbours and texts."""
    parts: list[dict[str, np.ndarray]] = []
    for batch in batches:
        outputs = model.predict_on_batch(batch)
        kept = batch.keys() & {*_IDS, *_PADDING}
        parts.append({**{name: batch[name].numpy() for name in kept}, **outputs})
    return {name: _concatenate([part[name] for part in parts], name) for name in parts[0]}


def _concatenate(parts: list[np.ndarray], name: str) -> np.ndarray:
    if name in _PADDING:
        width = max(part.shape[1] for part in parts)
        parts = [
            np.pad(part, [(0, 0), (0, width - part.shape[1])], constant_values=_PADDING[name])
            for part in parts
        ]
    return np.concatenate(parts)


def _accuracy(found: dict[str, np.ndarray]) -> float:
    """The share of the labelled seeds whose best class is one of their labels."""
    labels = found.get("heldout_labels", found["heldout_label"][:, None])
    right = (found["logits"].argmax(axis=1)[:, None] == labels).any(axis=1)
    return float(right[(labels >= 0).any(axis=1)].mean())


def _text_mrr(found: dict[str, np.ndarray]) -> float:
    """Of each seed's text, the best rank of an image that has the text, among all seeds."""
    asked = found["text_id"] != 0
    right = _shares(found["text_id"][asked], found["seed_text_id"])
    return _mrr(found["texts"][asked] @ found["seeds"].T, right)


def _edge_mrr(found: dict[str, np.ndarray]) -> float:
    """Of each seed, the best rank of its neighbour's picture, among the seeds' neighbours.

    Seeds whose neighbours hold the very picture of another seed rank it like any other.
    """
    asked = found["neighbor_id"][:, 0] != 0
    neighbors, ids = found["neighbors"][asked, 0], found["neighbor_id"][asked, 0]
    right = _shares(ids, found["graph_id"][asked]).T
    return _mrr(found["seeds"][asked] @ neighbors.T, right)


def _shares(ids: np.ndarray, of: np.ndarray) -> np.ndarray:
    """[n] and [m, k], 0 = none -> [n, m] bool: whether the row holds the id."""
    return np.stack([(of == one).any(axis=1) for one in ids])


def _mrr(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean reciprocal rank of the best right candidate; ties count against it.

    scores [queries, candidates]; right, the same shape, bool, with at least one in every row.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks = 1 + (~right & (scores >= best)).sum(axis=1)
    return float((1.0 / ranks).mean())


class Watch(keras.callbacks.Callback):
    """Tells of steps and epochs, and ends a training whose loss is no number any more."""

    def __init__(
        self, *, epochs: int, steps: int, on_epoch: OnEpoch | None, on_step: OnStep | None
    ) -> None:
        super().__init__()
        self._epochs, self._steps = epochs, steps
        self._on_epoch, self._on_step = on_epoch, on_step
        self._done = 0
        self.history: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._done += 1
        if logs is not None and not math.isfinite(logs["loss"]):
            raise ImgembedError(
                f"training: the loss is {logs['loss']} after {self._done} steps; "
                "try a lower training.learning_rate or a higher training.temperature"
            )
        if self._on_step is not None:
            self._on_step(self._done, self._epochs * self._steps)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"epoch": epoch + 1, **figures})
        if self._on_epoch is not None:
            self._on_epoch(epoch + 1, self._epochs, figures)


class KeepBest(keras.callbacks.Callback):
    """Stops after `patience` epochs without a better figure; in the end restores the best weights.

    The first of equal figures is the best. Without validation data the figure is the training loss,
    the lower the better.
    """

    def __init__(self, patience: int) -> None:
        super().__init__()
        self._patience = patience
        self._weights: list[Any] = []
        self.best = -math.inf
        self.best_epoch = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        figure = logs[FIGURE] if FIGURE in logs else -logs["loss"]
        if figure > self.best:
            self.best, self.best_epoch = float(figure), epoch + 1
            self._weights = self.model.get_weights()
        elif epoch + 1 - self.best_epoch >= self._patience:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.model.set_weights(self._weights)


class TensorBoard(keras.callbacks.Callback):
    """Writes an epoch's figures as event files."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._writer = tf.summary.create_file_writer(folder)
        # What tf.summary.scalar would write; that needs TensorBoard itself, these files do not.
        self._metadata = tf.compat.v1.SummaryMetadata(data_class="DATA_CLASS_SCALAR")
        self._metadata.plugin_data.plugin_name = "scalars"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        with self._writer.as_default():
            for name, value in (logs or {}).items():
                tf.summary.write(name, tf.constant(value, tf.float32), epoch + 1, self._metadata)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._writer.close()
