"""How much of the space the embeddings fill."""

from __future__ import annotations

import numpy as np

from trainer import metrics
from trainer.evaluation import inputs

# Images that are looked at, and edges.
_SPECTRUM_SAMPLE, _PAIR_SAMPLE, _EDGE_SAMPLE = 10_000, 2_000, 100_000


def spread(vectors: np.ndarray) -> dict[str, float | None]:
    """RankMe and uniformity, null where there are too few images.

    The corpus stands in drawn order, so its first rows are a sample.
    """
    return _rounded(
        {
            "rank_me": metrics.rank_me(vectors[:_SPECTRUM_SAMPLE]) if len(vectors) else None,
            "uniformity": metrics.uniformity(vectors[:_PAIR_SAMPLE]) if len(vectors) > 1 else None,
        }
    )


def collapse(vectors: np.ndarray, edges: inputs.Links, *, seed: int) -> dict[str, float | None]:
    """As `spread`, and the alignment of the edges, null where there are none."""
    generator = np.random.default_rng(seed)
    links = len(edges.owner)
    drawn = generator.choice(links, min(links, _EDGE_SAMPLE), replace=False)
    ends = vectors[edges.owner[drawn]], vectors[edges.column[drawn]]
    return {
        **spread(vectors),
        **_rounded({"alignment": metrics.alignment(*ends) if links else None}),
    }


def _rounded(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 6) for name, value in found.items()}
