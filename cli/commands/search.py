"""imgembed search"""

from __future__ import annotations

import click

from cli import options


@click.command("search")
@click.option("--text", "texts", metavar="WORDS", multiple=True, help="Search by words.")
@click.option("--image", "pictures", metavar="FILE", multiple=True, help="Search by a picture.")
@click.option("--image-id", "ids", metavar="ID", multiple=True, help="Search by a catalog image.")
@click.option("-k", default=10, show_default=True, metavar="N", help="How many results.")
@options.as_json
@options.set_values
@options.run_dir
@options.config_file
def search(
    texts: tuple[str, ...],
    pictures: tuple[str, ...],
    ids: tuple[str, ...],
    k: int,
    as_json: bool,
    sets: tuple[str, ...],
    run_dir: str | None,
    config_file: str | None,
) -> None:
    """Finds images by words or by picture.

    Several queries at once are added up. Scores are cosines, from -1 to 1.
    """
    from cli.command import read_config
    from cli.searching import print_hits, search_quietly

    if not (texts or pictures or ids):
        raise click.UsageError("nothing to search for: give --text, --image or --image-id")
    config = read_config(config_file, run_dir, sets)
    hits = search_quietly(config, texts=texts, pictures=pictures, ids=ids, k=k)
    print_hits(hits, as_json=as_json)
