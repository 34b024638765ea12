"""Graded judgments of people as queries: how good the images are that a text finds.

An image of grade g gains 2^g - 1 (nothing below 0), so each grade counts about twice the one below
it; grade 1 and above is what a query should find. Images that nobody judged gain nothing in the
full ranking, which punishes a method for what the judges did not see; therefore the ranking of the
judged images among themselves is measured as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ImgembedError
from pipeline.shards import single
from trainer import metrics
from trainer.evaluation.inputs import NO_ROW, Corpus
from trainer.evaluation.measuring import Measure
from trainer.evaluation.names import RANDOM
from trainer.evaluation.queries import Queries

RELEVANT = 1.0  # the grade from which on an image is right


@dataclass(frozen=True)
class Judged:
    """Judgments on a corpus.

    texts: [t] string, the queries, in ascending order. text: [pairs] int, a number of texts.
    target: [pairs] int, a row of the corpus or NO_ROW. grade: [pairs] float64. rows: what was read.
    images, missing: distinct judged images, and those of them that have no embedding.
    """

    texts: pa.Array
    text: np.ndarray
    target: np.ndarray
    grade: np.ndarray
    rows: int
    images: int
    missing: int

    @classmethod
    def of(cls, table: pa.Table, corpus: Corpus) -> Judged:
        """Of `schema.JUDGMENT_SCHEMA`; several grades of one image for one query are averaged.

        ImgembedError where no judged image is in the corpus.
        """
        grouped = table.group_by(["query", "image_id"], use_threads=False)
        pairs = grouped.aggregate([("grade", "mean")]).sort_by(
            [("query", "ascending"), ("image_id", "ascending")]
        )
        query, image_id = (single(pairs[name]) for name in ("query", "image_id"))
        images = pc.unique(image_id)
        present = corpus.rows_of(images) != NO_ROW
        if not present.any():
            raise ImgembedError(
                f"evaluation.judgments: none of the {len(images):,} judged images, such as "
                f"{images[0].as_py()!r}, is among the {len(corpus):,} embeddings, such as "
                f"{corpus.ids[0].as_py()!r}"
            )
        texts = pc.unique(query)
        return cls(
            texts=texts,
            text=pc.index_in(query, value_set=texts).to_numpy().astype(np.int64),
            target=corpus.rows_of(image_id),
            grade=pairs["grade_mean"].to_numpy(),
            rows=len(table),
            images=len(images),
            missing=int((~present).sum()),
        )

    def answerable(self) -> np.ndarray:
        """[t] bool: the texts for which an image is right, in the corpus or not."""
        return np.bincount(self.text, self.grade >= RELEVANT, minlength=len(self.texts)) > 0

    def queries(self) -> tuple[Queries, np.ndarray]:
        """A query for each answerable text, with all its judged images, and their grades [pairs].

        Each is a group of its own: they are drawn one by one behind the intervals.
        """
        asked = np.flatnonzero(self.answerable())
        number = np.full(len(self.texts), -1)
        number[asked] = np.arange(len(asked))
        kept = number[self.text] >= 0
        queries = Queries(
            item=asked,
            session=np.arange(len(asked)),
            query=number[self.text[kept]],
            target=self.target[kept],
        )
        return queries, self.grade[kept]


def gains(grade: np.ndarray) -> np.ndarray:
    """2^grade - 1, and 0 for a negative grade."""
    return np.exp2(np.maximum(grade, 0.0)) - 1.0


def measure_judged(
    judged: Judged, by_method: Mapping[str, metrics.ScoreRows], measure: Measure, seen: np.ndarray
) -> dict[str, Any]:
    """The part of metrics.json about judgments.

    by_method: scores for numbers of texts. seen: [t] bool, texts of the training sessions.
    """
    queries, grade = judged.queries()
    ranks = {name: measure.ranks(scores, queries) for name, scores in by_method.items()}
    values = {name: full_ranking(of, queries, grade, measure) for name, of in ranks.items()}
    values[RANDOM] = full_ranking_of_chance(queries, grade, measure)
    seen_queries = seen[queries.item]
    return {
        "rows": judged.rows,
        "repeated": judged.rows - len(judged.text),
        "images": judged.images,
        "images_without_embedding": judged.missing,
        "queries_judged": len(judged.texts),
        "queries_without_right_image": len(judged.texts) - len(queries),
        **_summary(values, queries, measure),
        "slices": {
            name: _summary(values, queries, measure, chosen)
            for name, chosen in (("seen", seen_queries), ("unseen", ~seen_queries))
        },
        "judged_only": _judged_only(ranks, queries, grade, measure),
    }


def _summary(
    values: Mapping[str, np.ndarray],
    queries: Queries,
    measure: Measure,
    chosen: np.ndarray | None = None,
) -> dict[str, Any]:
    found = measure.summary(values, queries, chosen)
    del found["sessions"]
    return found


def full_ranking(
    ranks: np.ndarray, queries: Queries, grade: np.ndarray, measure: Measure
) -> np.ndarray:
    """[queries, measures] of the ranking of the whole corpus, as `metrics.measure_names` says.

    Recall, MRR and MAP are of the images of grade 1 and above; NDCG is of all grades. Images that
    are not in the corpus belong to what could have been found. ranks, grade: [pairs].
    """
    of, ks = measure.config.k, {"queries": len(queries)}
    right = grade >= RELEVANT
    binary = metrics.retrieval_measures(ranks[right], queries.query[right], ks=of, **ks)
    graded = metrics.graded_ndcg(ranks, gains(grade), queries.query, ks=of, **ks)
    return np.concatenate([binary[:, : -len(of)], graded], axis=1)


def full_ranking_of_chance(queries: Queries, grade: np.ndarray, measure: Measure) -> np.ndarray:
    """What `full_ranking` is expected to be of a random ranking."""
    right, present = grade >= RELEVANT, queries.target != NO_ROW
    relevant, there = (
        np.bincount(queries.query[chosen], minlength=len(queries))
        for chosen in (right, right & present)
    )
    ks = measure.config.k
    binary = metrics.random_measures(there, relevant, candidates=measure.images, ks=ks)
    graded = metrics.random_graded_ndcg(
        gains(grade),
        queries.query,
        present,
        candidates=np.full(len(queries), measure.images),
        ks=ks,
    )
    return np.concatenate([binary[:, : -len(ks)], graded], axis=1)


def _judged_only(
    ranks: Mapping[str, np.ndarray], queries: Queries, grade: np.ndarray, measure: Measure
) -> dict[str, Any]:
    """NDCG of the judged images of the corpus among themselves.

    Of the queries of which these differ in gain: where they do not, every order is the best.
    """
    present = queries.target != NO_ROW
    gain = gains(grade)
    most, least = np.full(len(queries), -np.inf), np.full(len(queries), np.inf)
    np.maximum.at(most, queries.query[present], gain[present])
    np.minimum.at(least, queries.query[present], gain[present])
    asked = most > least
    kept = present & asked[queries.query]
    number = np.cumsum(asked) - 1
    query, gain = number[queries.query[kept]], gain[kept]
    size, ks = int(asked.sum()), measure.config.k
    values = {
        name: metrics.graded_ndcg(
            metrics.places_within(of[kept], query).astype(np.float64),
            gain,
            query,
            queries=size,
            ks=ks,
        )
        for name, of in ranks.items()
    }
    values[RANDOM] = metrics.random_graded_ndcg(
        gain,
        query,
        np.ones(len(query), bool),
        candidates=np.bincount(query, minlength=size),
        ks=ks,
    )
    names = [f"ndcg@{k}" for k in ks]
    return {"queries": size, "methods": measure.figures(names, values, np.arange(size))}
