"""Exact search among a run's embeddings, by image id, by words and by picture.

Neither Beam nor TensorFlow is imported before a query needs the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.embeddings import model as models
from pipeline.errors import ImgembedError
from pipeline.vectors import read_vectors

QUERY_BATCH = 1  # a query is one row
PRODUCT_ERROR = 1e-5  # of a float32 product of unit vectors, generously
RESCORED_ROWS = 65_536  # at once


@dataclass(frozen=True)
class Hit:
    """An image and its cosine to the query, from -1 to 1."""

    image_id: str
    score: float


def exact_scores(matrix: np.ndarray, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Products of some rows with a vector in float64, each as if it were alone: [rows]."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), RESCORED_ROWS):
        part = matrix[rows[start : start + RESCORED_ROWS]].astype(np.float64)
        scores[start : start + len(part)] = (part * vector.astype(np.float64)).sum(axis=1)
    return scores


def best_rows(
    matrix: np.ndarray, vector: np.ndarray, k: int, *, excluded: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Rows with the k highest products with a vector, best first, and the products in float64.

    Ties go to the lower row. matrix: [n, dim]. excluded: rows left out, each once. Fewer than k
    where there are fewer. The matrix product gives equal rows different last bits, so whatever
    comes near the k-th best is scored again row by row.
    """
    scores = matrix @ vector.astype(matrix.dtype)
    scores[list(excluded)] = -np.inf
    k = min(k, len(scores) - len(excluded))
    if k <= 0:
        return np.zeros(0, np.int64), np.zeros(0)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= threshold - PRODUCT_ERROR)
    exact = exact_scores(matrix, rows, vector)
    best = np.lexsort((rows, -exact))[:k]
    return rows[best], exact[best]


def combine(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """One query of several: the normalized sum of unit vectors [dim], at least one."""
    total = np.sum(vectors, axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise ImgembedError("the queries cancel each other out; leave one of them away")
    return np.asarray(total / norm, np.float32)


@dataclass(frozen=True)
class SearchIndex:
    """Every image of an embeddings version: ids in ascending order, vectors [n, dim] float32."""

    ids: list[str]
    matrix: np.ndarray
    model_version: str
    _rows: dict[str, int] = field(repr=False)

    @classmethod
    def open(cls, embeddings: Version) -> SearchIndex:
        keys, matrix = read_vectors(embeddings, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
        ids = keys.to_pylist()
        rows = {image_id: row for row, image_id in enumerate(ids)}
        return cls(ids, matrix, embeddings.manifest["model_version"], rows)

    def search(self, vector: np.ndarray, k: int, exclude: Collection[str] = ()) -> list[Hit]:
        """The k nearest images, best first, ties by id; fewer where the index has fewer.

        vector: [dim], unit norm. exclude: ids that are no answer; unknown ones mean nothing.
        """
        if k < 1:
            raise ImgembedError(f"k: {k} is too small; ask for at least 1 image")
        if not self.ids:
            return []
        if vector.shape != self.matrix.shape[1:]:
            raise ImgembedError(
                f"the query has {vector.size} dimensions, the embeddings have "
                f"{self.matrix.shape[1]}: they are of different models; run: "
                f"{schema.STAGE_COMMANDS[schema.EMBEDDINGS]}"
            )
        excluded = [self._rows[image_id] for image_id in set(exclude) if image_id in self._rows]
        rows, scores = best_rows(self.matrix, vector, k, excluded=excluded)
        return [
            Hit(self.ids[row], float(np.clip(score, -1.0, 1.0)))
            for row, score in zip(rows, scores, strict=True)
        ]

    def vector_of(self, image_id: str) -> np.ndarray:
        """The vector of an image, [dim]; ImgembedError with similar ids where there is none."""
        row = self._rows.get(image_id)
        if row is None:
            close = difflib.get_close_matches(image_id, self.ids, n=3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ImgembedError(f"image id {image_id!r}: not among the embeddings{hint}")
        return self.matrix[row]


@dataclass(frozen=True)
class QueryEncoder:
    """Words and pictures to vectors, by the model that made the embeddings.

    The model is loaded when the first query needs it.
    """

    model: Version

    @classmethod
    def open(cls, model: Version, embeddings: Version) -> QueryEncoder:
        """The encoder; ImgembedError where the embeddings are another model's."""
        made_by, found = embeddings.manifest["model_version"], models.model_version(model)
        if made_by != found:
            raise ImgembedError(
                f"embeddings {embeddings.name} were made by model {made_by}, the run's model is "
                f"{found}; make them anew with: {schema.STAGE_COMMANDS[schema.EMBEDDINGS]}"
            )
        return cls(model)

    def _embed(self, signature: str, content: bytes) -> np.ndarray:
        saved_model = models.load_saved_model(self.model.file(schema.SAVED_MODEL_FOLDER))
        rows = np.array([content], dtype=object)
        vectors = models.embed_rows(saved_model, signature, rows, QUERY_BATCH)
        models.check_unit_norm(vectors, "the query")
        return vectors[0]

    def embed_text(self, text: str) -> np.ndarray:
        """The vector of a query in words, [dim]."""
        if not text.strip():
            raise ImgembedError(f"query text {text!r}: is empty; give at least one word")
        models.require_signature(self.model, schema.TEXT_SIGNATURE, "a search by text")
        return self._embed(schema.TEXT_SIGNATURE, text.encode())

    def embed_picture(self, data: bytes, *, max_pixels: int) -> np.ndarray:
        """The vector of a picture in any format that the catalog may have, [dim]."""
        from pipeline.examples import pictures

        models.require_signature(self.model, schema.IMAGE_SIGNATURE, "a search by picture")
        manifest = self.model.manifest
        prepared = pictures.prepare(
            data,
            image_size=manifest["image_size"],
            max_pixels=max_pixels,
            encoding=pictures.model_encoding(manifest.get("image_encoding")),
        )
        return self._embed(schema.IMAGE_SIGNATURE, prepared.content)
