"""One training from fresh weights to its best epoch: all that the training stage does, or, where
images are labelled in turns with learning from them, what it does in each iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.beliefs import NOTHING, Beliefs
from trainer.checkpoints import Checkpoints
from trainer.config import ModelConfig, TrainingConfig
from trainer.dataset import evaluation_batches, image_ids, steps_per_epoch, training_batches
from trainer.example_files import TRAIN, VALIDATION, ExampleFiles
from trainer.learner import Learner
from trainer.loop import Loop, Plan, Record
from trainer.losses import PairWeights
from trainer.model import EmbeddingModel
from trainer.optimizers import make_optimizer, precision
from trainer.popularity import Popularity
from trainer.progress import Listener
from trainer.stopping import Best
from trainer.strategies import Replicas, Shard
from trainer.tensorboard import Events
from trainer.transform import Transform
from trainer.validation import MOST_SEEDS, Validator

_SHOWN_IDS = 3


@dataclass(frozen=True)
class Data:
    """The examples, what the configuration wants of them, and what is believed beyond them."""

    files: ExampleFiles
    transform: Transform
    model: ModelConfig
    training: TrainingConfig
    seed: int
    beliefs: Beliefs = NOTHING
    pair_weights: PairWeights | None = None  # of pairs of images, where agreement is believed in
    ranks_edges: bool = False  # in validation, even where no term learns from them

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
        batches = training_batches(
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
        return self._believing(batches, self.beliefs.into_training)

    def evaluation(self, split: str, batch_size: int) -> tf.data.Dataset:
        """A split as validation sees it: ranks ask for the strongest neighbour."""
        wanted = self.training.neighbors if self.edges else min(1, self.training.neighbors)
        batches = evaluation_batches(
            self.files,
            self.transform,
            split,
            batch_size=batch_size,
            neighbors=wanted,
            edges=self.edges,
        )
        return self._believing(batches, self.beliefs.into_evaluation)

    def _believing(self, batches: tf.data.Dataset, into: Any) -> tf.data.Dataset:
        if self.beliefs.is_empty:
            return batches
        into = tf.autograph.experimental.do_not_convert(into)
        return batches.map(into, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def measure(self, network: EmbeddingModel) -> Any:
        """The function that gives an epoch's figures of validation."""
        if self.files.records(VALIDATION) == 0:
            return dict
        batch_size = self.training.batch_size
        batches = self.evaluation(VALIDATION, batch_size).take(-(-MOST_SEEDS // batch_size))
        return Validator(network, batches, edges=self.ranks_edges).figures

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

    def class_counts(self) -> Sequence[int]:
        """Training images of each class, as far as they are believed to be of one."""
        labels = self.beliefs.labels
        if labels is None:
            return self.files.class_counts
        known = labels.values[labels.values >= 0]
        return np.bincount(known, minlength=len(self.files.classes)).tolist()


@dataclass(frozen=True)
class Trained:
    """What a training ended with: the network has the weights of its best epoch.

    In workers that are not the chief, those of its last one. best_figure: the higher the better.
    """

    network: EmbeddingModel
    record: Record
    best_epoch: int
    best_figure: float

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of the best epoch."""
        return self.record.history[self.best_epoch - 1]


def attempt(
    data: Data,
    replicas: Replicas,
    *,
    checkpoints: Checkpoints | None,
    restart: bool,
    events: str | None,
    listener: Listener,
) -> Trained:
    """Trains a fresh model, or goes on from the newest of the checkpoints, to the end.

    events: the folder of event files; None: nobody looks at them.
    Interrupted where the listener asks to stop.
    """
    keras.utils.set_random_seed(data.seed)
    learner = make_learner(data, replicas)
    best = Best(data.training.patience)
    loop = Loop(
        learner=learner,
        replicas=replicas,
        plan=data.plan(),
        best=best,
        measure=data.measure(learner.network),
        explain_step=data.explain_step,
        checkpoints=checkpoints,
        events=Events(events) if events is not None else None,
        listener=listener,
    )
    is_kept = checkpoints is not None and replicas.worker.is_chief
    loop.restore(checkpoints.begin(anew=restart) if checkpoints and is_kept else None)
    loop.run(replicas.batches(lambda shard: data.batches(loop.step, shard)))
    if best.weights:
        learner.network.set_weights(best.weights)
    return Trained(learner.network, loop.record, best.epoch, best.figure)


def make_learner(data: Data, replicas: Replicas) -> Learner:
    """A fresh model with its optimizer, built: all weights are there."""
    with replicas.strategy.scope(), precision(data.training.precision):
        network = make_model(
            data.files,
            data.transform,
            data.model,
            data.training,
            class_counts=data.class_counts(),
            pair_weights=data.pair_weights,
        )
        for batch in data.evaluation(TRAIN, 2).take(1):
            network(batch, training=False)
        return Learner(network, make_optimizer(data.training, data.plan().total), replicas)


def make_model(
    files: ExampleFiles,
    transform: Transform,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    class_counts: Sequence[int] | None = None,
    pair_weights: PairWeights | None = None,
) -> EmbeddingModel:
    """A fresh model for these examples. class_counts: None: as the examples have them."""
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
        class_counts=files.class_counts if class_counts is None else class_counts,
        popularity=popularity,
        pair_weights=pair_weights,
        steps=training.epochs * steps_per_epoch(files, TRAIN, training.batch_size),
    )
