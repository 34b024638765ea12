"""Fits agreement models, and says where one is of no use (guard A).

In: nodes [n, d], and labels and a graph, or pairs with their targets. Out: a Judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from trainer.agreement import pair_sets
from trainer.agreement.calibration import best_temperature, measure
from trainer.agreement.judge import Judge, too_weak
from trainer.agreement.pair_sets import Graph, Lesson
from trainer.agreement.pair_training import Course, PairTraining
from trainer.config import AgreementConfig


class Fitter:
    """Fits one agreement model after the other on the same nodes, and traces its steps once."""

    def __init__(self, nodes: np.ndarray, feature_dim: int, settings: AgreementConfig) -> None:
        """nodes [n, d] float32. feature_dim: numbers that are known of each edge."""
        self._settings = settings
        self._published = settings.pair_source == "edges"
        self._feature_dim = feature_dim if settings.edge_features else 0
        self._scale = 1.0 if self._published else to_unit_square(nodes)
        self._training = PairTraining(
            nodes * np.float32(self._scale),
            self._feature_dim,
            settings,
            by_accuracy=self._published,
        )

    def on_labels(
        self, graph: Graph, labels: np.ndarray, *, seed: int, validation: np.ndarray | None = None
    ) -> Judge:
        """Learns from labels [nodes] int64, -1 = none, and the edges among labelled nodes.

        From all pairs of labelled nodes: those of held-out nodes say when to stop and how good it
        is, and then all labels are learned from for as many steps. validation [nodes]: labels of
        nodes that have none in `labels`, to be held out in place of some that do. Or, where the
        settings want it, as published, from the edges alone.
        """
        if self._published:
            return self.on_lesson(pair_sets.of_edges(graph, labels, seed=seed), seed=seed)
        lesson = pair_sets.of_all_pairs(graph, labels, seed=seed, validation=validation)
        found = self.on_lesson(lesson, seed=seed)
        if validation is not None or found.unusable or not len(lesson.held_out.pairs):
            return found
        whole = pair_sets.without_held_out(graph, labels, seed=seed)
        steps = int(found.figures["steps"])
        self._training.train(whole, whole.none(), seed=seed, steps=steps)
        return self._judge(found.figures, None, found.temperature)

    def on_random_pairs(self, graph: Graph, labels: np.ndarray, *, seed: int) -> Judge:
        """GAM* as published: from random pairs of labelled nodes, a tenth of them held out."""
        return self.on_lesson(pair_sets.of_random_pairs(graph, labels, seed=seed), seed=seed)

    def on_lesson(self, lesson: Lesson, *, seed: int) -> Judge:
        """Learns from some pairs, measured by others."""
        learned, held_out = lesson.learned, lesson.held_out
        figures = {"positives": float(learned.agreeing)}
        lacking = self._lacking(lesson)
        if lacking is not None:
            self._training.begin(seed)
            return self._judge(figures, lacking)
        course = self._training.train(learned, held_out, seed=seed)
        figures |= _of_course(course)
        temperature = 1.0
        if all(held_out.kinds()):
            logits = self._training.logits(held_out)
            if self._settings.calibrate:
                temperature = best_temperature(logits, held_out.targets)
            figures |= measure(logits / temperature, held_out.targets)
            figures["held_out_pairs"] = float(len(held_out.targets))
        return self._judge(figures, self._too_weak(figures), temperature)

    def _judge(
        self, figures: Mapping[str, float], unusable: str | None, temperature: float = 1.0
    ) -> Judge:
        weights = self._training.weights()
        return Judge(
            self._settings, weights, self._feature_dim, self._scale, temperature, figures, unusable
        )

    # Guard A ---------------------------------------------------------------------------------

    def _lacking(self, lesson: Lesson) -> str | None:
        """What is too little to learn anything from."""
        positives, others = lesson.learned.agreeing, lesson.learned.kinds()[1]
        least = 1 if self._published else self._settings.min_positive_pairs
        if positives < least:
            return f"{positives} pairs are known to agree, fewer than {least}"
        return None if others else "no pair is known to disagree"

    def _too_weak(self, figures: Mapping[str, float]) -> str | None:
        """What was learned badly. Where there was nothing to measure by, nothing is said."""
        if self._published or "auc" not in figures:
            return None
        return too_weak(figures["auc"], self._settings.min_auc)


def to_unit_square(nodes: np.ndarray) -> float:
    """What nodes are multiplied by for a mean square of 1, so that steps are as long for any."""
    square = float(np.mean(np.square(nodes, dtype=np.float64))) if nodes.size else 0.0
    return 1.0 / math.sqrt(square) if square else 1.0


def _of_course(course: Course) -> dict[str, float]:
    return {
        "steps": float(course.steps),
        "first_loss": course.first_loss,
        "last_loss": course.last_loss,
    }
