"""How good probabilities of pairs are, and the temperature that sets them right.

Agreeing and disagreeing pairs are weighted alike throughout, each kind as a half: the model learns
from such batches, and how many of the held-out pairs agree says nothing about edges.
"""

from __future__ import annotations

import math

import numpy as np

from trainer.metrics import auc

_BINS = 10
_TEMPERATURES = np.exp(np.linspace(math.log(0.1), math.log(30.0), 172))  # 3 % apart


def balance(targets: np.ndarray) -> np.ndarray:
    """[p] bool, of both kinds -> [p] float64: a half over the number of pairs of its kind."""
    agreeing = np.count_nonzero(targets)
    return np.where(targets, 0.5 / agreeing, 0.5 / (len(targets) - agreeing))


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Of [p] float32 logits and [p] bool targets of both kinds."""
    signed = np.where(targets, -logits, logits).astype(np.float64)
    return float(balance(targets) @ np.logaddexp(0.0, signed))


def best_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """What logits are to be divided by for the least cross-entropy (Guo et al. 2017), to 3 %.

    Between 0.1 and 30: where the two kinds can be told apart without an error, it would be 0.
    """
    costs = [cross_entropy(logits / temperature, targets) for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(costs))])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def expected_calibration_error(found: np.ndarray, targets: np.ndarray) -> float:
    """Mean over ten equal ranges of |mean probability - share that agrees|, by weight of pairs."""
    weights = balance(targets)
    bins = np.minimum((found * _BINS).astype(np.int64), _BINS - 1)
    return float(np.abs(np.bincount(bins, weights * (found - targets))).sum())


def measure(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """auc, accuracy at a half, ece and cross-entropy of held-out pairs of both kinds."""
    right = (logits > 0) == targets
    return {
        "auc": auc(logits, targets),
        "accuracy": float(balance(targets) @ right),
        "ece": expected_calibration_error(probabilities(logits), targets),
        "cross_entropy": cross_entropy(logits, targets),
    }
