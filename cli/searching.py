"""Opens a run's index and answers queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cli.settings import Config
from pipeline import schema, storage
from pipeline.artifacts import RunDir, Version, check_undamaged
from pipeline.errors import ImgembedError
from pipeline.examples.pictures import PictureError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.embeddings.search import Hit, QueryEncoder, SearchIndex

_MUCH_TO_READ = 50_000  # embeddings that take seconds to read


@dataclass(frozen=True)
class Query:
    """What is searched for; several queries are added up."""

    texts: Sequence[str] = ()
    pictures: Sequence[str] = ()  # files
    ids: Sequence[str] = ()

    @property
    def needs_model(self) -> bool:
        """Whether something of it has to be embedded first."""
        return bool(self.texts or self.pictures)


@dataclass(frozen=True)
class Searcher:
    """A run that is open for queries; the model is loaded when the first one needs it.

    index_of: what the index was read from, a version of it or of the embeddings.
    """

    config: Config
    embeddings: Version
    index: SearchIndex
    index_of: Version

    @classmethod
    def open(cls, config: Config) -> Searcher:
        """The run directory's embeddings through their index; without one they are read whole."""
        from pipeline.embeddings.index import is_of
        from pipeline.embeddings.search import SearchIndex

        run = RunDir.open(config.run_dir)
        embeddings = run.require(schema.EMBEDDINGS)
        made = run.current(schema.INDEX)
        source = made if made is not None and is_of(made, embeddings) else embeddings
        check_undamaged(source)
        return cls(config, embeddings, SearchIndex.open(source), source)

    @property
    def advice(self) -> str | None:
        """What would make a search begin sooner, if it took long."""
        if self.index_of.stage == schema.INDEX or len(self.index.ids) < _MUCH_TO_READ:
            return None
        return (
            f"all {len(self.index.ids):,} embeddings were read, for they have no index; "
            f"it is made by: {schema.STAGE_COMMANDS[schema.INDEX]}"
        )

    @cached_property
    def _encoder(self) -> QueryEncoder:
        from pipeline.embeddings.search import QueryEncoder

        model = RunDir.open(self.config.run_dir).require(schema.MODEL)
        check_undamaged(model)
        return QueryEncoder.open(model, self.embeddings)

    def search(self, query: Query, k: int) -> list[Hit]:
        """The k best images for the sum of the query; images queried by id are left out."""
        from pipeline.embeddings.search import combine

        vectors = [self.index.vector_of(image_id) for image_id in query.ids]
        vectors += [self._encoder.embed_text(text) for text in query.texts]
        vectors += [self._embed_file(path) for path in query.pictures]
        return self.index.search(combine(vectors), k, exclude=query.ids)

    def _embed_file(self, path: str) -> np.ndarray:
        max_pixels = self.config.images.max_pixels
        try:
            return self._encoder.embed_picture(read_picture(path), max_pixels=max_pixels)
        except PictureError as error:
            raise ImgembedError(f"--image {path}: {error}") from None


def read_picture(path: str) -> bytes:
    """The bytes of a query's picture."""
    try:
        with storage.open_read(path) as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = getattr(error, "strerror", None) or error
        raise ImgembedError(f"--image {path}: {said}") from None


def search_run(config: Config, *, k: int, **query: Sequence[str]) -> list[Hit]:
    """The k best images of a run for a query: `texts`, `pictures`, `ids`."""
    return Searcher.open(config).search(Query(**query), k)
