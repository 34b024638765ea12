"""Trains the embedding model: the examples stage in, a new version of the model stage out.

The same examples, configuration and seed give the same weights on the same machine, as far as
TensorFlow's kernels allow (on a CPU with the same number of threads they do).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion, Version, to_json
from pipeline.errors import ImgembedError
from trainer import serving
from trainer.config import ModelConfig, TrainingConfig
from trainer.dataset import evaluation_batches, steps_per_epoch, training_batches
from trainer.example_files import TRAIN, VALIDATION, ExampleFiles
from trainer.model import TERMS, EmbeddingModel
from trainer.progress import KeepBest, OnEpoch, OnStep, TensorBoard, Validate, Watch
from trainer.transform import Transform

WARMUP = 0.05  # share of the steps in which the learning rate rises
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0  # its norm over all weights is cut to that
FINAL_RATE = 0.01  # of the highest


def train(
    *,
    examples: Version,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    out: NewVersion,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Fits the model, writes SavedModel, history and event files into `out`, gives the manifest.

    on_epoch(epoch, epochs, figures) is called after each epoch, from 1; on_step(step, steps) after
    each step. Nothing is printed.
    """
    files = ExampleFiles.open(examples)
    _check(files, training)
    keras.utils.set_random_seed(seed)
    transform = files.transform()
    network = make_model(files, transform, model, training)
    steps = steps_per_epoch(files, TRAIN, training.batch_size)
    keep = KeepBest(training.patience)
    watch = Watch(epochs=training.epochs, steps=steps, on_epoch=on_epoch, on_step=on_step)
    writer = TensorBoard(out.file(schema.TENSORBOARD_FOLDER))
    network.compile(optimizer=_optimizer(training, training.epochs * steps), jit_compile=False)
    network.fit(
        training_batches(
            files,
            transform,
            batch_size=training.batch_size,
            neighbors=training.neighbors,
            epochs=training.epochs,
            seed=seed,
            shuffle_buffer=training.shuffle_buffer,
        ),
        epochs=training.epochs,
        steps_per_epoch=steps,
        callbacks=[*_validation(files, transform, training), keep, writer, watch],
        shuffle=False,
        verbose=0,
    )
    signatures = serving.export(network, transform, files, out.file(schema.SAVED_MODEL_FOLDER))
    _write_history(out.file(schema.HISTORY_FILE), watch.history, keep.best_epoch)
    return {
        "dim": model.dim,
        "signatures": signatures,
        "content": files.version.manifest["content"],
        "image_size": files.image_size,
        "image_encoding": files.spec.image_encoding,
        "feature_dim": files.spec.feature_dim,
        "classes": list(files.classes) if network.trains("supervised") else [],
        "multi_label": files.spec.multi_label,
        "parameters": network.count_params(),
        "epochs": len(watch.history),
        "best_epoch": keep.best_epoch,
        "metrics": watch.history[keep.best_epoch - 1],
    }


def make_model(
    files: ExampleFiles, transform: Transform, model: ModelConfig, training: TrainingConfig
) -> EmbeddingModel:
    """A fresh model for these examples."""
    return EmbeddingModel(
        model,
        training,
        channels=transform.channels() if files.spec.feature_dim is None else None,
        num_classes=len(files.classes) if files.labelled else 0,
        num_tokens=files.num_tokens if files.texts else 0,
        multi_label=files.spec.multi_label,
    )


def _check(files: ExampleFiles, training: TrainingConfig) -> None:
    """Raises where there is nothing to learn, or nothing to learn from."""
    path = files.version.path
    if files.records(TRAIN) == 0:
        raise ImgembedError(
            f"{path}: no example is in the training split, of {_all_records(files)} in all; "
            "raise examples.split.train, or check the catalog's column 'split'"
        )
    if not any(getattr(training, term) for term in TERMS):
        raise ImgembedError(
            f"training: {', '.join(TERMS)} are all 0, so there is nothing to learn; raise one"
        )
    edges = files.with_neighbors > 0 and training.neighbors > 0
    there = {
        "supervised": files.labelled > 0,
        "graph_regularization": edges,
        "edge_contrast": edges,
        "text_contrast": files.texts > 0,
    }
    if not any(there[term] and getattr(training, term) for term in TERMS):
        raise ImgembedError(
            f"{path}: nothing to learn from: there are {files.labelled} labels and {files.texts} "
            f"texts in the training split and {files.with_neighbors} images with neighbours, but "
            "'training' uses none of these; add labels, texts or sessions, or raise the weight of "
            "a term under 'training'"
        )


def _all_records(files: ExampleFiles) -> int:
    return sum(files.records(split) for split in schema.SPLITS)


def _optimizer(training: TrainingConfig, steps: int) -> keras.Optimizer:
    warmup = max(1, round(WARMUP * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        training.learning_rate / warmup,
        max(1, steps - warmup),
        alpha=FINAL_RATE,
        warmup_target=training.learning_rate,
        warmup_steps=warmup,
    )
    return keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY, global_clipnorm=LARGEST_GRADIENT)


def _validation(
    files: ExampleFiles, transform: Transform, training: TrainingConfig
) -> list[keras.callbacks.Callback]:
    if files.records(VALIDATION) == 0:
        return []
    batches = evaluation_batches(
        files,
        transform,
        VALIDATION,
        batch_size=training.batch_size,
        neighbors=min(1, training.neighbors),
    )
    return [Validate(batches, training.batch_size)]


def _write_history(path: str, epochs: list[dict[str, float]], best_epoch: int) -> None:
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(to_json({"best_epoch": best_epoch, "epochs": epochs}))
