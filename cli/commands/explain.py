"""imgembed explain"""

from __future__ import annotations

import click

from cli import options


@click.command("explain")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@options.as_json
@options.set_values
@options.run_dir
@options.config_file
def explain(
    first: str,
    second: str,
    as_json: bool,
    sets: tuple[str, ...],
    run_dir: str | None,
    config_file: str | None,
) -> None:
    """Tells why two images are near or far.

    Their cosine and rank for one another, the edge between them with its counts and agreement, the
    neighbours and queries that they share, and how alike their raw pixels or features are. A and B
    are image ids; one that begins with a dash stands behind `--`.
    """
    from cli.command import read_config
    from cli.explaining import print_explanation

    config = read_config(config_file, run_dir, sets)
    print_explanation(config.run_dir, first, second, as_json=as_json)
