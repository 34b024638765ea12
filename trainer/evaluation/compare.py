"""Two runs on the same held-out sessions: how much better is one, and is that more than chance?

Both rank the images that both have embedded, for the sessions that both hold out. Sessions are
drawn with replacement, the same ones for both runs, and the interval is that of the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import RunDir, Version, check_undamaged
from pipeline.errors import ImgembedError
from pipeline.vectors import read_vectors
from trainer import metrics
from trainer.evaluation import inputs, leaks, methods
from trainer.evaluation.collapse import spread
from trainer.evaluation.config import EvaluationConfig
from trainer.evaluation.judgments import Judged, full_ranking
from trainer.evaluation.labels import LABEL_NEIGHBORS, asked_and_known, is_right
from trainer.evaluation.measuring import Measure
from trainer.evaluation.names import (
    ACCURACY,
    COLLAPSE,
    IMAGE_TO_IMAGE,
    JUDGMENTS,
    LABELS,
    TEXT_TO_IMAGE,
)
from trainer.evaluation.queries import image_queries, text_queries

A, B, DIFFERENCE = "a", "b", "difference"


@dataclass(frozen=True)
class Side:
    """One of the two runs. examples: None where the run has none."""

    path: str
    graph: Version
    model: Version
    embeddings: Version
    examples: Version | None

    @classmethod
    def open(cls, path: str) -> Side:
        """The versions in force.

        ImgembedError where the model knows what the graph holds out, or a file is cut or gone.
        """
        run = RunDir.open(path)
        found = cls(
            path,
            graph=run.require(schema.GRAPH),
            model=run.require(schema.MODEL),
            embeddings=run.require(schema.EMBEDDINGS),
            examples=run.current(schema.EXAMPLES),
        )
        for version in (found.graph, found.embeddings, found.examples):
            if version is not None:
                check_undamaged(version)
        inputs.check_model(found.embeddings, found.model)
        leaks.check_trained_on(found.graph, leaks.graph_of_training(run, found.model))
        return found

    @property
    def has_texts(self) -> bool:
        return schema.TEXT_SIGNATURE in self.model.manifest["signatures"]

    def describe(self, images: int) -> dict[str, Any]:
        """Its part of the result. images: how many it has embedded."""
        return {
            "run": self.path,
            "graph": self.graph.name,
            "model_version": self.embeddings.manifest["model_version"],
            "images": images,
        }


def compare(
    first: Side,
    second: Side,
    *,
    config: EvaluationConfig,
    seed: int,
    judgments: pa.Table | None = None,
) -> dict[str, Any]:
    """What `imgembed evaluate --compare` prints; ImgembedError where nothing can be compared."""
    sides = (first, second)
    holdout, sessions = common_sessions(first, second, config=config, seed=seed)
    corpora, images = common_corpora(first, second, seed=seed)
    ids, measure = corpora[0].ids, Measure(config, seed, len(corpora[0]))
    paired = Paired(measure, tuple(corpus.vectors for corpus in corpora))
    rows = inputs.rows_in(holdout.image_id, ids)
    found = {
        A: first.describe(images[A]),
        B: second.describe(images[B]),
        "images": {"common": len(ids)},
        "sessions": sessions,
        "k": list(config.k),
        "bootstrap": config.bootstrap,
        IMAGE_TO_IMAGE: paired.images(holdout, rows),
        TEXT_TO_IMAGE: paired.texts(holdout, rows, sides),
        LABELS: _labels(paired, corpora, sides),
        COLLAPSE: {name: spread(of.vectors) for name, of in zip((A, B), corpora, strict=True)},
    }
    if judgments is not None:
        found[JUDGMENTS] = paired.judged(Judged.of(judgments, corpora[0]), sides)
    return found


# What both have ----------------------------------------------------------------------------------


def common_corpora(
    first: Side, second: Side, *, seed: int
) -> tuple[tuple[inputs.Corpus, inputs.Corpus], dict[str, int]]:
    """(corpora of the images that both have embedded, in one drawn order; images of each side)."""
    (ids, vectors), (others, other_vectors) = (
        read_vectors(side.embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
        for side in (first, second)
    )
    place = inputs.rows_in(ids, others)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(place >= 0))
    if not len(rows):
        raise ImgembedError(
            f"{first.path} and {second.path}: have no embedded image in common, so there is "
            "nothing to compare"
        )
    nothing = np.zeros(len(rows), np.int64)
    common = ids.take(pa.array(rows))
    corpora = (
        inputs.Corpus(common, vectors[rows], nothing, nothing),
        inputs.Corpus(common, other_vectors[place[rows]], nothing, nothing),
    )
    return corpora, {A: len(ids), B: len(others)}


def common_sessions(
    first: Side, second: Side, *, config: EvaluationConfig, seed: int
) -> tuple[inputs.Holdout, dict[str, int]]:
    """The sessions that both hold out, at most `max_sessions`, and how many there are.

    Sessions have no name, so they are told by what they hold, as often as both have it.
    ImgembedError where a session that one run holds out trained the other, or none is common.
    """
    graphs = [side.graph for side in (first, second)]
    contents = [_contents(graph) for graph in graphs]
    counts = [Counter(content.values()) for content in contents]
    both = counts[0] & counts[1]
    if both != counts[0] or both != counts[1]:
        why = leaks.other_draw(*graphs)
        if why is not None and any(counts):
            raise ImgembedError(
                f"{first.path} and {second.path}: do not hold out the same sessions ({why}), so "
                "that what one holds out may have trained the other; build both graphs with the "
                "same seed and holdout"
            )
    if not both:
        raise ImgembedError(
            f"{first.path} and {second.path}: have no held-out session in common "
            f"({len(contents[0]):,} and {len(contents[1]):,}), so there is nothing to compare"
        )
    kept = []
    for number, content in contents[0].items():
        if both[content]:
            both[content] -= 1
            kept.append(number)
    holdout = inputs.read_holdout(
        graphs[0], max_sessions=config.max_sessions, seed=seed, among=np.array(kept)
    )
    return holdout, {
        "held_out_by_a": len(contents[0]),
        "held_out_by_b": len(contents[1]),
        "common": len(kept),
        "evaluated": len(np.unique(holdout.session)),
    }


def _contents(graph: Version) -> dict[int, tuple[tuple[str, str | None], ...]]:
    """What each held-out session holds, by id: {its number: ((image id, query), …)}."""
    holdout = inputs.read_holdout(graph, max_sessions=None, seed=0)
    numbers, starts = np.unique(holdout.session, return_index=True)
    rows = list(zip(holdout.image_id.to_pylist(), holdout.query.to_pylist(), strict=True))
    bounds = [*starts.tolist(), len(rows)]
    return {
        int(number): tuple(sorted(rows[bounds[place] : bounds[place + 1]], key=_by_id_and_query))
        for place, number in enumerate(numbers)
    }


def _by_id_and_query(row: tuple[str, str | None]) -> tuple[str, bool, str]:
    image_id, query = row
    return image_id, query is not None, query or ""


# What is measured --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Measures both sides on the same queries. vectors: [images, dim] of each, row by row."""

    measure: Measure
    vectors: tuple[np.ndarray, ...]

    def images(self, holdout: inputs.Holdout, rows: np.ndarray) -> dict[str, Any]:
        """Image to image; a query is no candidate itself."""
        queries, missing = image_queries(holdout, rows)
        values = [
            self.measure.of(methods.without_query(methods.by_cosine(of, of)), queries)
            for of in self.vectors
        ]
        return {
            "queries": len(queries),
            "sessions": len(np.unique(queries.session)),
            "queries_without_embedding": missing,
            "measures": self.differences(self._names, values, queries.session),
        }

    def texts(
        self, holdout: inputs.Holdout, rows: np.ndarray, sides: Sequence[Side]
    ) -> dict[str, Any]:
        """Text to image, where both have a text tower."""
        queries, texts = text_queries(holdout, rows)
        found: dict[str, Any] = {
            "queries": len(queries),
            "sessions": len(np.unique(queries.session)),
        }
        if without := [side.path for side in sides if not side.has_texts]:
            return {**found, "not_compared": _no_texts(without), "measures": {}}
        values = [self.measure.of(scores, queries) for scores in self._by_text(texts, sides)]
        return {**found, "measures": self.differences(self._names, values, queries.session)}

    def judged(self, judged: Judged, sides: Sequence[Side]) -> dict[str, Any]:
        """Judgments, by the full ranking."""
        queries, grade = judged.queries()
        found: dict[str, Any] = {
            "queries": len(queries),
            "images_without_embedding": judged.missing,
        }
        if without := [side.path for side in sides if not side.has_texts]:
            return {**found, "not_compared": _no_texts(without), "measures": {}}
        values = [
            full_ranking(self.measure.ranks(scores, queries), queries, grade, self.measure)
            for scores in self._by_text(judged.texts, sides)
        ]
        return {**found, "measures": self.differences(self._names, values, queries.session)}

    @property
    def _names(self) -> list[str]:
        return metrics.measure_names(self.measure.config.k)

    def _by_text(self, texts: pa.Array, sides: Sequence[Side]) -> list[metrics.ScoreRows]:
        return [
            methods.by_cosine(inputs.read_text_vectors(side.embeddings, side.model, texts), of)
            for side, of in zip(sides, self.vectors, strict=True)
        ]

    def differences(
        self, names: Sequence[str], values: Sequence[np.ndarray], group: np.ndarray
    ) -> dict[str, dict[str, dict[str, float]]]:
        """{measure: {"a", "b", "difference": {value, low, high}}}, the difference being B - A.

        values: [queries, measures] of A and of B. group: [queries] int, drawn together.
        """
        of = {A: values[0], B: values[1], DIFFERENCE: values[1] - values[0]}
        found = self.measure.figures(names, of, group)
        return {name: {kind: found[kind][name] for kind in found} for name in names if found}


def _no_texts(runs: Sequence[str]) -> str:
    return f"the model of {' and of '.join(runs)} takes no text"


def _labels(
    paired: Paired, corpora: Sequence[inputs.Corpus], sides: Sequence[Side]
) -> dict[str, Any]:
    """Labels by neighbours: test images of both, guessed from training images of both.

    The labels are those of A.
    """
    if any(side.examples is None for side in sides):
        return {"queries": 0, "neighbors": 0, "measures": {}}
    contents = _contents_of_labels(corpora, [side.examples for side in sides if side.examples])
    of_a, of_b = (asked_and_known(content) for content in contents)
    asked, labelled = (np.intersect1d(one, other) for one, other in zip(of_a, of_b, strict=True))
    found: dict[str, Any] = {"queries": len(asked), "neighbors": len(labelled)}
    if not len(asked) or not len(labelled):
        return {**found, "measures": {}}
    values = [
        is_right(
            metrics.knn_labels(
                of[asked], of[labelled], contents[0].train_labels[labelled], k=LABEL_NEIGHBORS
            ),
            contents[0].test_labels[asked],
        )
        for of in paired.vectors
    ]
    return {**found, "measures": paired.differences([ACCURACY], values, np.arange(len(asked)))}


def _contents_of_labels(
    corpora: Sequence[inputs.Corpus], examples: Sequence[Version]
) -> list[inputs.Content]:
    return [
        inputs.read_content(version, corpus, with_raw=False)
        for corpus, version in zip(corpora, examples, strict=True)
    ]
