"""Trains the agreement model's network: balanced batches of pairs, until held-out pairs say stop.

All steps are one call of TensorFlow: the rows of every batch are drawn before.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from trainer.agreement.network import AgreementModel
from trainer.agreement.pair_sets import PairSet
from trainer.agreement.pairs import BalancedBatches
from trainer.agreement.weights import Adam, decay, fresh
from trainer.config import AgreementConfig

EVALUATED_EVERY = 10  # steps
UNWATCHED_STEPS = 300  # at most, where there are no held-out pairs to say stop
_TEMPERATURES = np.geomspace(0.2, 20.0, 16, dtype=np.float32)
_EDGES_AT_LEAST = 32  # of either kind, so that half of each batch is edges

_STEPS = tf.TensorSpec([None, None], tf.int32)
_ROWS, _PAIRS = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 2], tf.int32)
_NUMBERS, _FLAGS = tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.bool)


@dataclass(frozen=True)
class Course:
    """How a training went. steps: until the weights that were kept; losses of a step's pairs."""

    steps: int
    first_loss: float
    last_loss: float


class PairTraining:
    """Trains one network again and again on pairs of the same nodes.

    by_accuracy: held-out pairs say stop by their accuracy, as published; else by their
    cross-entropy, both kinds weighted alike.
    """

    def __init__(
        self, nodes: np.ndarray, feature_dim: int, settings: AgreementConfig, *, by_accuracy: bool
    ) -> None:
        """nodes [n, d] float32, as the network sees them."""
        self._nodes, self._features, self._settings = tf.constant(nodes), feature_dim, settings
        self._by_accuracy = by_accuracy
        self.network = AgreementModel(settings.hidden, settings.aggregation)
        self.network.make_weights(nodes.shape[1], feature_dim)
        self._variables = [each.value for each in self.network.trainable_variables]
        self._best = [tf.Variable(each) for each in self._variables]
        self._adam = Adam(self._variables, settings.learning_rate)
        signature = [_STEPS, *[_ROWS, _PAIRS, _NUMBERS, _FLAGS] * 2]
        self._run = {
            few: tf.function(
                functools.partial(self._steps, few), input_signature=signature, autograph=False
            )
            for few in (True, False)
        }

    def weights(self) -> list[np.ndarray]:
        """The network's."""
        return [each.numpy() for each in self._variables]

    def begin(self, seed: int) -> None:
        """Fresh weights."""
        draw = np.random.default_rng(seed)
        for variable in self._variables:
            variable.assign(fresh(variable.shape, draw))
        if self._features:  # the last ones: they say nothing of edges before edges taught them
            variable.assign(tf.zeros_like(variable))
        self._adam.reset()

    def train(
        self, learned: PairSet, held_out: PairSet, *, seed: int, steps: int | None = None
    ) -> Course:
        """Trains from fresh weights on pairs of both kinds.

        steps: how many, and no held-out pair is looked at; None: as the settings say, until they
        are no longer told apart better, or a few hundred where there are none of both kinds.
        """
        self.begin(seed)
        watched = steps is None and all(held_out.kinds())
        if not watched:
            held_out = held_out.none()
        if steps is None:
            steps = self._settings.steps if watched else min(UNWATCHED_STEPS, self._settings.steps)
        drawn = draw_batches(learned, self._settings.batch, steps, seed=seed)
        few = len(np.unique(learned.pairs)) <= 2 * drawn.shape[1]
        taken, best_step, first, last = self._run[few](
            drawn, *self._tensors(learned), *self._tensors(held_out)
        )
        if watched:
            for variable, kept in zip(self._variables, self._best, strict=True):
                variable.assign(kept)
        return Course(int(best_step if watched else taken), float(first), float(last))

    def logits(self, pairs: PairSet) -> np.ndarray:
        """[p] float32."""
        nodes, places, features, _ = self._tensors(pairs)
        return self._logits(self._encode(nodes), places, features).numpy()

    def _tensors(self, pairs: PairSet) -> tuple[np.ndarray, ...]:
        """(distinct nodes, pairs as places among them, features, whether they agree)."""
        nodes, places = _renumbered(pairs.pairs)
        return nodes, places, pairs.features[:, : self._features], pairs.targets

    def _encode(self, nodes: tf.Tensor) -> tf.Tensor:
        return self.network.encode(tf.gather(self._nodes, nodes))

    def _logits(self, encoded: tf.Tensor, places: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        left, right = (tf.gather(encoded, places[:, end]) for end in (0, 1))
        return self.network.compare(left, right, features if self._features else None)

    # Within TensorFlow -----------------------------------------------------------------------

    def _steps(
        self,
        few: bool,
        drawn: tf.Tensor,
        nodes: tf.Tensor,
        places: tf.Tensor,
        features: tf.Tensor,
        targets: tf.Tensor,
        *held_out: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """Steps until the end, or patience's: (steps taken, best step, first loss, last loss).

        few: all nodes are encoded in a step, which are fewer than the ends of its pairs.
        """
        settings = self._settings

        def cost(rows: tf.Tensor) -> tf.Tensor:
            pairs, wanted = tf.gather(places, rows), tf.cast(tf.gather(targets, rows), tf.float32)
            if few:
                encoded = self._encode(nodes)
            else:
                encoded = self._encode(tf.gather(nodes, tf.reshape(pairs, [-1])))
                pairs = tf.reshape(tf.range(2 * tf.shape(rows)[0]), [-1, 2])
            logits = self._logits(encoded, pairs, tf.gather(features, rows))
            return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits))

        def step(
            number: tf.Tensor, best: tf.Tensor, best_step: tf.Tensor, *losses: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape() as tape:
                loss = own = cost(drawn[number])
                if settings.decay:
                    loss += settings.decay * decay(self._variables)
            self._adam.apply(tape.gradient(loss, self._variables), number)
            first = tf.where(number == 0, own, losses[0])
            number += 1
            with tf.control_dependencies([loss]):
                best, best_step = tf.cond(
                    tf.size(held_out[3]) * tf.cast(number % EVALUATED_EVERY == 0, tf.int32) > 0,
                    lambda: self._judged(number, best, best_step, held_out),
                    lambda: (best, best_step),
                )
            return number, best, best_step, first, own

        def goes_on(
            number: tf.Tensor, best: tf.Tensor, best_step: tf.Tensor, *_: tf.Tensor
        ) -> tf.Tensor:
            patient = (tf.size(held_out[3]) == 0) | (number < best_step + settings.patience)
            return (
                (number < tf.shape(drawn)[0])
                & patient
                & (best < (1.0 if self._by_accuracy else 0.0))
            )

        zero, none = tf.constant(0), tf.constant(0.0)
        number, _, best_step, first, last = tf.while_loop(
            goes_on, step, [zero, tf.constant(-np.inf), zero, none, none], parallel_iterations=1
        )
        return number, best_step, first, last

    def _judged(
        self,
        number: tf.Tensor,
        best: tf.Tensor,
        best_step: tf.Tensor,
        held_out: tuple[tf.Tensor, ...],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Keeps the weights where they are better than the best so far."""
        nodes, places, features, targets = held_out
        logits = self._logits(self._encode(nodes), places, features)
        score = (
            _accuracy(logits, targets) if self._by_accuracy else -_cross_entropy(logits, targets)
        )

        def keep() -> tuple[tf.Tensor, tf.Tensor]:
            kept = [a.assign(b) for a, b in zip(self._best, self._variables, strict=True)]
            with tf.control_dependencies(kept):
                return tf.identity(score), tf.identity(number)

        return tf.cond(score > best, keep, lambda: (best, best_step))


def _accuracy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.cast((logits > 0) == targets, tf.float32))


def _cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Of the best temperature, both kinds weighted alike.

    A model that tells pairs apart ever better becomes too sure of it first, which its temperature
    sets right in the end; as they are, its logits would say stop long before.
    """
    wanted = tf.cast(targets, tf.float32)
    signed = (1.0 - 2.0 * wanted) * logits / _TEMPERATURES[:, None]
    each = tf.math.softplus(signed)
    agreeing, all_of_them = tf.reduce_sum(wanted), tf.cast(tf.size(wanted), tf.float32)
    of_kinds = tf.reduce_sum(wanted * each, axis=1) / agreeing
    of_kinds += tf.reduce_sum((1.0 - wanted) * each, axis=1) / (all_of_them - agreeing)
    return 0.5 * tf.reduce_min(of_kinds)


def _renumbered(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct nodes [m] int32, pairs [p, 2] int32 as places among them)."""
    nodes, places = np.unique(pairs, return_inverse=True)
    return nodes.astype(np.int32), places.reshape(pairs.shape).astype(np.int32)


def draw_batches(learned: PairSet, batch: int, steps: int, *, seed: int) -> np.ndarray:
    """[steps, about batch] int32, rows of pairs: half agree, and half of them all are edges.

    No half is edges where there are too few of both kinds to stand for edges; then they come as
    often as any pair.
    """
    seeds = np.random.SeedSequence(seed).generate_state(2)
    targets, start = learned.targets, len(learned.targets) - learned.edges
    of_edges = targets[start:]
    agreeing = int(of_edges.sum())
    if not start or min(agreeing, len(of_edges) - agreeing) < _EDGES_AT_LEAST:
        return (
            BalancedBatches(targets, batch=batch, seed=int(seeds[0])).take(steps).astype(np.int32)
        )
    pairs = BalancedBatches(targets[:start], batch=batch // 2, seed=int(seeds[0])).take(steps)
    edges = BalancedBatches(of_edges, batch=batch // 2, seed=int(seeds[1])).take(steps)
    return np.concatenate([pairs, start + edges], axis=1).astype(np.int32)
