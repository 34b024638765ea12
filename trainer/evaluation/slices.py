"""Parts of the corpus whose queries are measured apart: by popularity, and by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import schema

# Shares of the corpus, by training sessions: the head, and the torso behind it.
HEAD, TORSO = 0.1, 0.4


def image_slices(sessions: np.ndarray, degree: np.ndarray) -> dict[str, np.ndarray]:
    """Which images are in which slice: {name: [n] bool}.

    head, torso and tail part the corpus by training sessions, ties by order; the tail holds the
    cold images (in no training session), which are a slice of their own as well.
    """
    place = np.empty(len(sessions), np.int64)
    place[np.argsort(-sessions, kind="stable")] = np.arange(len(sessions))
    head = place < HEAD * len(sessions)
    torso = ~head & (place < (HEAD + TORSO) * len(sessions))
    return {
        "head": head,
        "torso": torso,
        "tail": ~head & ~torso,
        "cold": sessions == 0,
        "no neighbours": degree == 0,
    }


@dataclass(frozen=True)
class LabelSlices:
    """Queries by the labels of their image.

    shown: (label, [queries] bool) of the most frequent labels, from the first on; a query whose
    image has several labels is in the slice of each. rest: [queries] bool, those with labels of
    which none is shown; rest_labels: how many labels these have. unlabelled: [queries] bool.
    """

    shown: list[tuple[int, np.ndarray]]
    rest: np.ndarray
    rest_labels: int
    unlabelled: np.ndarray


def label_slices(labels: np.ndarray, *, most: int) -> LabelSlices:
    """The slices of queries; the `most` labels with the most queries are shown, ties by label.

    labels: [queries, any] int of each query's image, each label once, filled up with NO_LABEL.
    """
    known = labels != schema.NO_LABEL
    distinct, counts = np.unique(labels[known], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [(int(label), (labels == label).any(axis=1)) for label in distinct[order[:most]]]
    labelled = known.any(axis=1)
    rest = labelled.copy()
    for _, inside in shown:
        rest &= ~inside
    others = np.unique(labels[rest][known[rest]])
    return LabelSlices(shown, rest, len(others), ~labelled)


def label_name(label: int, classes: Sequence[str]) -> str:
    """What the catalog calls a label."""
    return classes[label] if label < len(classes) else str(label)
