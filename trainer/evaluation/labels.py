"""Labels of images guessed from their neighbours in the embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import schema
from trainer import metrics
from trainer.evaluation import inputs
from trainer.evaluation.measuring import Measure
from trainer.evaluation.names import ACCURACY, MOST_FREQUENT, RAW, TRAINED

LABEL_NEIGHBORS = 5  # k of the label accuracy


def label_accuracy(
    vectors: np.ndarray, content: inputs.Content, measure: Measure
) -> dict[str, Any]:
    """Labels of the test split, guessed from the nearest labelled images of the training split.

    A guess is right when it is among the image's labels.
    """
    asked, labelled = asked_and_known(content)
    found: dict[str, Any] = {"queries": len(asked), "neighbors": len(labelled), "methods": {}}
    if len(asked) == 0 or len(labelled) == 0:
        return found
    known = content.train_labels[labelled]
    guesses = {
        name: metrics.knn_labels(of[asked], of[labelled], known, k=LABEL_NEIGHBORS)
        for name, of in ((TRAINED, vectors), (RAW, content.raw))
    }
    most_frequent = np.bincount(known[known != schema.NO_LABEL]).argmax()
    guesses[MOST_FREQUENT] = np.full(len(asked), most_frequent)
    right = {name: is_right(guess, content.test_labels[asked]) for name, guess in guesses.items()}
    found["methods"] = measure.figures([ACCURACY], right, np.arange(len(asked)))
    return found


def asked_and_known(content: inputs.Content) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the labelled images of the test split, and of those of the training split."""
    asked, known = (
        np.flatnonzero((labels != schema.NO_LABEL).any(axis=1))
        for labels in (content.test_labels, content.train_labels)
    )
    return asked, known


def is_right(guesses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[images, 1] float64, 1 where a guess is among the labels. [images], [images, any] int."""
    return (guesses[:, None] == labels).any(axis=1, keepdims=True).astype(np.float64)
