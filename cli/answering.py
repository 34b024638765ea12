"""`imgembed search`: a query's answer, printed and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import terminal
from cli.printing import echo
from cli.searching import Query, Searcher
from cli.settings import Config
from pipeline import schema
from pipeline.artifacts import RunDir

if TYPE_CHECKING:
    from pipeline.embeddings.search import Hit


def answer(config: Config, query: Query, *, k: int, as_json: bool, html: str | None) -> None:
    """Prints the answer, and writes it as a page where that is wanted."""
    if not query.needs_model:  # and so there is nothing to be logged
        _answer(config, query, k=k, as_json=as_json, html=html)
        return
    RunDir.open(config.run_dir).require(schema.EMBEDDINGS)  # before a log is written
    with terminal.opened("search", config.run_dir, quiet=True):  # of what TensorFlow has to say
        _answer(config, query, k=k, as_json=as_json, html=html)


def _answer(config: Config, query: Query, *, k: int, as_json: bool, html: str | None) -> None:
    searcher = Searcher.open(config)
    hits = searcher.search(query, k)
    if html is not None:
        from cli.search_page import write_page

        write_page(html, searcher, query, hits)
    print_hits(hits, as_json=as_json)
    if html is not None:
        echo(f"with pictures: {html}", err=True)
    if searcher.advice:
        echo(f"imgembed: {searcher.advice}", err=True)


def print_hits(hits: Sequence[Hit], *, as_json: bool) -> None:
    """The results on stdout: a line each, or a JSON list of {"image_id", "score"}."""
    if as_json:
        found = [{"image_id": hit.image_id, "score": round(hit.score, 6)} for hit in hits]
        echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        echo(f"{rank:3d}  {hit.score:6.3f}  {hit.image_id}")
