"""`imgembed search --html`: an answer as one file, the pictures inside it, no network.

In: hits. Out: a page. Ids, captions and queries are other people's input: the template escapes
whatever it is given.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cli.search_pictures import Found, find_images
from cli.searching import Query, Searcher, read_picture
from pipeline import storage
from pipeline.errors import ImgembedError
from pipeline.examples.pictures import PictureError, thumbnail

if TYPE_CHECKING:
    from pipeline.embeddings.search import Hit

SIDE = 200  # pixels of a thumbnail's longer side
_TEMPLATES = Path(__file__).with_name("templates")
_TEMPLATE = "search.html"


@dataclass(frozen=True)
class Card:
    """A picture of the page. picture: a data URI; None = there is none."""

    name: str
    picture: str | None
    lines: tuple[str, ...] = ()
    rank: int | None = None
    score: float | None = None


def write_page(path: str, searcher: Searcher, query: Query, hits: Sequence[Hit]) -> None:
    """Writes the answer as a page."""
    images = find_images(searcher, [*query.ids, *(hit.image_id for hit in hits)], SIDE)
    page = render(
        words=query.texts,
        asked=[*_file_cards(searcher, query), *(_card(name, images) for name in query.ids)],
        hits=[
            _card(hit.image_id, images, rank=rank, score=hit.score)
            for rank, hit in enumerate(hits, 1)
        ],
        total=len(searcher.index.ids),
    )
    try:
        storage.write_atomic(path, page.encode(errors="replace"))
    except OSError as error:
        raise ImgembedError(f"--html {path}: {error.strerror or error}") from None


def render(*, words: Sequence[str], asked: Sequence[Card], hits: Sequence[Card], total: int) -> str:
    """The page. words, asked: the query. total: images that were searched."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(_TEMPLATE)
    title = " + ".join([*(f"“{text}”" for text in words), *(card.name for card in asked)])
    return template.render(title=title, asked=asked, hits=hits, total=total)


def _card(
    image_id: str, images: dict[str, Found], *, rank: int | None = None, score: float | None = None
) -> Card:
    found = images.get(image_id, Found(None))
    picture = None if found.thumbnail is None else _data_uri(found.thumbnail)
    return Card(image_id, picture, found.words, rank, score)


def _file_cards(searcher: Searcher, query: Query) -> list[Card]:
    max_pixels = searcher.config.images.max_pixels
    cards = []
    for path in query.pictures:
        try:
            small = thumbnail(read_picture(path), side=SIDE, max_pixels=max_pixels)
        except PictureError as error:
            raise ImgembedError(f"--image {path}: {error}") from None
        cards.append(Card(os.path.basename(path), _data_uri(small)))
    return cards


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
