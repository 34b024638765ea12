"""One step of learning: forward, loss, gradients, update and metrics, on all replicas at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.model import EmbeddingModel
from trainer.strategies import Replicas, total

Batch = Mapping[str, tf.Tensor]
Sums = dict[str, tuple[float, float]]  # of a metric: (sum of its values times rows, rows)
_STATISTICS = ("moving_mean", "moving_variance")
# Far apart, so that the random numbers of replicas have nothing in common.
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Stepped:
    """What a step found.

    loss: of the whole batch. is_finite: the loss and all weights are numbers. wishes: as given to
    `step`, added up over the workers.
    """

    loss: float
    is_finite: bool
    wishes: np.ndarray


class Learner:
    """A model, its optimizer and its metrics: all that changes with a step."""

    def __init__(
        self, network: EmbeddingModel, optimizer: keras.Optimizer, replicas: Replicas
    ) -> None:
        """To be made where the model was, in the scope of the replicas' strategy."""
        self.network = network
        self.optimizer = optimizer
        self._replicas = replicas
        self._loss = keras.metrics.Mean(name="loss")
        self.metrics = [*network.metrics, self._loss]
        self._measured = [variable for metric in self.metrics for variable in metric.variables]
        optimizer.build(network.trainable_variables)
        self._statistics = [
            v for v in network.non_trainable_variables if v.path.endswith(_STATISTICS)
        ]
        self._seeds = [v for v in network.variables if v.path.endswith("seed_generator_state")]
        self._step = tf.function(self._everywhere, autograph=False, reduce_retracing=True)
        self._read = tf.function(lambda: replicas.run(self._read_in_replica), autograph=False)
        self._write = tf.function(
            lambda measured: replicas.run(self._write_in_replica, measured), autograph=False
        )
        self._part_seeds()

    def step(self, number: int, batches: Iterator[Batch], wishes: Sequence[float]) -> Stepped:
        """Learns from the next batch. number: of steps before. wishes: of this worker."""
        self.network.step.assign(number)
        loss, finite, asked = self._step(batches, tf.constant(wishes, tf.float32))
        return Stepped(float(loss), bool(finite), asked.numpy())

    def _everywhere(self, batches: Iterator[Batch], wishes: tf.Tensor) -> Any:
        return self._replicas.run(self._in_replica, next(batches), wishes)

    def _in_replica(self, batch: Batch, wishes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rows = tf.cast(tf.shape(batch["id"])[0], tf.float32)
        if self._replicas.count == 1:
            loss, gradients = self._gradients(batch, rows)
        else:
            sums = total(tf.concat([[rows], wishes], axis=0))
            share, wishes = rows / sums[0], sums[1:]
            loss, gradients = self._gradients(batch, rows, share)
            loss, gradients = total(loss * share), _total_of_some(gradients)
            means = total([variable * share for variable in self._statistics])
            for variable, mean in zip(self._statistics, means, strict=True):
                variable.assign(mean)
        variables = self.network.trainable_variables
        self.optimizer.apply(gradients, variables)
        length = tf.linalg.global_norm([tf.convert_to_tensor(v) for v in variables])
        return loss, tf.math.is_finite(loss) & tf.math.is_finite(length), wishes

    def _gradients(
        self, batch: Batch, rows: tf.Tensor, share: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[Any]]:
        """(loss, gradients), those times `share`, the replica's part of the batch's rows."""
        with tf.GradientTape() as tape:
            outputs = self.network(batch, training=True)
            loss = self.network.compute_loss(x=batch, y_pred=outputs, training=True)
            self._loss.update_state(loss, sample_weight=rows)
            scaled = self.optimizer.scale_loss(loss if share is None else loss * share)
        return loss, tape.gradient(scaled, self.network.trainable_variables)

    def sums(self) -> Sums:
        """What the metrics have added up since they were reset; all workers ask together."""
        sums = iter(self._read().numpy().sum(axis=0).tolist())
        return dict(sorted((metric.name, (next(sums), next(sums))) for metric in self.metrics))

    def reset_metrics(self) -> None:
        for metric in self.metrics:
            metric.reset_state()

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.learning_rate)

    def state(self) -> list[np.ndarray]:
        """All that another learner needs to go on as this one; all workers ask together.

        Of the metrics what each replica has added up: in another order the last bit would differ.
        """
        return [*(variable.numpy() for variable in self._variables()), self._read().numpy()]

    def blank_state(self) -> list[np.ndarray]:
        """Zeros in the form of a `state`; a worker need not ask the others for them."""
        forms = [(v.shape, keras.backend.standardize_dtype(v.dtype)) for v in self._variables()]
        of_metrics = (self._replicas.count, len(self._measured)), "float32"
        return [np.zeros(*form) for form in (*forms, of_metrics)]

    def set_state(self, state: Sequence[np.ndarray]) -> None:
        """Goes on from a `state`; ValueError where it is another model's."""
        *values, measured = state
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        self._write(tf.constant(measured))
        self._part_seeds()

    def _variables(self) -> list[Any]:
        """Those that are the same in every replica, or that the first one's stand for."""
        return [*self.network.variables, *self.optimizer.variables]

    def _read_in_replica(self) -> tf.Tensor:
        """[replicas, values] float32: what the metrics of each replica hold."""
        own = tf.stack([tf.convert_to_tensor(variable) for variable in self._measured])
        if self._replicas.count == 1:
            return own[None]
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        return total(
            tf.scatter_nd([[place]], own[None], [self._replicas.count, len(self._measured)])
        )

    def _write_in_replica(self, measured: tf.Tensor) -> tf.Tensor:
        place = tf.distribute.get_replica_context().replica_id_in_sync_group
        own = tf.unstack(tf.gather(measured, place), num=len(self._measured))
        for variable, value in zip(self._measured, own, strict=True):
            variable.assign(value)
        return measured

    def _part_seeds(self) -> None:
        """Gives each replica but the first random numbers of its own."""
        if self._replicas.count == 1:
            return

        def part() -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for seed in self._seeds:
                apart = tf.stack([replica * _SEED_STRIDE, tf.zeros_like(replica)])
                seed.assign(seed + tf.cast(apart, seed.dtype))
            return replica

        tf.function(lambda: self._replicas.run(part), autograph=False)()


def _total_of_some(gradients: Sequence[Any]) -> list[Any]:
    """The sum over the replicas of those gradients that there are; None stays."""
    summed = iter(total([gradient for gradient in gradients if gradient is not None]))
    return [None if gradient is None else next(summed) for gradient in gradients]
