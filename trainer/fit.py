"""Trains the embedding model: the examples stage in, a new version of the model stage out.

The same examples, configuration and seed give the same weights on the same machine, as far as
TensorFlow's kernels allow (on a CPU with the same number of threads they do), whether a training
ran through or was stopped and went on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from pipeline import schema
from pipeline.artifacts import NewVersion, Version, to_json
from pipeline.errors import ImgembedError
from trainer import projector, serving
from trainer.checkpoints import Checkpoints, mark
from trainer.checks import check
from trainer.config import ModelConfig, TrainingConfig
from trainer.dataset import evaluation_batches, image_ids, steps_per_epoch, training_batches
from trainer.example_files import TRAIN, VALIDATION, ExampleFiles
from trainer.learner import Learner
from trainer.loop import Loop, Plan
from trainer.model import EmbeddingModel
from trainer.optimizers import make_optimizer, precision
from trainer.popularity import Popularity
from trainer.progress import Listener
from trainer.stopping import Best
from trainer.strategies import Replicas, Shard
from trainer.tensorboard import Events
from trainer.transform import Transform
from trainer.validation import MOST_SEEDS, Validator
from trainer.workers import Worker

_SHOWN_IDS = 3
_ALONE, _NOBODY = Worker(), Listener()
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


def train(
    *,
    examples: Version,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    out: NewVersion | None,
    checkpoints: str | None = None,
    restart: bool = False,
    image_size: int | None = None,
    worker: Worker = _ALONE,
    devices: Sequence[str] | None = None,
    listener: Listener = _NOBODY,
) -> dict[str, Any] | None:
    """Fits the model, writes SavedModel, history and event files into `out`, gives the manifest.

    Goes on from the last checkpoint in the folder `checkpoints`, unless `restart`; None: there are
    none. They stay: whoever commits `out` removes them. image_size: of the configuration, where it
    names one. devices: None: all GPUs, else the CPU. Of several workers all but the chief have no
    `out`, and get None when the chief is done. Nothing is printed.

    ImgembedError where it cannot be trained, Interrupted where the listener asks to stop.
    """
    replicas = Replicas.open(worker, devices)  # before TensorFlow does anything else
    files = ExampleFiles.open(examples)
    check(files, model, training, image_size)
    keras.utils.set_random_seed(seed)
    data = _Data(files, files.transform(), model, training, seed)
    learner = _make_learner(data, replicas)
    best = Best(training.patience)
    kept = None
    if checkpoints is not None:
        made_of = mark(examples=examples, model=model, training=training, seed=seed)
        kept = Checkpoints(checkpoints, made_of, replicas.count, listener.on_note)
    loop = Loop(
        learner=learner,
        replicas=replicas,
        plan=data.plan(),
        best=best,
        measure=data.measure(learner.network),
        explain_step=data.explain_step,
        checkpoints=kept,
        events=Events(out.file(schema.TENSORBOARD_FOLDER)) if out is not None else None,
        listener=listener,
    )
    with _workers_lost(worker):
        found = kept.begin(anew=restart) if kept is not None and worker.is_chief else None
        loop.restore(found)
        loop.run(replicas.batches(lambda shard: data.batches(loop.step, shard)))
        manifest = _finish(data, learner.network, loop, best, out) if out is not None else None
        replicas.agree(0)  # the others stay until the chief is done
    return manifest


@dataclass(frozen=True)
class _Data:
    """The examples, and what the configuration wants of them."""

    files: ExampleFiles
    transform: Transform
    model: ModelConfig
    training: TrainingConfig
    seed: int

    def plan(self) -> Plan:
        training = self.training
        return Plan(
            epochs=training.epochs,
            steps=steps_per_epoch(self.files, TRAIN, training.batch_size),
            batch_size=training.batch_size,
            checkpoint_seconds=60.0 * training.checkpoint_minutes,
        )

    @property
    def edges(self) -> bool:
        """Whether the model looks at edges among an image's neighbours."""
        return self.model.graph_network != "none"

    def batches(self, step: int, shard: Shard) -> tf.data.Dataset:
        """What a replica trains on, from a step on."""
        training = self.training
        return training_batches(
            self.files,
            self.transform,
            batch_size=training.batch_size,
            neighbors=training.neighbors,
            epochs=training.epochs,
            seed=self.seed,
            shuffle_buffer=training.shuffle_buffer,
            start_step=step,
            shard=shard,
            edges=self.edges,
        )

    def evaluation(self, split: str, batch_size: int) -> tf.data.Dataset:
        """A split as validation sees it: ranks ask for the strongest neighbour."""
        wanted = self.training.neighbors if self.edges else min(1, self.training.neighbors)
        return evaluation_batches(
            self.files,
            self.transform,
            split,
            batch_size=batch_size,
            neighbors=wanted,
            edges=self.edges,
        )

    def measure(self, network: EmbeddingModel) -> Any:
        """The function that gives an epoch's figures of validation."""
        if self.files.records(VALIDATION) == 0:
            return dict
        batch_size = self.training.batch_size
        batches = self.evaluation(VALIDATION, batch_size).take(-(-MOST_SEEDS // batch_size))
        return Validator(network, batches).figures

    def explain_step(self, step: int) -> str:
        """Which images a step learned from."""
        ids = image_ids(
            self.files,
            step=step,
            batch_size=self.training.batch_size,
            seed=self.seed,
            shuffle_buffer=self.training.shuffle_buffer,
        )
        shown = ", ".join(map(repr, ids[:_SHOWN_IDS]))
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        return f"the images of that step are {shown}{more}"


def _make_learner(data: _Data, replicas: Replicas) -> Learner:
    """A fresh model with its optimizer, built: all weights are there."""
    with replicas.strategy.scope(), precision(data.training.precision):
        network = make_model(data.files, data.transform, data.model, data.training)
        for batch in data.evaluation(TRAIN, 2).take(1):
            network(batch, training=False)
        return Learner(network, make_optimizer(data.training, data.plan().total), replicas)


@contextmanager
def _workers_lost(worker: Worker) -> Iterator[None]:
    """Says in a line that another worker is gone; collective operations then fail in many ways."""
    try:
        yield
    except _LOST as error:
        if worker.is_alone:
            raise
        said = " ".join(error.message.split())[:200]
        raise ImgembedError(
            f"training: worker {worker.index} lost the others ({said}); start all workers again: "
            "they go on from the last checkpoint"
        ) from error


def make_model(
    files: ExampleFiles, transform: Transform, model: ModelConfig, training: TrainingConfig
) -> EmbeddingModel:
    """A fresh model for these examples."""
    popularity = None
    if training.logq_correction == "popularity" and training.edge_contrast:
        popularity = Popularity.of(files, training.neighbors)
    return EmbeddingModel(
        model,
        training,
        channels=transform.channels() if files.spec.feature_dim is None else None,
        num_classes=len(files.classes) if files.labelled else 0,
        num_tokens=files.num_tokens if files.texts else 0,
        multi_label=files.spec.multi_label,
        image_size=files.image_size,
        class_counts=files.class_counts,
        popularity=popularity,
        steps=training.epochs * steps_per_epoch(files, TRAIN, training.batch_size),
    )


def _finish(
    data: _Data, network: EmbeddingModel, loop: Loop, best: Best, out: NewVersion
) -> dict[str, Any]:
    """Writes the best weights as a SavedModel, and what is to be seen of the training."""
    network.set_weights(best.weights)
    files, history = data.files, loop.record.history
    signatures = serving.export(network, data.transform, files, out.file(schema.SAVED_MODEL_FOLDER))
    _write_history(out.file(schema.HISTORY_FILE), history, best.epoch)
    projector.write(out.file(schema.TENSORBOARD_FOLDER), network, files, data.transform)
    return {
        "dim": data.model.dim,
        "signatures": signatures,
        "content": files.version.manifest["content"],
        "image_size": files.image_size,
        "image_encoding": files.spec.image_encoding,
        "feature_dim": files.spec.feature_dim,
        "classes": list(files.classes) if network.trains("supervised") else [],
        "multi_label": files.spec.multi_label,
        "parameters": network.count_params(),
        "epochs": len(history),
        "best_epoch": best.epoch,
        "metrics": history[best.epoch - 1],
    }


def _write_history(path: str, epochs: list[dict[str, float]], best_epoch: int) -> None:
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(to_json({"best_epoch": best_epoch, "epochs": epochs}))
