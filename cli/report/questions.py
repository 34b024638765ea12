"""Held-out queries with what was right and what each method answers: rows of pictures to look at.

Queries are drawn by the seed, not chosen; the worst ones stand beside them. A query is one of the
evaluation's: an image of a held-out session asks for the others of the session, a query text for
the images that were opened for it. All of it is among the gallery's images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cli.report.gallery import Gallery
from cli.report.tables import stream
from pipeline import schema
from pipeline.artifacts import Version
from trainer import metrics
from trainer.evaluation import methods
from trainer.evaluation.inputs import Holdout, Links, rows_in
from trainer.evaluation.queries import Queries, image_queries, text_queries

MODEL, RAW, CLICKED = "the model", "raw features", "most opened before"
ANSWERS = 8  # pictures of a row
MAX_SESSIONS = 2_000  # held-out sessions that are looked at


@dataclass(frozen=True)
class Answer:
    """An image of the gallery. right: whether the session held it. score: cosine, or None."""

    image_id: str
    score: float | None
    right: bool


@dataclass(frozen=True)
class Answers:
    """What a method gives first. rank: where the best right image stands among all candidates."""

    method: str
    rank: int
    first: list[Answer]


@dataclass(frozen=True)
class Question:
    """A held-out query. image_id or text; wanted: what was right, at most ANSWERS of `total`."""

    image_id: str | None
    text: str | None
    wanted: list[str]
    total: int
    answers: list[Answers]


@dataclass(frozen=True)
class Questions:
    """Questions drawn by the seed, and those the model answers worst.

    asked: how many queries there are to draw from. without_vector: texts that no vector was
    exported for. methods: the names of those that answer.
    """

    drawn: list[Question]
    worst: list[Question]
    asked: int
    sessions: int
    without_vector: int
    methods: list[str]


def read_holdout(graph: Version, *, limit: int, seed: int) -> Holdout:
    """At most `limit` held-out sessions, drawn by the seed; rows of others are not kept."""
    numbers = [table["session"].to_numpy() for table in stream(graph, schema.HOLDOUT, ["session"])]
    distinct = np.unique(np.concatenate([np.zeros(0, np.int64), *numbers]))
    chosen = distinct
    if len(distinct) > limit:
        chosen = np.random.default_rng(seed).choice(distinct, limit, replace=False)
    names = schema.HOLDOUT_SCHEMA.names
    kept = [
        table.filter(pa.array(np.isin(table["session"].to_numpy(), chosen)))
        for table in stream(graph, schema.HOLDOUT, names)
    ]
    table = pa.concat_tables([schema.HOLDOUT_SCHEMA.empty_table(), *kept])
    table = table.sort_by([("session", "ascending"), ("position", "ascending")])
    ids, queries = (
        pa.array(table[name].to_pylist(), pa.string()) for name in ("image_id", "query")
    )
    return Holdout(table["session"].to_numpy(), ids, queries, len(distinct))


def of_images(gallery: Gallery, holdout: Holdout, *, rows: int, seed: int) -> Questions:
    """Images of held-out sessions as queries, for raw features and the model."""
    queries, _ = image_queries(holdout, gallery.rows_of(holdout.image_id))
    ask = {}
    if gallery.raw.shape[1]:
        ask[RAW] = methods.by_cosine(gallery.raw, gallery.raw)
    ask[MODEL] = methods.by_cosine(gallery.vectors, gallery.vectors)
    ask = {name: methods.without_query(scores) for name, scores in ask.items()}
    return _questions(gallery, queries, ask, rows=rows, seed=seed)


def of_texts(
    gallery: Gallery, holdout: Holdout, *, graph: Version, embeddings: Version, rows: int, seed: int
) -> Questions:
    """Query texts of held-out sessions that have an exported vector."""
    queries, texts = text_queries(holdout, gallery.rows_of(holdout.image_id))
    vectors, known = _text_vectors(embeddings, texts)
    links, popularity = _clicks(graph, gallery, texts)
    ask = {
        CLICKED: methods.by_links(links, popularity),
        MODEL: methods.by_cosine(vectors, gallery.vectors),
    }
    return _questions(
        gallery,
        _only(queries, known[queries.item]),
        ask,
        rows=rows,
        seed=seed,
        texts=texts,
        without_vector=int((~known).sum()),
    )


def _text_vectors(embeddings: Version, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """([texts, dim] float32, [texts] bool: whether a vector of it was exported)."""
    dim = embeddings.manifest["dim"]
    vectors, known = np.zeros((len(texts), dim), np.float32), np.zeros(len(texts), bool)
    for table in stream(embeddings, schema.QUERY_EMBEDDINGS, ["query", "embedding"]):
        at = rows_in(table["query"], texts)
        kept = table["embedding"].filter(pa.array(at >= 0))
        found = pc.list_flatten(kept).to_numpy().astype(np.float32)
        vectors[at[at >= 0]] = found.reshape(-1, dim)
        known[at[at >= 0]] = True
    return vectors, known


def _clicks(graph: Version, gallery: Gallery, texts: pa.Array) -> tuple[Links, np.ndarray]:
    """(training clicks of those texts on the gallery's images, sessions of each image)."""
    parts = []
    for table in stream(graph, schema.QUERIES, ["query", "image_id", "sessions"]):
        owner, column = rows_in(table["query"], texts), gallery.rows_of(table["image_id"])
        known = (owner >= 0) & (column >= 0)
        parts.append((owner[known], column[known], table["sessions"].to_numpy()[known]))
    columns = (np.concatenate([np.zeros(0, np.int64), *part]) for part in zip(*parts, strict=True))
    links = Links.of(*columns) if parts else Links.of(*(np.zeros(0, np.int64) for _ in range(3)))
    popularity = np.zeros(len(gallery), np.int64)
    for table in stream(graph, schema.NODES, ["image_id", "sessions"]):
        row = gallery.rows_of(table["image_id"])
        popularity[row[row >= 0]] = table["sessions"].to_numpy()[row >= 0]
    return links, popularity


def _only(queries: Queries, kept: np.ndarray) -> Queries:
    """Those queries, renumbered. kept: [queries] bool."""
    number, pairs = np.cumsum(kept) - 1, kept[queries.query]
    return Queries(
        item=queries.item[kept],
        session=queries.session[kept],
        query=number[queries.query[pairs]],
        target=queries.target[pairs],
    )


def _with_targets(queries: Queries) -> Queries:
    """Queries for which a right image was drawn, with those images only."""
    drawn = queries.target >= 0
    left = Queries(queries.item, queries.session, queries.query[drawn], queries.target[drawn])
    return _only(left, np.bincount(left.query, minlength=len(left)) > 0)


def _questions(
    gallery: Gallery,
    queries: Queries,
    ask: Mapping[str, metrics.ScoreRows],
    *,
    rows: int,
    seed: int,
    texts: pa.Array | None = None,
    without_vector: int = 0,
) -> Questions:
    queries = _with_targets(queries)
    best = {name: _best_ranks(scores, queries, len(gallery)) for name, scores in ask.items()}
    drawn_order = np.random.default_rng(seed).permutation(len(queries))
    drawn = _distinct(queries, drawn_order, rows, [])
    worst: list[int] = []
    if len(queries):
        by_rank = drawn_order[np.argsort(-best[MODEL][drawn_order], kind="stable")]
        worst = _distinct(queries, by_rank[best[MODEL][by_rank] > 1], rows, drawn)

    def question(number: int) -> Question:
        item = int(queries.item[number])
        right = queries.target[queries.query == number].tolist()
        return Question(
            image_id=gallery.names([item])[0] if texts is None else None,
            text=None if texts is None else texts[item].as_py(),
            wanted=gallery.names(right[:ANSWERS]),
            total=len(right),
            answers=[
                _answers(gallery, name, scores, item, set(right), int(best[name][number]))
                for name, scores in ask.items()
            ],
        )

    return Questions(
        drawn=[question(number) for number in drawn],
        worst=[question(number) for number in worst],
        asked=len(queries),
        sessions=len(np.unique(queries.session)),
        without_vector=without_vector,
        methods=list(ask),
    )


def _best_ranks(scores: metrics.ScoreRows, queries: Queries, corpus: int) -> np.ndarray:
    """[queries] float64: the rank of the best right image."""
    code = queries.item[queries.query] * corpus + queries.target
    pairs, inverse = np.unique(code, return_inverse=True)
    item, target = np.divmod(pairs, max(corpus, 1))
    ranks = metrics.rank_pairs(scores, item, target, corpus=corpus)
    best = np.full(len(queries), np.inf)
    np.minimum.at(best, queries.query, ranks[inverse])
    return best


def _distinct(queries: Queries, order: np.ndarray, limit: int, others: Sequence[int]) -> list[int]:
    """The first `limit` queries in that order, each item once, and none of `others`."""
    seen = {int(queries.item[number]) for number in others}
    chosen: list[int] = []
    for number in order.tolist():
        if len(chosen) == limit:
            break
        if int(queries.item[number]) not in seen:
            seen.add(int(queries.item[number]))
            chosen.append(number)
    return chosen


def _answers(
    gallery: Gallery,
    method: str,
    score_rows: metrics.ScoreRows,
    item: int,
    right: set[int],
    rank: int,
) -> Answers:
    scores = score_rows(np.array([item]))[0]
    order = np.argsort(-scores, kind="stable")[:ANSWERS]
    order = order[np.isfinite(scores[order])]
    cosines = scores / methods.COSINE_STEPS if method != CLICKED else None
    return Answers(
        method=method,
        rank=rank,
        first=[
            Answer(name, None if cosines is None else float(cosines[row]), row in right)
            for row, name in zip(order.tolist(), gallery.names(order), strict=True)
        ],
    )
