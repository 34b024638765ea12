"""Collapse: whether the embeddings still tell images apart, measured each epoch.

Embeddings that all lie in one place make every distance between neighbours 0; the graph term alone
would lead there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.metrics import rank_me
from trainer.model import SEED_MONITOR
from trainer.progress import Figures

RANDOM_COSINE, EFFECTIVE_RANK, DEVIATION = "random_cosine", "effective_rank", "deviation"
TOO_ALIKE = 0.5  # mean cosine of random pairs
# Epochs in a row: what a fresh network gives lies close together too.
_EPOCHS = 2


def spread(embeddings: np.ndarray) -> Figures:
    """`random_cosine`, `effective_rank` and `deviation` of unit vectors [n, dim], n > 1.

    random_cosine: mean over all pairs; 0 = all directions alike, 1 = one point. effective_rank:
    from 1 to dim. deviation: standard deviation of a dimension, mean of all, times sqrt(dim); 1 =
    uniform on the sphere, 0 = one point.
    """
    vectors = embeddings.astype(np.float64)
    n, dim = vectors.shape
    of_all = np.square(vectors.sum(axis=0)).sum() - np.square(vectors).sum()
    return {
        RANDOM_COSINE: float(of_all / (n * (n - 1))),
        EFFECTIVE_RANK: rank_me(vectors),
        DEVIATION: float(vectors.std(axis=0).mean() * np.sqrt(dim)),
    }


def _are_alike(figures: Figures) -> bool:
    return min(figures.get(name, 0.0) for name in (RANDOM_COSINE, SEED_MONITOR)) > TOO_ALIKE


def warning(history: Sequence[Figures]) -> str | None:
    """What to say after the last epoch of a history: once, in the epoch that makes it certain.

    The seeds of training must have come together too: in the first steps those of validation do so
    whatever is learned, until batch normalization knows what is usual.
    """
    alike = [_are_alike(figures) for figures in history]
    certain = [all(alike[end - _EPOCHS : end]) for end in range(_EPOCHS, len(alike) + 1)]
    if not certain or not certain[-1] or any(certain[:-1]):
        return None
    last = history[-1]
    return (
        f"the embeddings are collapsing: the mean cosine of random images is "
        f"{last[RANDOM_COSINE]:.2f} (wanted below {TOO_ALIKE}), their effective rank "
        f"{last[EFFECTIVE_RANK]:.1f}; lower training.graph_regularization, raise "
        "training.edge_contrast, or lower training.temperature"
    )
