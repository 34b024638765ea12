"""imgembed search"""

from __future__ import annotations

import sys

import click

from cli import options


@click.command("search")
@click.option("--text", "texts", metavar="WORDS", multiple=True, help="Search by words.")
@click.option("--image", "pictures", metavar="FILE", multiple=True, help="Search by a picture.")
@click.option("--image-id", "ids", metavar="ID", multiple=True, help="Search by a catalog image.")
@click.option("-k", default=10, show_default=True, metavar="N", help="How many results.")
@click.option("--html", metavar="FILE", help="Also write a page with the pictures.")
@options.as_json
@options.set_values
@options.run_dir
@options.config_file
def search(
    texts: tuple[str, ...],
    pictures: tuple[str, ...],
    ids: tuple[str, ...],
    k: int,
    html: str | None,
    as_json: bool,
    sets: tuple[str, ...],
    run_dir: str | None,
    config_file: str | None,
) -> None:
    """Finds images by words or by picture.

    Several queries at once are added up. Scores are cosines, from -1 to 1. On a terminal and
    without a query, it asks for one after the other until Ctrl-D.
    """
    from cli.command import read_config

    asked = bool(texts or pictures or ids)
    if not asked and html is not None:
        raise click.UsageError("--html: there is no query; give --text, --image or --image-id")
    if not asked and not sys.stdin.isatty():
        raise click.UsageError("nothing to search for: give --text, --image or --image-id")
    config = read_config(config_file, run_dir, sets)
    if asked:
        from cli.answering import answer
        from cli.searching import Query

        answer(config, Query(texts, pictures, ids), k=k, as_json=as_json, html=html)
    else:
        from cli.prompt import ask

        ask(config, k=k, as_json=as_json)
