"""imgembed sample"""

from __future__ import annotations

import click

from cli import options


@click.command("sample")
@click.option("--out", metavar="DIR", required=True, help="A new or empty folder.")
@click.option("--images", default=2_000, show_default=True, help="Pictures to draw.")
@click.option("--sessions", default=20_000, show_default=True, help="Search sessions of people.")
@click.option("--users", default=4_000, show_default=True, help="People who search.")
@click.option("--noise", default=0.2, show_default=True, help="Share of irrelevant clicks.")
@click.option("--labelled", default=0.2, show_default=True, help="Share of images with a label.")
@click.option("--cold", default=0.05, show_default=True, help="Share of images never clicked.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@options.quiet
@options.as_json
def sample(out: str, quiet: bool, as_json: bool, **sizes: float) -> None:
    """Draws a catalog and search logs.

    The world is synthetic, so the truth about every click is known.

    Writes OUT/catalog, OUT/sessions, a ready OUT/cfg.yaml, and the truth to OUT/truth, which no
    command reads.
    """
    from cli.sampling import write_sample

    write_sample(out, sizes, quiet=quiet, as_json=as_json)
