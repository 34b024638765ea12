"""Opens a run's embeddings and answers a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cli import terminal
from cli.settings import Config
from pipeline import schema, storage
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError
from pipeline.examples.pictures import PictureError

if TYPE_CHECKING:
    import numpy as np

    from pipeline.embeddings.search import Hit, QueryEncoder


def search_run(
    config: Config,
    *,
    texts: Sequence[str] = (),
    pictures: Sequence[str] = (),
    ids: Sequence[str] = (),
    k: int,
) -> list[Hit]:
    """The k best images for the sum of all queries; the images queried by id are left out."""
    from pipeline.embeddings.search import QueryEncoder, SearchIndex, combine

    run = RunDir.open(config.run_dir)
    embeddings = run.require(schema.EMBEDDINGS)
    index = SearchIndex.open(embeddings)
    vectors = [index.vector_of(image_id) for image_id in ids]
    if texts or pictures:
        encoder = QueryEncoder.open(run.require(schema.MODEL), embeddings)
        vectors += [encoder.embed_text(text) for text in texts]
        vectors += [_embed_file(encoder, path, config.images.max_pixels) for path in pictures]
    return index.search(combine(vectors), k, exclude=ids)


def search_quietly(config: Config, **queries: Any) -> list[Hit]:
    """As `search_run`, with what TensorFlow has to say in a log file, not on the terminal."""
    if not (queries["texts"] or queries["pictures"]):
        return search_run(config, **queries)  # no model is needed, and so no log
    RunDir.open(config.run_dir).require(schema.EMBEDDINGS)  # before a log is written
    with terminal.opened("search", config.run_dir, quiet=True):
        return search_run(config, **queries)


def _embed_file(encoder: QueryEncoder, path: str, max_pixels: int) -> np.ndarray:
    try:
        with storage.open_read(path) as file:
            return encoder.embed_picture(file.read(), max_pixels=max_pixels)
    except OSError as error:
        raise ImgembedError(f"--image {path}: {error.strerror or error}") from None
    except PictureError as error:
        raise ImgembedError(f"--image {path}: {error}") from None


def print_hits(hits: Sequence[Hit], *, as_json: bool) -> None:
    """The results on stdout: a line each, or a JSON list of {"image_id", "score"}."""
    if as_json:
        found = [{"image_id": hit.image_id, "score": round(hit.score, 6)} for hit in hits]
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        click.echo(f"{rank:3d}  {hit.score:6.3f}  {hit.image_id}")
