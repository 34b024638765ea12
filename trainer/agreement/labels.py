"""Labels that are known and labels that a classifier gave: nobody sees any other.

Of a node without a label there is -1, never the truth: what is not there cannot leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.agreement.pairs import UNKNOWN


def hide(truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[nodes] int64: the labels of the nodes in `known`, rows or bool, and -1 for all others."""
    labels = np.full(len(truth), UNKNOWN, np.int64)
    labels[known] = truth[known]
    return labels


@dataclass(frozen=True)
class Labels:
    """Labels of all nodes, and where those that nobody gave come from.

    current: [nodes] int64, -1 = none. confidence: [nodes] float32, the classifier's, 0 for others.
    since: [nodes] int32, the iteration after which a node was labelled, -1 = known or none.
    """

    current: np.ndarray
    confidence: np.ndarray
    since: np.ndarray

    @classmethod
    def of_known(cls, labels: np.ndarray) -> Labels:
        """Those before any iteration."""
        blank = np.zeros(len(labels), np.float32), np.full(len(labels), UNKNOWN, np.int32)
        return cls(labels.astype(np.int64), *blank)

    @property
    def pseudo(self) -> np.ndarray:
        """[nodes] bool: labelled by a classifier."""
        return self.since >= 0

    def known(self) -> np.ndarray:
        """[nodes] int64: without what a classifier gave."""
        return np.where(self.pseudo, UNKNOWN, self.current)

    def with_new(
        self, nodes: np.ndarray, labels: np.ndarray, confidence: np.ndarray, iteration: int
    ) -> Labels:
        """The same and some more."""
        current, sure, since = self.current.copy(), self.confidence.copy(), self.since.copy()
        current[nodes], sure[nodes], since[nodes] = labels, confidence, iteration
        return Labels(current, sure, since)

    def table(self) -> Mapping[str, np.ndarray]:
        """Columns of the self-labelled nodes in the order in which they were labelled."""
        nodes = np.flatnonzero(self.pseudo)
        nodes = nodes[np.lexsort([nodes, -self.confidence[nodes], self.since[nodes]])]
        return {
            "node": nodes,
            "label": self.current[nodes],
            "iteration": self.since[nodes],
            "confidence": self.confidence[nodes],
        }


def proportions(labels: np.ndarray, classes: int) -> np.ndarray:
    """[classes] float64: the share of each class among the labelled nodes."""
    return np.bincount(labels[labels >= 0], minlength=classes) / max(1, int((labels >= 0).sum()))


def self_label(
    probabilities: np.ndarray,
    candidates: np.ndarray,
    *,
    number: int,
    min_confidence: float,
    shares: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes to be labelled: (rows [m] int64, labels [m] int64, confidence [m] float32).

    The surest first, of equally sure ones the first; its confidence must exceed min_confidence.
    shares [classes]: of class c at most floor(shares_c * number); None: the surest of all classes.

    probabilities [nodes, classes] float32; candidates [nodes] bool.
    """
    best = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1).astype(np.float32)
    rows = np.flatnonzero(candidates & (confidence > min_confidence))
    rows = rows[np.argsort(-confidence[rows], kind="stable")]
    if shares is None:
        rows = rows[:number]
    else:
        # Without the tolerance, 0.29 * 100 would be floored to 28.
        room = np.floor(shares * number + 1e-9)
        rows = rows[_places(best[rows]) < room[best[rows]]]
    return rows, best[rows].astype(np.int64), confidence[rows]


def _places(classes: np.ndarray) -> np.ndarray:
    """[n] int -> [n] int: how many entries before each one are of its class."""
    order = np.argsort(classes, kind="stable")
    _, starts, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    places = np.empty(len(classes), np.int64)
    places[order] = np.arange(len(classes)) - np.repeat(starts, sizes)
    return places


def label_more(
    labels: Labels,
    probabilities: np.ndarray,
    candidates: np.ndarray,
    *,
    iteration: int,
    number: int,
    min_confidence: float,
    shares: np.ndarray | None = None,
    sticky: bool = True,
) -> tuple[Labels, int]:
    """(labels after an iteration, how many nodes have one that had none).

    sticky: labels stay, and `number` more are given. Else a classifier's labels are all given
    anew, (iteration) times `number` in all, so that a mistake can be taken back.

    candidates [nodes] bool: those that may ever be labelled. iteration: from 1 on.
    """
    base = labels if sticky else Labels.of_known(labels.known())
    free = candidates & (base.current < 0)
    rows, given, confidence = self_label(
        probabilities,
        free,
        number=number if sticky else number * iteration,
        min_confidence=min_confidence,
        shares=shares,
    )
    fresh = int((labels.current[rows] < 0).sum())
    return base.with_new(rows, given, confidence, iteration), fresh
