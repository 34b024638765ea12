"""Measures a run on its held-out sessions and on judgments, always beside baselines.

In: the committed graph, examples, model and embeddings. Out: the content of metrics.json. Every
image with an embedding is a candidate for every query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import schema
from pipeline.artifacts import Version
from trainer import metrics
from trainer.evaluation import inputs, leaks, methods
from trainer.evaluation.collapse import collapse
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.judgments import Judged, measure_judged
from trainer.evaluation.labels import label_accuracy
from trainer.evaluation.measuring import Measure
from trainer.evaluation.names import (
    CO_OCCURRENCE,
    COLLAPSE,
    IMAGE_TO_IMAGE,
    JUDGMENTS,
    LABELS,
    MEAN_CLICKED,
    POPULARITY,
    RANDOM,
    RAW,
    TEXT_TO_IMAGE,
    TRAINED,
)
from trainer.evaluation.queries import Queries, image_queries, text_queries
from trainer.evaluation.slices import image_slices, label_name, label_slices


def evaluate(
    *,
    embeddings: Version,
    graph: Version,
    examples: Version,
    model: Version,
    config: EvaluationConfig,
    seed: int,
    judgments: pa.Table | None = None,
    trained_on: Version | None = None,
) -> dict[str, Any]:
    """The content of metrics.json; the same versions, config and seed give the same numbers.

    judgments: `schema.JUDGMENT_SCHEMA`. trained_on: the graph that the model was trained on, where
    it is still there; ImgembedError where it holds sessions that `graph` holds out.
    """
    inputs.check_model(embeddings, model)
    leaks.check_trained_on(graph, trained_on)
    corpus = inputs.read_corpus(embeddings=embeddings, graph=graph, seed=seed)
    judged = None if judgments is None else Judged.of(judgments, corpus)
    content = inputs.read_content(examples, corpus)
    edges = inputs.read_edges(graph, corpus)
    holdout = inputs.read_holdout(graph, max_sessions=config.max_sessions, seed=seed)
    rows = corpus.rows_of(holdout.image_id)
    measure = Measure(config, seed, len(corpus))
    texts = Texts(corpus, graph=graph, model=model, embeddings=embeddings)
    found = {
        "model_version": embeddings.manifest["model_version"],
        "dim": int(corpus.vectors.shape[1]),
        "images": len(corpus),
        "images_without_example": len(corpus) - content.found,
        "held_out": _describe_holdout(holdout, rows),
        "k": list(config.k),
        "bootstrap": config.bootstrap,
        IMAGE_TO_IMAGE: _image_to_image(
            measure, corpus, holdout, rows, edges=edges, content=content, classes=classes(examples)
        ),
        TEXT_TO_IMAGE: _text_to_image(measure, texts, holdout, rows),
        LABELS: label_accuracy(corpus.vectors, content, measure),
        COLLAPSE: collapse(corpus.vectors, edges, seed=seed),
    }
    if judged is not None:
        scores, seen = texts.methods(judged.texts)
        found[JUDGMENTS] = measure_judged(judged, scores, measure, seen)
    return found


def classes(examples: Version) -> list[str]:
    """What the catalog calls its labels, by their numbers."""
    return list(examples.manifest["classes"])


def _describe_holdout(holdout: inputs.Holdout, rows: np.ndarray) -> dict[str, int]:
    missing = pc.unique(holdout.image_id.filter(pa.array(rows < 0)))
    return {
        "sessions": holdout.sessions,
        "sessions_evaluated": len(np.unique(holdout.session)),
        "images_without_embedding": len(missing),
    }


def _image_to_image(
    measure: Measure,
    corpus: inputs.Corpus,
    holdout: inputs.Holdout,
    rows: np.ndarray,
    *,
    edges: inputs.Links,
    content: inputs.Content,
    classes: list[str],
) -> dict[str, Any]:
    queries, without_embedding = image_queries(holdout, rows)
    score_rows = {
        TRAINED: methods.by_cosine(corpus.vectors, corpus.vectors),
        CO_OCCURRENCE: methods.by_links(edges, corpus.sessions),
        POPULARITY: methods.by_popularity(corpus.sessions),
        RAW: methods.by_cosine(content.raw, content.raw),
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
            name: measure.summary(by_method, queries, chosen[queries.item])
            for name, chosen in image_slices(corpus.sessions, corpus.degree).items()
        },
        "by_label": _by_label(measure, by_method, queries, content, classes),
    }


def _by_label(
    measure: Measure,
    by_method: Mapping[str, np.ndarray],
    queries: Queries,
    content: inputs.Content,
    classes: list[str],
) -> dict[str, Any]:
    """The queries by the label of their image: the most frequent, the rest, and those without."""
    found = label_slices(content.labels[queries.item], most=measure.config.max_labels)
    return {
        "shown": [
            {"label": label_name(label, classes), **measure.summary(by_method, queries, chosen)}
            for label, chosen in found.shown
        ],
        "rest": {
            "labels": found.rest_labels,
            **measure.summary(by_method, queries, found.rest),
        },
        "unlabelled": measure.summary(by_method, queries, found.unlabelled),
    }


@dataclass(frozen=True)
class Texts:
    """What answers queries in words, on one corpus."""

    corpus: inputs.Corpus
    graph: Version
    model: Version
    embeddings: Version

    def methods(self, texts: pa.Array) -> tuple[dict[str, metrics.ScoreRows], np.ndarray]:
        """({method: scores for the numbers of texts}, [t] bool: texts of the training sessions).

        A model without a text tower is not among the methods.
        """
        sessions = self.corpus.sessions
        clicks, seen = inputs.read_clicks(self.graph, self.corpus, texts)
        found = {
            MEAN_CLICKED: methods.by_mean_of_links(clicks, self.corpus.vectors, sessions),
            CO_OCCURRENCE: methods.by_links(clicks, sessions),
            POPULARITY: methods.by_popularity(sessions),
        }
        if schema.TEXT_SIGNATURE in self.model.manifest["signatures"]:
            vectors = inputs.read_text_vectors(self.embeddings, self.model, texts)
            found = {TRAINED: methods.by_cosine(vectors, self.corpus.vectors), **found}
        return found, seen


def _text_to_image(
    measure: Measure, texts: Texts, holdout: inputs.Holdout, rows: np.ndarray
) -> dict[str, Any]:
    queries, asked = text_queries(holdout, rows)
    score_rows, seen = texts.methods(asked)
    by_method = {name: measure.of(scores, queries) for name, scores in score_rows.items()}
    by_method[RANDOM] = measure.of_chance(queries, candidates=measure.images)
    return {
        **measure.summary(by_method, queries),
        "slices": {
            "seen": measure.summary(by_method, queries, seen[queries.item]),
            "unseen": measure.summary(by_method, queries, ~seen[queries.item]),
        },
    }
