"""What else tells whether two nodes agree: the classifier's own view of their classes, and how many
edges agree at all.

The agreement model compares two nodes, and is taught on nodes with labels, which are the easy ones.
The classifier has a view of all nodes. Either is wrong elsewhere; together they are better than
either, and what the one believes without reason the other doubts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from trainer.config import AgreementConfig

_SURE = 1e-4  # nothing is surer than this
_ROUNDS, _BINS = 100, 2_000
_NUMBERS_AT_ONCE = 1 << 23  # of probabilities that are looked at
_PRIORS = 0.02, 0.98


@dataclass(frozen=True)
class Classes:
    """What a classifier sees in nodes, asked for some of them at a time.

    of: rows [r] -> probabilities [r, number] float32. nodes: how many there are. number: of
    classes.
    """

    of: Callable[[np.ndarray], np.ndarray]
    nodes: int
    number: int

    @classmethod
    def of_probabilities(cls, probabilities: np.ndarray) -> Classes:
        """[nodes, classes] float32, all at hand."""
        return cls(lambda rows: probabilities[rows], *probabilities.shape)

    @classmethod
    def of_head(cls, vectors: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> Classes:
        """The softmax of a linear layer on vectors [nodes, dim]. kernel [dim, classes]."""
        return cls(lambda rows: _softmax(vectors[rows] @ kernel + bias), len(vectors), len(bias))

    def agreement(self, edges: np.ndarray) -> np.ndarray:
        """[edges] float32: the probability of one class, sum over c of p_i(c) p_j(c), if errors are
        independent. edges [edges, 2].
        """
        found = np.empty(len(edges), np.float32)
        for part in self._parts(len(edges)):
            left, right = (self.of(end) for end in edges[part].T)
            found[part] = np.einsum("ec,ec->e", left, right)
        return found

    def chance(self) -> float:
        """How likely two nodes are to agree of which nothing is known: the shares, squared."""
        total = np.zeros(self.number)
        for part in self._parts(self.nodes):
            total += self.of(np.arange(self.nodes)[part]).sum(axis=0, dtype=np.float64)
        return float(((total / max(self.nodes, 1)) ** 2).sum())

    def _parts(self, length: int) -> Iterator[slice]:
        """Slices that cover all rows, as long as memory allows."""
        at_once = max(1, _NUMBERS_AT_ONCE // max(self.number, 1))
        return (slice(start, start + at_once) for start in range(0, length, at_once))


def all_evidence(
    agreement: np.ndarray | None,
    classes: Classes | None,
    edges: np.ndarray,
    settings: AgreementConfig,
) -> np.ndarray | None:
    """[edges] float32, all that the settings want; None: there is nothing to judge edges by.

    agreement [edges]: of the model, None where it may not be asked. classes: of the last turn's
    classifier, None where no class is trained: the model alone tells too little of how many edges
    agree, and is taken as it is. edges [edges, 2].
    """
    if classes is None:
        return agreement
    if settings.class_evidence:
        agreement = with_classes(agreement, classes, edges)
    if settings.edge_prior and agreement is not None:
        agreement = with_prior(agreement)
    return agreement


def with_classes(agreement: np.ndarray | None, classes: Classes, edges: np.ndarray) -> np.ndarray:
    """[edges] float32: the agreement model's probability and the classes', together.

    The sum of both logits, as of evidence that is independent given the truth. The classes' odds
    are first divided by those of chance, as agreement models learn from as many pairs that agree as
    others. Both learned from the same labels, but their mean is found to be far too unsure.
    agreement: None: there is no model that may be asked; the classes alone.
    """
    prior = min(max(classes.chance(), _SURE), 1.0 - _SURE)
    found = logit(classes.agreement(edges)) - logit(np.array(prior))
    return _logistic(found if agreement is None else found + logit(agreement))


def with_prior(agreement: np.ndarray) -> np.ndarray:
    """[edges] float32: the same where not half of all edges agree, but as many as seem to.

    By expectation and maximization (Saerens, Latinne and Decaestecker 2002): the share of edges
    that agree is the mean of the probabilities that follow from it. It stays within 0.02 and 0.98.
    """
    logits, prior = logit(agreement), 0.5
    if not len(logits):
        return agreement
    counts, ends = np.histogram(logits, _BINS)  # so that a round does not cost a look at all edges
    middles = (ends[:-1] + ends[1:]) / 2.0
    for _ in range(_ROUNDS):
        share = counts @ _logistic(middles + logit(np.array(prior))) / len(logits)
        prior = min(max(float(share), _PRIORS[0]), _PRIORS[1])
    return _logistic(logits + logit(np.array(prior)))


def logit(probabilities: np.ndarray) -> np.ndarray:
    """The logarithm of the odds, at most about 9 in either direction."""
    bounded = np.clip(probabilities.astype(np.float64), _SURE, 1.0 - _SURE)
    return np.log(bounded) - np.log1p(-bounded)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -logits)).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """[r, classes], of each row."""
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)
