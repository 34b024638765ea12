"""Cora as arrays: words of papers, who cites whom, topics, and who may know which topics.

In: the npz file of the Planetoid data. Out: a Cora, whose hidden labels nobody reads by accident.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cora" / "cora.npz"
HIDDEN = -1


@dataclass(frozen=True)
class Cora:
    """Papers, what is in them, and who cites whom.

    words: [words, 2] int64, (paper, word) of each word in a paper, sorted. labels: [papers] int32.
    edges: [edges, 2] int32, each undirected edge once. train, validation, test: papers of the
    standard split, 140, 500 and 1,000.
    """

    words: np.ndarray
    vocabulary: int
    labels: np.ndarray
    edges: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @property
    def papers(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def dense_words(self) -> np.ndarray:
        """[papers, vocabulary] float32 of 0 and 1."""
        dense = np.zeros((self.papers, self.vocabulary), np.float32)
        dense[self.words[:, 0], self.words[:, 1]] = 1.0
        return dense

    def both_ways(self) -> tuple[np.ndarray, np.ndarray]:
        """(senders, receivers) [2 x edges] int32: each edge in both directions."""
        one, other = self.edges.T
        return np.concatenate([one, other]), np.concatenate([other, one])

    def hide_test(self) -> Cora:
        """The same with no label but those of training and validation."""
        known = np.concatenate([self.train, self.validation])
        labels = np.full_like(self.labels, HIDDEN)
        labels[known] = self.labels[known]
        return replace(self, labels=labels)


def read_cora(path: Path = DATA) -> Cora:
    """SystemExit where there is no such file."""
    if not path.exists():
        raise SystemExit(f"{path}: no such file; --data names cora.npz of the Planetoid data")
    with np.load(path) as found:
        counts = np.diff(found["feat_indptr"])
        papers = np.repeat(np.arange(len(counts)), counts)
        return Cora(
            words=np.stack([papers, found["feat_indices"]], axis=1).astype(np.int64),
            vocabulary=int(found["feat_shape"][1]),
            labels=found["labels"],
            edges=found["edges"],
            train=found["train_idx"],
            validation=found["val_idx"],
            test=found["test_idx"],
        )
