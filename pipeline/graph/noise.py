"""Counts of users with the noise of differential privacy, table by table.

With privacy, users take the place of sessions: N, n_i and c_ij count each user once, and a user
adds to a limited number of pairs, images and queries. The budget is shared among the four. The
published pairs have said already which images there are, so their counts need no threshold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import PrivacyConfig
from pipeline.graph import shares
from pipeline.graph.count import PairCounts, name_pairs
from pipeline.graph.privacy import Mechanism, add_noise, calibrate, publish, split_budget

# Shares of the budget: the edges are what it is for. Logs without queries spend nothing on them.
_PARTS = {"pairs": 0.5, "images": 0.25, "queries": 0.2, "population": 0.05}
# Of fewer users nothing is ever published; spares the noise of most pairs, at a threshold 1 higher.
_MIN_COUNT = 2


@dataclass(frozen=True)
class NoisyCounts:
    """The mechanisms of one run.

    key: secret, drawn for the run, never stored.
    """

    key: bytes
    pairs: Mechanism
    images: Mechanism
    population: Mechanism
    queries: Mechanism | None = None

    @classmethod
    def calibrated(cls, config: PrivacyConfig, key: bytes, *, queries: bool) -> NoisyCounts:
        """queries: whether the logs have any."""
        assert config.epsilon is not None
        parts = {name: part for name, part in _PARTS.items() if queries or name != "queries"}
        budgets = split_budget(config.epsilon, config.delta, list(parts.values()))
        mechanisms = {
            name: calibrate(
                epsilon=epsilon,
                delta=delta,
                contributions=1 if name == "population" else config.max_pairs_per_user,
                min_count=_MIN_COUNT if name in ("pairs", "queries") else 1,
            )
            for name, (epsilon, delta) in zip(parts, budgets, strict=True)
        }
        return cls(key=key, **mechanisms)

    def describe(self) -> dict[str, Any]:
        """What the manifest says."""
        mechanisms = {name: getattr(self, name) for name in _PARTS}
        return {name: found.describe() for name, found in mechanisms.items() if found}

    def publish_pairs(self, counts: PairCounts) -> PairCounts:
        """The published pairs; sessions and users are the noisy number of users."""
        counts = shares.keep(counts, counts.users >= _MIN_COUNT)
        names = name_pairs(counts.images[counts.low], counts.images[counts.high])
        published, noisy = publish(counts.users, names, self._key("pairs"), self.pairs)
        kept = shares.keep(counts, published)
        users = noisy[published]
        return PairCounts(kept.images, kept.low, kept.high, users, users, None)

    def noisy_images(self, images: pa.Table) -> pa.Table:
        """Images with their noisy number of users as sessions, at least 1.

        Only those that a published pair holds may be published.
        """
        names = images["image"].to_numpy()
        counts = images["sessions"].to_numpy()
        noisy = np.maximum(1, add_noise(counts, names, self._key("images"), self.images))
        column = pa.array(np.where(counts > 0, noisy, 0))
        return images.set_column(images.column_names.index("sessions"), "sessions", column)

    def publish_queries(self, rows: pa.Table) -> pa.Table:
        """The published rows of queries.QUERY_COUNTS, with noisy counts."""
        assert self.queries is not None
        counts = rows["users"].to_numpy()
        names = name_pairs(rows["query"].to_numpy(), rows["image"].to_numpy())
        published, noisy = publish(counts, names, self._key("queries"), self.queries)
        users = pa.array(noisy[published])
        kept = rows.filter(pa.array(published))
        return pa.table([kept["query"], kept["image"], users, users], schema=rows.schema)

    def noisy_population(self, users: int) -> int:
        """N with noise, at least 1."""
        noisy = add_noise(
            np.asarray([users]), np.zeros(1, np.uint64), self._key("population"), self.population
        )
        return max(1, int(noisy[0]))

    def _key(self, table: str) -> bytes:
        """Equal names in two tables must not have equal noise."""
        return hashlib.blake2b(table.encode(), key=self.key, digest_size=32).digest()
