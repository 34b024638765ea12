"""Search among a run's embeddings, by image id, by words and by picture.

Neither Beam nor TensorFlow is imported before a query needs the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import schema
from pipeline.artifacts import Version
from pipeline.embeddings import index_files
from pipeline.embeddings import model as models
from pipeline.embeddings.index_cells import Cells
from pipeline.embeddings.index_files import Ids
from pipeline.embeddings.scoring import best_rows
from pipeline.errors import ImgembedError
from pipeline.vectors import read_vectors

QUERY_BATCH = 1  # a query is one row


@dataclass(frozen=True)
class Hit:
    """An image and its cosine to the query, from -1 to 1."""

    image_id: str
    score: float


def combine(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """One query of several: the normalized sum of unit vectors [dim], at least one."""
    total = np.sum(vectors, axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(total))
    if norm < 1e-6:
        raise ImgembedError("the queries cancel each other out; leave one of them away")
    return np.asarray(total / norm, np.float32)


@dataclass(frozen=True)
class SearchIndex:
    """Every image: ids in ascending order, vectors [n, dim] float32, and cells where there are any.

    Without cells every vector is looked at.
    """

    ids: Ids
    matrix: np.ndarray
    model_version: str
    cells: Cells | None = None

    @classmethod
    def open(cls, version: Version) -> SearchIndex:
        """Of a version of the index, at once; or of the embeddings, which are all read."""
        made_by = version.manifest["model_version"]
        if version.stage == schema.EMBEDDINGS:
            keys, matrix = read_vectors(version, schema.IMAGE_EMBEDDINGS, schema.IMAGE_ID.name)
            return cls(Ids(keys), matrix, made_by)
        ids, matrix = index_files.open_rows(version)
        return cls(ids, matrix, made_by, _cells_of(version))

    def search(self, vector: np.ndarray, k: int, exclude: Iterable[str] = ()) -> list[Hit]:
        """The k nearest images, best first, ties by id; fewer where the index has fewer.

        vector: [dim], unit norm. exclude: ids that are no answer; unknown ones mean nothing.
        """
        if k < 1:
            raise ImgembedError(f"k: {k} is too small; ask for at least 1 image")
        if not len(self.ids):
            return []
        if vector.shape != self.matrix.shape[1:]:
            raise ImgembedError(
                f"the query has {vector.size} dimensions, the embeddings have "
                f"{self.matrix.shape[1]}: they are of different models; run: "
                f"{schema.STAGE_COMMANDS[schema.EMBEDDINGS]}"
            )
        rows, scores = self._best(vector, k, self.ids.rows(exclude))
        return [
            Hit(self.ids[row], float(np.clip(score, -1.0, 1.0)))
            for row, score in zip(rows, scores, strict=True)
        ]

    def _best(
        self, vector: np.ndarray, k: int, excluded: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.cells is None:
            return best_rows(self.matrix, vector, k, excluded=excluded)
        (answer,) = self.cells.nearest(self.matrix, vector[None], k, excluded=[excluded])
        return answer

    def vector_of(self, image_id: str) -> np.ndarray:
        """The vector of an image, [dim]; ImgembedError with similar ids where there is none."""
        row = self.ids.find(image_id)
        if row is None:
            close = self.ids.close_to(image_id)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ImgembedError(f"image id {image_id!r}: not among the embeddings{hint}")
        return np.asarray(self.matrix[row])


def _cells_of(index: Version) -> Cells | None:
    manifest = index.manifest
    if "cells" not in manifest:
        return None
    return Cells(index_files.open_cells(index), manifest["probes"], manifest["candidates"])


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
        try:
            content = text.encode()
        except UnicodeEncodeError:  # of a command line that is not UTF-8
            raise ImgembedError(f"query text {text!r}: is not UTF-8") from None
        models.require_signature(self.model, schema.TEXT_SIGNATURE, "a search by text")
        return self._embed(schema.TEXT_SIGNATURE, content)

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
