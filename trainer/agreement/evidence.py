"""What else tells whether two nodes agree: the classifier's own view of their classes, and how many
edges agree at all.

The agreement model compares two nodes, and is taught on nodes with labels, which are the easy ones.
The classifier has a view of all nodes. Either is wrong elsewhere; together they are better than
either, and what the one believes without reason the other doubts.
"""

from __future__ import annotations

import numpy as np

from trainer.config import AgreementConfig

_SURE = 1e-4  # nothing is surer than this
_ROUNDS, _BINS = 100, 2_000
_EDGES_AT_ONCE = 65_536
_PRIORS = 0.02, 0.98


def all_evidence(
    agreement: np.ndarray | None,
    probabilities: np.ndarray,
    edges: np.ndarray,
    settings: AgreementConfig,
) -> np.ndarray | None:
    """[edges] float32, all that the settings want; None: there is nothing to judge edges by.

    agreement [edges]: of the model, None where it may not be asked. probabilities [nodes, classes]
    float32: of the last turn's classifier. edges [edges, 2].
    """
    if settings.class_evidence:
        agreement = with_classes(agreement, probabilities, edges)
    if settings.edge_prior and agreement is not None:
        agreement = with_prior(agreement)
    return agreement


def class_agreement(probabilities: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[edges] float32: the probability of one class, sum over c of p_i(c) p_j(c), if errors are
    independent. probabilities [nodes, classes]; edges [edges, 2].
    """
    found = np.empty(len(edges), np.float32)
    for start in range(0, len(edges), _EDGES_AT_ONCE):
        part = slice(start, start + _EDGES_AT_ONCE)
        left, right = (probabilities[end] for end in edges[part].T)
        found[part] = np.einsum("ec,ec->e", left, right)
    return found


def chance(probabilities: np.ndarray) -> float:
    """How likely two nodes are to agree of which nothing is known: the sum of squared shares."""
    return float((probabilities.mean(axis=0, dtype=np.float64) ** 2).sum())


def with_classes(
    agreement: np.ndarray | None, probabilities: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """[edges] float32: the agreement model's probability and the classes', pooled.

    The mean of both logits, which is the geometric mean of the odds (Genest and Zidek 1986): both
    learned from the same labels, and to add them up would count those twice. The classes' odds are
    first divided by those of chance, as agreement models learn from as many pairs that agree as
    others. agreement: None: there is no model that may be asked; the classes alone.
    """
    prior = min(max(chance(probabilities), _SURE), 1.0 - _SURE)
    found = logit(class_agreement(probabilities, edges)) - logit(np.array(prior))
    return _logistic(found if agreement is None else (found + logit(agreement)) / 2.0)


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
