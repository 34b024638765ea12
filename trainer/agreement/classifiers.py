"""Trains a network of nodes on labels and on pairs: fixed steps, or until validation says stop.

Hundreds of steps are one call of TensorFlow: what each looks at is drawn before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import tensorflow as tf

from trainer import contrast
from trainer.agreement.loss import pair_loss
from trainer.agreement.networks import NodeNetwork, Outputs
from trainer.agreement.pairs import Cycle, PairBlock, PairSource
from trainer.agreement.weights import Adam, fresh

_STEPS_AT_ONCE = 500
_NODES_AT_ONCE = 4_096


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    steps: at most. batch: labelled nodes a step. decay: of weights, squared and halved.
    keep_best: the weights of the step of the best validation accuracy are kept, and training ends
    after `patience` steps without a better one, but not before min_steps; else those of the last
    step. ties_by_loss: of equally accurate steps the one of the least cross-entropy is kept, not
    the first. regularized: what of two nodes is compared. first_stays: of two unlabelled nodes only
    the second one is pulled. contrast: weight of InfoNCE on edges. temperature: of InfoNCE.
    """

    steps: int = 300
    batch: int = 128
    learning_rate: float = 2e-3
    decay: float = 1e-4
    keep_best: bool = False
    evaluated_every: int = 10
    min_steps: int = 200
    patience: int = 2_000
    ties_by_loss: bool = True
    regularized: Literal["probabilities", "embedding"] = "probabilities"
    first_stays: bool = False
    contrast: float = 0.0
    temperature: float = 0.2


class EdgeDraws:
    """Edges for the contrastive term, in shuffled passes, each with a weight.

    neighbors [n, n] bool: nodes that are no negatives of each other; None: any but the same one.
    """

    def __init__(self, edges: np.ndarray, weights: np.ndarray, *, pairs: int, seed: int) -> None:
        """edges [edges, 2] int32; weights [edges] float32, what a pair counts in the mean."""
        self._edges, self._weights = edges, weights
        self._cycle = Cycle(len(edges), pairs, np.random.default_rng(seed))

    def draw(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(ends [steps, pairs, 2] int32, weights [steps, pairs] float32)."""
        rows = self._cycle.take(steps)
        return self._edges[rows], self._weights[rows].astype(np.float32)


@dataclass(frozen=True)
class Guidance:
    """What a training has beside labels.

    pairs: of the pair loss; None: there are none. edges: of the contrastive term. figures: of the
    agreement model. note: the line that says why it was not used; None: it was, or there is none.
    agreement: [edges] float32 of the graph, for whoever wants to know.
    """

    pairs: PairSource | None = None
    edges: EdgeDraws | None = None
    figures: dict[str, float] = field(default_factory=dict)
    note: str | None = None
    agreement: np.ndarray | None = None


class InMemoryClassifier:
    """A network of nodes that is trained anew again and again, traced once."""

    def __init__(
        self,
        network: NodeNetwork,
        recipe: Recipe,
        *,
        nodes: int,
        validation: np.ndarray,
        neighbors: np.ndarray | None = None,
    ) -> None:
        """validation [nodes] int64: labels of the validation nodes, -1 = any other.

        neighbors [nodes, nodes] bool: pairs that are no negatives of the contrastive term; None:
        all but those of the same node or label are.
        """
        self._network, self._recipe, self._count = network, recipe, nodes
        rows = np.flatnonzero(validation >= 0).astype(np.int32)
        self._validation = tf.constant(rows), tf.constant(validation[rows].astype(np.int32))
        self._neighbors = None if neighbors is None else tf.constant(neighbors)
        self._variables = [each.value for each in network.trainable_variables]
        self._best = [tf.Variable(each) for each in self._variables]
        self._adam = Adam(self._variables, recipe.learning_rate)
        rows_of, numbers = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None])
        number, integer = tf.TensorSpec([]), tf.TensorSpec([], tf.int32)
        self._run = tf.function(
            self._steps,
            input_signature=[
                *[rows_of, rows_of],
                *[rows_of, rows_of, numbers, rows_of, rows_of, numbers, integer],
                *[tf.TensorSpec([None, None, 2], tf.int32), numbers],
                tf.TensorSpec([None], tf.int32),
                *[integer, integer, number, number, integer],
            ],
            autograph=False,
        )
        self._look = tf.function(
            network.outputs, input_signature=[tf.TensorSpec([None], tf.int32)], autograph=False
        )

    # A training ------------------------------------------------------------------------------

    def train(self, labels: np.ndarray, guidance: Guidance, *, seed: int) -> tuple[float, float]:
        """Trains from fresh weights: (validation accuracy, minus the cross-entropy there).

        labels [nodes] int64, known or given, -1 = none.
        """
        seeds = np.random.SeedSequence(seed).generate_state(2)
        draw = np.random.default_rng(seeds[0])
        for variable in self._variables:
            variable.assign(fresh(variable.shape, draw))
        self._adam.reset()
        known = np.flatnonzero(labels >= 0).astype(np.int32)
        if not len(known):
            raise ValueError("no node has a label")
        labels = labels.astype(np.int32)
        batches = Cycle(len(known), self._recipe.batch, np.random.default_rng(seeds[1]))
        step, found, ended = 0, (np.float32(-1.0), np.float32(np.inf), np.int32(0)), False
        while step < self._recipe.steps and not ended:
            steps = min(_STEPS_AT_ONCE, self._recipe.steps - step)
            rows = known[batches.take(steps)]
            pairs = guidance.pairs.draw(steps) if guidance.pairs else PairBlock.empty(steps)
            step, *found = self._run(
                *[rows, labels[rows]],
                *[pairs.labels, pairs.targets, pairs.trust],
                *[pairs.left, pairs.right, pairs.mutual, pairs.count],
                *_drawn_edges(guidance.edges, steps),
                *[labels, step, np.int32(seed % 2**31), *found],
            )
            step = int(step)
            ended = self._recipe.keep_best and self._is_over(step, int(found[2]))
        if self._recipe.keep_best:
            self._restore_best()
        accuracy, loss = self._judge()
        return float(accuracy), -float(loss)

    def _is_over(self, step: int, best_step: int) -> bool:
        return step >= max(self._recipe.min_steps, best_step + self._recipe.patience)

    def _restore_best(self) -> None:
        for variable, best in zip(self._variables, self._best, strict=True):
            variable.assign(best)

    # What it says ----------------------------------------------------------------------------

    def probabilities(self) -> np.ndarray:
        """[nodes, classes] float32."""
        return self._outputs(lambda outputs: tf.nn.softmax(outputs[1]))

    def embeddings(self) -> np.ndarray:
        """[nodes, dim] float32, of length 1."""
        return self._outputs(lambda outputs: tf.math.l2_normalize(outputs[0], axis=1))

    def _outputs(self, of: Callable[[Outputs], tf.Tensor]) -> np.ndarray:
        rows = np.arange(self._count, dtype=np.int32)
        parts = np.split(rows, range(_NODES_AT_ONCE, self._count, _NODES_AT_ONCE))
        return np.concatenate([of(self._look(part)).numpy() for part in parts])

    def get_weights(self) -> list[np.ndarray]:
        """All weights of the network."""
        return [each.numpy() for each in self._variables]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """What `get_weights` gave."""
        for variable, value in zip(self._variables, weights, strict=True):
            variable.assign(value)

    # Within TensorFlow -----------------------------------------------------------------------

    def _steps(
        self,
        rows: tf.Tensor,
        labels: tf.Tensor,
        pulled_to: tf.Tensor,
        pulled: tf.Tensor,
        trust: tf.Tensor,
        left: tf.Tensor,
        right: tf.Tensor,
        mutual: tf.Tensor,
        count: tf.Tensor,
        edges: tf.Tensor,
        edge_weights: tf.Tensor,
        node_labels: tf.Tensor,
        start: tf.Tensor,
        seed: tf.Tensor,
        accuracy: tf.Tensor,
        loss: tf.Tensor,
        best_step: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """Steps from `start` on: (the next step, best accuracy, its loss, its step)."""
        recipe = self._recipe

        def cost(at: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            parts = [rows[at], pulled[at], left[at], right[at], edges[at][:, 0], edges[at][:, 1]]
            embeddings, logits = self._network.outputs(tf.concat(parts, axis=0), noise)
            sizes = [tf.shape(part)[0] for part in parts]
            logits = tf.split(logits, sizes, num=len(parts))
            embeddings = tf.split(tf.math.l2_normalize(embeddings, axis=1), sizes, num=len(parts))
            total = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels[at], logits[0])
            )
            compared = embeddings
            if recipe.regularized == "probabilities":
                compared = [tf.nn.softmax(each) for each in logits]
            total += pair_loss(
                tf.nn.softmax(logits[1]),
                pulled_to[at],
                trust[at],
                compared[2],
                compared[3],
                mutual[at],
                count=count,
                first_stays=recipe.first_stays,
            )
            if recipe.contrast:
                ends = edges[at][:, 0], edges[at][:, 1]
                total += recipe.contrast * self._contrast(
                    embeddings[4], embeddings[5], ends, edge_weights[at], node_labels
                )
            if recipe.decay:
                total += recipe.decay * tf.add_n(
                    [tf.nn.l2_loss(each) for each in self._network.decayed]
                )
            return total

        def step(at: tf.Tensor, *best: tf.Tensor) -> tuple[tf.Tensor, ...]:
            number = start + at
            with tf.GradientTape() as tape:
                loss = cost(at, tf.stack([seed, 16 * number]))
            self._adam.apply(tape.gradient(loss, self._variables), number)
            if recipe.keep_best:
                number += 1
                best = tf.cond(
                    (number % recipe.evaluated_every == 0) | (number == recipe.steps),
                    lambda: self._keep_better(number, *best),
                    lambda: best,
                )
            return at + 1, *best

        def goes_on(at: tf.Tensor, *best: tf.Tensor) -> tf.Tensor:
            there = at < tf.shape(rows)[0]
            if not recipe.keep_best:
                return there
            last = tf.maximum(recipe.min_steps, best[2] + recipe.patience)
            return there & (start + at < last)

        at, *best = tf.while_loop(
            goes_on,
            step,
            [tf.constant(0), accuracy, loss, best_step],
            parallel_iterations=1,
        )
        return start + at, *best

    def _keep_better(
        self, step: tf.Tensor, best: tf.Tensor, best_loss: tf.Tensor, best_step: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Keeps the weights if they are better than any before; patience goes by accuracy alone."""
        accuracy, loss = self._judge()
        is_better = accuracy > best
        is_kept = is_better
        if self._recipe.ties_by_loss:
            is_kept |= (accuracy == best) & (loss < best_loss)

        def keep() -> tuple[tf.Tensor, ...]:
            kept = [a.assign(b) for a, b in zip(self._best, self._variables, strict=True)]
            with tf.control_dependencies(kept):
                return tf.identity(accuracy), tf.identity(loss)

        accuracy, loss = tf.cond(is_kept, keep, lambda: (best, best_loss))
        return accuracy, loss, tf.where(is_better, step, best_step)

    def _judge(self) -> tuple[tf.Tensor, tf.Tensor]:
        """(accuracy, cross-entropy) of the validation nodes."""
        rows, labels = self._validation
        _, logits = self._network.outputs(rows)
        right = tf.argmax(logits, axis=1, output_type=tf.int32) == labels
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(tf.cast(right, tf.float32)), tf.reduce_mean(each)

    def _contrast(
        self,
        left: tf.Tensor,
        right: tf.Tensor,
        ends: tuple[tf.Tensor, tf.Tensor],
        weights: tf.Tensor,
        node_labels: tf.Tensor,
    ) -> tf.Tensor:
        """InfoNCE of edges among those of the step, from either end; weights [pairs]."""
        one, other = (end[:, None] for end in ends)
        labels = tf.gather(node_labels, ends[0])[:, None], tf.gather(node_labels, ends[1])[None, :]
        related = (one == tf.transpose(other)) | ((labels[0] == labels[1]) & (labels[0] >= 0))
        if self._neighbors is not None:
            related |= tf.gather(tf.gather(self._neighbors, ends[0]), ends[1], axis=1)
        positive = tf.eye(tf.shape(left)[0], dtype=tf.int32) > 0
        negative = ~(related | positive)
        logits = tf.matmul(left, right, transpose_b=True) / self._recipe.temperature
        spread = tf.linalg.diag(weights)
        there = contrast.info_nce(logits, positive, negative, weights=spread)
        back = contrast.info_nce(
            tf.transpose(logits), positive, tf.transpose(negative), weights=spread
        )
        return (there + back) / 2.0


def _drawn_edges(edges: EdgeDraws | None, steps: int) -> tuple[np.ndarray, np.ndarray]:
    if edges is None:
        return np.zeros((steps, 0, 2), np.int32), np.zeros((steps, 0), np.float32)
    return edges.draw(steps)
