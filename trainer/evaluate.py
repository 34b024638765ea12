"""Measures a run on its held-out sessions, always beside baselines.

In: the committed graph, examples, model and embeddings. Out: the content of metrics.json, and the
tables of it that people read. Every image with an embedding is a candidate for every query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipeline import schema
from pipeline.artifacts import Version
from trainer import evaluation_inputs as inputs
from trainer import evaluation_methods as methods
from trainer import metrics
from trainer.config import Section

TRAINED = "trained embedding"
MEAN_CLICKED = "mean of clicked images"
CO_OCCURRENCE = "co-occurrence only"
POPULARITY = "popularity"
RAW = "raw features"
RANDOM = "random"
MOST_FREQUENT = "most frequent label"

IMAGE_TO_IMAGE, TEXT_TO_IMAGE = "image_to_image", "text_to_image"
LABELS, COLLAPSE = "labels", "collapse"
ACCURACY = "accuracy"
LABEL_NEIGHBORS = 5  # k of the label accuracy
# Shares of the corpus, by training sessions: the head, and the torso behind it.
HEAD, TORSO = 0.1, 0.4
# Images that the collapse measures look at, and edges.
_SPECTRUM_SAMPLE, _PAIR_SAMPLE, _EDGE_SAMPLE = 10_000, 2_000, 100_000


class EvaluationConfig(Section):
    """What is measured, and how closely."""

    k: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(
        [1, 10, 100], description="lengths of the result list at which recall and NDCG are taken"
    )
    bootstrap: Annotated[int, Field(ge=0)] = Field(
        1_000, description="resamples behind the 95 % intervals; 0 leaves the intervals out"
    )
    max_sessions: Annotated[int, Field(ge=1)] = Field(
        10_000, description="held-out sessions that are evaluated; of more, so many are drawn"
    )

    @field_validator("k")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        return sorted(set(value))


@dataclass(frozen=True)
class Queries:
    """Held-out queries and the images that are right for them.

    item: [queries] int, what a method takes: a row of the corpus or the number of a text.
    session: [queries] int. query: [pairs] int, below `queries`. target: [pairs] int, a row of the
    corpus or NO_ROW. Every query has at least one pair.
    """

    item: np.ndarray
    session: np.ndarray
    query: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def relevant(self) -> np.ndarray:
        return np.bincount(self.query, minlength=len(self))

    def present(self) -> np.ndarray:
        """Relevant images that are in the corpus: [queries] int."""
        return np.bincount(self.query[self.target >= 0], minlength=len(self))


def evaluate(
    *,
    embeddings: Version,
    graph: Version,
    examples: Version,
    model: Version,
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """The content of metrics.json; the same versions, config and seed give the same numbers."""
    inputs.check_model(embeddings, model)
    corpus = inputs.read_corpus(embeddings=embeddings, graph=graph, seed=seed)
    content = inputs.read_content(examples, corpus)
    edges = inputs.read_edges(graph, corpus)
    holdout = inputs.read_holdout(graph, max_sessions=config.max_sessions, seed=seed)
    rows = corpus.rows_of(holdout.image_id)
    measure = Measure(config, seed, corpus)
    return {
        "model_version": embeddings.manifest["model_version"],
        "dim": int(corpus.vectors.shape[1]),
        "images": len(corpus),
        "images_without_example": len(corpus) - content.found,
        "held_out": _describe_holdout(holdout, rows),
        "k": list(config.k),
        "bootstrap": config.bootstrap,
        IMAGE_TO_IMAGE: _image_to_image(measure, holdout, rows, edges, content.raw),
        TEXT_TO_IMAGE: _text_to_image(
            measure, holdout, rows, graph=graph, model=model, embeddings=embeddings
        ),
        LABELS: label_accuracy(corpus.vectors, content, config=config, seed=seed),
        COLLAPSE: collapse(corpus.vectors, edges, seed=seed),
    }


def _describe_holdout(holdout: inputs.Holdout, rows: np.ndarray) -> dict[str, int]:
    missing = pc.unique(holdout.image_id.filter(pa.array(rows < 0)))
    return {
        "sessions": holdout.sessions,
        "sessions_evaluated": len(np.unique(holdout.session)),
        "images_without_embedding": len(missing),
    }


# Queries ----------------------------------------------------------------------------------------


def pairs_within(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of two different places in one group. group: [n] int, ascending.

    Returns (first, second), [pairs] int each, by first.
    """
    _, starts, sizes = np.unique(group, return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    first = np.repeat(np.arange(len(group)), size)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(size) - size, size)
    second = np.repeat(start, size) + offset
    different = first != second
    return first[different], second[different]


def image_queries(holdout: inputs.Holdout, rows: np.ndarray) -> tuple[Queries, int]:
    """Each image of a session as a query for the session's other images.

    rows: [clicks] int, the rows of the images in the corpus. Returns the queries whose image is in
    the corpus, and how many there are whose image is not. A session of one image asks nothing.
    """
    ids = pc.dictionary_encode(holdout.image_id).indices.to_numpy(zero_copy_only=False)
    session, row = _distinct(holdout.session, ids, rows)
    first, second = pairs_within(session)
    asked, query = np.unique(first, return_inverse=True)
    known = row[asked] >= 0
    number = np.cumsum(known) - 1
    kept = known[query]
    queries = Queries(
        item=row[asked[known]],
        session=session[asked[known]],
        query=number[query[kept]],
        target=row[second[kept]],
    )
    return queries, int((~known).sum())


def _distinct(group: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each image of a group once, by group: (group, row)."""
    _, at = np.unique(np.stack([group, ids], axis=1), axis=0, return_index=True)
    return group[at], rows[at]


def text_queries(holdout: inputs.Holdout, rows: np.ndarray) -> tuple[Queries, pa.Array]:
    """Each query text of a session, for the images that were opened for it in that session.

    Returns the queries and the texts, [t] string, that their items number.
    """
    asked = pc.fill_null(holdout.query, "")
    with_text = np.flatnonzero(pc.utf8_trim_whitespace(asked).to_numpy(zero_copy_only=False) != "")
    encoded = pc.dictionary_encode(asked.take(pa.array(with_text)))
    text = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    keys = np.stack([holdout.session[with_text], text], axis=1)
    distinct, number = np.unique(keys, axis=0, return_inverse=True)
    ids = pc.dictionary_encode(holdout.image_id).indices.to_numpy(zero_copy_only=False)
    query, target = _distinct(number.reshape(-1), ids[with_text], rows[with_text])
    queries = Queries(item=distinct[:, 1], session=distinct[:, 0], query=query, target=target)
    return queries, encoded.dictionary


# Measures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Turns rankings of the corpus into the numbers of metrics.json."""

    config: EvaluationConfig
    seed: int
    corpus: inputs.Corpus

    def of(self, score_rows: metrics.ScoreRows, queries: Queries) -> np.ndarray:
        """[queries, measures]; equal (item, target) pairs are ranked once."""
        width = len(self.corpus) + 1
        code = queries.item[queries.query] * width + queries.target + 1
        distinct, inverse = np.unique(code, return_inverse=True)
        ranks = metrics.rank_pairs(
            score_rows, distinct // width, distinct % width - 1, corpus=len(self.corpus)
        )
        return metrics.retrieval_measures(
            ranks[inverse], queries.query, queries=len(queries), ks=self.config.k
        )

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
        *,
        intervals: bool = True,
    ) -> dict[str, Any]:
        """Means over sessions, of all queries or of those `chosen` ([queries] bool)."""
        chosen = np.ones(len(queries), bool) if chosen is None else chosen
        session = queries.session[chosen]
        found: dict[str, Any] = {"queries": len(session), "sessions": len(np.unique(session))}
        if len(session) == 0:
            return {**found, "methods": {}}
        resamples = self.config.bootstrap if intervals else 0
        names = metrics.measure_names(self.config.k)
        found["methods"] = {
            method: _figures(
                names,
                metrics.bootstrap(
                    metrics.session_means(values[chosen], session),
                    resamples=resamples,
                    seed=self.seed,
                ),
                intervals=resamples > 0,
            )
            for method, values in by_method.items()
        }
        return found


def _figures(
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


def _image_to_image(
    measure: Measure,
    holdout: inputs.Holdout,
    rows: np.ndarray,
    edges: inputs.Links,
    raw: np.ndarray,
) -> dict[str, Any]:
    corpus = measure.corpus
    queries, without_embedding = image_queries(holdout, rows)
    score_rows = {
        TRAINED: methods.by_cosine(corpus.vectors, corpus.vectors),
        CO_OCCURRENCE: methods.by_links(edges, corpus.sessions),
        POPULARITY: methods.by_popularity(corpus.sessions),
        RAW: methods.by_cosine(raw, raw),
    }
    by_method = {
        name: measure.of(methods.without_query(scores), queries)
        for name, scores in score_rows.items()
    }
    by_method[RANDOM] = measure.of_chance(queries, candidates=len(corpus) - 1)
    return {
        **measure.summary(by_method, queries),
        "queries_without_embedding": without_embedding,
        "slices": {
            name: measure.summary(by_method, queries, chosen[queries.item], intervals=False)
            for name, chosen in image_slices(corpus.sessions, corpus.degree).items()
        },
    }


def image_slices(sessions: np.ndarray, degree: np.ndarray) -> dict[str, np.ndarray]:
    """Which images are in which slice: {name: [n] bool}.

    head, torso and tail part the corpus by training sessions, ties by order; the tail holds the
    cold images (in no training session), which are a slice of their own as well.
    """
    place = np.empty(len(sessions), np.int64)
    place[np.argsort(-sessions, kind="stable")] = np.arange(len(sessions))
    head = place < HEAD * len(sessions)
    torso = ~head & (place < (HEAD + TORSO) * len(sessions))
    return {
        "head": head,
        "torso": torso,
        "tail": ~head & ~torso,
        "cold": sessions == 0,
        "no neighbours": degree == 0,
    }


def _text_to_image(
    measure: Measure,
    holdout: inputs.Holdout,
    rows: np.ndarray,
    *,
    graph: Version,
    model: Version,
    embeddings: Version,
) -> dict[str, Any]:
    corpus = measure.corpus
    queries, texts = text_queries(holdout, rows)
    clicks, seen = inputs.read_clicks(graph, corpus, texts)
    score_rows = {
        MEAN_CLICKED: methods.by_mean_of_links(clicks, corpus.vectors, corpus.sessions),
        CO_OCCURRENCE: methods.by_links(clicks, corpus.sessions),
        POPULARITY: methods.by_popularity(corpus.sessions),
    }
    if schema.TEXT_SIGNATURE in model.manifest["signatures"]:
        vectors = inputs.read_text_vectors(embeddings, model, texts)
        score_rows = {TRAINED: methods.by_cosine(vectors, corpus.vectors), **score_rows}
    by_method = {name: measure.of(scores, queries) for name, scores in score_rows.items()}
    by_method[RANDOM] = measure.of_chance(queries, candidates=len(corpus))
    return {
        **measure.summary(by_method, queries),
        "slices": {
            "seen": measure.summary(by_method, queries, seen[queries.item]),
            "unseen": measure.summary(by_method, queries, ~seen[queries.item]),
        },
    }


def label_accuracy(
    vectors: np.ndarray, content: inputs.Content, *, config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """Labels of the test split, guessed from the nearest labelled images of the training split.

    A guess is right when it is among the image's labels.
    """
    asked = np.flatnonzero((content.test_labels != schema.NO_LABEL).any(axis=1))
    labelled = np.flatnonzero((content.train_labels != schema.NO_LABEL).any(axis=1))
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
    for name, guess in guesses.items():
        right = (guess[:, None] == content.test_labels[asked]).any(axis=1, keepdims=True)
        estimate = metrics.bootstrap(
            right.astype(np.float64), resamples=config.bootstrap, seed=seed
        )
        found["methods"][name] = _figures([ACCURACY], estimate, intervals=config.bootstrap > 0)
    return found


def collapse(vectors: np.ndarray, edges: inputs.Links, *, seed: int) -> dict[str, float | None]:
    """How much of the space the embeddings fill, on samples; null where there is too little.

    The corpus stands in drawn order, so its first rows are a sample.
    """
    generator = np.random.default_rng(seed)
    links = len(edges.owner)
    drawn = generator.choice(links, min(links, _EDGE_SAMPLE), replace=False)
    found = {
        "rank_me": metrics.rank_me(vectors[:_SPECTRUM_SAMPLE]),
        "uniformity": metrics.uniformity(vectors[:_PAIR_SAMPLE]) if len(vectors) > 1 else None,
        "alignment": metrics.alignment(vectors[edges.owner[drawn]], vectors[edges.column[drawn]])
        if links
        else None,
    }
    return {name: None if value is None else round(value, 6) for name, value in found.items()}


# Tables -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table to print: a title, the names of the columns, and rows of text.

    detail: of a part of the queries that another table has in full.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    detail: bool = False


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of metrics.json that people read; parts without a query are left out."""
    images, texts = result[IMAGE_TO_IMAGE], result[TEXT_TO_IMAGE]
    found = [
        _method_table("image to image", images, result["k"]),
        _slice_table("image to image, recall by slice", images, result["k"]),
        _method_table("text to image", texts, result["k"]),
        *(
            replace(_method_table(f"text to image, {name} queries", part, result["k"]), detail=True)
            for name, part in texts["slices"].items()
        ),
        _label_table(result[LABELS]),
    ]
    return [table for table in found if table.rows]


def _measures_shown(ks: Sequence[int]) -> list[str]:
    """Recall at each k, MRR, and NDCG at 10 or, without that, at the largest k."""
    return [*(f"recall@{k}" for k in ks), "mrr", f"ndcg@{10 if 10 in ks else ks[-1]}"]


def _method_table(title: str, part: Mapping[str, Any], ks: Sequence[int]) -> Table:
    shown = _measures_shown(ks)
    rows = [
        [method, *(_cell(figures[name]) for name in shown)]
        for method, figures in part["methods"].items()
    ]
    size = f"{part['queries']:,} queries of {part['sessions']:,} sessions"
    return Table(f"{title} ({size})", ["method", *shown], rows)


def _slice_table(title: str, part: Mapping[str, Any], ks: Sequence[int]) -> Table:
    measure = f"recall@{10 if 10 in ks else ks[-1]}"
    slices = {name: of for name, of in part["slices"].items() if of["queries"]}
    rows = [
        [method, *(_cell(of["methods"][method][measure]) for of in slices.values())]
        for method in part["methods"]
        if slices
    ]
    columns = [f"{name} ({of['queries']:,})" for name, of in slices.items()]
    return Table(f"{title}: {measure}", ["method", *columns], rows, detail=True)


def _label_table(part: Mapping[str, Any]) -> Table:
    rows = [[method, _cell(of[ACCURACY])] for method, of in part["methods"].items()]
    size = f"{part['queries']:,} test images, {part['neighbors']:,} labelled"
    return Table(f"labels by {LABEL_NEIGHBORS} neighbours ({size})", ["method", ACCURACY], rows)


def _cell(figure: Mapping[str, float]) -> str:
    """`0.312 ±0.011`: the value, and the farther end of its 95 % interval."""
    value = f"{figure['value']:.3f}"
    if "low" not in figure:
        return value
    return f"{value} ±{max(figure['high'] - figure['value'], figure['value'] - figure['low']):.3f}"
