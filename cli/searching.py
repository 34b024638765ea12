"""Opens a run's embeddings and answers a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cli import terminal
from cli.settings import Config
from pipeline import schema, storage
from pipeline.artifacts import RunDir
from pipeline.errors import ImgembedError

if TYPE_CHECKING:
    from pipeline.embeddings.search import Hit


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
        contents = [_read_picture(path) for path in pictures]
        with terminal.opened("search", config.run_dir, quiet=True):
            encoder = QueryEncoder.open(run.require(schema.MODEL), embeddings)
            vectors += [encoder.embed_text(text) for text in texts]
            limit = config.images.max_pixels
            vectors += [encoder.embed_picture(data, max_pixels=limit) for data in contents]
    return index.search(combine(vectors), k, exclude=ids)


def _read_picture(path: str) -> bytes:
    try:
        with storage.open_read(path) as file:
            return file.read()
    except OSError as error:
        raise ImgembedError(f"--image {path}: {error.strerror or error}") from None


def print_hits(hits: Sequence[Hit], *, as_json: bool) -> None:
    """The results on stdout: a line each, or a JSON list of {"image_id", "score"}."""
    if as_json:
        found = [{"image_id": hit.image_id, "score": round(hit.score, 6)} for hit in hits]
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        click.echo(f"{rank:3d}  {hit.score:6.3f}  {hit.image_id}")
