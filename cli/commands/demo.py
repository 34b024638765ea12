"""imgembed demo"""

from __future__ import annotations

import click

from cli import options


@click.command("demo")
@click.option(
    "--out", metavar="DIR", default="imgembed-demo", show_default=True, help="Where it all goes."
)
@click.option("--images", default=2_000, show_default=True, help="Pictures to draw.")
@click.option("--sessions", default=20_000, show_default=True, help="Search sessions.")
@click.option("--seed", default=0, show_default=True, help="Of every random choice.")
@options.set_values
@options.quiet
def demo(
    out: str, images: int, sessions: int, seed: int, sets: tuple[str, ...], quiet: bool
) -> None:
    """Shows the whole way on drawn pictures.

    Draws a catalog and search logs, builds the graph, trains, exports, evaluates on held-out
    sessions, and writes a picture of queries and their results, and the report. Run again, it makes
    only what has changed.
    """
    from cli.demonstration import run_demo

    run_demo(out, images=images, sessions=sessions, seed=seed, sets=sets, quiet=quiet)
