"""Rankings to numbers: what each query achieves, and its mean over sessions with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer import metrics
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.queries import Queries


@dataclass(frozen=True)
class Measure:
    """Turns rankings of the corpus into the numbers of metrics.json.

    images: how many the corpus holds.
    """

    config: EvaluationConfig
    seed: int
    images: int

    def of(self, score_rows: metrics.ScoreRows, queries: Queries) -> np.ndarray:
        """[queries, measures], as `metrics.measure_names` says."""
        ranks = self.ranks(score_rows, queries)
        return metrics.retrieval_measures(
            ranks, queries.query, queries=len(queries), ks=self.config.k
        )

    def ranks(self, score_rows: metrics.ScoreRows, queries: Queries) -> np.ndarray:
        """The rank of each pair's target, [pairs]; equal (item, target) pairs are ranked once."""
        width = self.images + 1
        code = queries.item[queries.query] * width + queries.target + 1
        distinct, inverse = np.unique(code, return_inverse=True)
        ranks = metrics.rank_pairs(
            score_rows, distinct // width, distinct % width - 1, corpus=self.images
        )
        return ranks[inverse]

    def of_chance(self, queries: Queries, *, candidates: int) -> np.ndarray:
        """[queries, measures] that a random ranking is expected to reach."""
        return metrics.random_measures(
            queries.present(), queries.relevant(), candidates=candidates, ks=self.config.k
        )

    def summary(
        self,
        by_method: Mapping[str, np.ndarray],
        queries: Queries,
        chosen: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Means over sessions, of all queries or of those `chosen` ([queries] bool)."""
        chosen = np.ones(len(queries), bool) if chosen is None else chosen
        session = queries.session[chosen]
        found = {"queries": len(session), "sessions": len(np.unique(session))}
        values = {name: of[chosen] for name, of in by_method.items()}
        names = metrics.measure_names(self.config.k)
        return {**found, "methods": self.figures(names, values, session)}

    def figures(
        self, names: Sequence[str], values: Mapping[str, np.ndarray], group: np.ndarray
    ) -> dict[str, dict[str, dict[str, float]]]:
        """{method: {measure: value, and low and high of its interval}}; {} without a row.

        values: [rows, measures] of each method. group: [rows] int: rows of one group (a session)
        are averaged, and drawn together. All methods meet the same draws.
        """
        if len(group) == 0:
            return {}
        by_group = metrics.session_means(np.concatenate([*values.values()], axis=1), group)
        estimate = metrics.bootstrap(by_group, resamples=self.config.bootstrap, seed=self.seed)
        return {
            method: rounded_figures(
                names,
                estimate.part(slice(place * len(names), (place + 1) * len(names))),
                intervals=self.config.bootstrap > 0,
            )
            for place, method in enumerate(values)
        }


def rounded_figures(
    names: Sequence[str], estimate: metrics.Estimate, *, intervals: bool
) -> dict[str, dict[str, float]]:
    """{measure: {"value", and "low" and "high" of the 95 % interval}}."""
    bounds = {"value": estimate.value}
    if intervals:
        bounds |= {"low": estimate.low, "high": estimate.high}
    return {
        name: {bound: round(float(values[place]), 6) for bound, values in bounds.items()}
        for place, name in enumerate(names)
    }
